"""A small language model on tokens at several frame rates: bits, steps, and the cost of a continuation.

    python experiments/lm/run.py speech --model flexicodec-mini --work runs/lm --output experiments/lm/results.json

`speech` holds train.jsonl and eval.jsonl, without a speaker in both; English clips are used. They are tokenised at
every rate (semantic codes only) and packed. Then a Llama with the `flexislm` streams is trained at each rate twice: for
the same compute (optimiser steps on batches of the same shape), and for the same seconds of audio (fewer steps at lower
rates). A run that was stopped goes on where it was; started again when all is done, it only writes the summary.
"""

import argparse
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel
from transformers.cache_utils import DynamicCache

from flexicodec.cli import main as flexicodec_main
from flexicodec.corpus import read_manifest, write_manifest
from flexicodec.io_utils import replacing
from flexicodec.lm.batches import PackedBatch, attention_mask
from flexicodec.lm.loader import PackedDataset, PackedLoader
from flexicodec.lm.packed import PackedTokens
from flexicodec.lm.packing import pack
from flexicodec.lm.presets import SpeechStreams, preset
from flexicodec.statistics import Resamples, speaker_clusters

RATES = (12.5, 8.33, 6.25, 4.0)  # Hz; the first sets the seconds of audio
DEV_SHARE = 0.05  # of the training clips, by speaker: they choose the checkpoint that is evaluated
PROMPT_SECONDS = 3.0
CONTINUED_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """Of the model and its training, the same at every rate."""

    dim: int = 256
    layers: int = 4
    heads: int = 4
    feedforward_dim: int = 688
    dropout: float = 0.1  # of attention
    row_length: int = 512
    batch_size: int = 4  # rows
    steps: int = 600  # at the same compute
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.1
    checks: int = 12  # evaluations on held-back training speakers in a run
    seed: int = 0


class LanguageModel(torch.nn.Module):
    """A Llama between the embeddings and heads of token streams."""

    def __init__(self, packed: PackedTokens, settings: Settings):
        super().__init__()
        torch.manual_seed(settings.seed)
        self.streams: SpeechStreams = preset("flexislm", packed.vocabulary.format, settings.dim, tied=True)
        self.streams.loss_weights = (1.0, 1.0)  # bits of codes and of durations count alike
        self.llama = LlamaModel(
            LlamaConfig(
                vocab_size=1,  # ids are embedded by the streams
                bos_token_id=None,
                eos_token_id=None,
                hidden_size=settings.dim,
                intermediate_size=settings.feedforward_dim,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                attention_dropout=settings.dropout,
                max_position_embeddings=settings.row_length,
                attn_implementation="sdpa",
            )
        )

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return hidden states [batch, steps, dim]."""
        embedded = self.streams(batch)
        mask = attention_mask(batch)  # its clips stay apart; without it, transformers guesses them from positions
        return self.llama(
            inputs_embeds=embedded, attention_mask=mask, position_ids=batch.position, use_cache=False
        ).last_hidden_state


# -------------------------------------------------------------------------------------------------------------- data


def prepare(args: argparse.Namespace) -> dict[tuple[str, float], PackedTokens]:
    """Tokenise and pack train, dev and eval at every rate; what is done is not done again."""
    packed = {}
    for split, utterances in splits(args.speech).items():
        manifest = args.work / f"{split}.jsonl"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            write_manifest(manifest, utterances[: args.limit])
        tokens = args.work / f"{split}-tokens"
        rates = [f"{rate:g}" for rate in RATES]
        command = ["tokenize", str(manifest), "-o", str(tokens), "--codebooks", "0", "--model", args.model]
        if args.tokenize and flexicodec_main([*command, "--frame-rate", *rates]) == 2:
            raise SystemExit("tokenize failed")
        for rate in RATES:
            packed[split, rate] = pack(tokens, args.work / f"{split}-{rate:g}hz", rate)
    return packed


def splits(speech: Path) -> dict[str, list[Any]]:
    """List English clips; every twentieth training speaker is held back to choose checkpoints."""
    train = [each for each in read_manifest(speech / "train.jsonl") if each.language in ("en", None)]
    held_out = [each for each in read_manifest(speech / "eval.jsonl") if each.language in ("en", None)]
    speakers = sorted({str(each.known_speaker or each.corpus) for each in train})
    back = set(speakers[:: round(1 / DEV_SHARE)])  # every twentieth
    dev = [each for each in train if str(each.known_speaker or each.corpus) in back]
    rest = [each for each in train if str(each.known_speaker or each.corpus) not in back]
    return {"train": rest, "dev": dev, "eval": held_out}


def seconds_of(packed: PackedTokens) -> float:
    """Seconds of audio."""
    return packed.record["samples"] / packed.vocabulary.format.sample_rate


# ---------------------------------------------------------------------------------------------------------- training


def train(
    name: str, steps: int, packed: PackedTokens, dev: PackedTokens, settings: Settings, args: argparse.Namespace
) -> tuple[LanguageModel, dict[str, Any]]:
    """Train for so many steps, or go on; return the model that was best on `dev`, and what it took."""
    model = LanguageModel(packed, settings).to(args.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
    )
    dataset = PackedDataset(packed, model.streams.layout, settings.row_length, seed=settings.seed)
    loader = PackedLoader(dataset, settings.batch_size)
    path = args.work / f"{name}.pt"
    best_path = args.work / f"{name}-best.pt"
    done: dict[str, Any] = {"step": 0, "seconds": 0.0, "tokens": 0, "curve": []}
    if path.is_file():
        state = torch.load(path, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        done = state["done"]
    every = max(1, steps // settings.checks)
    batches = iter(loader)
    while done["step"] < steps:
        begin = clock(args.device)
        torch.manual_seed(settings.seed + done["step"])  # dropout, the same after a restart
        batch = next(batches).to(args.device)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(done["step"], steps, settings.warmup)
        model.train()
        loss = model.streams.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done["step"] += 1
        done["tokens"] += int((batch.kinds[:, 0] == 3).sum())  # codes; `Kind.CODE`
        done["seconds"] += clock(args.device) - begin
        if done["step"] % every and done["step"] < steps:
            continue
        bits = bits_per_second(model, dev, settings, args.device)
        if bits < min((row["dev_bits_per_second"] for row in done["curve"]), default=math.inf):
            save(best_path, model.state_dict())
        row = {"step": done["step"], "loss": round(float(loss.detach()), 4), "dev_bits_per_second": round(bits, 3)}
        done["curve"].append(row)
        print(name, row, flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save(path, {**state, "loader": loader.state_dict(), "done": done})
    model.load_state_dict(torch.load(best_path, map_location=args.device, weights_only=True))
    return model.eval(), done


def schedule(step: int, steps: int, warmup: int) -> float:
    """Rise linearly, then fall as a cosine to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return 0.55 + 0.45 * math.cos(math.pi * share)


def clock(device: str) -> float:
    """Return CPU seconds of this process, or on a GPU seconds after its work is done."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def save(path: Path, state: dict[str, Any]) -> None:
    """Save so that the file appears whole or not at all."""
    with replacing(path) as part:
        torch.save(state, part)


# ------------------------------------------------------------------------------------------------------- measurement


@torch.no_grad()
def clip_bits(model: LanguageModel, packed: PackedTokens, settings: Settings, device: str) -> np.ndarray:
    """Return the bits of each clip: codes, durations and its end."""
    model.eval()
    dataset = PackedDataset(packed, model.streams.layout, settings.row_length)
    bits = np.zeros(packed.num_clips)
    for row in range(dataset.num_rows(0)):
        batch = PackedBatch.collate([dataset[0, row]]).to(device)
        nats = model.streams.nats(model(batch), batch)[0].sum(0).cpu()
        _, clips = dataset.clips(0, row)
        valid = batch.document[0].cpu() >= 0
        bits[clips] = np.bincount(batch.document[0].cpu()[valid], nats[valid].numpy() / math.log(2), len(clips))
    return bits


def bits_per_second(model: LanguageModel, packed: PackedTokens, settings: Settings, device: str) -> float:
    """Pool the bits of all clips over their seconds."""
    return float(clip_bits(model, packed, settings, device).sum() / seconds_of(packed))


def evaluate(model: LanguageModel, packed: PackedTokens, settings: Settings, device: str) -> dict[str, Any]:
    """Bits per second and per token on held-out speakers, with intervals over speakers."""
    bits = clip_bits(model, packed, settings, device)
    seconds = packed.clips.column("num_samples").to_numpy() / packed.vocabulary.format.sample_rate
    tokens = np.diff(packed.offsets)
    ids = packed.clips.column("id").to_pylist()
    resamples = Resamples.sample(len(ids), speaker_clusters(packed.clips.column("speaker").to_pylist(), ids))
    form = packed.vocabulary.format
    return {
        "bits_per_second": shown(resamples.ratio(bits, seconds)),
        "bits_per_token": shown(resamples.ratio(bits, tokens)),
        "fixed_bits_per_token": form.semantic_bits + (form.duration_bits or 0),
        "tokens_per_second": round(float(tokens.sum() / seconds.sum()), 3),
        "clips": len(ids),
    }


def shown(interval: Any) -> list[float]:
    """Round an interval to [value, low, high]."""
    return [round(each, 3) for each in (interval.value, interval.low, interval.high)]


@torch.no_grad()
def continuation(model: LanguageModel, packed: PackedTokens, device: str, clips: int = 5) -> dict[str, float]:
    """Continue prompts of a few seconds, one by one with a cache, and time it."""
    layout = model.streams.layout
    form = packed.vocabulary.format
    sampled = torch.Generator(device).manual_seed(0)
    steps = 0
    frames = 0
    taken = 0.0
    for clip in np.argsort(-np.diff(packed.offsets))[:clips]:  # the longest
        tokens = packed.tokens(int(clip))
        rate = float(tokens.token_lengths / tokens.frame_lengths) * form.base_frame_rate
        ids = layout.encode(tokens, framed=True)[None, :, : 1 + int(PROMPT_SECONDS * rate)].to(device)
        cache = DynamicCache()
        begin = clock(device)
        spoken = 0
        while spoken < CONTINUED_SECONDS * form.base_frame_rate:
            shape = ids.shape[0], ids.shape[2]
            rates = torch.full(shape, rate, device=device)
            batch = PackedBatch(ids, torch.zeros(shape), torch.zeros(shape), torch.zeros(ids.shape), rates)
            hidden = model.llama(inputs_embeds=model.streams(batch), past_key_values=cache, use_cache=True)
            step = []
            for field, scores in zip(layout.fields, model.streams.logits(hidden.last_hidden_state[0, -1]), strict=True):
                scores = scores[field.first : field.first + field.size]  # no END, no holes: a fixed length is timed
                step.append(field.first + torch.multinomial(scores.float().softmax(-1), 1, generator=sampled))
            ids = torch.cat(step)[None, :, None]
            spoken += int(step[1]) - layout.fields[1].first + 1
            steps += 1
        taken += clock(device) - begin
        frames += spoken
    seconds = frames / form.base_frame_rate
    return {
        "steps_per_second_of_speech": round(steps / seconds, 3),
        "seconds_per_second_of_speech": round(taken / seconds, 4),
        "steps_per_second": round(steps / taken, 2),
    }


# --------------------------------------------------------------------------------------------------------------- runs


def runs(settings: Settings) -> Iterable[tuple[str, float, int]]:
    """Yield budget, rate and steps: the same steps at every rate, and steps in proportion to the rate."""
    for rate in RATES:
        yield "compute", rate, settings.steps
    for rate in RATES[1:]:  # the first is the same in both
        yield "audio", rate, max(1, round(settings.steps * rate / RATES[0]))


def measure(
    budget: str,
    rate: float,
    steps: int,
    packed: dict[tuple[str, float], PackedTokens],
    settings: Settings,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Train and evaluate one run."""
    name = f"{budget}-{rate:g}hz"
    corpus = packed["train", rate]
    model, done = train(name, steps, corpus, packed["dev", rate], settings, args)
    epochs = done["tokens"] / corpus.record["tokens"]
    positions = settings.batch_size * settings.row_length
    weights = sum(each.numel() for each in model.parameters())
    return {
        **{"budget": budget, "rate": rate, "steps": steps, "epochs": round(epochs, 3), "weights": weights},
        "hours_of_audio": round(epochs * seconds_of(corpus) / 3600, 3),
        "training_seconds": round(done["seconds"], 1),
        "training_steps_per_second": round(steps / done["seconds"], 3),
        "training_teraflops": round(6 * weights * positions * steps / 1e12, 2),
        "training_seconds_per_hour_of_audio": round(done["seconds"] / (epochs * seconds_of(corpus) / 3600), 1),
        **evaluate(model, packed["eval", rate], settings, args.device),
        "continuation": continuation(model, packed["eval", rate], args.device),
        "curve": done["curve"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument(
        "--work", type=Path, required=True, help="tokens, checkpoints and rows; goes on with what is there"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--limit", type=int, help="clips of each split, to try it")
    parser.add_argument("--no-tokenize", dest="tokenize", action="store_false", help="the tokens are there")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    settings = Settings(steps=args.steps)
    packed = prepare(args)
    rows_file = args.work / "rows.jsonl"
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.is_file() else []
    finished = {(row["budget"], row["rate"], row["steps"]) for row in rows}
    for budget, rate, steps in runs(settings):
        if (budget, rate, steps) in finished:
            continue
        rows.append(measure(budget, rate, steps, packed, settings, args))
        with rows_file.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print({name: value for name, value in rows[-1].items() if name != "curve"}, flush=True)

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    form = packed["eval", RATES[0]].vocabulary.format
    results = {
        **{"commit": commit, "machine": platform.processor() or platform.machine(), "torch": torch.__version__},
        **{"device": args.device, "threads": args.threads, "clock": "CPU" if args.device == "cpu" else "wall"},
        **{"model": form.model, "fingerprint": form.fingerprint, "settings": asdict(settings), "runs": rows},
    }
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
