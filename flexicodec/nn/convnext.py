"""ConvNeXt blocks over time, which refine the semantic features on either side of their quantiser.

They follow upstream's (no layer scale, no weight norm inside a block), with padding masked so that a short clip ends
where it ends.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.nn.masking import valid_steps, zero_padding
from flexicodec.nn.onednn import Linear


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then a two-layer perceptron per step, added to the input (arXiv 2201.03545, in 1-D).

    Args:
        dim: width of the features.
        hidden_dim: width inside the perceptron.
        kernel_size: steps the convolution sees, odd; zeros stand in beyond both ends.
    """

    def __init__(self, dim: int, hidden_dim: int = 2048, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size must be odd, to look as far back as ahead, got {kernel_size}")
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.linear1 = Linear(dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, dim)

    def forward(
        self, x: Float[Tensor, "batch dim steps"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim steps"]:
        """Refine the valid steps of each item; the rest comes out as zeros."""
        return self.refine(x, valid_steps(lengths, x.shape[-1]))

    def refine(
        self, x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch dim steps"]:
        """Do the same where the mask is known; None: all steps are valid."""
        x = zero_padding(x, valid)
        return zero_padding(x + self.residual(x), valid)

    @property
    def reach(self) -> int:
        """Steps it sees to either side."""
        return self.depthwise.kernel_size[0] // 2

    def step(
        self, x: Float[Tensor, "batch dim new"], buffer: Float[Tensor, "batch dim kept"] | None, last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], Float[Tensor, "batch dim kept"]]:
        """Refine the next steps of a stream, any number; those without their right-hand neighbours wait.

        Args:
            x: new steps.
            buffer: from the call before: those that wait, and the neighbours they need; None at the start.
            last: nothing follows.
        """
        reach = self.reach
        x = torch.cat([x.new_zeros(*x.shape[:2], reach) if buffer is None else buffer, x], dim=-1)
        ready = max(0, x.shape[-1] - (reach if last else 2 * reach))
        seen = F.pad(x, (0, reach)) if last else x
        if ready:
            y = x[..., reach : reach + ready] + self._residual(seen[..., : ready + 2 * reach], padding=0)
        else:
            y = x[..., :0]
        return y, x[..., ready:].clone()

    def residual(self, x: Float[Tensor, "batch dim steps"]) -> Float[Tensor, "batch dim steps"]:
        """Compute what the block adds; the padding of `x` is zero already."""
        return self._residual(x, self.reach)

    def _residual(self, x: Tensor, padding: int) -> Tensor:
        mixed = F.conv1d(x, self.depthwise.weight, self.depthwise.bias, padding=padding, groups=x.shape[1])
        y = self.norm(mixed.transpose(1, 2))
        return self.linear2(F.gelu(self.linear1(y))).transpose(1, 2)


class ConvNeXtStack(nn.Module):
    """Several blocks, with a convolution of width 1 before or after them where the features have another width.

    Args:
        dim: width of the blocks.
        num_layers: number of blocks.
        input_dim: width of the features that come in; adds the leading convolution.
        output_dim: width of the features that go out; adds the closing convolution.
        hidden_dim: width inside each block's perceptron.
    """

    def __init__(
        self,
        dim: int = 768,
        num_layers: int = 4,
        input_dim: int | None = None,
        output_dim: int | None = None,
        hidden_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.dim, self.dim_out = dim, output_dim or dim
        self.conv_in = nn.Identity() if input_dim is None else nn.Conv1d(input_dim, dim, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim, hidden_dim) for _ in range(num_layers))
        self.conv_out = nn.Identity() if output_dim is None else nn.Conv1d(dim, output_dim, 1)

    def forward(
        self, x: Float[Tensor, "batch dim_in steps"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim_out steps"]:
        """Refine the valid steps of each item; the rest comes out as zeros."""
        x, valid = self.conv_in(x), valid_steps(lengths, x.shape[-1])
        for block in self._blocks():
            x = block.refine(x, valid)
        return zero_padding(self.conv_out(x), valid)

    @property
    def reach(self) -> int:
        """Steps it sees to either side."""
        return sum(block.reach for block in self._blocks())

    def initial_state(self) -> tuple[Tensor | None, ...]:
        """Stand before the first steps of a stream: a buffer for each block."""
        return (None,) * len(self.blocks)

    def step(
        self, x: Float[Tensor, "batch dim_in new"], state: tuple[Tensor | None, ...], last: bool
    ) -> tuple[Float[Tensor, "batch dim_out ready"], tuple[Tensor | None, ...]]:
        """Refine the next steps of a stream, any number; outputs come `reach` late, and `last` brings the rest."""
        x = self.conv_in(x) if x.shape[-1] else x.new_zeros(len(x), self.dim, 0)
        buffers = []
        for block, buffer in zip(self._blocks(), state, strict=True):
            x, buffer = block.step(x, buffer, last)
            buffers.append(buffer)
        return (self.conv_out(x) if x.shape[-1] else x.new_zeros(len(x), self.dim_out, 0)), tuple(buffers)

    def _blocks(self) -> list[ConvNeXtBlock]:
        return cast(list[ConvNeXtBlock], list(self.blocks))
