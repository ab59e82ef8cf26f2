"""How many tokens of a long clip differ from those of the whole clip, by how far windows of global attention overlap.

    python experiments/long-audio/overlap.py speech/eval.jsonl --output experiments/long-audio/overlap.json

Two models, neither of which is the released one: its architecture with random weights, of fewer layers; and
flexicodec-mini with the windows taken off its attention, which was not trained to see so much.
"""

import argparse
import json
import platform
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import flexicodec
from flexicodec.blocks.transformer import TransformerConfig
from flexicodec.config import from_dict
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.models.flexicodec.config import FlexiCodecConfig, MergingConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.semantic import SanmConfig
from flexicodec.models.windows import Windows

OVERLAPS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)  # seconds


def shortened(layers: int) -> FlexiCodec:
    """The released architecture in full width, but for fewer layers of transformers, with random weights."""
    transformer = TransformerConfig(num_layers=max(1, layers // 4), layer_scale_init=0.1)
    config = FlexiCodecConfig(
        semantic_encoder=SanmConfig(num_layers=layers),
        merging=MergingConfig(semantic_aggregator=transformer, acoustic_aggregator=transformer),
        bottleneck=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlexiCodec(config).eval()


def unbounded_mini() -> FlexiCodec:
    """flexicodec-mini, whose attention sees the whole clip."""
    mini = flexicodec.load("flexicodec-mini")
    values = mini.config_dict()
    values["semantic_encoder"]["window"] = None
    for name in ("semantic_aggregator", "acoustic_aggregator"):
        values["merging"][name]["window"] = None
    config = replace(from_dict(FlexiCodecConfig, values), bottleneck=None)
    codec = FlexiCodec(config).eval()
    state = {name: weight for name, weight in mini.state_dict().items() if not name.startswith("bottleneck")}
    codec.load_state_dict(state)
    return codec


def speech(manifest: Path, seconds: float, sample_rate: int) -> torch.Tensor:
    """So many seconds of utterances, one behind the other."""
    clips, have = [], 0.0
    for utterance in read_manifest(manifest):
        clips.append(torch.from_numpy(read_utterance(utterance, sample_rate)))
        have += len(clips[-1]) / sample_rate
        if have >= seconds:
            break
    return torch.cat(clips)[: int(seconds * sample_rate)]


def share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Share of places that differ."""
    return round(float((ours != theirs).double().mean()), 4)


@torch.no_grad()
def compare(codec: FlexiCodec, audio: torch.Tensor, window: float, frame_rate: float) -> dict[str, Any]:
    """Encode whole, and in windows of so many seconds with every overlap."""
    started = time.process_time()
    whole = codec.features(audio, windows=None)
    seconds, rows = time.process_time() - started, []
    tokens = codec.tokenize(whole, frame_rate=frame_rate)
    ends = set(tokens.durations[0].cumsum(0).tolist())
    for overlap in OVERLAPS:
        windows = Windows(window, overlap)
        started = time.process_time()
        features = codec.features(audio, windows=windows)
        took = time.process_time() - started
        own = codec.tokenize(features, frame_rate=frame_rate)
        same = codec.tokenize(features, durations=tokens.durations)
        own_ends = set(own.durations[0].cumsum(0).tolist())
        rows.append(
            {
                "overlap_seconds": overlap,
                "feature_error": round(float((features.semantic - whole.semantic).norm() / whole.semantic.norm()), 5),
                "boundaries_moved": round(len(ends - own_ends) / len(ends), 4),
                "semantic_codes_other": share(same.semantic, tokens.semantic),
                "first_acoustic_codes_other": share(same.acoustic[:, 0], tokens.acoustic[:, 0]),
                "acoustic_codes_other": share(same.acoustic, tokens.acoustic),
                "cpu_seconds": round(took, 1),
            }
        )
        print(rows[-1])
    return {"tokens": int(tokens.token_lengths), "whole_cpu_seconds": round(seconds, 1), "rows": rows}


def main() -> None:
    """Compare both models and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--window", type=float, default=60.0, help="seconds")
    parser.add_argument("--layers", type=int, default=8, help="SAN-M blocks of the random model, of 50")
    parser.add_argument("--frame-rate", type=float, default=6.25)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    audio, results = speech(args.manifest, args.seconds, 16_000), {}
    for name, codec in (("random", shortened(args.layers)), ("mini, global", unbounded_mini())):
        print(name)
        results[name] = compare(codec, audio, args.window, args.frame_rate)
    if args.output:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        about = {
            "commit": commit,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "seconds": args.seconds,
            "window_seconds": args.window,
            "layers": args.layers,
            "frame_rate": args.frame_rate,
        }
        args.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
