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

MIN_ROWS = 8  # with fewer rows, reordering the weights for oneDNN costs more than it saves
PACKED_ROWS = 128  # number of rows weights are packed for; others, from 8 to 16,000, gain as well

_cache = WeakIdKeyDictionary()  # parameter: form: (state of the parameter, tensor made from it)


def can_use_onednn(x: Tensor) -> bool:
    """Return whether oneDNN can be used for `x`: a plain tensor on the CPU, no gradients, and no tracing."""
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
    """Return the dtype in which products with `x` are computed."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


def cached(parameter: Tensor, form: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `make(parameter)`, cached until the parameter changes.

    Changes that PyTorch counts are noticed (training, loading, moving), writes through `parameter.data` to the same
    memory are not.

    Args:
        parameter: Other tensors are not cached.
        form: Name of the result.
        make: Maps the parameter's values to the result.
    """
    if not _is_cacheable(parameter):
        return make(parameter.detach())
    # Same memory, not written to since.
    memory = parameter.storage_offset(), parameter.shape, parameter.stride()
    state = StorageWeakRef(parameter.untyped_storage()), parameter._version, memory
    forms = _cache.setdefault(parameter, {})
    if form not in forms or forms[form][0] != state:
        forms[form] = state, make(parameter.detach())
    return forms[form][1]


def packed_weight(parameter: Tensor, form: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Do the same for the weight of a product, [out_features, in_features], in oneDNN's layout for `onednn_linear`.

    A weight that is not cached keeps its layout: packing costs more than one product saves.
    """
    pack = _pack if _is_cacheable(parameter) else lambda weight: weight
    return cached(parameter, f"matrix {form}", lambda values: pack(make(values)))


def _is_cacheable(parameter: Tensor) -> bool:
    """Return whether it is a weight; tensors made in inference mode do not count their changes."""
    return isinstance(parameter, nn.Parameter) and not parameter.is_inference()


def _pack(weight: Float[Tensor, "out_features in_features"]) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)


def clear_cache(parameters: Iterable[Tensor]) -> None:
    """Drop the cached tensors of parameters that are about to move."""
    for parameter in parameters:
        _cache.pop(parameter, None)


def _clear_all(*_: Any) -> None:
    _cache.clear()


# Optimisers with fused kernels write to parameters without PyTorch counting it.
register_optimizer_step_post_hook(_clear_all)


@cache
def _supported_dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes that oneDNN supports on this machine, none if PyTorch lacks an operator needed here."""
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
        x: For which `can_use_onednn` holds.
        weight: [out_features, in_features], in the working dtype of `x`; plain or packed.
        bias: In the same dtype.
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
    """Convolve without padding, where `can_use_onednn(x)`."""
    dtype = working_dtype(x)
    bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
    # A kernel of one step is a matrix product.
    if weight.shape[2] == stride == groups == 1 and x.shape[0] * x.shape[2] >= MIN_ROWS:
        return onednn_linear(x.mT, packed_weight(weight, f"{dtype}", lambda values: values[:, :, 0].to(dtype)), bias).mT
    # Others are images of height 1, channels last in memory.
    layout = torch.channels_last
    image = cached(
        weight, f"image {dtype}", lambda values: values.to(dtype).unsqueeze(2).contiguous(memory_format=layout)
    )
    x = x.to(dtype).unsqueeze(2).contiguous(memory_format=layout)
    with torch.autocast("cpu", enabled=False):
        return torch.mkldnn_convolution(x, image, bias, (0, 0), (1, stride), (1, dilation), groups).squeeze(2)


def conv_transpose1d(
    x: Float[Tensor, "batch in_channels time"],
    weight: Float[Tensor, "in_channels out_channels 2*stride"],
    bias: Float[Tensor, " out_channels"],
    stride: int,
) -> Float[Tensor, "batch out_channels (time-1)*stride"]:
    """Convolve transposed with a kernel of two strides, without the first and last `stride` outputs.

    The `stride` outputs between two inputs depend on these two alone, so they are one product with both of them.
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


def linear(
    x: Float[Tensor, "*shape in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*shape out_features"]:
    """Compute x weight^T + bias, by oneDNN where possible."""
    if can_use_onednn(x) and x.numel() >= MIN_ROWS * x.shape[-1]:
        dtype = working_dtype(x)
        if weight.dtype != dtype:  # a packed copy of weights that need no other dtype would double the memory
            weight = packed_weight(weight, f"{dtype}", lambda values: values.to(dtype))
            bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
        return onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `linear`."""

    def forward(self, input: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out_features"]:
        """Map the last axis."""
        return linear(input, self.weight, self.bias)
