"""What streams have in common, whichever way they go: how many there are, where each stands, and which a call means."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from flexicodec.models.stream_state import StreamState

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec

Self = TypeVar("Self", bound="Streams")


class Streams(ABC):
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
