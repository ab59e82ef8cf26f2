"""Vectors on disk, a safetensors file a set, named so that another codec, rate, list or recording is another file."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from flexicodec.corpus import Utterance
from flexicodec.io_utils import replacing
from flexicodec.models.codec import Codec

LAYOUT = 2  # rises when what is stored changes


def name(codec: Codec, utterances: Sequence[Utterance], representation: Any) -> str:
    """Name the file for a codec's vectors of these clips.

    Args:
        codec: Its fingerprint counts.
        utterances: Their stretches count, and size and time of change of their files.
        representation: A dataclass.

    Raises:
        OSError: A file is missing.
    """
    states = {path: os.stat(path) for path in {utterance.path for utterance in utterances}}
    clips = [
        [str(u.path.resolve()), u.start, u.duration, states[u.path].st_size, states[u.path].st_mtime_ns]
        for u in utterances
    ]
    told = json.dumps([LAYOUT, codec.fingerprint, asdict(representation), clips])
    return hashlib.sha256(told.encode()).hexdigest()[:24] + ".safetensors"


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))


def read(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name.

    Raises:
        ValueError: The file is damaged.
    """
    from safetensors import SafetensorError

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and it is made again") from error
