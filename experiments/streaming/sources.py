"""Codecs and tokens for both streaming measurements, simulated and real time."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import torch

import flexicodec
from flexicodec.models.nanocodec.config import published, with_causality
from flexicodec.models.nanocodec.model import NanoCodec

NANO = "nano_1.78kbps_12.5fps"


def random_nanocodec(*, causal: bool) -> NanoCodec:
    """Build a NanoCodec of the published size at 12.5 Hz, with either decoder and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NanoCodec(with_causality(published(NANO), encoder=False, decoder=causal)).eval()


def random_tokens(codec: NanoCodec, seconds: float) -> flexicodec.Tokens:
    """Make random tokens for this duration in seconds."""
    frames = round(seconds * codec.base_frame_rate)
    codes = torch.randint(codec.quantizer.codebook_size, (1, codec.num_codebooks, frames))
    return flexicodec.Tokens(acoustic=codes, format=codec.format)


def example(sample_rate: int) -> torch.Tensor:
    """Read the packaged example."""
    return flexicodec.read_audio(str(files("flexicodec") / "assets" / "example.flac"), sample_rate=sample_rate)


def cut(tokens: flexicodec.Tokens, size: int) -> Iterator[flexicodec.Tokens]:
    """Split tokens into chunks."""
    for start in range(0, tokens.durations.shape[1], size):
        part = slice(start, start + size)
        semantic = None if tokens.semantic is None else tokens.semantic[:, part]
        yield flexicodec.Tokens(semantic, tokens.acoustic[:, :, part], tokens.durations[:, part], None, tokens.format)


def frame_seconds(codec: Any) -> float:
    """Return the duration of a frame in seconds."""
    return codec.frame_size / codec.sample_rate
