"""Flips of boundaries and codes between precisions, batches, threads, pieces and devices, by margin.

    python experiments/margins/run.py speech/eval.jsonl --clips 40 --output experiments/margins/results.json

Every clip is encoded in float32, alone and whole, with margins, then again with other settings. A decision is compared
only if all preceding ones are equal (`flexicodec.models.margins`). Codes are compared on the boundaries of the first
encoding.
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flexicodec
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.models.flexicodec import model
from flexicodec.models.margins import Decisions, compare_codes

EDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, float("inf"))
BATCH = 8
Encode = Callable[..., list[flexicodec.Tokens]]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side() -> Iterator[None]:
    """Pad ragged batches as on a GPU; on the CPU their clips are otherwise processed one by one."""
    before, model.MAX_PADDED_SHARE = model.MAX_PADDED_SHARE, 1.0
    try:
        yield
    finally:
        model.MAX_PADDED_SHARE = before


def one_by_one(codec: Any, clips: list[Tensor], settings: list[dict[str, Any]], **same: Any) -> list[flexicodec.Tokens]:
    """Encode clips one by one."""
    return [codec.encode(clip, **each, **same).to("cpu") for clip, each in zip(clips, settings, strict=True)]


def in_batches(codec: Any, clips: list[Tensor], settings: list[dict[str, Any]], **same: Any) -> list[flexicodec.Tokens]:
    """Encode clips in padded batches."""
    tokens = []
    for start in range(0, len(clips), BATCH):
        audio, lengths = flexicodec.collate(clips[start : start + BATCH])
        chosen = settings[start : start + BATCH]
        choice = dict(chosen[0])
        if "durations" in choice:
            rows = [each["durations"][0] for each in chosen]
            choice["durations"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batch = codec.encode(audio, lengths, **choice, **same)
        tokens += [batch[i].to("cpu") for i in range(len(batch))]
    return tokens


def by_margin(decisions: Decisions) -> list[dict[str, Any]]:
    """Count decisions and flips in every range of margins."""
    rows = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        inside = (decisions.margins >= low) & (decisions.margins < high)
        rows.append(
            {"from": low, "to": high, "decisions": int(inside.sum()), "flips": int(decisions.flipped[inside].sum())}
        )
    return rows


def ranking(decisions: Decisions) -> float | None:
    """Return the ROC area: the probability that a flipped decision has a smaller margin than an unchanged one."""
    flipped, kept = decisions.margins[decisions.flipped], decisions.margins[~decisions.flipped]
    if not len(flipped) or not len(kept):
        return None
    kept = kept.sort().values
    above = len(kept) - torch.searchsorted(kept, flipped, right=True).double()
    ties = torch.searchsorted(kept, flipped, right=True) - torch.searchsorted(kept, flipped)
    return round(float((above + ties / 2).mean() / len(kept)), 4)


def summary(decisions: Decisions) -> dict[str, Any]:
    """Summarise the flips of one kind of decision."""
    flipped = decisions.margins[decisions.flipped]
    return {
        "decisions": len(decisions),
        "flips": decisions.flips(),
        "flips_above_1e-4": decisions.flips(above=1e-4),
        "largest_margin_flipped": round(float(flipped.max()), 8) if len(flipped) else None,
        "margin_ranks_flips_first": ranking(decisions),
        "by_margin": by_margin(decisions),
    }


def compare(codec: Any, first: list[flexicodec.Tokens], encode: Encode, choice: dict[str, Any]) -> dict[str, Any]:
    """Encode again, with new boundaries and with those of the reference, and count flips."""
    reach = codec.semantic_decoder_stack.reach
    free = encode([choice] * len(first))
    found = [compare_codes(a, b, reach) for a, b in zip(first, free, strict=True)]
    held = encode([{"durations": tokens.durations} for tokens in first])
    codes = [compare_codes(a, b, reach) for a, b in zip(first, held, strict=True)]
    return {
        "clips_with_other_boundaries": sum(
            not torch.equal(a.durations, b.durations) for a, b in zip(first, free, strict=True)
        ),
        "boundaries": summary(Decisions.join([each.boundaries for each in found])),
        "semantic codes, same boundaries": summary(Decisions.join([each.semantic for each in codes])),
        "acoustic codes, same boundaries": summary(Decisions.join([each.acoustic for each in codes])),
    }


def main() -> None:
    """Encode with all settings and print the flips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frame-rate", type=float, help="exact rate in Hz (default: the model's threshold)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = flexicodec.load(args.model)
    utterances = read_manifest(args.manifest)[:: max(1, len(read_manifest(args.manifest)) // args.clips)][: args.clips]
    clips = [torch.from_numpy(read_utterance(each, codec.sample_rate)) for each in utterances]
    choice: dict[str, Any] = {} if args.frame_rate is None else {"frame_rate": args.frame_rate}
    first = one_by_one(codec, clips, [choice] * len(clips), margins=True, windows=None)
    fragile = [tokens.margins.fragile(tokens.durations) for tokens in first if tokens.margins is not None]

    def alone(settings: list[dict[str, Any]], **same: Any) -> list[flexicodec.Tokens]:
        return one_by_one(codec, clips, settings, **same)

    def two_threads(settings: list[dict[str, Any]]) -> list[flexicodec.Tokens]:
        with threads(2):
            return alone(settings)

    def on_gpu(settings: list[dict[str, Any]], **same: Any) -> list[flexicodec.Tokens]:
        return in_batches(codec.to("cuda"), clips, settings, **same)

    def padded(settings: list[dict[str, Any]]) -> list[flexicodec.Tokens]:
        with side_by_side():
            return in_batches(codec, clips, settings)

    ways: dict[str, Encode] = {
        "padded batches of 8": padded,
        "pieces of 1 s": lambda settings: alone(settings, windows=flexicodec.Windows(1.0, 0.0)),
        "two threads": two_threads,
        "bfloat16": lambda settings: alone(settings, precision="bfloat16"),
    }
    if torch.cuda.is_available():
        ways["GPU, float32"] = on_gpu
        ways["GPU, bfloat16"] = lambda settings: on_gpu(settings, precision="bfloat16")
    results = {way: compare(codec, first, encode, choice) for way, encode in ways.items()}

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    about = {
        "commit": commit,
        "torch": torch.__version__,
        "cpu": cpu[0].split(": ")[1] if cpu else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "model": args.model,
        "choice": choice or "the model's threshold",
        "clips": len(clips),
        "seconds": round(sum(len(clip) for clip in clips) / codec.sample_rate, 1),
        "tokens": sum(int(tokens.token_lengths) for tokens in first),
        "tokens_with_a_margin_below_1e-4": sum(int(each.sum()) for each in fragile),
    }
    print(json.dumps(about, indent=1))
    for way, result in results.items():
        print(way, f"(other boundaries in {result['clips_with_other_boundaries']} clips)")
        for name in ("boundaries", "semantic codes, same boundaries", "acoustic codes, same boundaries"):
            print("  ", name, {key: value for key, value in result[name].items() if key != "by_margin"})
    if args.output:
        args.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
