"""Calibrate the thresholds of a trained codec for its frozen encoder, and save it in 8 bits.

    python experiments/mini/calibrate.py runs/mini-v1/dynamic/model DIR/train.jsonl --output runs/mini-v1/model

`threshold`, the default of `encode`, gives the target rate over every 15th training clip; `threshold_range` gives the
lowest and the highest rate.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import flexicodec
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import read_manifest, read_utterance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained codec")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=15, help="use every N-th clip of the manifest")
    parser.add_argument("--frame-rate", type=float, default=8.33, help="target rate of `threshold`, Hz")
    parser.add_argument(
        "--range", type=float, nargs=2, default=(4.0, 12.0), help="target rates of `threshold_range`, Hz"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    codec = flexicodec.load(arguments.model, device=arguments.device)
    similarities, lengths, seconds = [], [], []
    for utterance in tqdm(read_manifest(arguments.manifest)[:: arguments.every], desc="calibrate", disable=None):
        audio = read_utterance(utterance, codec.sample_rate)
        features = codec.features(audio)
        similarities.append(features.similarities[0].cpu())
        lengths.append(int(features.lengths[0]))
        seconds.append(len(audio) / codec.sample_rate)
    fits = {
        rate: fit_threshold(similarities, lengths, seconds, rate, codec.max_duration)
        for rate in (arguments.frame_rate, *arguments.range)
    }
    threshold, slowest, fastest = (round(fit.threshold, 3) for fit in fits.values())
    for rate, fit in fits.items():
        print(f"{rate:g} Hz: tau {fit.threshold:.4f}; clips {fit.mean:.2f} Hz, deviation {fit.std:.2f} (n = {fit.n})")
    merging = replace(codec.config.merging, threshold=threshold, threshold_range=(slowest, fastest))
    codec.config = replace(codec.config, merging=merging)
    print(codec.save_pretrained(arguments.output, dtype=torch.int8))


if __name__ == "__main__":
    main()
