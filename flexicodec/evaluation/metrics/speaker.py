"""Speaker similarity of decoded speech: cosines of speaker embeddings.

Similarities compare only with those of the same encoder: papers use WavLM-large with an ECAPA-TDNN head, which
transformers does not have. microsoft/wavlm-base-plus-sv and GE2E, which ships, give other values.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.evaluation.metrics import ge2e
from flexicodec.evaluation.metrics.loading import AudioModel, TorchModel, check_clips, parse_spec

GE2E = "ge2e"


def open_speaker_encoder(spec: str, device: str | torch.device | None = None) -> "GE2EEncoder | XVectorEncoder":
    """Open a speaker encoder.

    Args:
        spec: "ge2e", which ships; or "wavlm:SOURCE", a folder or hub id of an x-vector model of transformers
            (microsoft/wavlm-base-plus-sv).
        device: Where it runs; None means the CPU.
    """
    if spec == GE2E:
        return GE2EEncoder(spec, torch.device(device or "cpu"))
    _, source = parse_spec(spec, ("wavlm",), "speaker encoder", names=(GE2E,))
    return XVectorEncoder(spec, source, torch.device(device or "cpu"))


class GE2EEncoder(TorchModel):
    """GE2E with Resemblyzer's weights."""

    sample_rate = ge2e.SAMPLE_RATE

    def __init__(self, name: str, device: torch.device):
        self.name = name
        self.module: ge2e.GE2E = ge2e.GE2E.load(device)

    def embed(self, clips: Sequence[np.ndarray]) -> Float[np.ndarray, "clips dim"]:
        """Embed clips; rows have length 1, and are NaN for silence and for clips shorter than 2 s."""
        embeddings = np.empty((len(clips), ge2e.DIM), dtype=np.float32)
        for index, wave in enumerate(check_clips(clips)):
            audio = torch.from_numpy(wave).to(self.module.filters.device)
            embeddings[index] = self.module.embed(audio).cpu().numpy()
        return embeddings


class XVectorEncoder(AudioModel):
    """WavLM (or another model on raw audio) with an x-vector head, by transformers."""

    def __init__(self, name: str, source: str, device: torch.device):
        what = "a speaker encoder (x-vectors) of transformers"
        super().__init__(name, what, source, "AutoModelForAudioXVector", device)

    def embed(self, clips: Sequence[np.ndarray]) -> Float[np.ndarray, "clips dim"]:
        """Embed clips at the encoder's sample rate as one batch, so the caller bounds the memory.

        Returns:
            Rows of length 1, NaN for clips too short to embed (about a third of a second).
        """
        waves = check_clips(clips)
        embeddings = np.full((len(waves), self.module.config.xvector_output_dim), math.nan, dtype=np.float32)
        # The head pools mean and deviation over time, and the deviation takes two frames.
        usable = [index for index, wave in enumerate(waves) if self._num_pooled_frames(len(wave)) > 1]
        for batch, samples, mask in self.batches([waves[index] for index in usable]):
            with torch.no_grad():
                vectors = self.module(samples, attention_mask=mask).embeddings
            indices = [usable[position] for position in batch]
            embeddings[indices] = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return embeddings

    def _num_pooled_frames(self, samples: int) -> int:
        if samples < self.min_samples:
            return 0
        return int(self.module._get_tdnn_output_lengths(self.num_frames(samples)))


def similarity(a: Float[np.ndarray, "clips dim"], b: Float[np.ndarray, "clips dim"]) -> Float[np.ndarray, " clips"]:
    """Compute the cosine of each row of `a` with the same row of `b`; NaN where there is no embedding."""
    a = np.asarray(a, dtype=np.float64)
    b = np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"embeddings have shapes {list(a.shape)} and {list(b.shape)}; expected [N, D] twice (of one encoder?)"
        )
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(axis=1), norms, out=np.full(len(a), math.nan), where=norms > 0)
    return np.clip(cosine, -1.0, 1.0)
