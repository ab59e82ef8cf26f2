"""Waveforms: audio files, resampling, and batches of clips of different length."""

from flexicodec.audio.batches import (
    LOUDEST,
    Channels,
    Lengths,
    as_batch,
    check_sample_rate,
    collate,
    resample,
    resampled_length,
    split,
)
from flexicodec.audio.files import EXAMPLE, WRITE_BLOCK, encode_opus, example_audio, read_audio, write_audio
from flexicodec.audio.opened import AudioSource, OpenedAudio

__all__ = [
    "EXAMPLE",
    "LOUDEST",
    "WRITE_BLOCK",
    "AudioSource",
    "Channels",
    "Lengths",
    "OpenedAudio",
    "as_batch",
    "check_sample_rate",
    "collate",
    "encode_opus",
    "example_audio",
    "read_audio",
    "resample",
    "resampled_length",
    "split",
    "write_audio",
]
