"""Snake, the periodic activation between the convolutions of encoders and decoders, and its half-price sibling.

A sine per value costs more than its few bytes of traffic, so the inference path works in one buffer, in place.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from flexicodec.blocks import quick

MIN_COMPILED = 2**14  # values; for fewer calling what is compiled takes longer than the passes
PIECE_VALUES = 2**18  # that each thread bends at once in half precision: no more memory than stays at hand

# sin^2(pi sqrt(u)) = u (a + u (b + u c)) to 8e-4 where u <= 1/4, a fifth of what bfloat16 tells apart at 1/2: the least
# error that a cubic has there, found by Lawson's iteration
SINE_SQUARED = (9.8017673, -30.76688633, 30.29167019)


class Snake(nn.Module):
    """x + sin^2(alpha x) / (alpha + 1e-9) with one learned alpha per channel (arXiv 2006.08195).

    It maps 0 to 0, so padding that is zero stays zero.

    Args:
        channels: number of channels; alpha [1, channels, 1] starts at 1.

    Attributes:
        compiled: whether inference takes one compiled pass; see `compile_activations`.
    """

    compiled = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
        """Bend every value of `x`, in the precision of `x`."""
        if not quick.suits(x) or x.dtype not in (torch.float32, torch.bfloat16):
            return x + _scale(self.alpha, x.dtype) * (self.alpha.to(x.dtype) * x).sin().square()
        if self.compiled and x.numel() >= max(MIN_COMPILED, 2 * x.shape[1]) and x.shape[1] > 1:
            return _at_once(x, self.alpha)
        if x.dtype == torch.bfloat16:
            return _roughly(x, *quick.kept(self.alpha, "rough", _rough_factors))
        scale = quick.kept(self.alpha, "scale", lambda values: _scale(values, torch.float32))
        # the same roundings in one buffer; addcmul would save a pass, but its fused rounding is not upstream's, and a
        # deep stack with large activations makes 1e-4 of that
        return _sine_(self.alpha.float() * x).square_().mul_(scale).add_(x)


def compile_activations(module: nn.Module) -> None:
    """Compile the Snakes inside a module for inference on the CPU, now, into one pass over the values each.

    Raises:
        ValueError: PyTorch's compiler does not work here; it needs a C++ compiler.
    """
    snakes = [each for each in module.modules() if isinstance(each, Snake)]
    trial = Snake(16)
    trial.compiled = True
    try:
        with torch.no_grad():
            for enabled in (False, True) if snakes else ():
                x = torch.zeros(1, MIN_COMPILED, 16, dtype=torch.bfloat16 if enabled else torch.float32).mT
                with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                    trial(x)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"PyTorch's compiler failed, which needs a C++ compiler such as g++: {reason}") from error
    for each in snakes:
        each.compiled = True


def _at_once(
    x: Float[Tensor, "batch channels time"], alpha: Float[Tensor, "1 channels 1"]
) -> Float[Tensor, "batch channels time"]:
    """Do all in one pass, channels last; the same roundings in float32, the same polynomial in half precision."""
    rows = from_dlpack(x.mT.contiguous().flatten(0, 1))  # a view of nothing: views would be compiled for one by one
    rough = x.dtype == torch.bfloat16
    factors = quick.kept(
        alpha, f"at once {x.dtype}", lambda values: (_rough_factors if rough else _factors)(values).flatten(1)
    )
    y = _compiled(rough)(rows, factors)
    return y.view(x.shape[0], x.shape[2], x.shape[1]).mT


@cache
def _compiled(rough: bool) -> Callable[..., Tensor]:
    return torch.compile(_rough_rows if rough else _rows, dynamic=True)


def _rows(x: Tensor, factors: Tensor) -> Tensor:
    alpha, scale = factors
    return x + scale * (alpha * x).sin().square()


def _rough_rows(x: Tensor, factors: Tensor) -> Tensor:
    half_turns, first, second, third = factors
    wide = x.float()
    turns = half_turns * wide
    squares = (turns - turns.round()).square()
    return (wide + squares * (first + squares * (second + squares * third))).to(x.dtype)


def _factors(alpha: Float[Tensor, "1 channels 1"]) -> Float[Tensor, "2 1 channels 1"]:
    return torch.stack([alpha.float(), _scale(alpha, torch.float32)])


def _rough_factors(alpha: Float[Tensor, "1 channels 1"]) -> Float[Tensor, "4 1 channels 1"]:
    """Make the half turns per unit of x and the coefficients of scaled sin^2 (`SINE_SQUARED`) from each alpha."""
    scale = _scale(alpha, torch.float32)
    return torch.stack([alpha.float() / torch.pi, *(coefficient * scale for coefficient in SINE_SQUARED)])


def _roughly(
    x: Float[Tensor, "batch channels time"],
    half_turns: Float[Tensor, "1 channels 1"],
    first: Float[Tensor, "1 channels 1"],
    second: Float[Tensor, "1 channels 1"],
    third: Float[Tensor, "1 channels 1"],
) -> Float[Tensor, "batch channels time"]:
    """Compute x + u (first + u (second + u third)), u the squared distance to the nearest half turn.

    Half precision, which a polynomial is good enough for; in float32 up to the last step, where a pass over the values
    takes half the time.
    """
    y = torch.empty_like(x)  # in the memory layout of `x`
    steps = max(1, PIECE_VALUES * torch.get_num_threads() // max(1, x.shape[0] * x.shape[1]))
    for piece, out in zip(x.split(steps, dim=-1), y.split(steps, dim=-1), strict=True):
        wide = piece.float()
        turns = half_turns * wide
        rounded = turns.round()
        squares = turns.sub_(rounded).square_()  # sin^2 repeats itself each half turn
        factors = torch.addcmul(second, squares, third, out=rounded)
        torch.addcmul(first, factors, squares, out=factors)
        out.copy_(wide.addcmul_(factors, squares))
    return y


def _scale(alpha: Float[Tensor, "1 channels 1"], dtype: torch.dtype) -> Float[Tensor, "1 channels 1"]:
    # 1e-9 is zero in half precision, and 1e9 infinite: take the reciprocal in float32 and bring it into range
    limit = torch.finfo(dtype).max
    wide = alpha.to(torch.promote_types(alpha.dtype, torch.float32))
    return (wide + 1e-9).reciprocal().clamp(-limit, limit).to(dtype)


def _sine_(x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
    """Take sines in place. NumPy's take less than half the time of PyTorch's on this CPU, but have one thread alone."""
    if torch.get_num_threads() > 1:
        return x.sin_()
    values = x.numpy()
    with np.errstate(invalid="ignore"):  # the sine of infinity is not a number, as in PyTorch
        np.sin(values, out=values)
    return x


class HalfSnake(nn.Module):
    """Snake on the first half of the channels, a leaky ReLU on the rest, of which there is one more if they are odd.

    It maps 0 to 0, so padding that is zero stays zero.

    Args:
        channels: number of channels.
        slope: of the leaky ReLU below 0.
    """

    def __init__(self, channels: int, slope: float = 0.01) -> None:
        super().__init__()
        self.snake = Snake(channels // 2)
        self.slope = slope

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
        """Bend every value of `x`, in the precision of `x`."""
        half = x.shape[1] // 2
        if torch.is_grad_enabled():
            return torch.cat([self.snake(x[:, :half]), F.leaky_relu(x[:, half:], self.slope)], dim=1)
        y = torch.empty_like(x)  # in the memory layout of `x`
        y[:, :half], y[:, half:] = self.snake(x[:, :half]), F.leaky_relu(x[:, half:], self.slope)
        return y
