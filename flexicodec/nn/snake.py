"""Snake activation x + sin^2(alpha x) / alpha, and HalfSnake (Snake on half of the channels).

Computing a sine per value costs more than its memory traffic, so inference on the CPU has faster forms. In float32 they
round alike, up to the last bit of the sines; in half precision a polynomial replaces the sine.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from flexicodec.nn import onednn

FAST_DTYPES = (torch.float32, torch.bfloat16)  # that have faster forms
MIN_COMPILED = 2**14  # values; for fewer, calling a compiled function takes longer than several passes
PIECE_VALUES = 2**18  # values that a thread computes at once in half precision, so that they stay in the cache

# sin^2(pi sqrt(u)) = u (a + u (b + u c)) to 8e-4 where u <= 1/4, a fifth of the resolution of bfloat16 at 1/2: the
# least error of a cubic there, found by Lawson's iteration
SINE_SQUARED = (9.8017673, -30.76688633, 30.29167019)


def snake(x: Tensor, alpha: Tensor, scale: Tensor) -> Tensor:
    """Compute x + sin^2(alpha x) scale; all shapes that broadcast."""
    return x + scale * (alpha * x).sin().square()


def reciprocal(alpha: Float[Tensor, "1 channels 1"], dtype: torch.dtype) -> Float[Tensor, "1 channels 1"]:
    """Compute 1 / (alpha + 1e-9), finite in every precision."""
    # 1e-9 is zero in half precision, and 1e9 infinite: take the reciprocal in float32 and bring it into range
    limit = torch.finfo(dtype).max
    wide = alpha.to(torch.promote_types(alpha.dtype, torch.float32))
    return (wide + 1e-9).reciprocal().clamp(-limit, limit).to(dtype)


def _compile_snake(options: Mapping[str, Any]) -> None:
    """Compile both functions, for the current number of threads.

    Raises:
        ValueError: PyTorch's compiler does not work here; it needs a C++ compiler.
    """
    try:
        with torch.device("cpu"):
            module = Snake(16).float()
        module.compiled = True
        module.compile_options = options
        for dtype in FAST_DTYPES:
            x = torch.zeros(1, MIN_COMPILED, 16, dtype=dtype, device="cpu").mT
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                module(x)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"PyTorch's compiler failed, which needs a C++ compiler such as g++: {reason}") from error


def _factors(alpha: Float[Tensor, "1 channels 1"]) -> Float[Tensor, "2 1 channels 1"]:
    return torch.stack([alpha.float(), reciprocal(alpha, torch.float32)])


def _coefficients(alpha: Float[Tensor, "1 channels 1"]) -> Float[Tensor, "4 1 channels 1"]:
    """Make the half turns per unit of x and the coefficients of scaled sin^2 (`SINE_SQUARED`) from each alpha."""
    scaled = (coefficient * reciprocal(alpha, torch.float32) for coefficient in SINE_SQUARED)
    return torch.stack([alpha.float() / torch.pi, *scaled])


def _snake_by_polynomial(x: Tensor, half_turns: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Compute x + u (first + u (second + u third)), u the squared distance to the nearest half turn.

    In float32 up to the last step, piece by piece.
    """
    y = torch.empty_like(x)  # in the memory layout of `x`
    steps = max(1, PIECE_VALUES * torch.get_num_threads() // max(1, x.shape[0] * x.shape[1]))
    for piece, out in zip(x.split(steps, dim=-1), y.split(steps, dim=-1), strict=True):
        wide = piece.float()
        turns = half_turns * wide
        rounded = turns.round()
        squares = turns.sub_(rounded).square_()  # sin^2 has a period of half a turn
        factors = torch.addcmul(second, squares, third, out=rounded)
        torch.addcmul(first, factors, squares, out=factors)
        out.copy_(wide.addcmul_(factors, squares))
    return y


def _compiled_snake(
    x: Float[Tensor, "batch channels time"], factors: Tensor, options: Mapping[str, Any]
) -> Float[Tensor, "batch channels time"]:
    """Compute either in one pass, channels last."""
    rows = from_dlpack(x.mT.contiguous().flatten(0, 1))  # not a view: the compiler would compile for every view anew
    y = _compiled_function(x.dtype, **options)(rows, factors.flatten(1).contiguous())
    return y.view(x.shape[0], x.shape[2], x.shape[1]).mT


@cache
def _compiled_function(dtype: torch.dtype, **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    choices = {"dynamic": True, **options}
    if choices.get("options") is not None:
        choices["options"] = dict(choices["options"])
    return torch.compile(_snake_rows if dtype == torch.float32 else _polynomial_rows, **choices)


def _snake_rows(
    x: Float[Tensor, "rows channels"], factors: Float[Tensor, "2 channels"]
) -> Float[Tensor, "rows channels"]:
    return snake(x, *factors)


def _polynomial_rows(
    x: Float[Tensor, "rows channels"], factors: Float[Tensor, "4 channels"]
) -> Float[Tensor, "rows channels"]:
    half_turns, first, second, third = factors
    wide = x.float()
    turns = half_turns * wide
    squares = (turns - turns.round()).square()
    return (wide + squares * (first + squares * (second + squares * third))).to(x.dtype)


class Snake(nn.Module):
    """x + sin^2(alpha x) / (alpha + 1e-9) with one learned alpha per channel (arXiv 2006.08195).

    It maps 0 to 0, so padding that is zero stays zero.

    Args:
        channels: number of channels; alpha [1, channels, 1] starts at 1.

    Attributes:
        compiled: whether inference takes one compiled pass; see `compile_activations`.
        compile_options: of `torch.compile`, hashable.
    """

    compiled = False
    compile_options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
        """Apply it to every value of `x`, in the precision of `x`."""
        if onednn.onednn_dtype(x) is None or x.dtype not in FAST_DTYPES:
            return snake(x, self.alpha.to(x.dtype), reciprocal(self.alpha, x.dtype))
        # Without gradients on the CPU: in one pass where it is compiled and pays off.
        in_float32 = x.dtype == torch.float32
        factors = onednn.cached(self.alpha, f"snake {x.dtype}", _factors if in_float32 else _coefficients)
        if self.compiled and x.numel() >= max(MIN_COMPILED, 2 * x.shape[1]) and x.shape[1] > 1:
            return _compiled_snake(x, factors, self.compile_options)
        if not in_float32:
            return _snake_by_polynomial(x, *factors)
        # Else in place. NumPy's sine is faster than PyTorch's, but has one thread.
        alpha, scale = factors
        y = alpha * x
        if torch.get_num_threads() > 1:
            y.sin_()
        else:
            values = y.numpy()
            with np.errstate(invalid="ignore"):  # the sine of infinity is NaN, as in PyTorch
                np.sin(values, out=values)
        # addcmul would save a pass, but its fused rounding differs from upstream's, and a deep stack with large
        # activations amplifies that to 1e-4.
        return y.square_().mul_(scale).add_(x)


class HalfSnake(nn.Module):
    """Snake on the first half of the channels, a leaky ReLU on the rest (the larger half of an odd number).

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
        """Apply it to every value of `x`, in the precision of `x`."""
        half = x.shape[1] // 2
        if torch.is_grad_enabled():
            return torch.cat([self.snake(x[:, :half]), F.leaky_relu(x[:, half:], self.slope)], dim=1)
        y = torch.empty_like(x)  # in the memory layout of `x`
        y[:, :half], y[:, half:] = self.snake(x[:, :half]), F.leaky_relu(x[:, half:], self.slope)
        return y


def compile_activations(module: nn.Module, **options: Any) -> None:
    """Compile the Snakes inside a module for inference on the CPU, into one pass over the values each.

    Args:
        module: Any.
        options: Those of `torch.compile`, such as `backend` and `mode`.

    Raises:
        ValueError: PyTorch's compiler does not work here; it needs a C++ compiler.
    """
    if options.get("options") is not None:  # a dictionary, which no cache takes as a key
        options["options"] = tuple(sorted(options["options"].items()))
    if snakes := [each for each in module.modules() if isinstance(each, Snake)]:
        _compile_snake(options)
    for each in snakes:
        each.compiled = True
        each.compile_options = options
