"""Stream states as trees: what can be done to one without knowing whose it is.

A state is made of frozen dataclasses, tuples, None, plain numbers, and tensors whose first axis is the batch. Nothing
in it is ever written to, so that to keep an old one is to copy it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")
Kind = TypeVar("Kind", bound=type)

REGISTERED: dict[str, type] = {}  # what states in files may be made of, by name

PLAIN = (bool, int, float, str)
CLASS_KEY = "kind"  # under which a dataclass keeps its name among its fields, once it is plain data


def register_state(kind: Kind) -> Kind:
    """Let files hold states made of this dataclass; a decorator."""
    assert REGISTERED.setdefault(kind.__name__, kind) is kind, f"two kinds of state are called {kind.__name__}"
    return kind


def tensors(tree: Any) -> Iterator[Tensor]:
    """Go through the tensors of a state, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from tensors(part)
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from tensors(getattr(tree, field.name))


def map_tensors(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Make a state of the same form whose tensors are made from those of one or more states, place by place."""
    first: Any = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)  # type: ignore[return-value]
    if isinstance(first, tuple):
        return tuple(map_tensors(function, *parts) for parts in zip(*trees, strict=True))  # type: ignore[return-value]
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        parts = {name: map_tensors(function, *(getattr(tree, name) for tree in trees)) for name in names}
        return type(first)(**parts)  # type: ignore[return-value, misc]
    return trees[0]


def signature(tree: Any) -> Any:
    """Return what two states must have in common to be computed side by side: all but the tensors' values."""
    if isinstance(tree, Tensor):
        return (*tree.shape[1:], tree.dtype)
    if isinstance(tree, tuple):
        return tuple(signature(part) for part in tree)
    if is_dataclass(tree):
        return (type(tree).__name__, *(signature(getattr(tree, field.name)) for field in fields(tree)))
    return tree


def batch(trees: Sequence[Tree]) -> Tree:
    """Put states of the same form side by side."""
    if len(trees) == 1:
        return trees[0]
    return map_tensors(lambda *parts: torch.cat(parts), *trees)


def unbatch(tree: Tree, count: int) -> list[Tree]:
    """Take a state of `count` items apart."""
    if count == 1:
        return [tree]
    rows = [list(tensor.split(1)) for tensor in tensors(tree)]  # one call for each tensor, not one for each item
    items = []
    for item in range(count):
        own = iter([row[item] for row in rows])
        items.append(map_tensors(lambda _, own=own: next(own), tree))
    return items


def num_bytes(tree: Any) -> int:
    """Count the bytes of a state's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(tree))


def to_plain(tree: Any) -> Any:
    """Turn a state into dicts, lists, numbers and tensors on the CPU, which `torch.save` stores and loads safely."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True).contiguous()
    if isinstance(tree, tuple):
        return [to_plain(each) for each in tree]
    if is_dataclass(tree):
        values = {field.name: to_plain(getattr(tree, field.name)) for field in fields(tree)}
        return {CLASS_KEY: type(tree).__name__, **values}
    assert tree is None or isinstance(tree, PLAIN), type(tree)
    return tree


def from_plain(plain: Any, known: Mapping[str, type]) -> Any:
    """Turn plain data back into a state.

    Args:
        plain: From `to_plain`, perhaps by way of a file that anybody may have written.
        known: The dataclasses it may be made of, by name.

    Raises:
        ValueError: It is not made of these.
    """
    if isinstance(plain, list):
        return tuple(from_plain(each, known) for each in plain)
    if isinstance(plain, dict):
        kind = known.get(str(plain.get(CLASS_KEY)))
        if kind is None or {field.name for field in fields(kind)} | {CLASS_KEY} != set(plain):
            names = sorted(map(str, plain))
            raise ValueError(f"no stream state is made of {names}; was the file made by something else?")
        return kind(**{name: from_plain(value, known) for name, value in plain.items() if name != CLASS_KEY})
    if plain is None or isinstance(plain, (Tensor, *PLAIN)):
        return plain
    raise ValueError(f"a stream state holds no {type(plain).__name__}; was the file made by something else?")
