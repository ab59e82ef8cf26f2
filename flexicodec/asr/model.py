"""The recogniser: a SAN-M encoder and a linear CTC head with several outputs per 60 ms frame."""

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
    """A symbol and its time, in seconds from the clip's start."""

    symbol: str
    start_seconds: float
    end_seconds: float


class Recognizer(nn.Module):
    """SAN-M encoder and CTC head.

    Args:
        config: Sizes and vocabulary.
        folder: Of the vocabulary's files, if their names are relative.
        dropout: In the encoder's blocks, in training.
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
        """Return log-probabilities of the symbols from front-end features, and the valid outputs of each item."""
        # [B, T, outputs * symbols] to [B, T * outputs, symbols]
        logits = self.head(self.encoder.encode(features, lengths))
        outputs = logits.unflatten(-1, (self.config.outputs_per_frame, -1)).flatten(1, 2)
        return F.log_softmax(outputs.float(), dim=-1), lengths * self.config.outputs_per_frame

    def features(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch frames in_dim"], Int[Tensor, " batch"]]:
        """Run the front end; clips shorter than a 25 ms window are padded to one."""
        least = KaldiFbank.frame_length
        return self.encoder.front_end(F.pad(audio, (0, max(0, least - audio.shape[1]))), lengths.clamp(min=least))

    def log_probs(
        self,
        audio: Tensor | np.ndarray,
        lengths: Lengths | None = None,
        *,
        sample_rate: int | None = None,
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Compute log-probabilities of the symbols, without gradients and in float32.

        Args:
            audio: `[S]` or `[B, S]`, full scale at 1.
            lengths: Valid samples of each item; None means all.
            sample_rate: Hz of the audio; None means 16 kHz.

        Returns:
            Log-probabilities of the symbols (code 0 is the blank), and the valid outputs of each item.
        """
        return self._recognize(*self._batch(audio, lengths, sample_rate))

    def transcribe(
        self,
        audio: Tensor | np.ndarray,
        lengths: Lengths | None = None,
        *,
        sample_rate: int | None = None,
    ) -> list[str]:
        """Transcribe by greedy CTC: the most likely symbol at every output, collapsed. Arguments as in `log_probs`."""
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
        """Find the time of each symbol of known texts, one per item (CTC forced alignment).

        CTC marks where a symbol is recognised, often in a single output of 30 ms; the time between two symbols is
        assigned to neither. Other arguments as in `log_probs`.

        Returns:
            For each item its symbols in order, without overlap; None where the vocabulary cannot spell the text, or the
            clip is too short for it.
        """
        batch, valid = self._batch(audio, lengths, sample_rate)
        if len(texts) != len(batch):
            raise ValueError(f"got {len(texts)} texts for {len(batch)} clips; expected one for each")
        # Texts that cannot be spelt are aligned as empty ones, and left out at the end.
        targets = [self.vocabulary.encode(text) for text in texts]
        paths = forced_path(*self._recognize(batch, valid), [target or [] for target in targets])
        seconds = (valid / self.sample_rate).tolist()
        aligned: list[list[Aligned] | None] = []
        for target, path, end in zip(targets, paths, seconds, strict=True):
            aligned.append(None if target is None or path is None else self._spans(target, path, end))
        return aligned

    def _spans(self, target: list[int], path: Int[Tensor, " outputs"], seconds: float) -> list[Aligned]:
        """Turn a path into times: output j covers the time from j to j + 1, up to the end of the clip."""
        spans = []
        for position, code in enumerate(target):
            outputs = (path == position).nonzero()
            start = min(int(outputs[0]) * self.output_seconds, seconds)
            end = min((int(outputs[-1]) + 1) * self.output_seconds, seconds)
            spans.append(Aligned(self.vocabulary.symbols[code], start, end))
        return spans

    def _batch(
        self, audio: Tensor | np.ndarray, lengths: Lengths | None, sample_rate: int | None
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        device = self.head.weight.device
        return as_batch(audio, lengths, sample_rate=sample_rate, target_sample_rate=self.sample_rate, device=device)

    def _recognize(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            return self(*self.features(audio, lengths))

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and the vocabulary's file, for `Recognizer.load`.

        Args:
            folder: Created if missing.
            dtype: Of the stored floating-point weights; None keeps theirs.
        """
        return write_folder(folder, self.config, self.vocabulary, self.state_dict(), dtype)

    @classmethod
    @torch.inference_mode(False)
    def load(cls, folder: str | Path, device: torch.device | str | None = None) -> "Recognizer":
        """Load a folder that `save` wrote, or "recognizer-mini" from the package, in eval mode and float32."""
        if str(folder) in SHIPPED:
            folder = Path(str(files("flexicodec") / "assets" / str(folder)))
        config, state = read_folder(folder)
        with torch.device("meta"):  # no memory and no random weights until the file is loaded
            recognizer = cls(config, folder)
        try:
            recognizer.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"the weights in {folder} do not fit its config: {error}") from error
        return recognizer.requires_grad_().to(device or "cpu").eval()
