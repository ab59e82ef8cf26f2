"""Tokens of a long clip encoded in windows against those of the whole clip, by window length and overlap.

    python experiments/long-audio/overlap.py speech/eval.jsonl --model mini --output experiments/long-audio/overlap.json

Three models, none of them the released one: its architecture with random weights ("full"); flexicodec-mini without
attention windows ("global"), for which it was not trained; and flexicodec-mini with its encoder, without dither,
treated as a user-supplied encoder of unknown context ("mini"). Codes are compared on the boundaries of the whole clip.
"""

import argparse
import json
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import flexicodec
from flexicodec.config import from_dict
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec

WINDOWS = (30.0, 120.0)  # seconds
OVERLAPS = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
NEAR_SECONDS = 1.0  # of a seam between windows


def random_weights() -> FlexiCodec:
    """Build the released architecture with random weights, without a decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlexiCodec(FlexiCodecConfig(bottleneck=None)).eval()


def unbounded_mini() -> FlexiCodec:
    """Build flexicodec-mini with global attention."""
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


class Unknown:
    """Semantic encoder that does not state its context."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.frame_rate, self.dim = encoder, encoder.frame_rate, encoder.dim

    def __call__(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(audio, lengths)


def unknown_mini() -> FlexiCodec:
    """Build flexicodec-mini with its encoder running on windows of audio."""
    mini = flexicodec.load("flexicodec-mini")
    config = mini.config.semantic_encoder
    # Dither depends on the position in the clip.
    encoder = replace(config, front_end=replace(config.front_end, dither=0.0)).build()
    encoder.load_state_dict(mini.semantic_encoder.state_dict())
    codec = FlexiCodec(mini.config, Unknown(encoder.eval())).eval()
    state = {name: weight for name, weight in mini.state_dict().items() if not name.startswith("semantic_encoder.")}
    codec.load_state_dict(state)
    return codec


MODELS = {"full": random_weights, "global": unbounded_mini, "mini": unknown_mini}


def speech(manifest: Path, seconds: float, sample_rate: int) -> torch.Tensor:
    """Concatenate utterances up to this duration in seconds."""
    clips, have = [], 0.0
    for utterance in read_manifest(manifest):
        clips.append(torch.from_numpy(read_utterance(utterance, sample_rate)))
        have += len(clips[-1]) / sample_rate
        if have >= seconds:
            break
    return torch.cat(clips)[: int(seconds * sample_rate)]


def share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the share of differing entries."""
    return round(float((ours != theirs).double().mean()), 4)


def near_seams(tokens: flexicodec.Tokens, windows: flexicodec.Windows) -> torch.Tensor:
    """Mark the tokens near a seam between windows."""
    seam = windows.seconds - 2 * windows.overlap_seconds
    middle = tokens.times(0).mean(-1)
    nearest = (middle / seam).round().clamp(min=1) * seam
    return (middle - nearest).abs() < NEAR_SECONDS


@torch.no_grad()
def compare(codec: FlexiCodec, audio: torch.Tensor, frame_rate: float) -> dict[str, Any]:
    """Encode the clip whole and in windows of several lengths and overlaps."""
    whole, rows = codec.features(audio, windows=None), []
    tokens = codec.tokenize(whole, frame_rate=frame_rate)
    ends = set(tokens.durations[0].cumsum(0).tolist())
    for window, overlap in product(WINDOWS, OVERLAPS):
        if overlap > 0.45 * window or window * codec.sample_rate >= audio.shape[-1]:
            continue
        windows = flexicodec.Windows(window, overlap)
        features, near = codec.features(audio, acoustic=False, windows=windows), near_seams(tokens, windows)
        features = replace(features, acoustic=whole.acoustic)  # no attention in it: equal, see the tests
        own = codec.tokenize(features, frame_rate=frame_rate)
        same = codec.tokenize(features, durations=tokens.durations)
        pad_at_item_ends = set(own.durations[0].cumsum(0).tolist())
        rows.append(
            {
                "window_seconds": window,
                "overlap_seconds": overlap,
                "feature_error": round(float((features.semantic - whole.semantic).norm() / whole.semantic.norm()), 5),
                "boundaries_moved": round(len(ends - pad_at_item_ends) / len(ends), 4),
                "semantic_codes_other": share(same.semantic, tokens.semantic),
                "semantic_codes_other_near_seams": share(same.semantic[:, near], tokens.semantic[:, near]),
                "first_acoustic_codes_other": share(same.acoustic[:, 0], tokens.acoustic[:, 0]),
                "acoustic_codes_other": share(same.acoustic, tokens.acoustic),
            }
        )
        print(rows[-1], flush=True)
    return {"tokens": int(tokens.token_lengths), "rows": rows}


def main() -> None:
    """Compare encoding in windows with the whole clip for one model, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", choices=MODELS, default="mini")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--frame-rate", type=float, default=6.25)
    parser.add_argument("--output", type=Path, help="rows of other models in it are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = MODELS[args.model]()
    result = compare(codec, speech(args.manifest, args.seconds, codec.sample_rate), args.frame_rate)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "torch": torch.__version__, "seconds": args.seconds, "frame_rate": args.frame_rate}
    if args.output:
        held = json.loads(args.output.read_text()) if args.output.exists() else {}
        args.output.write_text(json.dumps({**held, args.model: {**about, **result}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
