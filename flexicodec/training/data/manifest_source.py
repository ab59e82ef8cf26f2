"""Clips of manifests, read from their files or from a cache of decoded audio."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.corpus.manifest import Filter, Utterance
from flexicodec.training.data.clip_cache import AudioCache, FeatureCache
from flexicodec.training.data.sampler import Clips


class ManifestSource:
    """All clips of a run in one block, read from `cache` or, if that is None, from their files.

    The caches hold all utterances, wanted or not, so that they serve other filters too.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sample_rate: int,
        wanted: Filter,
        cache: str | os.PathLike[str] | None = None,
        features: FeatureCache | None = None,
    ):
        self.sample_rate = sample_rate
        self._indices = wanted.select(utterances, "manifest")
        if not self._indices:
            raise ValueError(f"none of {len(utterances)} utterances is left to train on: {wanted}")
        self._utterances = [utterances[index] for index in self._indices]
        # Caches are indexed by all utterances, and clips by those that are left.
        self._features = features
        self._cache = None if cache is None else AudioCache(utterances, cache, sample_rate)
        self.seconds: Float[np.ndarray, " clips"] = np.array([u.duration for u in self._utterances])

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the only block."""
        yield self

    def text(self, clip: int) -> str | None:
        """Transcript of a clip."""
        return self._utterances[clip].text

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it."""
        if self._cache is not None:
            return self._cache.read(self._indices[clip], first, samples)
        return read_utterance(self._utterances[clip], self.sample_rate, first, samples)

    def features(self, clip: int, first: int, samples: int) -> Float[np.ndarray, "dim frames"] | None:
        """Read the cached features of a crop that starts with a frame; None without a cache of features."""
        if self._features is None:
            return None
        return self._features.read(self._indices[clip], first, samples)
