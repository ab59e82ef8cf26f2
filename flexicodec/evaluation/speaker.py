"""How much decoded speech sounds like the same speaker: cosines of speaker embeddings.

Conventions: clips are float arrays [S] at the encoder's sample rate; embeddings are rows of float32 [N, D] of length 1,
NaN where a clip is too short for one (about a third of a second). Similarities lie between -1 and 1. They compare only
with numbers of the same encoder: papers use WavLM-large with an ECAPA-TDNN head, which transformers does not have, and
microsoft/wavlm-base-plus-sv scores otherwise.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.evaluation.listeners import Listener
from flexicodec.evaluation.sources import check_clips, split_spec
from flexicodec.evaluation.systems import weights_digest

HIGHER_IS_BETTER = {"speaker_similarity": True}


class SpeakerEncoder(Protocol):
    """Whatever turns speech into a vector that tells its speaker.

    Attributes:
        name: The spec it was opened by; belongs beside every similarity.
        sample_rate: Hz of the clips it takes.
    """

    name: str
    sample_rate: int

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        ...

    def embed(self, clips: Sequence[np.ndarray]) -> Float[np.ndarray, "clips dim"]:
        """Embed each clip; all of them are one batch, so that the caller bounds the memory.

        Raises:
            ValueError: See `flexicodec.evaluation.sources.check_clips`.
        """
        ...


def open_speaker_encoder(spec: str, device: str | torch.device | None = None) -> SpeakerEncoder:
    """Open a speaker encoder.

    Args:
        spec: "wavlm:SOURCE", a folder or hub id of an x-vector model of transformers (microsoft/wavlm-base-plus-sv).
        device: Where it runs; None means the CPU.

    Raises:
        ValueError: No such kind, or weights that cannot be had or read; says where was looked and what to do.
    """
    _, source = split_spec(spec, ("wavlm",), "speaker encoder")
    return XVectorEncoder(spec, source, torch.device(device or "cpu"))


class XVectorEncoder:
    """WavLM (or another model over raw audio) with an x-vector head, by transformers."""

    def __init__(self, name: str, source: str, device: torch.device):
        self.name = name
        self.listener = Listener(
            "a speaker encoder (x-vectors) of transformers", source, "AutoModelForAudioXVector", device
        )
        self.sample_rate = self.listener.sample_rate

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(self.listener.model)

    def embed(self, clips: Sequence[np.ndarray]) -> Float[np.ndarray, "clips dim"]:
        """See `SpeakerEncoder`."""
        waves = check_clips(clips)
        model = self.listener.model
        found = np.full((len(waves), model.config.xvector_output_dim), math.nan, dtype=np.float32)
        enough = [index for index, wave in enumerate(waves) if self._pooled(len(wave)) > 1]
        for together, samples, mask in self.listener.batches([waves[index] for index in enough]):
            with torch.no_grad():
                vectors = model(samples, attention_mask=mask).embeddings
            found[[enough[index] for index in together]] = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return found

    def _pooled(self, samples: int) -> int:
        """Count what is left of a clip to take a mean and a deviation of."""
        if samples < self.listener.least:
            return 0
        return int(self.listener.model._get_tdnn_output_lengths(self.listener.frames(samples)))


def similarity(a: Float[np.ndarray, "clips dim"], b: Float[np.ndarray, "clips dim"]) -> Float[np.ndarray, " clips"]:
    """Compute the cosine of each row of `a` with the row of `b` in the same place; NaN where there is no embedding.

    Raises:
        ValueError: Not two matrices of the same shape.
    """
    a, b = (np.asarray(each, dtype=np.float64) for each in (a, b))
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"embeddings have shapes {list(a.shape)} and {list(b.shape)}; expected [N, D] twice (of one encoder?)"
        )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), math.nan), where=lengths > 0)
    return np.clip(cosine, -1.0, 1.0)


def evaluate(
    references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], encoder: SpeakerEncoder
) -> dict[str, float]:
    """Compute the mean similarity of decoded clips to their originals, over the pairs that have one.

    Raises:
        ValueError: Not an estimate per reference, or clips that cannot be embedded.
    """
    if len(references) != len(estimates):
        raise ValueError(f"got {len(references)} references and {len(estimates)} estimates; expected as many of both")
    scores = similarity(encoder.embed(references), encoder.embed(estimates))
    defined = scores[np.isfinite(scores)]
    return {"speaker_similarity": float(defined.mean()) if len(defined) else math.nan}
