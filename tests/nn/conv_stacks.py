"""What the tests of convolutional and spectral encoders and decoders share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flexicodec.nn.dac import ConvStack


def assert_stream_equals_whole(stack: ConvStack, x: Tensor, cuts: Sequence[int]) -> None:
    """Assert that chunks of `x`, of which some are empty, give the outputs of the whole clip."""
    bounds = [0, *sorted(cut % (x.shape[-1] + 1) for cut in cuts), x.shape[-1]]
    state, outputs = stack.initial_state(), []
    for begin, end in zip(bounds, bounds[1:], strict=False):
        y, state = stack.step(x[..., begin:end], state, last=len(outputs) == len(bounds) - 2)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=-1), stack(x).detach())
