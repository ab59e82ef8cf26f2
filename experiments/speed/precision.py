"""Effect of bfloat16 on quality: signal-to-noise ratio, PESQ and STOI of the audio, and flipped tokens.

    python experiments/speed/precision.py speech/eval.jsonl --clips 40 --output experiments/speed/precision.json

The released architecture has random weights here, so only its ratio is meaningful. A flip is another boundary or code
in bfloat16 than in float32; codes are compared on float32's boundaries.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from worker import commit_and_machine

import flexicodec
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.evaluation.metrics.signal import ClipPair
from flexicodec.models.flexicodec.model import FlexiCodec

FRAME_RATE = 8.33  # Hz
METRICS = {"stoi": ClipPair.stoi, "pesq_wb": ClipPair.pesq}


def snr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the ratio of the reference's energy to that of the difference."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(other - reference).sum()))


def compare(codec: FlexiCodec, clips: list[np.ndarray], metrics: bool) -> dict:
    """Encode and decode every clip in both precisions."""
    ratios, scores = [], {f"{name} {precision}": [] for name in METRICS for precision in ("float32", "bfloat16")}
    counts = np.zeros((3, 2), dtype=int)  # boundaries, semantic codes, acoustic codes: flips, total
    for clip in clips:
        tokens = codec.encode(clip, frame_rate=FRAME_RATE)
        starts, others = (
            _starts(each) for each in (tokens, codec.encode(clip, frame_rate=FRAME_RATE, precision="bfloat16"))
        )
        rough = codec.encode(clip, durations=tokens.durations, precision="bfloat16")
        pairs = ((starts, others), (tokens.semantic, rough.semantic), (tokens.acoustic, rough.acoustic))
        for row, (one, other) in zip(counts, pairs, strict=True):
            row += (int((one != other).sum()), one.numel())
        audio = codec.decode(tokens)[0].numpy()
        sounds = {"float32": audio, "bfloat16": codec.decode(tokens, precision="bfloat16")[0].numpy()}
        ratios.append(snr_db(audio, sounds["bfloat16"]))
        for name, metric in METRICS.items() if metrics else ():
            for precision, decoded in sounds.items():
                scores[f"{name} {precision}"].append(metric(ClipPair(clip, decoded, codec.sample_rate)))
    found = {"decode_snr_db": {"median": float(np.median(ratios)), "lowest": min(ratios)}}
    names = ("boundaries", "semantic codes", "acoustic codes")
    found["flipped_in_encode"] = {
        name: {"flipped": int(a), "of": int(b)} for name, (a, b) in zip(names, counts, strict=True)
    }
    if metrics:
        found["scores"] = {name: float(np.nanmean(values)) for name, values in scores.items()}
        found["clips_without_a_score"] = int(sum(np.isnan(values).sum() for values in scores.values()))
    return found


def _starts(tokens: flexicodec.Tokens) -> torch.Tensor:
    """Mark the first frame of each token."""
    marks = torch.zeros(int(tokens.frame_lengths[0]), dtype=torch.bool)
    marks[tokens.durations[0].cumsum(0)[:-1]] = True
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = [read_utterance(each, 16_000) for each in read_manifest(arguments.manifest)[::5][: arguments.clips]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        full = FlexiCodec().eval()
    commit, machine = commit_and_machine()
    result = {"commit": commit, "machine": machine, "clips": len(clips), "seconds": sum(map(len, clips)) / 16_000}
    result["mini"] = compare(flexicodec.load("flexicodec-mini"), clips, metrics=True)
    result["released architecture, random weights"] = compare(full, clips[:4], metrics=False)
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
