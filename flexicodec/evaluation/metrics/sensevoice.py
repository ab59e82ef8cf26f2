"""SenseVoice transcriber (funasr). Restores the seeds, thread count and logging that funasr changes."""

import contextlib
import io
import logging
import random
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from flexicodec.evaluation.metrics.loading import TorchModel, check_clips, fetch, loading_errors
from flexicodec.io_utils import needed_for
from flexicodec.weights import abbreviated

FILES = ("config.yaml", "configuration.json", "model.pt", "am.mvn", "*.model", "tokens.json")
MISSING = re.compile(r"miss key in ckpt: (\S+),")  # funasr only prints this and continues with random weights
TAGS = re.compile(r"<\|[^|]*\|>")  # language, emotion, event, and with or without punctuation


class SenseVoiceTranscriber(TorchModel):
    """SenseVoiceSmall, the CTC model behind FlexiCodec's frozen encoder; clips are transcribed one by one.

    `source` has config.yaml, model.pt, the SentencePiece model and am.mvn; `language` is a code, or "auto".
    """

    def __init__(self, name: str, source: str, device: torch.device, language: str = "en"):
        self.name = name
        self.language = language
        what = "SenseVoice of funasr"
        folder = fetch(what, source, FILES)
        with loading_errors(what, source), restored_globals() as printed:
            with needed_for("SenseVoice", "funasr", "flexicodec-lab[funasr]"):
                from funasr import AutoModel
            self.model: Any = AutoModel(
                model=str(folder),
                device=str(device),
                frontend_conf={"dither": 0.0},  # no noise on the samples: transcripts have to repeat
                ignore_init_mismatch=False,
                disable_update=True,
                disable_pbar=True,
                disable_log=True,
            )
            if missing := MISSING.findall(printed.getvalue()):
                raise ValueError(f"model.pt has no {abbreviated(missing, 3)}")
        self.module = self.model.model
        self.sample_rate = int(self.model.kwargs["frontend"].fs)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Transcribe clips one by one, without the tags that SenseVoice writes between words."""
        waves = check_clips(clips)
        window = self.model.kwargs["frontend"].frame_length * self.sample_rate // 1000  # samples
        texts = []
        with restored_globals():
            for wave in waves:
                padded = np.pad(wave, (0, max(0, window - len(wave))))
                output = self.model.generate(
                    input=[padded], fs=self.sample_rate, language=self.language, use_itn=False, batch_size=1
                )
                texts.append(" ".join(TAGS.sub(" ", output[0]["text"]).split()))
        return texts


@contextlib.contextmanager
def restored_globals() -> Iterator[io.StringIO]:
    """Capture printed output, and restore logging, search path, thread count and random states at the end."""
    root = logging.getLogger()
    level = root.level
    handlers = list(root.handlers)
    disabled = root.manager.disable
    path = list(sys.path)
    threads = torch.get_num_threads()
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        with (
            torch.random.fork_rng(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            warnings.simplefilter("ignore")
            logging.disable()
            yield printed
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        root.setLevel(level)
        root.handlers[:] = handlers
        root.manager.disable = disabled
        sys.path[:] = path
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
