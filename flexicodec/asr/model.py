"""The recogniser: SAN-M blocks and a linear head under CTC, for transcripts, alignments, and a codec's frozen encoder.

A 60 ms frame may hold more than one symbol, so the head gives several outputs per frame.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexicodec.asr.checkpoint import read_folder, write_folder
from flexicodec.asr.config import RecognizerConfig
from flexicodec.asr.ctc import collapse, forced_path
from flexicodec.asr.vocabulary import open_vocabulary
from flexicodec.audio import Lengths, as_batch
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.encoders.sanm import SanmEncoder

SHIPPED = ("recognizer-mini",)


class Aligned(NamedTuple):
    """A symbol and when it sounds, in seconds from the clip's start."""

    symbol: str
    start_seconds: float
    end_seconds: float


class Recognizer(nn.Module):
    """Hears speech and writes it down.

    Args:
        config: What to build.
        folder: Where the vocabulary's files lie, if their names are relative.
        dropout: In the encoder's blocks, while training.
    """

    sample_rate = KaldiFbank.sample_rate

    def __init__(self, config: RecognizerConfig, folder: str | Path = ".", dropout: float = 0.0):
        super().__init__()
        self.config = config
        self.vocabulary = open_vocabulary(config.vocabulary, folder)
        self.encoder = SanmEncoder(config.encoder, dropout=dropout)
        self.head = nn.Linear(config.encoder.dim, config.outputs_per_frame * len(self.vocabulary))

    @property
    def output_seconds(self) -> float:
        """Time from one CTC output to the next."""
        return 1 / (self.encoder.frame_rate * self.config.outputs_per_frame)

    def forward(
        self, features: Float[Tensor, "batch frames in_dim"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Turn front-end features into log-probabilities of the symbols, and count the valid outputs."""
        logits = self.head(self.encoder.encode(features, lengths))
        outputs = logits.unflatten(-1, (self.config.outputs_per_frame, -1)).flatten(1, 2)
        return F.log_softmax(outputs.float(), dim=-1), lengths * self.config.outputs_per_frame

    def features(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch frames in_dim"], Int[Tensor, " batch"]]:
        """Run the front end; a clip shorter than one 25 ms window is taken for one."""
        least = KaldiFbank.frame_length
        return self.encoder.front_end(F.pad(audio, (0, max(0, least - audio.shape[1]))), lengths.clamp(min=least))

    def log_probs(
        self,
        audio: Tensor | np.ndarray,
        lengths: Lengths | None = None,
        *,
        sample_rate: int | None = None,
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Listen, without gradients and in float32.

        Args:
            audio: `[S]` or `[B, S]`, full scale at 1.
            lengths: Valid samples of each item; None means all.
            sample_rate: Hz of the audio; None means 16 kHz.

        Returns:
            Log-probabilities of the symbols (code 0 is the blank), and the valid outputs of each item.

        Raises:
            ValueError: See `flexicodec.audio.as_batch`.
        """
        return self._listen(*self._batch(audio, lengths, sample_rate))

    def transcribe(
        self,
        audio: Tensor | np.ndarray,
        lengths: Lengths | None = None,
        *,
        sample_rate: int | None = None,
    ) -> list[str]:
        """Write down what is said: the likeliest symbol at every output, collapsed (greedy CTC).

        Arguments and errors are those of `log_probs`.
        """
        log_probs, outputs = self.log_probs(audio, lengths, sample_rate=sample_rate)
        paths = zip(log_probs.argmax(dim=-1).tolist(), outputs.tolist(), strict=True)
        return [self.vocabulary.decode(collapse(path[:count])) for path, count in paths]

    def align(
        self,
        audio: Tensor | np.ndarray,
        lengths: Lengths | None,
        texts: Sequence[str],
        *,
        sample_rate: int | None = None,
    ) -> list[list[Aligned] | None]:
        """Find when each symbol of known texts sounds (CTC forced alignment).

        CTC marks where a symbol is recognised, often in a single output of 30 ms, and the time between two symbols
        belongs to neither; that a boundary lies midway is for the caller to suppose.

        Args:
            audio: See `log_probs`.
            lengths: See `log_probs`.
            texts: What is said in each item.
            sample_rate: See `log_probs`.

        Returns:
            For each item its symbols in order, none beginning before the one before it ends; None where the vocabulary
            cannot spell the text, or the clip is too short for it.

        Raises:
            ValueError: Not one text per item, or see `log_probs`.
        """
        batch, valid = self._batch(audio, lengths, sample_rate)
        if len(texts) != len(batch):
            raise ValueError(f"got {len(texts)} texts for {len(batch)} clips; expected one for each")
        targets = [self.vocabulary.encode(text) for text in texts]
        paths = forced_path(*self._listen(batch, valid), [target or [] for target in targets])
        seconds = (valid / self.sample_rate).tolist()
        return [
            None if target is None or path is None else self._spans(target, path, end)
            for target, path, end in zip(targets, paths, seconds, strict=True)
        ]

    def _spans(self, target: list[int], path: Int[Tensor, " outputs"], seconds: float) -> list[Aligned]:
        """Turn a path into times: output j stands for the time from j to j + 1, as far as the clip goes."""
        spans = []
        for position, code in enumerate(target):
            where = (path == position).nonzero()
            first, last = int(where[0]), int(where[-1])
            start, end = (min(j * self.output_seconds, seconds) for j in (first, last + 1))
            spans.append(Aligned(self.vocabulary.symbols[code], start, end))
        return spans

    def _batch(
        self, audio: Tensor | np.ndarray, lengths: Lengths | None, sample_rate: int | None
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        device = self.head.weight.device
        return as_batch(audio, lengths, sample_rate=sample_rate, target_sample_rate=self.sample_rate, device=device)

    def _listen(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            return self(*self.features(audio, lengths))

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and the vocabulary's file, which `Recognizer.load` opens again.

        Args:
            folder: Made if missing. Each file appears at once, by rename.
            dtype: Store floating weights so; None keeps them as they are.
        """
        return write_folder(folder, self.config, self.vocabulary, self.state_dict(), dtype)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str | None = None) -> "Recognizer":
        """Open a folder that `save` wrote, or "recognizer-mini", which ships with the package; in eval mode, float32.

        Raises:
            ValueError: The folder holds no recogniser, or its parts do not fit each other.
        """
        if str(folder) in SHIPPED:
            folder = Path(str(files("flexicodec") / "assets" / str(folder)))
        config, state = read_folder(folder)
        with torch.device("meta"):
            recognizer = cls(config, folder)
        try:
            recognizer.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"the weights in {folder} do not fit its config: {error}") from error
        return recognizer.requires_grad_().to(device or "cpu").eval()
