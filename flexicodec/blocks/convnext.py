"""ConvNeXt blocks over time, which refine the semantic features on either side of their quantiser.

They follow upstream's (no layer scale, no weight norm inside a block), with padding masked so that a short clip ends
where it ends.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.blocks.padding import valid_steps, zero_padding


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
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(
        self, x: Float[Tensor, "batch dim steps"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim steps"]:
        """Refine the valid steps of each item; the rest comes out as zeros."""
        valid = valid_steps(lengths, x.shape[-1])
        x = zero_padding(x, valid)
        return zero_padding(x + self.residual(x), valid)

    def residual(self, x: Float[Tensor, "batch dim steps"]) -> Float[Tensor, "batch dim steps"]:
        """Compute what the block adds; the padding of `x` is zero already."""
        y = self.norm(self.depthwise(x).transpose(1, 2))
        return self.linear2(F.gelu(self.linear1(y))).transpose(1, 2)


class ConvNeXtStack(nn.Module):
    """Several blocks, with a convolution of width 1 before or after them where the features have another width.

    Args:
        dim: width of the blocks (768 in the released weights).
        num_layers: number of blocks (4 there).
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
        self.conv_in = nn.Identity() if input_dim is None else nn.Conv1d(input_dim, dim, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim, hidden_dim) for _ in range(num_layers))
        self.conv_out = nn.Identity() if output_dim is None else nn.Conv1d(dim, output_dim, 1)

    def forward(
        self, x: Float[Tensor, "batch dim_in steps"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim_out steps"]:
        """Refine the valid steps of each item; the rest comes out as zeros."""
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, lengths)
        return zero_padding(self.conv_out(x), valid_steps(lengths, x.shape[-1]))
