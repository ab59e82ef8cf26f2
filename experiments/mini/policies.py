"""Which cuts serve a codec best: STOI, PESQ-WB and WER of decoded speech by merging policy and frame rate.

    python experiments/mini/policies.py DIR/eval.jsonl --clips 16

Also decodes merged features that were not quantized, and fewer codebooks, to tell what merging and what the quantizer
costs. `--model` may be a model before or after a step of experiments/mini/train.sh.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pesq import pesq
from pystoi import stoi
from torch import Tensor

import flexicodec
from flexicodec.corpus import Utterance, read_manifest, read_utterance
from flexicodec.evaluation.metrics.asr import open_transcriber, word_errors

RATE = 16_000
POLICIES = ("shuffled", "uniform", "rate", "top-k", "ple", "centroid", "variance", "variance-length")
SHARES = (0.05, 0.2, 0.5, 0.9)  # of the acoustic error in "joint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--clips", type=int, default=16, help="English clips with a text, evenly spread")
    parser.add_argument("--frame-rate", type=float, nargs="+", default=[6.25, 4.0])
    parser.add_argument("--codebooks", type=int, nargs="*", default=[8], help="numbers of these, beside all of them")
    parser.add_argument("--policies", nargs="*", default=[*POLICIES, *(f"joint:acoustic={share}" for share in SHARES)])
    arguments = parser.parse_args()
    codec = flexicodec.load(arguments.model)
    known = [each for each in read_manifest(arguments.manifest) if each.text and each.language in (None, "en")]
    utterances = known[:: max(1, len(known) // arguments.clips)][: arguments.clips]
    clips = [torch.from_numpy(read_utterance(utterance, RATE)) for utterance in utterances]
    features = [codec.features(clip[None]) for clip in clips]
    transcriber = open_transcriber("moonshine")

    def measure(label: str, decode: Callable[[int], Tensor]) -> None:
        with torch.no_grad():
            decoded = [decode(index)[0, : len(clip)].numpy() for index, clip in enumerate(clips)]
        pairs = [(clip.numpy(), made) for clip, made in zip(clips, decoded, strict=True)]
        intelligible = np.mean([stoi(clip, made, RATE) for clip, made in pairs])
        quality = np.mean([pesq(RATE, clip, made, "wb") for clip, made in pairs])
        print(
            f"{label}: {intelligible:.3f} / {quality:.2f} / {error_rate(utterances, decoded, transcriber):.3f}",
            flush=True,
        )

    measure("originals", lambda index: clips[index][None])
    for rate in arguments.frame_rate:
        for policy in arguments.policies:
            tokens = [codec.tokenize(each, frame_rate=rate, policy=policy) for each in features]
            measure(f"{rate:g} Hz, {policy}", lambda index, tokens=tokens: codec.decode(tokens[index]))
        for count in (codec.num_codebooks, *arguments.codebooks):
            tokens = [codec.tokenize(each, frame_rate=rate, num_codebooks=count) for each in features]
            measure(
                f"{rate:g} Hz, its own policy, {count} books", lambda index, tokens=tokens: codec.decode(tokens[index])
            )
        durations = [each.durations for each in tokens]

        def not_quantized(index: int, durations: list[Tensor] = durations) -> Tensor:
            merged = codec.acoustic_aggregator(features[index].acoustic, durations[index])
            return codec.decode_latents(merged, durations[index])[0]

        measure(f"{rate:g} Hz, its own policy, not quantized", not_quantized)


def error_rate(utterances: list[Utterance], decoded: list[np.ndarray], transcriber: object) -> float:
    """Count word errors over all words."""
    counts = [
        word_errors(utterance.text, transcriber.transcribe([made])[0], "english", "en")
        for utterance, made in zip(utterances, decoded, strict=True)
    ]
    return sum(each.errors for each in counts) / sum(each.length for each in counts)


if __name__ == "__main__":
    main()
