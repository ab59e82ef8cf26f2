"""Whisper by the package faster-whisper, from weights in a folder that the user names."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexicodec.evaluation.metrics.loading import check_clips, loading_errors
from flexicodec.io_utils import needed_for


class FasterWhisperTranscriber:
    """Whisper by faster-whisper, on weights in a folder in CTranslate2's format; greedy, a clip at a time."""

    languages = None
    sample_rate = 16_000

    def __init__(self, name: str, source: str, device: torch.device, language: str | None = "en"):
        folder = Path(source)
        weights = folder / "model.bin"
        if not weights.is_file():
            raise ValueError(f"{folder} has no model.bin; expected a folder of Whisper in CTranslate2's format")
        with needed_for("faster-whisper:FOLDER", "faster_whisper", "faster-whisper"):
            from faster_whisper import WhisperModel
        self.name = name
        self.language = language
        self.fingerprint = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        with loading_errors("Whisper of faster-whisper", source):
            self.model: Any = WhisperModel(
                str(folder), device=device.type, compute_type="float32", cpu_threads=1, local_files_only=True
            )

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Transcribe clips one by one."""
        texts = []
        for wave in check_clips(clips):
            segments, _ = self.model.transcribe(
                wave, language=self.language, beam_size=1, temperature=0.0, condition_on_previous_text=False
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts
