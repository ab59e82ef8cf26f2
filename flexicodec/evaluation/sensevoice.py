"""SenseVoice's transcripts through funasr, which is let in without rearranging the house.

Building a funasr model sets the seeds, the number of threads and the logging of the whole process; all of that is put
back. Its front end adds noise to the samples unless told otherwise; it is told otherwise.
"""

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

from flexicodec.evaluation.sources import check_clips, fetch, opening
from flexicodec.evaluation.systems import weights_digest

FILES = ("config.yaml", "configuration.json", "model.pt", "am.mvn", "*.model", "tokens.json")
MISSING = re.compile(r"miss key in ckpt: (\S+),")  # all that funasr says before it goes on with random weights
TAGS = re.compile(r"<\|[^|]*\|>")  # language, emotion, event, and with or without punctuation


class SenseVoiceTranscriber:
    """SenseVoiceSmall, the CTC head behind FlexiCodec's frozen encoder; clips are heard one by one.

    Args:
        name: The spec it was opened by.
        source: Folder with config.yaml, model.pt, the SentencePiece model and am.mvn, or a hub id of such files.
        device: Where it runs.
        language: A code such as "en", or "auto".

    Raises:
        ImportError: funasr is not installed.
        ValueError: The folder cannot be read.
    """

    def __init__(self, name: str, source: str, device: torch.device, language: str = "en"):
        self.name, self.language = name, language
        what = "SenseVoice of funasr"
        folder = fetch(what, source, FILES)
        with opening(what, source), as_it_was() as said:
            try:
                from funasr import AutoModel
            except ImportError as error:
                raise ImportError("SenseVoice needs funasr: pip install flexicodec-lab[funasr]") from error
            self.model: Any = AutoModel(
                model=str(folder),
                device=str(device),
                frontend_conf={"dither": 0.0},
                ignore_init_mismatch=False,
                disable_update=True,
                disable_pbar=True,
                disable_log=True,
            )
            if missing := MISSING.findall(said.getvalue()):
                raise ValueError(f"model.pt has no {', '.join(missing[:3])}{' ...' * (len(missing) > 3)}")
        self.sample_rate = int(self.model.kwargs["frontend"].fs)

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(self.model.model)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """See `flexicodec.evaluation.transcribers.Transcriber`."""
        waves = check_clips(clips)
        least = self.model.kwargs["frontend"].frame_length * self.sample_rate // 1000  # one window, in samples
        texts = []
        with as_it_was():
            for wave in waves:
                padded = np.pad(wave, (0, max(0, least - len(wave))))
                found = self.model.generate(
                    input=[padded], fs=self.sample_rate, language=self.language, use_itn=False, batch_size=1
                )
                texts.append(" ".join(TAGS.sub(" ", found[0]["text"]).split()))
        return texts


@contextlib.contextmanager
def as_it_was() -> Iterator[io.StringIO]:
    """Silence what runs inside, and put back logging, search path, threads and random states; gives what is printed."""
    root, path, threads = logging.getLogger(), list(sys.path), torch.get_num_threads()
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    states = random.getstate(), np.random.get_state()
    try:
        with (
            torch.random.fork_rng(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()) as said,
        ):
            warnings.simplefilter("ignore")
            logging.disable()
            yield said
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        root.setLevel(level)
        root.handlers[:] = handlers
        root.manager.disable = disabled
        sys.path[:] = path
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
