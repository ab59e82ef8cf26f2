"""Clips of manifests, read from their files or from a cache of decoded audio.

The cache is one memory-mapped file, so that training processes and their workers share its pages and nothing is
decoded twice:

    16-bit samples of all clips | JSON index | bytes of the index | "FXAUDIO1"
"""

import hashlib
import json
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from flexicodec.corpus.audio_reading import UNREADABLE, read_utterance, to_int16
from flexicodec.corpus.manifest import Filter, Utterance
from flexicodec.io_utils import replacing
from flexicodec.training.data.sampler import Clips

MAGIC = b"FXAUDIO1"
FULL_SCALE = 32768.0
_TAIL = struct.Struct("<Q8s")  # bytes of the index, magic

_log = logging.getLogger(__name__)


class ManifestSource:
    """All clips of a run in one block, read from `cache` or, if that is None, from their files.

    The cache holds all utterances, wanted or not, so that it serves other filters too.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sample_rate: int,
        wanted: Filter,
        cache: str | os.PathLike[str] | None = None,
    ):
        self.sample_rate = sample_rate
        self._indices = wanted.select(utterances, "manifest")
        if not self._indices:
            raise ValueError(f"none of {len(utterances)} utterances is left to train on: {wanted}")
        self._utterances = [utterances[index] for index in self._indices]
        # The cache is indexed by all utterances, and clips by those that are left.
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


def cache_file(audio_cache: str | None, manifests: Sequence[str], sample_rate: int) -> Path | None:
    """Return the file that `audio_cache` stands for: itself, or in a folder that of these manifests and this rate."""
    if audio_cache is None or not (audio_cache.endswith(("/", os.sep)) or Path(audio_cache).is_dir()):
        return None if audio_cache is None else Path(audio_cache)
    paths = json.dumps([sample_rate, *(os.path.abspath(manifest) for manifest in manifests)])
    name = f"{Path(manifests[0]).stem}-{hashlib.sha256(paths.encode()).hexdigest()[:8]}.pcm" if manifests else "none"
    return Path(audio_cache) / name


class AudioCache:
    """Audio of utterances, decoded once to 16 bits and one sample rate, in a file that is written if missing.

    A file that is not a cache, or holds other clips, another rate or audio of files that have changed since, is a
    `ValueError` and stays as it is.
    """

    def __init__(self, utterances: Sequence[Utterance], cache: str | os.PathLike[str], sample_rate: int):
        self.cache = Path(cache)
        if not self.cache.exists():
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            _write_cache(self.cache, utterances, sample_rate)
        index = _read_index(self.cache)
        _check_index(self.cache, index, utterances, sample_rate)
        self._offsets: Int[np.ndarray, " clips_and_end"] = np.cumsum([0, *index["lengths"]])
        self._unreadable: dict[str, str] = index["unreadable"]
        self._samples: np.ndarray | None = None

    def read(self, index: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it like `read_utterance`; one that could not be decoded is a `ValueError`."""
        if str(index) in self._unreadable:
            raise ValueError(self._unreadable[str(index)])
        if self._samples is None:  # mapped on first use, once per process
            self._samples = np.memmap(self.cache, dtype="<i2", mode="r", shape=(int(self._offsets[-1]),))
        clip = self._samples[self._offsets[index] : self._offsets[index + 1]]
        if not 0 <= first < len(clip):
            raise ValueError(f"clip {index} of {self.cache} has no samples from {first} on")
        end = None if samples is None else first + samples
        return clip[first:end].astype(np.float32) / FULL_SCALE

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped samples out: a worker process maps the file again."""
        return {**self.__dict__, "_samples": None}


def _write_cache(cache: Path, utterances: Sequence[Utterance], sample_rate: int) -> None:
    lengths = []
    unreadable = {}
    with replacing(cache) as part, part.open("wb") as file:
        for index, utterance in enumerate(tqdm(utterances, desc=f"decode to {cache}", unit="clip", disable=None)):
            try:
                audio = read_utterance(utterance, sample_rate)
            except UNREADABLE as error:
                _log.warning("not in %s: %s", cache, error)
                unreadable[str(index)] = str(error)
                audio = np.zeros(0, np.float32)  # keeps the numbers of the clips after it
            file.write(to_int16(audio).tobytes())
            lengths.append(len(audio))
        index_fields = {
            "sample_rate": sample_rate,
            "clips": [list(_identity(utterance, cache).values()) for utterance in utterances],
            "lengths": lengths,
            "unreadable": unreadable,
        }
        encoded = json.dumps(index_fields).encode()
        file.write(encoded + _TAIL.pack(len(encoded), MAGIC))


def _identity(utterance: Utterance, cache: Path) -> dict[str, Any]:
    """What has to agree; the path is relative to the cache, so that both can be moved together."""
    identity = {
        "path": Path(os.path.relpath(utterance.path, cache.parent)).as_posix(),
        "start": round(utterance.start, 6),
        "duration": round(utterance.duration, 6),
        "bytes of its file": utterance.path.stat().st_size if utterance.path.exists() else None,
    }
    if utterance.channel is not None:  # caches of earlier versions have none
        identity["channel"] = utterance.channel
    return identity


def _read_index(cache: Path) -> dict[str, Any]:
    with cache.open("rb") as file:
        total = file.seek(0, os.SEEK_END)
        # The tail says where the index begins; anything that does not add up is another kind of file.
        if total >= _TAIL.size:
            file.seek(total - _TAIL.size)
            length, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic == MAGIC and length <= total - _TAIL.size:
                file.seek(total - _TAIL.size - length)
                return dict(json.loads(file.read(length)))
    raise ValueError(f"{cache} is no audio cache of this version; delete it or name another file")


def _check_index(cache: Path, index: dict[str, Any], utterances: Sequence[Utterance], sample_rate: int) -> None:
    advice = "delete it to have it written again, or name another file as audio_cache"
    if index["sample_rate"] != sample_rate:
        raise ValueError(f"{cache} holds audio at {index['sample_rate']} Hz, expected {sample_rate}; {advice}")
    if len(index["clips"]) != len(utterances):
        raise ValueError(f"{cache} holds {len(index['clips'])} clips, expected {len(utterances)}; {advice}")

    # The first clip that differs is named with all differences.
    for number, (clip, utterance) in enumerate(zip(index["clips"], utterances, strict=True)):
        differing = []
        identity = _identity(utterance, cache)
        if len(clip) != len(identity):
            differing.append(f"{'a' if len(clip) > len(identity) else 'no'} channel")
        for cached, (name, expected) in zip(clip, identity.items(), strict=False):
            is_gone = name.startswith("bytes") and expected is None  # the cache stands in for a deleted file
            if cached != expected and not is_gone:
                differing.append(f"{name} {cached!r}, expected {expected!r}")
        if differing:
            raise ValueError(f"{cache} does not fit the manifest: clip {number} has {', '.join(differing)}; {advice}")
