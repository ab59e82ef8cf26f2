"""Windows over long recordings, and states and batches of streams.

A `StreamState` is a value: it can be kept, copied, moved to another device, saved and loaded. A stream is a batch of
items with a state per module each. `Windows` limit what is computed at once where attention spans a whole recording.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from flexicodec.io_utils import replacing
from flexicodec.nn import streaming

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec


@streaming.register_state
@dataclass(frozen=True)
class Windows:
    """How clips longer than `seconds` are encoded and decoded; shorter ones are computed whole.

    Global attention spans windows of `seconds`. Neighbouring windows share `overlap_seconds` on either side, and each
    outputs what is farther from its ends:

        window 1     [ output           | overlap ]
        window 2              [ overlap | output  | overlap ]

    That is close to the whole clip but not equal to it, and `Tokens.info` then says so. Where all attention has windows
    of its own, only the memory changes.

    Attributes:
        seconds: Length of a window, and of the longest clip that is computed whole.
        overlap_seconds: Length of the context on either side of what a window outputs.
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
        """Return a window's context, look-ahead and output in steps at a rate in Hz."""
        overlap = round(self.overlap_seconds * rate)
        return overlap, overlap, max(1, round(self.seconds * rate) - 2 * overlap)


@streaming.register_state
@dataclass(frozen=True)
class ModuleProgress:
    """Progress of one module on an item.

    Attributes:
        state: The module's state.
        computed: Final outputs so far.
        passed_on: Outputs that the next module received; with a short look-ahead more than are final, computed as if
            the clip had ended.
    """

    state: Any
    computed: int = 0
    passed_on: int = 0


@streaming.register_state
@dataclass(frozen=True)
class ItemState:
    """State of one item of a streaming decoder.

    Attributes:
        modules: Progress of each module; the last one's outputs are samples.
        tokens: Tokens so far.
        frames: Frames that they last.
        ended: The stream has ended.
        end: Sample at which the clip ends, if these tokens are the last; None: with the last frame.
        held: Samples [S] behind `end`, which are returned if more tokens come.
    """

    modules: tuple[ModuleProgress, ...]
    tokens: int = 0
    frames: int = 0
    ended: bool = False
    end: int | None = None
    held: Any = None


@streaming.register_state
@dataclass(frozen=True)
class StreamState:
    """State of a batch of streams; an immutable value.

    Attributes:
        items: One state per item.
        model: Fingerprint of the weights the stream uses.
        settings: Options of the stream.
    """

    items: tuple[Any, ...]
    model: str
    settings: Any

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors; few or none before the first chunk, as layers allocate theirs with it."""
        return streaming.num_bytes(self)

    def to(self, device: torch.device | str | int) -> "StreamState":
        """Copy to a device."""
        return streaming.map_tensors(lambda tensor: tensor.to(device), self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads, atomically."""
        with replacing(Path(path)) as file:
            torch.save(streaming.to_plain(self), file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StreamState":
        """Read a file that `save` wrote, to the CPU. The file need not be trusted: no code in it is run.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or is damaged.
        """
        try:
            state = streaming.from_plain(torch.load(path, map_location="cpu", weights_only=True), streaming.REGISTERED)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever torch raises for a damaged or malicious file
            message = str(error)
            if not isinstance(error, ValueError):
                message = f"no stream state ({type(error).__name__}: {error})"
            raise ValueError(f"{os.fspath(path)}: {message[:500]}") from error
        if not isinstance(state, cls):
            raise ValueError(f"{os.fspath(path)} holds no state of a stream")
        return state

    def check_compatible(self, other: "StreamState") -> None:
        """Check that a stream now in state `other` can continue from this one.

        Raises:
            ValueError: It is of another model, of other settings, or of more or fewer streams.
        """
        # States of other weights or options would continue, but with other results.
        for name in ("model", "settings"):
            loaded = getattr(self, name)
            expected = getattr(other, name)
            if loaded != expected:
                raise ValueError(f"the state is one of {name} {loaded}, and this stream's is {expected}")
        if len(self.items) != len(other.items):
            raise ValueError(f"the state is one of {len(self.items)} streams, and here are {len(other.items)}")


Self = TypeVar("Self", bound="StreamBatch")


class StreamBatch(ABC):
    """Streams side by side on one model, which holds none of their state.

    Args:
        codec: The model.
        settings: Options of all streams.
        batch_size: Number of streams.

    Attributes:
        codec: The model.
        settings: Options of all streams.
        state: A value; see `StreamState`.
        model: Which of the model's fingerprints names the weights the streams use; states of another are refused.

    Raises:
        ValueError: `batch_size` is no positive whole number.
    """

    model: Literal["fingerprint", "decoder_fingerprint"]
    reference = "decode(tokens)"  # the call for a whole clip that an exact stream equals
    exact: bool

    def __init__(self, codec: "Codec", settings: Any, batch_size: int) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}, expected a whole number of streams, 1 or more")
        self.codec = codec
        self.settings = settings
        model = getattr(codec, self.model)
        self.state = StreamState(tuple(self._initial_item() for _ in range(batch_size)), model, settings)

    def __repr__(self) -> str:
        """Say what the stream is exact to, or not, and its latency."""
        exact = "exact" if self.exact else "not exact"
        return f"{type(self).__name__}({exact} to {self.reference}, latency up to {self.latency_seconds:.3g} s)"

    @property
    @abstractmethod
    def latency_seconds(self) -> float:
        """Longest time from the start of a token's audio to its output, without computing time."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Start every stream again, on the same weights."""
        self._restart(range(self.batch_size))

    @property
    def batch_size(self) -> int:
        """Number of streams."""
        return len(self.state.items)

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Start these streams, or all, again; all may go on with other weights than before."""
        chosen = self._choose(items, ended=True)
        self._restart(chosen)
        if len(chosen) == self.batch_size:
            self.state = replace(self.state, model=getattr(self.codec, self.model))

    def load_state(self, state: StreamState) -> None:
        """Continue from the state of another stream of this model.

        Raises:
            ValueError: It is of another model, of other settings, or of more or fewer streams.
        """
        state.check_compatible(self.state)
        self.state = state.to(self.codec.device)

    @abstractmethod
    def _initial_item(self) -> Any:
        """Return the state of one stream before its first input."""

    def _restart(self, chosen: Iterable[int]) -> None:
        every = list(self.state.items)
        for item in chosen:
            every[item] = self._initial_item()
        self.state = replace(self.state, items=tuple(every))

    def _choose(self, items: Sequence[int] | None, ended: bool = False) -> list[int]:
        """Return the streams of a call, all for None; `ended` allows streams that have ended."""
        chosen = list(range(self.batch_size)) if items is None else list(items)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(self.batch_size)):
            raise ValueError(f"items is {chosen}, expected different numbers from 0 to {self.batch_size - 1}")
        for item in chosen:
            if self.state.items[item].ended and not ended:
                raise ValueError(f"stream {item} has ended; reset(items=[{item}]) begins a new one")
        return chosen

    def _check_weights(self) -> None:
        """Refuse to return what was computed in part by the weights that the streams began with, in part by others."""
        name = getattr(self.codec, self.model)
        if name != self.state.model:
            raise ValueError(
                f"the model's weights changed: they are {name}, and these streams began with {self.state.model}; "
                "reset() starts them again"
            )
