"""Linear layers that take the fastest way there is on the CPU; else they are those of `torch.nn`."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FEW_ROWS = 8  # below, arranging the weights for oneDNN costs more than it brings


def linear(
    x: Float[Tensor, "*shape in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*shape out_features"]:
    """Compute x weight^T + bias.

    PyTorch hands float32 matrix products to MKL, which reaches half of oneDNN's speed on CPUs with AVX-512 that are not
    Intel's (2.2 times from 64 rows on, measured in experiments/speed). So without gradients they go to oneDNN, through
    the operator that PyTorch's own compiler uses; the two round differently.
    """
    if _suits_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
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


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= FEW_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _operator() is not None
    )


def _operator() -> Any:
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
