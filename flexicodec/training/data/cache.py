"""Decoded audio kept on disk between runs: 16-bit samples of every clip in one file that is mapped into memory.

Training processes and their workers share the mapped pages, and nothing is decoded twice. The file is the samples of
all clips, one after another, then JSON that says what they are, then the JSON's length and a magic word.
"""

import json
import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from flexicodec.corpus.manifest import Utterance
from flexicodec.corpus.reading import UNREADABLE, read_utterance
from flexicodec.io_utils import replacing

MAGIC = b"FXAUDIO1"
FULL_SCALE = 32768.0
_TAIL = struct.Struct("<Q8s")  # bytes of JSON, magic

_log = logging.getLogger(__name__)


class AudioStore:
    """The audio of some utterances, decoded once to 16 bits and one rate.

    Args:
        utterances: What to hold.
        cache: The file; made if it is not there, which takes as long as decoding everything.
        sample_rate: Hz.

    Raises:
        ValueError: The file is no cache, or holds other clips, another rate, or audio of files that have changed since;
            it is left as it is.
    """

    def __init__(self, utterances: Sequence[Utterance], cache: str | os.PathLike[str], sample_rate: int):
        self.cache = Path(cache)
        if not self.cache.exists():
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            _write(self.cache, utterances, sample_rate)
        held = _read_index(self.cache)
        _check(self.cache, held, utterances, sample_rate)
        self._offsets: Int[np.ndarray, " clips_and_end"] = np.cumsum([0, *held["lengths"]])
        self._unreadable: dict[str, str] = held["unreadable"]
        self._samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def read(self, index: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it, as `read_utterance` does.

        Raises:
            ValueError: The clip could not be read when the cache was made.
        """
        if str(index) in self._unreadable:
            raise ValueError(self._unreadable[str(index)])
        if self._samples is None:
            self._samples = np.memmap(self.cache, dtype="<i2", mode="r", shape=(int(self._offsets[-1]),))
        begin, end = int(self._offsets[index]) + first, int(self._offsets[index + 1])
        if not 0 <= first < end - begin + first:
            raise ValueError(f"clip {index} of {self.cache} has no samples from {first} on")
        stretch = self._samples[begin : end if samples is None else min(end, begin + samples)]
        return stretch.astype(np.float32) / FULL_SCALE

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped samples out: a worker process maps the file anew."""
        return {**self.__dict__, "_samples": None}


def _write(cache: Path, utterances: Sequence[Utterance], sample_rate: int) -> None:
    lengths, unreadable = [], {}
    with replacing(cache) as part, part.open("wb") as file:
        for index, utterance in enumerate(tqdm(utterances, desc=f"decode to {cache}", unit="clip", disable=None)):
            try:
                audio = read_utterance(utterance, sample_rate)
            except UNREADABLE as error:
                _log.warning("not in %s: %s", cache, error)
                unreadable[str(index)] = str(error)
                lengths.append(0)
            else:
                file.write((audio * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes())
                lengths.append(len(audio))
        described = json.dumps(
            {
                "sample_rate": sample_rate,
                "clips": [_identity(utterance, cache) for utterance in utterances],
                "lengths": lengths,
                "unreadable": unreadable,
            }
        ).encode()
        file.write(described + _TAIL.pack(len(described), MAGIC))


def _identity(utterance: Utterance, cache: Path) -> tuple[str, float, float, int | None]:
    """What has to agree: path (seen from the cache, so that both can move together), stretch, and bytes of the file."""
    path = os.path.relpath(utterance.path, cache.parent)
    size = utterance.path.stat().st_size if utterance.path.exists() else None
    return Path(path).as_posix(), round(utterance.start, 6), round(utterance.duration, 6), size


def _read_index(cache: Path) -> dict[str, Any]:
    with cache.open("rb") as file:
        total = file.seek(0, os.SEEK_END)
        if total >= _TAIL.size:
            file.seek(total - _TAIL.size)
            length, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic == MAGIC and length <= total - _TAIL.size:
                file.seek(total - _TAIL.size - length)
                return dict(json.loads(file.read(length)))
    raise ValueError(f"{cache} is no audio cache of this version; delete it or name another file")


def _check(cache: Path, held: dict[str, Any], utterances: Sequence[Utterance], sample_rate: int) -> None:
    advice = "delete it to have it made anew, or name another file as audio_cache"
    if held["sample_rate"] != sample_rate:
        raise ValueError(f"{cache} holds audio at {held['sample_rate']} Hz, expected {sample_rate}; {advice}")
    if len(held["clips"]) != len(utterances):
        raise ValueError(f"{cache} holds {len(held['clips'])} clips, expected {len(utterances)}; {advice}")
    for number, (clip, utterance) in enumerate(zip(held["clips"], utterances, strict=True)):
        path, start, duration, size = _identity(utterance, cache)
        expected = [path, start, duration, clip[3] if size is None else size]  # without the file, its copy has to do
        if clip != expected:
            names = ("path", "start", "duration", "bytes of its file")
            differing = ", ".join(
                f"{name} {was!r}, expected {now!r}"
                for name, was, now in zip(names, clip, expected, strict=True)
                if was != now
            )
            raise ValueError(f"{cache} does not fit the manifest: clip {number} has {differing}; {advice}")
