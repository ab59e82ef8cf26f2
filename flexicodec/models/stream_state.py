"""What a stream remembers, as a value: kept, copied, moved to another device, written to a file and read from one.

A stream is a batch of items, each of which stands somewhere in every stage that it goes through.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexicodec.blocks import states
from flexicodec.files import replacing


@states.known
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


@states.known
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


@states.known
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
        """Bytes of its tensors."""
        return states.num_bytes(self)

    def to(self, device: torch.device | str | int) -> "StreamState":
        """Copy to a device."""
        return states.map_tensors(lambda tensor: tensor.to(device), self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads, at once or not at all."""
        with replacing(Path(path)) as file:
            torch.save(states.to_plain(self), file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StreamState":
        """Read a file that `save` wrote, to the CPU. It may come from anybody: nothing in it is run.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or half of it.
        """
        try:
            state = states.from_plain(torch.load(path, map_location="cpu", weights_only=True), states.KNOWN)
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
