"""ConvNeXt blocks over time, which refine the semantic features before and after their quantizer.

They equal upstream's (no layer scale, no weight norm inside a block), with padding masked. The acoustic encoder and
decoder in `spectral` are made of the same block, with a layer scale.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.nn.masking import valid_steps, zero_padding
from flexicodec.nn.onednn import Linear
from flexicodec.nn.streaming import append


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then a two-layer perceptron per step, added to the input (arXiv 2201.03545, in 1-D).

    Args:
        dim: Width of the features.
        hidden_dim: Width inside the perceptron.
        kernel_size: Width of the convolution, odd; it is zero-padded at both ends of a clip.
        layer_scale: Initial gain of what is added to the input; None for no gain.
    """

    def __init__(
        self, dim: int, hidden_dim: int = 2048, kernel_size: int = 7, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size must be odd, to look as far back as ahead, got {kernel_size}")
        self.reach = kernel_size // 2  # steps to either side that an output depends on
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=self.reach, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.linear1 = Linear(dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, dim)
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self, x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None = None
    ) -> Float[Tensor, "batch dim steps"]:
        """Refine the valid steps of each item, all for None; the rest of the output is zero."""
        x = zero_padding(x, valid)
        # The perceptron works on channels last.
        y = self.linear2(F.gelu(self.linear1(self.norm(self.depthwise(x).mT))))
        if self.scale is not None:
            y = y * self.scale
        return zero_padding(x + y.mT, valid)

    def refine(self, x: Float[Tensor, "batch reach+steps+reach dim"]) -> Float[Tensor, "batch steps dim"]:
        """Refine steps that come with the `reach` steps on either side of them; channels are last here."""
        weight, bias = self.depthwise.weight, self.depthwise.bias
        if x.device.type == "cpu":
            # As an image of height 1 with channels last, a depthwise convolution takes an eighth of the time there; in
            # bfloat16 it takes longer than in float32.
            image = x.mT.unsqueeze(2).to(weight.dtype).contiguous(memory_format=torch.channels_last)
            kernel = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", enabled=False):
                mixed = F.conv2d(image, kernel, bias, groups=x.shape[2]).squeeze(2).mT
        else:
            mixed = F.conv1d(x.mT, weight, bias, groups=x.shape[2]).mT
        return x[:, self.reach : x.shape[1] - self.reach] + self._perceptron(mixed)

    def _perceptron(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps dim"]:
        y = self.linear2(F.gelu(self.linear1(self.norm(x))))
        return y if self.scale is None else y * self.scale

    def step(
        self, x: Float[Tensor, "batch dim new"], buffer: Float[Tensor, "batch dim buffered"] | None, last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], Float[Tensor, "batch dim buffered"]]:
        """Refine the next steps of a stream, any number.

        Args:
            x: New steps.
            buffer: From the call before: pending steps and `reach` steps before them; None at the start.
            last: The stream ends with `x`.
        """
        # inputs     | reach | ready | pending |      the last `reach` steps are pending
        if buffer is None:
            buffer = x.new_zeros(*x.shape[:2], self.reach)
        x = append(buffer, x)
        ready = max(0, x.shape[-1] - (self.reach if last else 2 * self.reach))
        y = x[..., :0]
        if ready:
            # As in `forward`, except that `x` holds the steps around those that are ready, or zeros.
            visible = F.pad(x, (0, self.reach)) if last else x
            visible = visible[..., : ready + 2 * self.reach]
            mixed = F.conv1d(visible, self.depthwise.weight, self.depthwise.bias, groups=x.shape[1])
            y = x[..., self.reach : self.reach + ready] + self._perceptron(mixed.mT).mT
        return y, x[..., ready:].clone()


class ConvNeXtStack(nn.Module):
    """Several blocks, with a convolution of width 1 before or after them where the features have another width.

    Args:
        dim: Width of the blocks.
        num_layers: Number of blocks.
        input_dim: Width of the input; adds the leading convolution.
        output_dim: Width of the output; adds the closing convolution.
        hidden_dim: Width inside each block's perceptron.
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
        self.dim = dim
        self.dim_out = output_dim or dim
        self.conv_in = nn.Identity() if input_dim is None else nn.Conv1d(input_dim, dim, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim, hidden_dim) for _ in range(num_layers))
        self.conv_out = nn.Identity() if output_dim is None else nn.Conv1d(dim, output_dim, 1)

    def forward(
        self, x: Float[Tensor, "batch dim_in steps"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim_out steps"]:
        """Refine the valid steps of each item; the rest of the output is zero."""
        valid = valid_steps(lengths, x.shape[-1])
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, valid)
        return zero_padding(self.conv_out(x), valid)

    @property
    def reach(self) -> int:
        """Steps to either side that an output depends on."""
        return sum(block.reach for block in cast(list[ConvNeXtBlock], list(self.blocks)))

    def initial_state(self) -> tuple[Tensor | None, ...]:
        """Return the state before the first steps of a stream: a buffer for each block."""
        return (None,) * len(self.blocks)

    def step(
        self, x: Float[Tensor, "batch dim_in new"], state: tuple[Tensor | None, ...], last: bool
    ) -> tuple[Float[Tensor, "batch dim_out ready"], tuple[Tensor | None, ...]]:
        """Refine the next steps of a stream, any number; outputs are `reach` steps late."""
        # PyTorch's convolutions refuse empty input.
        x = self.conv_in(x) if x.shape[-1] else x.new_zeros(len(x), self.dim, 0)
        buffers = []
        for block, buffer in zip(cast(list[ConvNeXtBlock], list(self.blocks)), state, strict=True):
            x, buffer = block.step(x, buffer, last)
            buffers.append(buffer)
        x = self.conv_out(x) if x.shape[-1] else x.new_zeros(len(x), self.dim_out, 0)
        return x, tuple(buffers)
