"""oneDNN paths for linear layers and convolutions on the CPU, used in inference only.

PyTorch sends matrix products to MKL, which reaches half of oneDNN's speed on CPUs with AVX-512 that are not Intel's,
and gives oneDNN convolutions in a layout that has to be reordered before and after each call. Here everything goes to
oneDNN channels last, and weights are cached in the layout oneDNN wants. Measurements: experiments/speed. Results differ
from PyTorch's by rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

MIN_ROWS = 8  # below, arranging the weights for oneDNN costs more than it brings
PACKED_ROWS = 128  # that weights are packed for; every other number, from 8 to 16,000, gains as well

_cache = WeakIdKeyDictionary()  # of parameters: what was made of them, with what tells whether they are still the same


def can_use_onednn(x: Tensor) -> bool:
    """Tell whether `x` can go this way: plain values on the CPU, no gradients, and no graph being drawn up."""
    return (
        x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and bool(torch.backends.mkldnn.enabled)
        and working_dtype(x) in _supported_dtypes()
    )


def working_dtype(x: Tensor) -> torch.dtype:
    """Name the precision that products with `x` are computed in."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


def cached(parameter: Tensor, form: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what `make` makes of a parameter, the same tensor as last time while the parameter stays as it is.

    It notices what changes a parameter as PyTorch sees it (training, loading, moving), not what is written through
    `parameter.data` into the same memory.

    Args:
        parameter: nothing is kept of other tensors.
        form: a name for what is made.
        make: takes the parameter's values.
    """
    if not _is_cacheable(parameter):
        return make(parameter.detach())
    memory = parameter.storage_offset(), parameter.shape, parameter.stride()
    state = StorageWeakRef(parameter.untyped_storage()), parameter._version, memory
    forms = _cache.setdefault(parameter, {})
    if form not in forms or forms[form][0] != state:
        forms[form] = state, make(parameter.detach())
    return forms[form][1]


def packed_weight(parameter: Tensor, form: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Do the same for the weight of a product, [out_features, in_features], and arrange it as oneDNN takes it.

    That is for `linear` alone. Where it could not be kept it is left as it is: arranging costs more than one product
    saves.
    """
    arrange = _pack if _is_cacheable(parameter) else lambda weight: weight
    return cached(parameter, f"matrix {form}", lambda values: arrange(make(values)))


def _is_cacheable(parameter: Tensor) -> bool:
    """Tell a weight from what is computed each time; what is made in inference mode does not count its changes."""
    return isinstance(parameter, nn.Parameter) and not parameter.is_inference()


def _pack(weight: Float[Tensor, "out_features in_features"]) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)


def clear_cache(parameters: Iterable[Tensor]) -> None:
    """Let go of what was kept of parameters that are to move."""
    for parameter in parameters:
        _cache.pop(parameter, None)


def _clear_all(*_: Any) -> None:
    _cache.clear()


# an optimiser with fused kernels writes to parameters without PyTorch's counting it
register_optimizer_step_post_hook(_clear_all)


@cache
def _supported_dtypes() -> tuple[torch.dtype, ...]:
    """Name the precisions that oneDNN has on this machine, if it has the operator that this needs."""
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        return ()
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if half else (torch.float32,)


def onednn_linear(
    x: Float[Tensor, "*shape in_features"], weight: Tensor, bias: Float[Tensor, " out_features"] | None = None
) -> Float[Tensor, "*shape out_features"]:
    """Compute x weight^T + bias.

    Args:
        x: suits.
        weight: [out_features, in_features], in the working precision of `x`; as it is, or a `matrix`.
        bias: in the same precision.
    """
    return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")


def conv1d(
    x: Float[Tensor, "batch in_channels time"],
    weight: Float[Tensor, "out_channels in_channels_per_group kernel"],
    bias: Float[Tensor, " out_channels"] | None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Tensor, "batch out_channels out_time"]:
    """Convolve without padding; `x` suits."""
    dtype = working_dtype(x)
    bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
    if weight.shape[2] == stride == groups == 1 and x.shape[0] * x.shape[2] >= MIN_ROWS:
        return onednn_linear(x.mT, packed_weight(weight, f"{dtype}", lambda values: values[:, :, 0].to(dtype)), bias).mT
    image = cached(weight, f"image {dtype}", lambda values: _as_image(values.to(dtype)))
    with torch.autocast("cpu", enabled=False):
        return torch.mkldnn_convolution(
            _as_image(x.to(dtype)), image, bias, (0, 0), (1, stride), (1, dilation), groups
        ).squeeze(2)


def conv_transpose1d(
    x: Float[Tensor, "batch in_channels time"],
    weight: Float[Tensor, "in_channels out_channels 2*stride"],
    bias: Float[Tensor, " out_channels"],
    stride: int,
) -> Float[Tensor, "batch out_channels (time-1)*stride"]:
    """Convolve transposed with a kernel of two strides, the first and last `stride` outputs left out; `x` suits.

    The outputs between two inputs depend on these two alone, so that it is one product with both of them.
    """
    dtype = working_dtype(x)

    def pairwise(values: Tensor) -> Tensor:
        both = torch.cat([values[:, :, stride:], values[:, :, :stride]])  # the earlier input, then the later one
        return both.permute(2, 1, 0).flatten(0, 1).to(dtype)

    biases = cached(bias, f"pairwise {dtype}", lambda values: values.repeat(stride).to(dtype))
    rows = x.mT.to(dtype)
    y = onednn_linear(
        torch.cat([rows[:, :-1], rows[:, 1:]], dim=-1), packed_weight(weight, f"pairwise {dtype}", pairwise), biases
    )
    return y.unflatten(-1, (stride, -1)).flatten(1, 2).mT


def cat_time(parts: Sequence[Float[Tensor, "batch channels time"]]) -> Float[Tensor, "batch channels all_time"]:
    """Concatenate in time, in the memory layout of the longest part; a single part that is not empty is not copied."""
    filled = [part for part in parts if part.shape[-1]]
    if len(filled) <= 1:
        return filled[0] if filled else parts[0]
    longest = filled[0]
    for part in filled:
        if part.shape[-1] > longest.shape[-1]:
            longest = part
    if longest.stride(1) == 1:  # channels last
        return torch.cat([part.mT for part in filled], dim=1).mT
    return torch.cat(filled, dim=-1)


def _as_image(x: Tensor) -> Tensor:
    """Make it four-dimensional, channels last in memory."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def linear(
    x: Float[Tensor, "*shape in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*shape out_features"]:
    """Compute x weight^T + bias, without gradients on the CPU by way of `quick`."""
    if can_use_onednn(x) and x.numel() >= MIN_ROWS * x.shape[-1]:
        dtype = working_dtype(x)
        if weight.dtype != dtype:  # else a matrix would be one more copy of every weight
            weight = packed_weight(weight, f"{dtype}", lambda values: values.to(dtype))
            bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
        return onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, input: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out_features"]:
        """Map the last axis."""
        return linear(input, self.weight, self.bias)
