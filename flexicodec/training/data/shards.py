"""Speech streamed from tar shards, for corpora that do not fit a disk: they stay on whatever the machine can mount.

WebDataset's layout rather than lhotse Shar, because any tar tool makes and reads it and its clips need no second
manifest. Its library is not used: its pipelines split shards among processes, which then hear unequal shares, shuffle
with a buffer whose state cannot be saved, and start over when resumed. Here Python's tarfile tells where each clip
lies, and every process follows the same order but reads the bytes of its own clips only. Shards so have to be files
that can be searched, on a local or mounted (NFS, Lustre, object store) file system; pipes and URLs cannot.

An epoch takes the shards in random order, in blocks of at least `shuffle_buffer` clips, and the clips of each block in
random order. Where a run goes on in the middle of an epoch, whole blocks are passed over by counting.
"""

import glob
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flexicodec.corpus.manifest import Filter
from flexicodec.corpus.reading import read_stretch
from flexicodec.training.data.order import SHARDS, Clips, keyed
from flexicodec.training.data.tar import Member, members

_log = logging.getLogger(__name__)


class Shard:
    """One tar file; what it holds is looked up when it is needed, and only the durations are kept.

    Args:
        path: The file.
        wanted: Which of its clips to train on.
    """

    def __init__(self, path: Path, wanted: Filter):
        self.path, self.wanted = path, wanted
        self._seconds: Float[np.ndarray, " clips"] | None = None

    @property
    def seconds(self) -> Float[np.ndarray, " clips"]:
        """Durations of the clips to train on."""
        if self._seconds is None:
            self._seconds = np.array([member.utterance.duration for member in self.members()])
        return self._seconds

    def members(self) -> list[Member]:
        """The clips to train on."""
        found = _members(self.path)
        if self._seconds is None:
            kept = self.wanted.select([member.utterance for member in found], str(self.path))
        else:
            kept = self.wanted.indices([member.utterance for member in found])
        return [found[index] for index in kept]


@lru_cache(maxsize=16)
def _members(path: Path) -> list[Member]:
    return members(path)


class ShardClips:
    """The clips of a few shards.

    Args:
        shards: The shards.
        sample_rate: Hz to read at.
    """

    def __init__(self, shards: Sequence[Shard], sample_rate: int):
        self.shards, self.sample_rate = shards, sample_rate
        self.seconds: Float[np.ndarray, " clips"] = np.concatenate([shard.seconds for shard in shards])
        self._members: list[Member] | None = None

    def text(self, clip: int) -> str | None:
        """What is said in a clip."""
        return self._member(clip).utterance.text

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it."""
        with self._member(clip).open() as window:
            return read_stretch(window, self.sample_rate, first=first, samples=samples)

    def _member(self, clip: int) -> Member:
        if self._members is None:
            self._members = [member for shard in self.shards for member in shard.members()]
        return self._members[clip]


class ShardSource:
    """Clips from tar shards.

    Args:
        patterns: Paths and glob patterns.
        sample_rate: Hz to read at.
        seed: Of the order of shards.
        shuffle_buffer: Clips that are shuffled together, at least.
        wanted: Which clips to train on.

    Raises:
        ValueError: A pattern without files.
    """

    def __init__(self, patterns: Sequence[str], sample_rate: int, seed: int, shuffle_buffer: int, wanted: Filter):
        self.sample_rate, self.seed, self.shuffle_buffer = sample_rate, seed, shuffle_buffer
        self.shards = [Shard(path, wanted) for path in find_shards(patterns)]
        _log.info("%d shards", len(self.shards))

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the clips of an epoch in blocks."""
        block: list[Shard] = []
        for position in keyed(SHARDS, self.seed, epoch).permutation(len(self.shards)):
            block.append(self.shards[position])
            if sum(len(shard.seconds) for shard in block) >= self.shuffle_buffer:
                yield ShardClips(block, self.sample_rate)
                block = []
        if block:
            yield ShardClips(block, self.sample_rate)


def find_shards(patterns: Sequence[str]) -> list[Path]:
    """List the files that paths and glob patterns name, sorted, each once.

    Raises:
        ValueError: A pattern that names none, or a pipe or URL.
    """
    found: set[Path] = set()
    for pattern in patterns:
        if "://" in pattern or pattern.startswith("pipe:"):
            raise ValueError(f"shards {pattern!r} are no files; mount where they lie (streams cannot be searched)")
        matches = glob.glob(pattern, recursive=True)
        if not matches:
            raise ValueError(f"no shards match {pattern!r} (expected a path or a glob pattern such as 'speech/*.tar')")
        found.update(Path(match) for match in matches)
    return sorted(found)
