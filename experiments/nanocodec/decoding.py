"""Time of a language model and a codec for ten seconds of speech, by frame rate.

    python experiments/nanocodec/decoding.py --output experiments/nanocodec/results/decoding.json

A causal Llama of transformers, of one size and with random weights, generates the tokens of a codec, one per step, with
one head per code (as Koel-TTS does with the parallel codebooks of NanoCodec). Its prompt is a text and five seconds of
the speaker; every step samples and extends its cache. The codec, of the published size, decodes the tokens: all at the
end, or in streaming. One thread, CPU time.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from common import random_codec, spread, timed, write
from torch import Tensor, nn

from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.tokens import Tokens

SECONDS, CONTEXT_SECONDS, TEXT_TOKENS = 10, 5, 60
LM = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
TOP_K, TEMPERATURE = 80, 0.6  # of Koel-TTS
FLEXICODEC_CODEBOOKS = 7  # acoustic ones, as in the released model's default use
NANO = {
    "nano_1.1kbps_25fps": "NanoCodec 1.1 kbps",
    "lfsc_1.89kbps_21.5fps": "LFSC 1.89 kbps",
    "nano_1.89kbps_21.5fps": "NanoCodec 1.89 kbps",
    "nano_1.78kbps_12.5fps": "NanoCodec 1.78 kbps",
    "nano_1.1kbps_12.5fps": "NanoCodec 1.1 kbps",
    "nano_1.1kbps_6.25fps": "NanoCodec 1.1 kbps",
}
FLEXICODEC_RATES = (12.5, 8.33, 6.25, 4.0, 3.0)
FOLLOWING = {"each": 1, "fours": 4}  # tokens per chunk of a streaming decoder, after the first token
BASELINE = "nano_1.1kbps_12.5fps"  # the paper's normalisation
# Koel-TTS with these codecs and five seconds of context, rows of the paper's table 3 by codec and bit rate.
KOEL = {
    "lfsc_1.89kbps_21.5fps": ("LFSC", "1.89"),
    "nano_1.89kbps_21.5fps": ("NanoCodec", "1.89"),
    "nano_1.78kbps_12.5fps": ("NanoCodec", "1.78"),
    "nano_1.1kbps_12.5fps": ("NanoCodec", "1.1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=inf, help="start no measurement after this; another call continues"
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * arguments.minutes
    cases = list(make_cases())
    found = json.loads(arguments.output.read_text())["runs"] if arguments.output.exists() else {}
    runs: dict[str, list[dict[str, float]]] = {case.name: found.get(case.name, []) for case in cases}
    warm: set[str] = set()
    for number, case in [(number, case) for number in range(arguments.rounds) for case in cases]:
        if len(runs[case.name]) > number or time.monotonic() > until:
            continue
        if case.name not in warm:
            measure(replace(case, durations=case.durations[:3]), seed=0)
            warm.add(case.name)
        runs[case.name].append(measure(case, seed=number + 1))
    rows = {case.name: describe(case) | summary(runs[case.name]) for case in cases if runs[case.name]}
    if len(rows) == len(cases):
        print_tables(rows)
    print({name: len(each) for name, each in runs.items()})
    about = {"lm": LM, "seconds": SECONDS, "context_seconds": CONTEXT_SECONDS, "text_tokens": TEXT_TOKENS}
    write(arguments.output, about | {"rows": rows, "runs": runs})


# ----------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Case:
    """A codec at a rate, and the language model for its tokens.

    Attributes:
        name: Name of the row.
        label: Name of the codec.
        codec: Codec with random weights.
        lm: Language model with one head per code.
        durations: Frames of each generated token.
    """

    name: str
    label: str
    codec: Codec
    lm: "SpeechLM"
    durations: Tensor

    @property
    def frame_rate(self) -> float:
        """Tokens per second."""
        frames = int(self.durations.sum())
        return len(self.durations) / frames * self.codec.base_frame_rate

    def tokens(self, codes: Tensor, durations: Tensor) -> Tokens:
        """Make tokens of generated codes [heads, N]; the first head of a dynamic codec is its semantic code."""
        semantic = codes[None, 0] if self.codec.format.semantic_codebook_size else None
        acoustic = codes[None, 0 if semantic is None else 1 :]
        return Tokens(semantic, acoustic, durations[None], None, self.codec.format)


def make_cases() -> Iterator[Case]:
    """Build every row's codec and language model; rows with equal codebook sizes share heads."""
    torch.manual_seed(0)
    body = make_body()
    codecs = {name: random_codec(name) for name in NANO}
    (size,) = {codec.quantizer.codebook_size for codec in codecs.values()}
    heads = make_heads([size] * max(codec.num_codebooks for codec in codecs.values()))
    for name, codec in codecs.items():
        durations = torch.ones(round(SECONDS * codec.base_frame_rate), dtype=torch.long)
        yield Case(name, NANO[name], codec, SpeechLM(body, heads[: codec.num_codebooks]), durations)
    flexicodec = FlexiCodec().eval()
    codes = flexicodec.format
    assert codes.semantic_codebook_size
    assert codes.max_duration
    sizes = [codes.semantic_codebook_size, *[codes.acoustic_codebook_size] * FLEXICODEC_CODEBOOKS, codes.max_duration]
    lm = SpeechLM(body, make_heads(sizes))
    for rate in FLEXICODEC_RATES:
        frames, count = round(SECONDS * flexicodec.base_frame_rate), round(SECONDS * rate)
        bounds = torch.arange(count + 1) * frames // count
        yield Case(f"flexicodec_{rate:g}hz", "FlexiCodec", flexicodec, lm, bounds.diff())


def make_body() -> nn.Module:
    """Build the language model shared by all codecs, with random weights."""
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(vocab_size=256, **LM)).eval()


def make_heads(sizes: list[int]) -> nn.ModuleList:
    """Build heads for codebooks of these sizes."""
    return nn.ModuleList(nn.Linear(LM["hidden_size"], size, bias=False) for size in sizes)


class SpeechLM:
    """A Llama with the sum of a token's code embeddings as input and one head per code (tied weights).

    Args:
        body: The Llama.
        heads: One head per codebook, and one for the durations of dynamic codecs.
    """

    def __init__(self, body: nn.Module, heads: nn.ModuleList) -> None:
        self.body, self.heads = body, heads

    @torch.inference_mode()
    def read(self, context: Tensor) -> tuple[Tensor, Any]:
        """Process a text and the codes of the context [heads, N]; return the last hidden state and the cache."""
        text = self.body.get_input_embeddings()(torch.arange(TEXT_TOKENS)[None] % 256)
        out = self.body(inputs_embeds=torch.cat([text, self._embed(context)], dim=1), use_cache=True)
        return out.last_hidden_state[:, -1], out.past_key_values

    @torch.inference_mode()
    def write(self, hidden: Tensor, cache: Any) -> tuple[Tensor, Tensor, Any]:
        """Sample the codes of the next token, [heads, 1], and append it to the cache."""
        codes = torch.stack([sample(head(hidden)) for head in self.heads])
        out = self.body(inputs_embeds=self._embed(codes), past_key_values=cache, use_cache=True)
        return codes, out.last_hidden_state[:, -1], out.past_key_values

    def _embed(self, codes: Tensor) -> Tensor:
        tables = (head.weight for head in self.heads)
        return sum(nn.functional.embedding(row, table) for row, table in zip(codes, tables, strict=True))[None]


def sample(logits: Tensor) -> Tensor:
    """Sample a code [1] from the most likely ones."""
    values, indices = logits.topk(min(TOP_K, logits.shape[-1]))
    return indices[0].gather(0, torch.multinomial((values[0] / TEMPERATURE).softmax(0), 1))


# -------------------------------------------------------------------------------------------------------------- timing


def measure(case: Case, seed: int) -> dict[str, float]:
    """Generate and decode ten seconds, all at once and in streaming; CPU seconds."""
    torch.manual_seed(seed)
    lm, codec = case.lm, case.codec
    count = round(CONTEXT_SECONDS * case.frame_rate)
    context = torch.stack([torch.randint(head.out_features, (count,)) for head in lm.heads])
    (hidden, cache), read, _ = timed(lm.read, context)
    codes, steps = [], []
    for _ in case.durations:
        (code, hidden, cache), took, _ = timed(lm.write, hidden, cache)
        codes.append(code)
        steps.append(took)
    said = torch.cat(codes, dim=1)[: 1 + FLEXICODEC_CODEBOOKS if codec.format.semantic_codebook_size else None]
    _, whole, _ = timed(codec.decode, case.tokens(said, case.durations))
    found = {
        "prompt_seconds": read,
        "lm_seconds": sum(steps),
        "step_seconds": sum(steps) / len(steps),
        "codec_seconds": whole,
        "total_seconds": read + sum(steps) + whole,
    }
    for way, size in FOLLOWING.items():
        first, spent, gap = follow(case, said, read, steps, size)
        found |= {f"{way}/first_audio_seconds": first, f"{way}/codec_seconds": spent, f"{way}/gap_seconds": gap}
        found[f"{way}/total_seconds"] = read + sum(steps) + spent
    return found


def follow(case: Case, codes: Tensor, read: float, steps: list[float], size: int) -> tuple[float, float, float]:
    """Decode the tokens in streaming: the first one, then chunks of this many.

    Returns:
        When the first audio is there; the codec's time in all; and for how long playback, begun at once, stands still
        for want of audio.
    """
    stream = case.codec.streaming_decoder()
    now, spent, played, first, gap = read, 0.0, 0.0, None, 0.0
    bounds = [0, 1, *range(1 + size, len(steps), size), len(steps)]
    for start, stop in zip(bounds, [*bounds[1:], None], strict=True):
        if stop is None:
            audio, took, _ = timed(stream.flush)
        else:
            tokens = case.tokens(codes[:, start:stop], case.durations[start:stop])
            audio, took, _ = timed(stream.decode, tokens)
            now += sum(steps[start:stop])
        now, spent = now + took, spent + took
        if audio.shape[1]:
            first = now if first is None else first
            gap += max(0.0, now - (first + played + gap))
            played += audio.shape[1] / case.codec.sample_rate
    assert first is not None
    return first, spent, gap


def describe(case: Case) -> dict[str, Any]:
    """Describe a row."""
    stream = case.codec.streaming_decoder()
    heads = sum(weight.numel() for weight in case.lm.heads.parameters())
    return {
        "label": case.label,
        "frame_rate": round(case.frame_rate, 3),
        "audio_seconds": round(int(case.durations.sum()) / case.codec.base_frame_rate, 3),
        "steps": len(case.durations),
        "codes_per_token": len(case.lm.heads),
        "lm_parameters": sum(weight.numel() for weight in case.lm.body.parameters()),
        "head_parameters": heads,
        "look_ahead": {"tokens": stream.lookahead_tokens, "frames": stream.lookahead_frames},
        "exact": stream.exact,
    }


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise the rounds of a row."""
    return {name: spread([run[name] for run in runs]) for name in runs[0]}


# -------------------------------------------------------------------------------------------------------------- tables


def read_koel() -> dict[tuple[str, str], tuple[str, str]]:
    """Read real-time factors and times to first audio of a batch of 16 on an RTX 6000, relative to the fastest."""
    with (Path(__file__).parent / "paper" / "koel_table3.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["context_s"] == "5"]
    return {(row["codec"], row["bitrate_kbps"]): (row["rtf_normalised"], row["ttfa_normalised"]) for row in rows}


def middle(row: dict[str, Any], name: str) -> float:
    """Return the median of the rounds."""
    return row[name]["median"]


def print_tables(rows: dict[str, Any]) -> None:
    """Print the results as Markdown, with Koel-TTS's relative figures next to ours."""
    print("| codec | Hz | steps | a step, ms | prompt, s | LM, s | codec, s | real-time factor |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows.values():
        seconds = row["audio_seconds"]
        prompt, lm, codec = (middle(row, f"{name}_seconds") for name in ("prompt", "lm", "codec"))
        print(
            f"| {row['label']} | {row['frame_rate']:.4g} | {row['steps']} | {1000 * middle(row, 'step_seconds'):.1f} "
            f"| {prompt:.2f} | {lm:.2f} | {codec:.2f} | {middle(row, 'total_seconds') / seconds:.2f} |"
        )
    print("\n| codec | Hz | first audio: whole | each token | real-time factor, pause | four tokens |  |")
    print("|---|---|---|---|---|---|---|")
    for row in rows.values():
        cells = [f"{middle(row, 'total_seconds'):.2f}"]
        for way in FOLLOWING:
            factor = middle(row, f"{way}/total_seconds") / row["audio_seconds"]
            cells.append(f"{middle(row, f'{way}/first_audio_seconds'):.2f}")
            cells.append(f"{factor:.2f}, {middle(row, f'{way}/gap_seconds'):.1f} s")
        print(f"| {row['label']} | {row['frame_rate']:.4g} | {' | '.join(cells)} |")
    print("\n| codec | Hz | RTF: ours | Koel-TTS | first audio: ours | Koel-TTS |\n|---|---|---|---|---|---|")
    base, koel = rows[BASELINE], read_koel()
    for name, key in KOEL.items():
        row, (factor, first) = rows[name], koel[key]
        ours = [middle(row, key) / middle(base, key) for key in ("total_seconds", "each/first_audio_seconds")]
        print(f"| {row['label']} | {row['frame_rate']:.4g} | {ours[0]:.2f} | {factor} | {ours[1]:.2f} | {first} |")


if __name__ == "__main__":
    main()
