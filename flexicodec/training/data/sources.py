"""Utterances of manifests as a source of clips, read from their files or from a cache of decoded audio."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from flexicodec.corpus.manifest import Filter, Utterance
from flexicodec.corpus.reading import read_utterance
from flexicodec.training.data.cache import AudioStore
from flexicodec.training.data.order import Clips


class ManifestClips:
    """All clips of a run in one block.

    Args:
        utterances: The clips there are.
        sample_rate: Hz to read them at.
        wanted: Which ones to train on; what else there is stays in the cache, so that the same cache does for any.
        cache: File with their decoded audio, made if need be; None reads the files.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sample_rate: int,
        wanted: Filter,
        cache: str | os.PathLike[str] | None = None,
    ):
        self.sample_rate = sample_rate
        self._held = wanted.select(utterances, "manifest")
        if not self._held:
            raise ValueError(f"none of {len(utterances)} utterances is left to train on: {wanted}")
        self._utterances = [utterances[index] for index in self._held]
        self._store = None if cache is None else AudioStore(utterances, cache, sample_rate)
        self.seconds: Float[np.ndarray, " clips"] = np.array([u.duration for u in self._utterances])

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the one block there is."""
        yield self

    def text(self, clip: int) -> str | None:
        """What is said in a clip."""
        return self._utterances[clip].text

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it."""
        if self._store is not None:
            return self._store.read(self._held[clip], first, samples)
        return read_utterance(self._utterances[clip], self.sample_rate, first, samples)
