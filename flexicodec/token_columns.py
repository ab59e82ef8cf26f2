"""`Tokens` as plain values: columns of ragged lists for tables, and the bytes that pickles and hashes see.

A table (datasets, Arrow, pandas) has a row per clip; `to_columns` leaves padding out. Pickles hold integers as bytes,
not as tensors, whose own pickles name addresses: equal tokens have equal pickles and joblib hashes in every process.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flexicodec.token_format import TokenFormat, per_clip

if TYPE_CHECKING:
    from flexicodec.tokens import Tokens

CODES = ("semantic", "acoustic", "durations")
KEYS = (*CODES, "audio_lengths", "format", "info")


def to_columns(tokens: "Tokens") -> dict[str, list[Any]]:
    """Return a list with one entry per clip for each of `KEYS`.

    `acoustic` is [codebooks][tokens]; `format` and `info` are JSON, and what tokens do not have is None.
    """
    columns: dict[str, list[Any]] = {name: [] for name in KEYS}
    format = json.dumps(dataclasses.asdict(tokens.format))
    for i, count in enumerate(tokens.token_lengths.tolist()):
        for name in CODES:
            codes = getattr(tokens, name)
            columns[name].append(None if codes is None else codes[i, ..., :count].tolist())
        columns["audio_lengths"].append(None if tokens.audio_lengths is None else int(tokens.audio_lengths[i]))
        columns["format"].append(format)
        info = {name: per_clip(value, len(tokens))[i] for name, value in tokens.info.items()}
        columns["info"].append(json.dumps(info))
    return columns


def from_columns(columns: Mapping[str, Any], format: TokenFormat | None) -> list[dict[str, Any]]:
    """Return arguments of `Tokens` for each clip of `to_columns`, or of one row of a table.

    Args:
        columns: Lists, or arrays or tensors, of any of `KEYS`; `durations` may lack for codecs of a fixed rate. Other
            columns of the table are ignored.
        format: For columns without a `format`.

    Raises:
        ValueError: No codes, columns of different length, or no format.
    """
    given = {}
    for name in KEYS:
        values = _plain(columns.get(name))
        if values is not None and not (isinstance(values, list) and all(each is None for each in values)):
            given[name] = values
    codes = [name for name in ("semantic", "acoustic") if name in given]
    if not codes:
        raise ValueError(f"no column semantic or acoustic among {list(columns)}; expected those of Tokens.to_dict()")
    # One row of a table has one list less around everything.
    depth = _depth(given[codes[0]])
    wanted = 2 if codes[0] == "semantic" else 3
    if depth == wanted - 1:
        given = {name: [value] for name, value in given.items()}
    counts = {name: len(values) for name, values in given.items()}
    if len(set(counts.values())) != 1 or depth not in (wanted - 1, wanted):
        raise ValueError(f"columns of {counts} clips, {codes[0]} in {depth} lists; expected those of Tokens.to_dict()")

    clips = []
    for i in range(counts[codes[0]]):
        clip = {name: values[i] for name, values in given.items()}
        if clip.get("acoustic") == []:  # no codebooks
            del clip["acoustic"]
        own = clip.pop("format", None)
        clip["format"] = TokenFormat(**json.loads(own)) if own is not None else format
        if clip["format"] is None:
            raise ValueError("the table has no column format; say whose tokens these are: format=codec.format")
        clip["info"] = json.loads(clip.get("info") or "{}")
        clips.append(clip)
    return clips


def _depth(values: Any) -> int:
    """Count the lists around the first number."""
    depth = 0
    while isinstance(values, list):
        depth += 1
        values = next((each for each in values if each is not None), None)
    return depth


def _plain(values: Any) -> Any:
    """Return nested lists of arrays, also of arrays inside arrays, which pandas makes of nested lists."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_plain(each) for each in values] if isinstance(values, list | tuple) else values


# ----------------------------------------------------------------------------------------------------------- pickling


def to_pickled(tensor: Tensor | None) -> tuple[str, tuple[int, ...], str, str] | None:
    """Return dtype, shape, bytes and device; bytes as a string, as weights_only unpickling takes no empty bytes."""
    if tensor is None:
        return None
    array = tensor.detach().cpu().contiguous().numpy()
    return str(array.dtype), tuple(tensor.shape), array.tobytes().decode("latin-1"), str(tensor.device)


def from_pickled(held: tuple[str, tuple[int, ...], str, str] | None) -> Tensor | None:
    """Reverse `to_pickled`; on a machine without the device the tensor stays on the CPU."""
    if held is None:
        return None
    dtype, shape, data, device = held
    tensor = torch.from_numpy(np.frombuffer(data.encode("latin-1"), dtype).reshape(shape).copy())
    missing = device.startswith("cuda") and not torch.cuda.is_available()
    return tensor if missing else tensor.to(device)


def rebuild(cls: type, tensors: dict[str, Any], others: dict[str, Any]) -> Any:
    """Make an instance of a frozen dataclass again, of fields that were checked when it was made."""
    made: Any = object.__new__(cls)
    made.__dict__.update({name: from_pickled(held) for name, held in tensors.items()})
    made.__dict__.update(others)
    return made


def reduce(instance: Any) -> tuple[Any, ...]:
    """Return what pickles hold of a frozen dataclass of tensors; see `rebuild`."""
    tensors = {}
    others = {}
    for name, value in instance.__dict__.items():
        if value is None or isinstance(value, Tensor):
            tensors[name] = to_pickled(value)
        else:
            others[name] = value
    return rebuild, (type(instance), tensors, others)
