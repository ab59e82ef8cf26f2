"""Reference voices, and what speaking returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from flexicodec.audio import read_audio
from flexicodec.audio.batches import as_batch
from flexicodec.tokens import Tokens

SHORTEST_VOICE = 0.5  # seconds
SILENCE = 1e-3  # a reference has a larger sample than this

VoiceSource = str | Path | Tensor | np.ndarray


@dataclass(frozen=True)
class Voice:
    """A reference voice at one rate; make it by `encode_voice`.

    Attributes:
        audio: Its samples at the codec's rate.
        tokens: Its semantic tokens.
        text: What is said; None where it is unknown. Tokens without their text are no prompt for the language model.
        threshold: Merging threshold they were made with, for released weights.
        frame_rate: Tokens per second asked for; None if none was.
        latents: Its frames as the codec's decoder takes them, for models that make such frames.
    """

    audio: Float[Tensor, "1 samples"]
    tokens: Tokens
    text: str | None = None
    threshold: float | None = None
    frame_rate: float | None = None
    latents: Float[Tensor, "1 dim frames"] | None = None


class Synthesis(NamedTuple):
    """What was said.

    `tokens.info` holds the rate asked for, `seed` and `reached_limit`: the text may be cut short where that is True.
    """

    audio: Float[Tensor, "1 samples"]
    tokens: Tokens


def read_voice(
    voice: VoiceSource, target_rate: int, text: str | None, *, sample_rate: int | None = None
) -> Float[Tensor, "1 samples"]:
    """Read a reference at the codec's rate.

    Args:
        voice: A file, or samples of one recording.
        target_rate: Hz.
        text: What is said in it, None where it is unknown.
        sample_rate: Hz of samples; None for the target's.

    Raises:
        ValueError: It is too short, silent or more than one recording, or its text is empty.
    """
    name = "the reference"
    if isinstance(voice, str | Path):
        name = f"the reference {voice}"
        voice = read_audio(voice, sample_rate=target_rate, channels="mix")
        sample_rate = None
    audio, _ = as_batch(voice, sample_rate=sample_rate, target_sample_rate=target_rate)
    if len(audio) != 1:
        raise ValueError(f"{name} is a batch of {len(audio)}; expected one recording")
    seconds = audio.shape[1] / target_rate
    if seconds < SHORTEST_VOICE:
        raise ValueError(
            f"{name} is {seconds:.2f} s long; expected {SHORTEST_VOICE} s or more (3 s or more are better)"
        )
    if float(audio.abs().max()) <= SILENCE:
        raise ValueError(f"{name} is silent: its largest sample is {float(audio.abs().max()):.1g}")
    if text is not None and not text.strip():
        raise ValueError(f"the text of {name} is empty; leave it out if it is unknown")
    return audio
