"""Stream state as a value, batches of streams, and windows over long recordings.

A `StreamState` can be kept, copied, moved to another device, saved and loaded. A stream is a batch of items with a state
per stage each. `Windows` limits how much of a long recording is computed at once where attention spans all of it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flexicodec.io_utils import replacing
from flexicodec.nn import streaming
from flexicodec.nn.streaming import register_state

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec


@register_state
@dataclass(frozen=True)
class Windows:
    """How clips longer than `seconds` are encoded and decoded; shorter ones are taken whole.

    Global attention sees windows of `seconds`. Neighbouring ones share `overlap_seconds` on either side, of which each
    gives out what lies farther from its ends:

        window 1     [ given out        | overlap ]
        window 2            [ overlap | given out | overlap ]

    That is near the whole clip, not equal to it, and `Tokens.info` then says so. Where all attention has windows of its
    own, nothing changes but the memory that it takes.

    Attributes:
        seconds: Of a window, and the longest clip that is taken whole.
        overlap_seconds: That a window sees beyond what it gives out, on either side.
    """

    seconds: float = 120.0
    overlap_seconds: float = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_seconds <= 0.45 * self.seconds or self.seconds < 1:
            raise ValueError(
                f"windows of {self.seconds:g} s that overlap by {self.overlap_seconds:g} s; expected windows of at "
                "least 1 s, and at most 45 % of that for the overlap on either side"
            )

    def steps(self, rate: float) -> tuple[int, int, int]:
        """Count steps at a rate in Hz: those before what a window gives out, behind it, and given out."""
        overlap = round(self.overlap_seconds * rate)
        return overlap, overlap, max(1, round(self.seconds * rate) - 2 * overlap)


@streaming.register_state
@dataclass(frozen=True)
class Progress:
    """Where one stage of an item stands.

    Attributes:
        state: What the stage remembers.
        ready: Outputs that it has given.
        given: Those that went on to the next stage; with a short look-ahead more, as they would be if the clip ended.
    """

    state: Any
    ready: int = 0
    given: int = 0


@streaming.register_state
@dataclass(frozen=True)
class ItemState:
    """Where one item of a stream stands.

    Attributes:
        stages: Where each of its stages stands; what the last one has given is samples.
        tokens: That have come.
        frames: That these last.
        ended: Nothing follows.
    """

    stages: tuple[Progress, ...]
    tokens: int = 0
    frames: int = 0
    ended: bool = False


@streaming.register_state
@dataclass(frozen=True)
class StreamState:
    """All that a stream remembers; a value, which nothing changes.

    Attributes:
        items: One of each item of the batch.
        model: Fingerprint of what the stream goes through.
        settings: Of the stream.
    """

    items: tuple[Any, ...]
    model: str
    settings: Any

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors; little or none before the first chunk, as layers make their memory with what comes."""
        return streaming.num_bytes(self)

    def to(self, device: torch.device | str | int) -> "StreamState":
        """Copy to a device."""
        return streaming.map_tensors(lambda tensor: tensor.to(device), self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads, at once or not at all."""
        with replacing(Path(path)) as file:
            torch.save(streaming.to_plain(self), file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StreamState":
        """Read a file that `save` wrote, to the CPU. It may come from anybody: nothing in it is run.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or half of it.
        """
        try:
            state = streaming.from_plain(torch.load(path, map_location="cpu", weights_only=True), streaming.REGISTERED)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged or a malicious file makes torch raise
            said = str(error) if isinstance(error, ValueError) else f"no stream state ({type(error).__name__}: {error})"
            raise ValueError(f"{os.fspath(path)}: {said[:500]}") from error
        if not isinstance(state, cls):
            raise ValueError(f"{os.fspath(path)} holds no state of a stream")
        return state

    def fitting(self, other: "StreamState") -> "StreamState":
        """Return this state if a stream can go on from it that now stands at another.

        Raises:
            ValueError: It is a state of another model, of other settings, or of more or fewer streams.
        """
        for name in ("model", "settings"):
            theirs, ours = getattr(self, name), getattr(other, name)
            if theirs != ours:
                raise ValueError(f"the state is one of {name} {theirs}, and this stream's is {ours}")
        if len(self.items) != len(other.items):
            raise ValueError(f"the state is one of {len(self.items)} streams, and here are {len(other.items)}")
        return self


Self = TypeVar("Self", bound="StreamBatch")


class StreamBatch(ABC):
    """Streams side by side on one model, which knows nothing of them.

    Args:
        codec: The model.
        settings: Of all streams.
        batch_size: How many.
        model: Fingerprint of what the streams go through; states of another are refused.

    Attributes:
        codec: The model.
        settings: Of all streams.
        state: Where they stand, a value; see `StreamState`.

    Raises:
        ValueError: Not a number of streams.
    """

    def __init__(self, codec: "Codec", settings: Any, batch_size: int, model: str) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}, expected a whole number of streams, 1 or more")
        self.codec, self.settings = codec, settings
        self.state = StreamState(tuple(self._fresh() for _ in range(batch_size)), model, settings)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Forget: every stream is as new."""
        self.reset()

    @property
    def batch_size(self) -> int:
        """Streams side by side."""
        return len(self.state.items)

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Begin these streams, or all, anew."""
        every = list(self.state.items)
        for item in self._choose(items, ended=True):
            every[item] = self._fresh()
        self.state = replace(self.state, items=tuple(every))

    def load_state(self, state: StreamState) -> None:
        """Go on where another stream of this model stood.

        Raises:
            ValueError: It is a state of another model, of other settings, or of more or fewer streams.
        """
        self.state = state.fitting(self.state).to(self.codec.device)

    @abstractmethod
    def _fresh(self) -> Any:
        """Make the state of a stream to which nothing has come."""

    def _choose(self, items: Sequence[int] | None, ended: bool = False) -> list[int]:
        """Return the streams that a call means, all for None; `ended` tells whether those that ended may be meant."""
        chosen = list(range(self.batch_size)) if items is None else list(items)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(self.batch_size)):
            raise ValueError(f"items is {chosen}, expected different numbers from 0 to {self.batch_size - 1}")
        for item in chosen:
            if self.state.items[item].ended and not ended:
                raise ValueError(f"stream {item} has ended; reset(items=[{item}]) begins a new one")
        return chosen
