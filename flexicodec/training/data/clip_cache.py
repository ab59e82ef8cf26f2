"""Caches of what clips are turned into: decoded audio, and features of a frozen encoder.

A cache is one memory-mapped file, so that training processes and their workers share its pages and nothing is computed
twice:

    rows of all clips | JSON index | bytes of the index | the kind's eight letters
"""

import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from flexicodec.corpus.audio_reading import UNREADABLE, read_utterance, to_int16
from flexicodec.corpus.manifest import Utterance
from flexicodec.io_utils import replacing
from flexicodec.models.fingerprint import hash_weights
from flexicodec.models.flexicodec.network import FlexiCodecNetwork

FULL_SCALE = 32768.0
_TAIL = struct.Struct("<Q8s")  # bytes of the index, kind

_log = logging.getLogger(__name__)


class ClipCache:
    """Rows for each utterance, in a file that is written if missing.

    A file that is not such a cache, holds other clips or was made with other settings, or from files that have changed
    since, is a `ValueError` and stays as it is.

    Args:
        utterances: The clips.
        cache: The file.
        settings: Entries of the index that must agree, by the words for them.
        rows: Makes a clip's rows, [N] or [N, D]; only called to write a missing file. One of `UNREADABLE` leaves the
            clip without rows.
        width: D, or None for [N].
    """

    kind: ClassVar[bytes]
    option: ClassVar[str]  # of the config
    dtype: ClassVar[str]

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: str | os.PathLike[str],
        settings: Mapping[str, Any],
        rows: Callable[[Utterance], np.ndarray],
        width: int | None = None,
    ) -> None:
        self.cache = Path(cache)
        self._width = width
        if not self.cache.exists():
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            self._write(utterances, settings, rows)
        index = self._read_index()
        self._check_index(index, utterances, settings)
        self._offsets: Int[np.ndarray, " clips_and_end"] = np.cumsum([0, *index["lengths"]])
        self._unreadable: dict[str, str] = index["unreadable"]
        self._rows: np.ndarray | None = None

    def _clip(self, index: int, first: int, count: int | None) -> np.ndarray:
        """Read some rows of a clip; one that could not be made is a `ValueError`."""
        if str(index) in self._unreadable:
            raise ValueError(self._unreadable[str(index)])
        if self._rows is None:  # mapped on first use, once per process
            shape: tuple[int, ...] = (int(self._offsets[-1]),)
            if self._width is not None:
                shape = (*shape, self._width)
            self._rows = np.memmap(self.cache, dtype=self.dtype, mode="r", shape=shape)
        clip = self._rows[self._offsets[index] : self._offsets[index + 1]]
        if not 0 <= first < len(clip):
            raise ValueError(f"clip {index} of {self.cache} has no samples from {first} on")
        end = None if count is None else first + count
        return clip[first:end]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped rows out: a worker process maps the file again."""
        return {**self.__dict__, "_rows": None}

    def _write(
        self, utterances: Sequence[Utterance], settings: Mapping[str, Any], rows: Callable[[Utterance], np.ndarray]
    ) -> None:
        lengths = []
        unreadable = {}
        clips = tqdm(utterances, desc=f"{self.option} {self.cache}", unit="clip", disable=None)
        with replacing(self.cache) as part, part.open("wb") as file:
            for index, utterance in enumerate(clips):
                try:
                    made = rows(utterance)
                except UNREADABLE as error:
                    _log.warning("not in %s: %s", self.cache, error)
                    unreadable[str(index)] = str(error)
                    made = np.zeros(0, self.dtype)  # keeps the numbers of the clips after it
                file.write(made.astype(self.dtype, copy=False).tobytes())
                lengths.append(len(made))
            index_fields = {
                **settings,
                "clips": [list(_identity(utterance, self.cache).values()) for utterance in utterances],
                "lengths": lengths,
                "unreadable": unreadable,
            }
            encoded = json.dumps(index_fields).encode()
            file.write(encoded + _TAIL.pack(len(encoded), self.kind))

    def _read_index(self) -> dict[str, Any]:
        with self.cache.open("rb") as file:
            total = file.seek(0, os.SEEK_END)
            # The tail says where the index begins; anything that does not add up is another kind of file.
            if total >= _TAIL.size:
                file.seek(total - _TAIL.size)
                length, kind = _TAIL.unpack(file.read(_TAIL.size))
                if kind == self.kind and length <= total - _TAIL.size:
                    file.seek(total - _TAIL.size - length)
                    return dict(json.loads(file.read(length)))
        raise ValueError(
            f"{self.cache} is no {self.option} of this version; delete it or name another file as {self.option}"
        )

    def _check_index(
        self, index: Mapping[str, Any], utterances: Sequence[Utterance], settings: Mapping[str, Any]
    ) -> None:
        cache = self.cache
        advice = f"delete it to have it written again, or name another file as {self.option}"
        for name, expected in settings.items():
            if index[name] != expected:
                raise ValueError(f"{cache} was made with {name} {index[name]}, expected {expected}; {advice}")
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
                raise ValueError(
                    f"{cache} does not fit the manifest: clip {number} has {', '.join(differing)}; {advice}"
                )


def cache_file(cache: str | None, manifests: Sequence[str], kind: str) -> Path | None:
    """Return the file that a setting stands for: itself, or in a folder that of these manifests and this kind."""
    if cache is None or not (cache.endswith(("/", os.sep)) or Path(cache).is_dir()):
        return None if cache is None else Path(cache)
    paths = json.dumps([os.path.abspath(manifest) for manifest in manifests])
    stem = Path(manifests[0]).stem if manifests else "none"
    return Path(cache) / f"{stem}-{hashlib.sha256(paths.encode()).hexdigest()[:8]}-{kind}"


class AudioCache(ClipCache):
    """Audio of utterances, decoded once to 16 bits and one sample rate."""

    kind = b"FXAUDIO1"
    option = "audio_cache"
    dtype = "<i2"

    def __init__(self, utterances: Sequence[Utterance], cache: str | os.PathLike[str], sample_rate: int):
        def rows(utterance: Utterance) -> np.ndarray:
            return to_int16(read_utterance(utterance, sample_rate))

        super().__init__(utterances, cache, {"sample_rate": sample_rate}, rows)

    def read(self, index: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it like `read_utterance`; one that could not be decoded is a `ValueError`."""
        return self._clip(index, first, samples).astype(np.float32) / FULL_SCALE


class FeatureCache(ClipCache):
    """Features of a codec's frozen encoder on the frame grid, of whole clips, in half precision.

    A crop then costs no pass through the encoder, and its features know what is around it. They are those of files read
    at the encoder's rate, whatever rate crops have.

    Args:
        utterances: The clips.
        cache: The file.
        codec: Its encoder is run for all clips if the file is missing.
    """

    kind = b"FXFEATS1"
    option = "feature_cache"
    dtype = "<f2"

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: str | os.PathLike[str],
        codec: FlexiCodecNetwork,
    ):
        self.frame_size = codec.output_frame_size  # crops are cut at the rate of decoded audio
        encoder = codec.semantic_encoder
        assert isinstance(encoder, torch.nn.Module)
        settings = {
            "encoder": hash_weights(encoder.state_dict(), repr(codec.config.semantic_encoder), torch.float16),
            "frame_size": codec.frame_size,
        }

        def rows(utterance: Utterance) -> np.ndarray:
            audio = torch.from_numpy(read_utterance(utterance, codec.sample_rate))[None].to(codec.device)
            lengths = torch.tensor([audio.shape[1]], device=codec.device)
            features = codec.encode_semantic(audio, lengths, codec.frame_counts(lengths))
            return features[0].mT.half().cpu().numpy()

        super().__init__(utterances, cache, settings, rows, codec.semantic_encoder.dim)

    def read(self, index: int, first: int, samples: int) -> Float[np.ndarray, "dim frames"]:
        """Read the features of a crop that starts with a frame, at sample `first` of the codec's output rate."""
        frames = self._clip(index, first // self.frame_size, -(-samples // self.frame_size))
        return frames.T.astype(np.float32)


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
