"""Linear layers that take the fastest way there is on the CPU; else they are those of `torch.nn`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.blocks import quick


def linear(
    x: Float[Tensor, "*shape in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*shape out_features"]:
    """Compute x weight^T + bias, without gradients on the CPU by way of `quick`."""
    if quick.suits(x) and x.numel() >= quick.FEW_ROWS * x.shape[-1]:
        dtype = quick.working_dtype(x)
        if weight.dtype != dtype:  # else a matrix would be one more copy of every weight
            weight = quick.matrix(weight, f"{dtype}", lambda values: values.to(dtype))
            bias = None if bias is None else quick.kept(bias, f"{dtype}", lambda values: values.to(dtype))
        return quick.linear(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, input: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out_features"]:
        """Map the last axis."""
        return linear(input, self.weight, self.bias)


def quicken(module: nn.Module) -> None:
    """Make `Linear`s of the plain linear layers in a module that others wrote; parameters stay the same objects."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            with torch.device("meta"):
                ours = Linear(child.in_features, child.out_features, bias=child.bias is not None)
            ours.weight, ours.bias = child.weight, child.bias
            ours.train(child.training)
            setattr(module, name, ours)
        else:
            quicken(child)
