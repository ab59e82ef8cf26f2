"""A layer over time that computes its outputs from a window of inputs: base of the layers in `spectral`.

It has the interface of the convolutions in `conv`, so that whole clips, padded batches and streams give the same.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn.conv import ConvState, PaddedLengths


class WindowedLayer(nn.Module, ABC):
    """Outputs from a window of inputs that moves by `stride`; beyond the ends of a clip the inputs are zero.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        width: Inputs in a window, at least `stride`.
        stride: Inputs from one window to the next.
        outputs: Outputs of a window.
        left: Zeros before the clip; those behind it fill the last of `length // stride` windows.
    """

    # inputs    0 0 a b c d e f 0 0     width 4, stride 2, left 2
    # windows  |0 0 a b|
    #              |a b c d|
    #                  |c d e f|        `right` follows: 0 here

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 1, stride: int = 1, outputs: int = 1, left: int = 0
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.width = width
        self.stride = stride
        self.outputs = outputs
        self.left = left
        self.right = width - stride - left
        assert self.right >= 0, "the windows must cover the clip"

    @abstractmethod
    def compute(self, x: Float[Tensor, "batch time in_channels"]) -> Float[Tensor, "batch out_time out_channels"]:
        """Compute the outputs of all windows in inputs that are padded already; channels are last here."""

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        return length // self.stride * self.outputs

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that `step` needs before it has returned so many outputs."""
        windows = -(-outputs // self.outputs)
        return (windows - 1) * self.stride + self.width - self.left

    def is_long_enough(self, length: int) -> bool:
        """Return whether a clip of `length` inputs has a window."""
        return length >= self.stride

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips; `lengths` are the input's, whose padding is zero."""
        rows = x.mT
        if self.left or self.right:
            rows = F.pad(rows, (0, 0, self.left, self.right))
        y = self.compute(rows).mT
        return y if lengths is None else lengths.after(self).mask_(y)

    def initial_state(self, lengths: PaddedLengths | None) -> ConvState:
        """Return the state before the first chunk of clips with these input lengths."""
        return ConvState(None if lengths is None else lengths.after(self), lengths)

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvState]:
        """Run the next chunk of any size, also 0; returns the outputs of all complete windows."""
        x = state.extend(x, self.left, self.right, last)
        windows = max(0, (x.shape[-1] - self.width) // self.stride + 1)
        y = x.new_empty(x.shape[0], self.out_channels, 0)
        if windows:
            covered = (windows - 1) * self.stride + self.width
            y = self.compute(x[..., :covered].mT).mT
        return state.advance(y, x[..., windows * self.stride :])


class PerFrame(WindowedLayer):
    """Modules that work on the channels of each frame: linear layers, norms, activations.

    Args:
        modules: In order; they map the last axis.
        in_channels: Input channels.
        out_channels: Output channels.
        side_by_side: Frames whose channels the modules take together; the frame rate falls by as much.
        outputs: Frames that the modules' outputs are split into; the frame rate rises by as much.
    """

    def __init__(
        self, *modules: nn.Module, in_channels: int, out_channels: int, side_by_side: int = 1, outputs: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, width=side_by_side, stride=side_by_side, outputs=outputs)
        self.body = nn.Sequential(*modules)

    def compute(self, x: Float[Tensor, "batch time in_channels"]) -> Float[Tensor, "batch out_time out_channels"]:
        """See `WindowedLayer.compute`."""
        if self.stride > 1:
            x = x.unflatten(1, (-1, self.stride)).flatten(2)
        y: Tensor = self.body(x)
        if self.outputs > 1:
            y = y.unflatten(2, (self.outputs, self.out_channels)).flatten(1, 2)
        return y
