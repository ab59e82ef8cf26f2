"""Fit the network of the policy `recognition` to what Moonshine's decoder loses when frames are merged.

    python experiments/merging/token_cost.py speech --rows runs/token_cost.jsonl --output flexicodec/assets/token-cost

Clips of train.jsonl are cut in many ways at 5 to 2.5 Hz: first by randomly weighted errors, then near the cuts of a
network fitted to these. The loss of each token of the transcript is attributed to merged tokens by the decoder's
attention to their frames. Rows are written as they come, and a run that was stopped goes on where it was.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from run import FRAME_SIZE, GRID, english
from safetensors.torch import save_file
from scipy.optimize import nnls
from torch import Tensor, nn

from flexicodec.asr.moonshine import BEGIN, END, Moonshine, token_limit
from flexicodec.corpus import read_utterance
from flexicodec.merging import merge, unmerge
from flexicodec.merging.policies import target_tokens
from flexicodec.merging.recognition_cost import ALONE, DIRECTIONS, LONGEST, TokenCost, certainty
from flexicodec.merging.segmentation import durations_by_counts
from flexicodec.merging.window_costs import cost_table
from flexicodec.models.flexicodec.frame_resampler import resample_frames

CUTS = {5.0: 1, 4.0: 2, 3.0: 5, 2.5: 3}  # ways to cut a clip in each round, by rate
SHORTEST, LONGEST_CLIP = 2.5, 11.0  # seconds
OF_A_SPEAKER = 45  # clips at most, as one speaker has a third of them
LOSSES = (-1.0, 6.0)  # nats; beyond is noise of the attribution
STEPS = 500
BATCH = 512
RATE = 2e-3
DROPOUT = 0.2


@torch.no_grad()
def open_clips(model: Moonshine, speech: Path, count: int) -> list[dict[str, Any]]:
    """Encode training clips of many speakers, and write down what the recogniser makes of them."""
    utterances = english(speech / "train.jsonl")
    of_speaker: Counter[str | None] = Counter()
    clips: list[dict[str, Any]] = []
    for index in np.random.default_rng(1).permutation(len(utterances)):
        utterance = utterances[index]
        samples = torch.from_numpy(read_utterance(utterance, model.sample_rate))
        seconds = len(samples) / model.sample_rate
        if not SHORTEST < seconds < LONGEST_CLIP or of_speaker[utterance.known_speaker] == OF_A_SPEAKER:
            continue
        of_speaker[utterance.known_speaker] += 1
        native, frames = model.encoder(samples[None], torch.tensor([len(samples)]))
        grid = torch.tensor([-(-len(samples) // FRAME_SIZE)])
        features = resample_frames(native, frames, grid, model.encoder.frame_rate / GRID)
        (tokens,) = model.generate(features, grid, [token_limit(seconds)])
        clips.append({"id": utterance.id, "features": features, "seconds": seconds, "tokens": tokens})
        if len(clips) == count:
            break
    return clips


def directions(model: Moonshine, clips: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Return the projection to what cross-attention passes on, by variance, and the mean there."""
    metric = torch.zeros(model.encoder.dim, model.encoder.dim, dtype=torch.float64)
    for layer in model.decoder.layers:
        passed = layer.encoder_attn.o_proj.weight @ layer.encoder_attn.v_proj.weight
        metric += passed.double().T @ passed.double()
    values, vectors = torch.linalg.eigh(metric)
    root = (vectors * values.clamp(min=0).sqrt()).T
    passed = root @ torch.cat([clip["features"][0] for clip in clips], dim=1).double()
    variances, axes = torch.linalg.eigh(torch.cov(passed))
    projection = axes.flip(1).T[:DIRECTIONS] @ root / variances.sum().sqrt()
    return projection.float(), (axes.flip(1).T[:DIRECTIONS] @ passed.mean(1) / variances.sum().sqrt()).float()


def attend(model: Moonshine, features: Tensor, tokens: list[int]) -> Tensor:
    """Return which frames each token of the transcript and its end attend to: squared mean weights, summing to 1."""
    weights = []
    hooks = []
    for layer in model.decoder.layers:

        def keep(_: nn.Module, __: Any, x: Tensor, heads: Any = layer.encoder_attn) -> None:
            query = heads.heads("q_proj", x)
            key = heads.heads("k_proj", features.mT)
            weights.append((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)[0])

        hooks.append(layer.post_attention_layernorm.register_forward_hook(keep))
    model.decoder(torch.tensor([[BEGIN, *tokens]]), model.decoder.memory(features))
    for hook in hooks:
        hook.remove()
    squared = torch.stack(weights).mean(0).square()
    return squared / squared.sum(1, keepdim=True)


@torch.no_grad()
def measure(model: Moonshine, cost: TokenCost, clip: dict[str, Any], fitted: bool, random: Any) -> list[dict[str, Any]]:
    """Cut a clip in some ways, and attribute what the recogniser loses to the tokens."""
    features = clip["features"]
    lengths = torch.tensor([features.shape[2]])
    cuts = []
    for rate, ways in CUTS.items():
        count = target_tokens(rate, [clip["seconds"]], lengths, LONGEST)
        for _ in range(ways):
            costs = []
            weights = torch.from_numpy(np.exp(0.7 * random.standard_normal(ALONE + 1)))
            power = random.uniform(0, 1)
            noise = random.choice([0.1, 0.2, 0.5])
            known = cost(features[0]) if fitted else []
            for duration, (errors, _) in enumerate(cost.tokens(features[0]), start=1):
                plain = known[duration - 1] if fitted else errors @ weights * duration**power
                costs.append(plain.numpy()[None] * np.exp(noise * random.standard_normal(len(errors))))
            table = cost_table(costs, features.shape[2])
            cuts.append(torch.from_numpy(durations_by_counts(table, count[None].numpy(), lengths.numpy())[0]))
    merged = torch.cat([features, *(unmerge(merge(features, each), each) for each in cuts)])
    given = torch.tensor([[BEGIN, *clip["tokens"]]]).expand(len(merged), -1)
    logits, _ = model.decoder(given, model.decoder.memory(merged))
    nll = F.cross_entropy(logits.mT, torch.tensor([*clip["tokens"], END]).expand(len(merged), -1), reduction="none")
    lost = (nll[1:] - nll[:1]) @ attend(model, features, clip["tokens"])
    rows = []
    for durations, losses in zip(cuts, lost, strict=True):
        of_tokens = [round(float(each.sum()), 5) for each in losses.split(durations[0].tolist())]
        rows.append({"id": clip["id"], "durations": durations[0].tolist(), "losses": of_tokens})
    return rows


def fit(cost: TokenCost, clips: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Fit the weights of errors, then the perceptron to what they leave."""
    described = {clip["id"]: list(cost.tokens(clip["features"][0])) for clip in clips}
    errors, inputs, durations, losses = [], [], [], []
    for row in rows:
        if row["id"] not in described:
            continue
        starts = np.cumsum([0, *row["durations"][:-1]])
        for start, duration, loss in zip(starts, row["durations"], row["losses"], strict=True):
            of_token, read = described[row["id"]][duration - 1]
            errors.append(of_token[start])
            inputs.append(read[start])
            durations.append(duration)
            losses.append(loss)
    wanted = np.clip(losses, *LOSSES)
    each = torch.stack(errors)
    longer = each.numpy() * np.array(durations)[:, None] ** 0.5
    weights, _ = nnls(longer, wanted)
    cost.error_weights.copy_(torch.from_numpy(weights))
    left = torch.from_numpy(wanted - longer @ weights).float()
    counts = certainty(each).float()

    torch.manual_seed(0)
    first, act, second, act2, last = cost.perceptron
    network = nn.Sequential(nn.Dropout(DROPOUT), first, act, nn.Dropout(DROPOUT), second, act2, last)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    x = torch.stack(inputs)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        batch = torch.randint(len(x), (BATCH,))
        loss = (counts[batch] * network(x[batch])[:, 0] - left[batch]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of rows, continued if there")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=270)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Moonshine.load()
    clips = open_clips(model, args.speech, args.clips)
    cost = TokenCost()
    cost.projection, cost.mean = directions(model, clips)
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows.is_file() else []
    with args.rows.open("a") as file:
        for again in (False, True):
            done = Counter(row["id"] for row in rows)
            for number, clip in enumerate(clips):
                if done[clip["id"]] > again * sum(CUTS.values()):
                    continue
                for row in measure(model, cost, clip, again, np.random.default_rng([number, again])):
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
            fit(cost, clips, rows)
    args.output.mkdir(parents=True, exist_ok=True)
    state = {name: each.half().contiguous() for name, each in cost.state_dict().items()}
    save_file(state, args.output / "model.safetensors")


if __name__ == "__main__":
    main()
