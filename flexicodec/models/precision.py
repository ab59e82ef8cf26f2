"""Where half the precision is enough: bfloat16 inside the heavy layers, float32 wherever codes are decided."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

Precision = Literal["float32", "bfloat16"]


def check_precision(precision: str) -> None:
    """See that there is such a precision.

    Raises:
        ValueError: There is not.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected {' or '.join(map(repr, get_args(Precision)))}")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let matrix products and convolutions work in a precision; weights stay as they are."""
    if torch.compiler.is_exporting():  # a graph works in what its weights are
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
