"""Settings in tokens per second: how they are checked, and how many tokens of a clip they amount to.

Values may be one number for a whole batch or one per item.
"""

import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging.durations import check_max_duration

PerItem = float | Sequence[float] | Float[Tensor, " batch"]

# Two counts that miss the rate by amounts this close (in tokens) are a tie: 6.25 Hz x 1.2 s is 7.5 on paper, and has to
# be 7.5 whichever way a float64 rounded the seconds.
TIE = 1e-9


def settle(value: PerItem, name: str) -> float | tuple[float, ...]:
    """Turn a number, or one number per item, into a float or a tuple of floats, which can be compared and hashed."""
    plain: Any = value.tolist() if hasattr(value, "tolist") else value  # tensors and numpy arrays
    numbers: Sequence[Any] = plain if isinstance(plain, (list, tuple)) else [plain]
    if not numbers or any(isinstance(x, bool) or not isinstance(x, Real) for x in numbers):
        raise ValueError(f"{name} is {value!r}; expected a number, or a list or tensor with one number per item")
    if bad := [x for x in numbers if not abs(x) <= sys.float_info.max]:
        shown = bad[0] if isinstance(bad[0], float) else f"a number of {len(str(bad[0]))} digits"
        raise ValueError(f"{name} is {shown}; expected a finite number")
    return tuple(map(float, numbers)) if isinstance(plain, (list, tuple)) else float(plain)


def one_per_item(value: PerItem, name: str, batch: int) -> list[float]:
    """List the value for every item; ValueError where there is neither one for all nor one for each."""
    settled = settle(value, name)
    values = list(settled) if isinstance(settled, tuple) else [settled] * batch
    if len(values) != batch:
        raise ValueError(f"{name} has {len(values)} values for a batch of {batch}; give one number, or one per item")
    return values


def check_frame_rate(
    frame_rate: PerItem, base_frame_rate: float, max_duration: int | None
) -> float | tuple[float, ...]:
    """Return `frame_rate` as a float or a tuple of them, if a codec can make so many tokens per second.

    Args:
        frame_rate: tokens per second, one for all items or one for each.
        base_frame_rate: frames per second of the grid, hence the most tokens per second.
        max_duration: most frames per token, hence the fewest tokens per second; None for no cap.

    Raises:
        ValueError: a rate outside base_frame_rate / max_duration ... base_frame_rate.
    """
    max_duration = check_max_duration(max_duration)
    settled = settle(frame_rate, "frame_rate")
    lowest = base_frame_rate / max_duration if max_duration else 0.0
    for rate in settled if isinstance(settled, tuple) else (settled,):
        if lowest * (1 - 1e-9) <= rate <= base_frame_rate * (1 + 1e-9) and rate > 0:
            continue
        if rate > base_frame_rate:
            slip = "it counts tokens per second; was a sample rate or a bitrate passed?"
        elif 0 < rate <= 1:
            slip = "a similarity threshold goes to threshold="
        else:
            slip = "a lower rate needs a larger max_duration"
        cap = f"at most {max_duration} frames per token" if max_duration else "no cap on a token's frames"
        raise ValueError(
            f"frame_rate is {rate:g} Hz, but a grid of {base_frame_rate:g} Hz with {cap} allows "
            f"{lowest:g} to {base_frame_rate:g} Hz; {slip}"
        )
    return settled


def target_tokens(
    frame_rate: PerItem,
    seconds: Float[Tensor, " batch"] | Sequence[float],
    lengths: Int[Tensor, " batch"],
    max_duration: int | None,
) -> Int[Tensor, " batch"]:
    """Count the tokens that come nearest to a rate: the N of least |N - frame_rate * seconds|, the fewer on a tie.

    N stays feasible: at least ceil(frames / max_duration), at most one token per frame. The distance falls up to its
    minimum and rises after it, so clamping the unconstrained optimum keeps it optimal.

    Args:
        frame_rate: tokens per second, one for all items or one for each.
        seconds: what the clips last, audio_lengths / sample_rate in float64 (the last frame may be partly filled, so
            this is not lengths / base_frame_rate).
        lengths: frames of every item.
        max_duration: most frames per token; None for no cap.

    Returns:
        Tokens of every item, int64, on the device of `lengths`.
    """
    max_duration = check_max_duration(max_duration)
    # On the CPU, because not every device has float64.
    clip_seconds = torch.as_tensor(seconds, dtype=torch.float64, device="cpu")
    if clip_seconds.shape != lengths.shape:
        raise ValueError(
            f"seconds have shape {tuple(clip_seconds.shape)}, but {len(lengths)} items need one value each"
        )
    rates = torch.tensor(one_per_item(frame_rate, "frame_rate", len(lengths)), dtype=torch.float64)
    nearest = (rates * clip_seconds - 0.5 - TIE).ceil().long().to(lengths.device)
    fewest = (lengths > 0).long() if max_duration is None else -(-lengths // max_duration)
    return nearest.maximum(fewest).minimum(lengths)
