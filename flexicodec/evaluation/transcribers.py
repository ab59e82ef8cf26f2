"""Recognisers that turn decoded speech into text, all behind one interface.

Conventions: clips are float arrays [S] at the transcriber's sample rate, full scale at 1, of any lengths; texts come
back as the recogniser writes them, before normalising. Decoding is greedy, without sampling and without a language
model, so that the same clips give the same texts, and a clip's text does not depend on its neighbours in the batch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from flexicodec.audio import collate
from flexicodec.evaluation.sources import check_clips, opening, split_spec
from flexicodec.models.recognizer import Recognizer


class Transcriber(Protocol):
    """Whatever writes down speech.

    Attributes:
        name: The spec it was opened by; belongs beside every error rate.
        sample_rate: Hz of the clips it takes.
    """

    name: str
    sample_rate: int

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Write down each clip; all of them are one batch.

        Raises:
            ValueError: See `flexicodec.evaluation.sources.check_clips`.
        """
        ...


def open_transcriber(spec: str = "ctc:recognizer-mini", device: str | torch.device | None = None) -> Transcriber:
    """Open a recogniser.

    Args:
        spec: "ctc:recognizer-mini" (ships with the package, small and weak; the number that always exists) or
            "ctc:FOLDER", a recogniser of `flexicodec train-asr`; "whisper:SOURCE" (openai/whisper-large-v3);
            "hubert:SOURCE" (facebook/hubert-large-ls960-ft, or any CTC model of transformers over raw audio);
            "sensevoice:FOLDER" (SenseVoiceSmall by funasr, the extra of that name). Sources are folders or hub ids.
        device: Where it runs; None means the CPU.

    Raises:
        ValueError: No such kind, or weights that cannot be had or read; says where was looked and what to do.
        ImportError: "sensevoice" without funasr.
    """
    kind, source = split_spec(spec, tuple(_KINDS), "transcriber")
    return _KINDS[kind](spec, source, torch.device(device or "cpu"))


class CTCTranscriber:
    """A recogniser of this package (`flexicodec.models.recognizer`)."""

    def __init__(self, name: str, source: str, device: torch.device):
        self.name = name
        with opening("a recogniser of this package", source):
            self.recognizer = Recognizer.load(source, device)
        self.sample_rate = self.recognizer.sample_rate

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """See `Transcriber`."""
        waves = check_clips(clips)
        return self.recognizer.transcribe(*collate([torch.from_numpy(wave) for wave in waves])) if waves else []


_KINDS: dict[str, Callable[[str, str, torch.device], Transcriber]] = {"ctc": CTCTranscriber}
