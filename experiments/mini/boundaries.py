"""Which block of the recogniser gives token boundaries that follow speech best?

For every block of a recogniser: merge frames of clips with known phone boundaries at an exact rate, by the similarity
of that block's features (normalised without gain, as in a codec with this last block), and measure precision and recall
of the token boundaries against phone boundaries, and the token durations in silence and in speech.

    python experiments/mini/boundaries.py runs/asr-mini/model DIR/aligned.jsonl --output results/boundaries.json
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from flexicodec.asr import Recognizer
from flexicodec.audio import read_audio
from flexicodec.merging import ExactRate, cosine_similarities, token_index
from flexicodec.models.flexicodec.frame_resampler import resample_frames

FRAME = 1280
TOLERANCE_SECONDS = 0.03
SILENCE = ("", "sp", "sil")
INTERVAL = re.compile(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*?)"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recogniser", type=Path, help="folder of a recogniser trained by `flexicodec train-asr`")
    parser.add_argument("manifest", type=Path, help="JSONL with `path` and `alignment` (TextGrid with a tier `phones`)")
    parser.add_argument("--frame-rates", type=float, nargs="+", default=[4.0, 6.25, 8.33])
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    model = Recognizer.load(arguments.recogniser)
    rows = [json.loads(line) for line in arguments.manifest.read_text().splitlines()][: arguments.limit]
    scores: dict[tuple[int, float], list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        audio = read_audio(arguments.manifest.parent / row["path"], sample_rate=16_000)
        phones = read_phones(arguments.manifest.parent / row["alignment"])
        for block, similarities in enumerate(block_similarities(model, audio)):
            for rate in arguments.frame_rates:
                scores[block, rate].append(score(similarities, phones, audio.shape[1] / 16_000, rate))

    names = ("precision", "recall", "frames_in_silence", "frames_in_speech")
    table = [
        {"block": block + 1, "frame_rate": rate}
        | {name: round(float(np.nanmean([s[i] for s in values])), 3) for i, name in enumerate(names)}
        for (block, rate), values in sorted(scores.items())
    ]
    for line in table:
        print(line)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"clips": len(rows), "tolerance_seconds": TOLERANCE_SECONDS, "blocks": table}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def read_phones(path: Path) -> list[tuple[float, float, str]]:
    """Read start, end and label of the tier `phones` of a TextGrid."""
    text = path.read_text()
    return [(float(a), float(b), label) for a, b, label in INTERVAL.findall(text[text.index('"phones"') :])]


@torch.no_grad()
def block_similarities(model: Recognizer, audio: torch.Tensor) -> list[torch.Tensor]:
    """Compute similarities [1, T-1] on the 12.5 Hz grid from the features of every block."""
    frames = torch.tensor([-(-audio.shape[1] // FRAME)])
    padded = F.pad(audio, (0, int(frames) * FRAME - audio.shape[1]))
    outputs: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for block in model.encoder.encoder.layers
    ]
    _, encoder_lengths = model.encoder(padded, frames * FRAME)
    for hook in hooks:
        hook.remove()
    last = len(outputs) - 1
    features = [x if i == last else F.layer_norm(x, x.shape[-1:]) for i, x in enumerate(outputs)]
    return [
        cosine_similarities(resample_frames(x.transpose(1, 2), encoder_lengths, frames, 4 / 3), frames)
        for x in features
    ]


def score(
    similarities: torch.Tensor, phones: list[tuple[float, float, str]], seconds: float, rate: float
) -> tuple[float, ...]:
    """Measure boundary precision and recall against phones, and frames per token in silence and in speech."""
    num_frames = similarities.shape[1] + 1
    durations = ExactRate(rate)(similarities, torch.tensor([num_frames]), seconds=[seconds], max_duration=8)[0]
    cuts = durations.cumsum(0)[:-1].numpy() * FRAME / 16_000
    distance = np.abs(cuts[:, None] - np.array([start for start, _, _ in phones[1:]])[None])
    centres = (np.arange(num_frames) + 0.5) * FRAME / 16_000
    silent = np.array([any(a <= c < b and label in SILENCE for a, b, label in phones) for c in centres])
    share = np.zeros(len(durations))
    np.add.at(share, token_index(durations[None], num_frames)[0].numpy(), silent)
    quiet = share / durations.numpy() > 0.5
    frames = durations.numpy()
    return (
        float((distance.min(1) <= TOLERANCE_SECONDS).mean()),
        float((distance.min(0) <= TOLERANCE_SECONDS).mean()),
        float(frames[quiet].mean()) if quiet.any() else float("nan"),
        float(frames[~quiet].mean()),
    )


if __name__ == "__main__":
    main()
