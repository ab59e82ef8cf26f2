"""Snake, the periodic activation between the convolutions of encoders and decoders, and its half-price sibling."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.blocks import bend, quick


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
        if quick.suits(x) and x.dtype in bend.DTYPES:
            return bend.quickly(x, self.alpha, self.compiled)
        return bend.plainly(x, self.alpha.to(x.dtype), bend.scale(self.alpha, x.dtype))


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


def compile_activations(module: nn.Module) -> None:
    """Compile the Snakes inside a module for inference on the CPU, now, into one pass over the values each.

    Raises:
        ValueError: PyTorch's compiler does not work here; it needs a C++ compiler.
    """
    if snakes := [each for each in module.modules() if isinstance(each, Snake)]:
        bend.compile_now()
    for each in snakes:
        each.compiled = True
