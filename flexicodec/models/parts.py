"""Models loaded in part: what is not needed takes neither time nor memory, and says so when it is asked for."""

from collections.abc import Iterable
from typing import Any, NoReturn

from torch import nn


class Absent(nn.Module):
    """Stands in the place of a part that was left out.

    Args:
        name: Of the part, as the model has it.
        loaded: The choice of parts that left it out.
    """

    def __init__(self, name: str, loaded: str) -> None:
        super().__init__()
        self._name, self._loaded = name, loaded

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always; the message says what to load instead.
        """
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"this model was loaded with parts={self._loaded!r}, without its {self._name}; load it with parts='all', "
            "which is the default"
        )


def keep_parts(model: nn.Module, kept: Iterable[str], loaded: str) -> None:
    """Put an `Absent` in the place of every child of a model but those named."""
    kept = set(kept)
    for name, _ in list(model.named_children()):
        if name not in kept:
            setattr(model, name, Absent(name, loaded))


def absent_parts(model: nn.Module) -> list[str]:
    """Name the children that were left out."""
    return [name for name, child in model.named_children() if isinstance(child, Absent)]
