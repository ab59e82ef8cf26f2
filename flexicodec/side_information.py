"""Bits of durations, the side information of a dynamic frame rate, and bitrates that count them in three ways.

    lengths    a field of fixed width a token: 3 bits where tokens last up to 8 frames
    mask       a bit for each frame of the grid, whether a token begins there: cheaper above a third of the grid's rate,
               4.17 Hz at 12.5 frames a second
    entropy    the length of an adaptive code, which learns the durations of a clip from those before and needs no table

Codes are counted at fixed width in all three. A clip whose tokens are all one frame by its format costs nothing.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.token_format import TokenFormat

SideInformation = Literal["lengths", "mask", "entropy"]
PER_TOKEN: SideInformation = "lengths"


class Bitrates(Tensor):
    """Kilobits per second of each clip [B], float64 on the CPU; called, the same with other side information."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are tensors
    _measure: Callable[[SideInformation], Tensor]

    @staticmethod
    def of(measure: Callable[[SideInformation], Tensor]) -> "Bitrates":
        """Wrap a function of the side information; the tensor counts durations as `lengths`."""
        values = measure(PER_TOKEN).as_subclass(Bitrates)
        values._measure = measure
        return values

    def __call__(self, side_information: SideInformation = PER_TOKEN) -> Float[Tensor, " batch"]:
        """Return kilobits per second of each clip, with durations counted as `side_information` says."""
        if side_information not in get_args(SideInformation):
            known = ", ".join(map(repr, get_args(SideInformation)))
            raise ValueError(f"side_information is {side_information!r}; expected one of {known}")
        return self._measure(side_information)


def duration_bits(
    durations: Int[Tensor, "batch tokens"], format: TokenFormat, side_information: SideInformation
) -> Float[Tensor, " batch"]:
    """Count the bits of the durations of each clip; 0 is padding."""
    durations = durations.cpu()
    counts = (durations > 0).sum(-1).double()
    if format.max_duration == 1:
        return torch.zeros_like(counts)
    if side_information == "mask":
        return durations.sum(-1).double()
    # Without a cap the longest token of each clip sets the width, and the alphabet.
    longest = torch.nn.functional.pad(durations, (0, 1)).amax(-1).clamp(min=1)
    if format.max_duration is not None:
        longest = torch.full_like(longest, format.max_duration)
    if side_information == "lengths":
        return counts * torch.tensor([(each - 1).bit_length() for each in longest.tolist()], device="cpu")
    return torch.tensor(
        [_adaptive_bits(each, int(n)) for each, n in zip(durations, longest, strict=True)], device="cpu"
    ).double()


def _adaptive_bits(durations: Int[Tensor, " tokens"], size: int) -> float:
    """Length of the adaptive code of R. Krichevsky and V. Trofimov (1981) for durations from 1 to `size`, in bits.

    Each costs -log2 (n + 1/2) / (N + size/2), where n of the N before it were equal; the sum depends on counts only.
    """
    counts = torch.bincount(durations[durations > 0]).double()
    total = float(counts.sum())
    nats = math.lgamma(total + size / 2) - math.lgamma(size / 2)
    nats -= float((torch.lgamma(counts + 0.5) - math.lgamma(0.5)).sum())
    return nats / math.log(2)
