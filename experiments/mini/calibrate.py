"""Measure on training clips what a trained codec still lacks, thresholds and codebooks, and save it in 8 bits.

    python experiments/mini/calibrate.py runs/mini-v2/dynamic/model DIR/train.jsonl --output runs/mini-v2/model

`threshold`, the default of `encode`, gives the target rate over every 15th training clip; `threshold_range` gives the
lowest and the highest rate. Codebooks that were running means in training are fitted to the tokens of every fifth clip,
not merged and at two random rates: all of them at once are more than the means of the last steps have seen.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

import flexicodec
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import Utterance, read_manifest, read_utterance
from flexicodec.quantize import EuclideanRVQ
from flexicodec.training.codebook_means import fit_codebooks

RATES_PER_CLIP = 2  # random ones, beside the full frame rate
SLOWEST = 3.0  # Hz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained codec")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=15, help="use every N-th clip of the manifest")
    parser.add_argument("--frame-rate", type=float, default=8.33, help="target rate of `threshold`, Hz")
    parser.add_argument(
        "--range", type=float, nargs=2, default=(4.0, 12.0), help="target rates of `threshold_range`, Hz"
    )
    parser.add_argument(
        "--codebooks-every", type=int, default=5, help="fit the codebooks to every N-th clip; 0 leaves them"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of k-means for each codebook")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    codec = flexicodec.load(arguments.model, device=arguments.device)
    utterances = read_manifest(arguments.manifest)
    if arguments.codebooks_every:
        if not isinstance(codec.acoustic_quantizer, EuclideanRVQ):
            parser.error("these codebooks are trained by gradients; give --codebooks-every 0")
        tokens = acoustic_tokens(codec, utterances[:: arguments.codebooks_every])
        generator = torch.Generator().manual_seed(0)
        fit_codebooks(codec.acoustic_quantizer, tokens, arguments.rounds, generator)
        print(f"codebooks fitted to {len(tokens)} tokens")

    similarities, lengths, seconds = [], [], []
    for utterance in tqdm(utterances[:: arguments.every], desc="calibrate", disable=None):
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


@torch.inference_mode()
def acoustic_tokens(codec: flexicodec.FlexiCodec, utterances: list[Utterance]) -> Float[Tensor, "tokens dim"]:
    """Return what the acoustic codebooks have to code of some clips."""
    random = np.random.default_rng(0)
    tokens = []
    for utterance in tqdm(utterances, desc="tokens", disable=None):
        features = codec.features(read_utterance(utterance, codec.sample_rate))
        unmerged = torch.ones(1, int(features.lengths[0]), dtype=torch.long, device=codec.device)
        durations = [unmerged]
        for frame_rate in random.uniform(SLOWEST, codec.base_frame_rate, RATES_PER_CLIP):
            durations.append(codec.tokenize(features, frame_rate=frame_rate, num_codebooks=0).durations)
        for row in durations:
            inputs = codec.quantize(features, row)[1].inputs
            tokens.append(inputs[0].mT.float().clone())
    return torch.cat(tokens)


if __name__ == "__main__":
    main()
