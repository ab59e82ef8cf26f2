"""Milliseconds and GFLOP per second of audio of every block, and the share of the machine's limit.

The limit is a plain matrix product of size 2048. Ten seconds on one thread, the released architecture. Prints a JSON
object.
"""

import json
import time
from unittest import mock

import numpy as np
import torch
from systems import CODEBOOKS, FRAME_RATE, speech
from torch.utils.flop_counter import FlopCounterMode
from worker import EXAMPLE

import flexicodec
from flexicodec.models.codec import autocast
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn import onednn

SECONDS = 10.0
HALVED = ("semantic encoder", "aggregators", "bottleneck", "decoder")  # also measured in bfloat16


def blocks(codec: FlexiCodec) -> dict:
    """Return a callable per block, by name."""
    audio = speech(EXAMPLE, SECONDS, codec.sample_rate)
    features = codec.features(audio)
    tokens = codec.tokenize(features, frame_rate=FRAME_RATE, num_codebooks=CODEBOOKS)
    lengths, frames, count = features.audio_lengths, features.lengths, tokens.token_lengths
    latents = codec.dequantize(tokens.semantic, tokens.acoustic, count)
    smoothed, _ = codec.smooth(latents, tokens.durations)
    fbank, fbank_lengths = codec.semantic_encoder.front_end(audio[None], lengths)
    merged = codec.semantic_aggregator(features.semantic, tokens.durations, frames)
    return {
        "fbank": lambda: codec.semantic_encoder.front_end(audio[None], lengths),
        "semantic encoder": lambda: codec.semantic_encoder.encode(fbank, fbank_lengths),
        "acoustic encoder": lambda: codec.encode_acoustic(audio[None], lengths, frames),
        "aggregators": lambda: [
            aggregate(features.semantic, tokens.durations, frames)
            for aggregate in (codec.semantic_aggregator, codec.acoustic_aggregator)
        ],
        "ConvNeXt encoder": lambda: codec.semantic_encoder_stack(merged, count),
        "merge and quantise, all of it": lambda: codec.quantize(features, tokens.durations, CODEBOOKS),
        "bottleneck": lambda: codec.smooth(latents, tokens.durations),
        "decoder": lambda: codec.decode_frames(smoothed, frames),
    }


def flops(call) -> float:
    """Count a call's floating-point operations, without oneDNN's own operators: the counter does not know them."""
    counter = FlopCounterMode(display=False)
    with counter, mock.patch.object(onednn, "_supported_dtypes", return_value=()):
        call()
    return counter.get_total_flops()


def main() -> None:
    torch.set_num_threads(1)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        codec = FlexiCodec().eval()
        a, product = torch.randn(2048, 2048), onednn.Linear(2048, 2048, bias=False)
        limits, rows = {}, {}
        for precision in ("float32", "bfloat16"):
            with autocast(precision, codec.device):
                limits[precision] = 2 * 2048**3 / median(lambda: product(a)) / 1e9
        for name, call in blocks(codec).items():
            count = flops(call)
            for precision in ("float32", "bfloat16") if name in HALVED else ("float32",):
                with autocast(precision, codec.device):
                    seconds = median(call)
                rows[f"{name}, {precision}"] = {
                    "ms_per_second": round(1000 * seconds / SECONDS, 2),
                    "gflop_per_second": round(count / SECONDS / 1e9, 2),
                    "share_of_limit": round(count / seconds / 1e9 / limits[precision], 2),
                }
    limits = {name: round(value) for name, value in limits.items()}
    print(json.dumps({"limit_gflops": limits, "model": "released architecture", "blocks": rows}))


def median(call, repeats: int = 5) -> float:
    """Return the median CPU seconds, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    assert flexicodec.__version__
    main()
