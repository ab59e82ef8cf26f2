"""Streaming: the interface of streamable modules, loops over chunks, and operations on stream states.

A stream state is a tree of frozen dataclasses, tuples, None, plain numbers, and tensors whose first axis is the batch.
Nothing in it is ever written to, so keeping an old state needs no copy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Tree = TypeVar("Tree")
Kind = TypeVar("Kind", bound=type)

REGISTERED: dict[str, type] = {}  # dataclasses that states in files may be made of, by name

PLAIN = (bool, int, float, str)
CLASS_KEY = "kind"  # key of a dataclass's name among its fields, in plain data


class StreamingModule(Protocol):
    """One module of a stream."""

    @property
    def channels(self) -> int:
        """Input channels."""

    @property
    def lookahead(self) -> int:
        """Input steps that an output depends on after its own."""

    @property
    def exact(self) -> bool:
        """Whether the concatenated outputs equal those for the whole clip."""

    @property
    def per_item(self) -> bool:
        """Whether items may give different numbers of outputs, so that each is computed alone."""

    def initial_state(self) -> Any:
        """Return the state before the first step."""

    def step(
        self, x: Float[Tensor, "batch channels new"], state: Any, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels ready"], Any]:
        """Process any number of new steps, also 0; `last` ends the stream and returns all remaining outputs."""


def run_in_chunks(
    step: Callable[[Tensor, Any, bool], tuple[Tensor, Any]],
    x: Float[Tensor, "batch channels time"],
    state: Any,
    last: bool,
    size: int,
    output: Float[Tensor, "batch out_channels out_time"] | None = None,
) -> tuple[Float[Tensor, "batch out_channels out_time"], Any]:
    """Call a module's `step` on pieces of at most `size` steps, so that memory does not grow with `x`.

    Args:
        step: Maps (x, state, last) to outputs and the next state.
        x: New steps, also 0 of them.
        state: State before `x`; it is not changed.
        last: The stream ends with `x`; passed on with the final piece only.
        size: Steps per piece.
        output: Where to write the outputs, if it is known how many there are at most: half the memory of concatenating
            them.
    """
    pieces = x.split(size, dim=-1)
    outputs = []
    done = 0
    for index, piece in enumerate(pieces):
        y, state = step(piece, state, last and index == len(pieces) - 1)
        if output is None:
            outputs.append(y)
        else:
            output[..., done : done + y.shape[-1]] = y
            done += y.shape[-1]
    if output is None:
        return torch.cat(outputs, dim=-1), state
    return output[..., :done], state


def append(buffer: Tensor | None, x: Tensor, dim: int = -1) -> Tensor:
    """Concatenate a stream's buffer, None before the first chunk, and new steps."""
    return x if buffer is None else torch.cat([buffer, x], dim=dim)


def register_state(kind: Kind) -> Kind:
    """Allow files to hold states made of this dataclass; a decorator."""
    assert REGISTERED.setdefault(kind.__name__, kind) is kind, f"two kinds of state are called {kind.__name__}"
    return kind


@register_state
@dataclass(frozen=True)
class SlidingWindowState:
    """State of a `SlidingWindow`.

    Attributes:
        buffer: Context and pending steps; None before the first chunk.
        context: How many of them are context.
    """

    buffer: Float[Tensor, "batch channels buffered"] | None = None
    context: int = 0


class SlidingWindow:
    """Windows over a function that needs the whole clip (global attention): close to it, never equal.

    The positions of the windows do not depend on the chunks, so neither do the outputs.

    Args:
        function: Maps [B, D, T] to as many steps.
        channels: D.
        context: Steps of a window before those it outputs.
        ahead: Steps of a window after those it outputs.
        stride: Steps a window outputs.
        out_channels: Channels of the outputs; None means D.
    """

    exact = False
    per_item = False

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        channels: int,
        context: int,
        ahead: int,
        stride: int,
        out_channels: int | None = None,
    ) -> None:
        self.function = function
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        self.context = context
        self.ahead = ahead
        self.stride = stride
        self.lookahead = ahead + stride - 1

    def initial_state(self) -> SlidingWindowState:
        """Return the state before the first step."""
        return SlidingWindowState()

    def step(self, x: Tensor, state: SlidingWindowState, last: bool) -> tuple[Tensor, SlidingWindowState]:
        """Run every window that is complete, or at the end all that are left."""
        # buffer   | context | stride | ahead |           one window; its outputs at `stride` are returned
        # next          | context | stride | ahead |      it moves on by `stride`
        buffer = append(state.buffer, x)
        context = state.context
        outputs = [x.new_zeros(len(x), self.out_channels, 0)]
        while buffer.shape[-1] > context and (last or buffer.shape[-1] >= context + self.stride + self.ahead):
            window = self.function(buffer[..., : context + self.stride + self.ahead])
            outputs.append(window[..., context : context + self.stride])
            # Outputs become context, of which the next window keeps at most `self.context` steps.
            done = context + outputs[-1].shape[-1]
            context = min(self.context, done)
            buffer = buffer[..., done - context :]
        return torch.cat(outputs, dim=-1), SlidingWindowState(buffer.clone(), context)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Iterate over the tensors of a state, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from tensors(part)
    elif is_dataclass(tree):
        for field in fields(tree):
            yield from tensors(getattr(tree, field.name))


def map_tensors(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Build a state of the same structure from one or more states, by a function of corresponding tensors."""
    first: Any = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)  # type: ignore[return-value]
    if isinstance(first, tuple):
        return tuple(map_tensors(function, *parts) for parts in zip(*trees, strict=True))  # type: ignore[return-value]
    if is_dataclass(first):
        parts = {}
        for field in fields(first):
            parts[field.name] = map_tensors(function, *(getattr(tree, field.name) for tree in trees))
        return type(first)(**parts)  # type: ignore[return-value, misc]
    return trees[0]


def signature(tree: Any) -> Any:
    """Return what two states must share to be batched: structure, shapes without the batch axis, and plain values."""
    if isinstance(tree, Tensor):
        return (*tree.shape[1:], tree.dtype)
    if isinstance(tree, tuple):
        return tuple(signature(part) for part in tree)
    if is_dataclass(tree):
        return (type(tree).__name__, *(signature(getattr(tree, field.name)) for field in fields(tree)))
    return tree


def batch(trees: Sequence[Tree]) -> Tree:
    """Concatenate states of equal signature along the batch axis."""
    if len(trees) == 1:
        return trees[0]
    return map_tensors(lambda *parts: torch.cat(parts), *trees)


def unbatch(tree: Tree, count: int) -> list[Tree]:
    """Split a state of `count` items into one state per item."""
    if count == 1:
        return [tree]
    # Split every tensor once, then rebuild the tree for each item.
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
    """Convert a state to dicts, lists, numbers and CPU tensors, which `torch.save` stores and loads safely."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True).contiguous()
    if isinstance(tree, tuple):
        return [to_plain(each) for each in tree]
    if is_dataclass(tree):
        values = {field.name: to_plain(getattr(tree, field.name)) for field in fields(tree)}
        return {CLASS_KEY: type(tree).__name__, **values}
    assert tree is None or isinstance(tree, PLAIN), type(tree)
    return tree


def _required(kind: type) -> set[str]:
    """Name the fields of a dataclass without a default."""
    return {field.name for field in fields(kind) if field.default is MISSING}


def from_plain(plain: Any, known: Mapping[str, type]) -> Any:
    """Convert plain data back to a state.

    Args:
        plain: From `to_plain`, possibly read from an untrusted file.
        known: Allowed dataclasses, by name.

    Raises:
        ValueError: It holds anything else.
    """
    if isinstance(plain, list):
        return tuple(from_plain(each, known) for each in plain)
    if isinstance(plain, dict):
        kind = known.get(str(plain.get(CLASS_KEY)))
        # States of earlier versions may lack what has a default now.
        held = set(plain) - {CLASS_KEY}
        if kind is None or not _required(kind) <= held <= {field.name for field in fields(kind)}:
            names = sorted(map(str, plain))
            raise ValueError(f"no stream state is made of {names}; was the file made by something else?")
        return kind(**{name: from_plain(value, known) for name, value in plain.items() if name != CLASS_KEY})
    if plain is None or isinstance(plain, (Tensor, *PLAIN)):
        return plain
    raise ValueError(f"a stream state holds no {type(plain).__name__}; was the file made by something else?")
