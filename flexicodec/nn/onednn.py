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
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

MIN_ROWS = 8  # with fewer rows, reordering the weights for oneDNN costs more than it saves
PACKED_ROWS = 128  # number of rows weights are packed for; others, from 8 to 16,000, gain as well

# Storage of parameters: form and place in the storage: (version of the parameter, tensor made from it). Parameters
# themselves must not be the keys: `torch.utils.swap_tensors` refuses those that have weak references.
_cache = WeakIdKeyDictionary()


def onednn_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which oneDNN computes products with `x`, None where it cannot be used.

    It can for a plain tensor on the CPU, without gradients and tracing.
    """
    is_usable = (
        x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and bool(torch.backends.mkldnn.enabled)
    )
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu") and dtype != torch.float64:  # autocast leaves float64 alone
        dtype = torch.get_autocast_dtype("cpu")
    return dtype if is_usable and dtype in _supported_dtypes() else None


def cached(parameter: Tensor, form: str, make: Callable[[Tensor], Tensor], packed: bool = False) -> Tensor:
    """Return `make(parameter)`, cached until the parameter changes.

    Changes that PyTorch counts are noticed (training, loading, moving). Writes through `parameter.data` to the same
    memory are not; codecs look for those at every call, and call `clear_cache`.

    Args:
        parameter: Other tensors are not cached.
        form: Name of the result.
        make: Maps the parameter's values to the result.
        packed: Store the result, the weight [out_features, in_features] of a product, in oneDNN's layout. Without the
            cache it keeps its layout: packing costs more than one product saves.
    """
    # Tensors made in inference mode do not count their changes.
    if not isinstance(parameter, nn.Parameter) or parameter.is_inference():
        return make(parameter.detach())
    forms = _cache.setdefault(parameter.untyped_storage(), {})
    key = form, parameter.storage_offset(), parameter.shape, parameter.stride()
    if key not in forms or forms[key][0] != parameter._version:
        made = make(parameter.detach().clone())  # sharing no memory with its key, which would never be freed
        if packed:
            made = torch.ops.mkldnn._reorder_linear_weight(made.contiguous(), PACKED_ROWS)
        forms[key] = parameter._version, made
        return made
    return forms[key][1]


def clear_cache(tensors: Iterable[Tensor]) -> None:
    """Drop what was made of tensors that have changed or are about to move."""
    for tensor in tensors:
        _cache.pop(tensor.untyped_storage(), None)


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


def conv1d(
    x: Float[Tensor, "batch in_channels time"],
    weight: Float[Tensor, "out_channels in_channels_per_group kernel"],
    bias: Float[Tensor, " out_channels"] | None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Tensor, "batch out_channels out_time"]:
    """Convolve without padding; `x` is in its `onednn_dtype`."""
    dtype = x.dtype
    bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
    # A kernel of one step is a matrix product.
    if weight.shape[2] == stride == groups == 1 and x.shape[0] * x.shape[2] >= MIN_ROWS:
        matrix = cached(weight, f"matrix {dtype}", lambda values: values[:, :, 0].to(dtype), packed=True)
        return torch.ops.mkldnn._linear_pointwise(x.mT, matrix, bias, "none", [], "").mT
    # Others are images of height 1, channels last in memory.
    layout = torch.channels_last
    image = cached(
        weight, f"image {dtype}", lambda values: values.to(dtype).unsqueeze(2).contiguous(memory_format=layout)
    )
    x = x.unsqueeze(2).contiguous(memory_format=layout)
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
    `x` is in its `onednn_dtype`.
    """
    dtype = x.dtype

    def pairwise(values: Tensor) -> Tensor:
        both = torch.cat([values[:, :, stride:], values[:, :, :stride]])  # the earlier input, then the later one
        return both.permute(2, 1, 0).flatten(0, 1).to(dtype)

    biases = cached(bias, f"pairwise {dtype}", lambda values: values.repeat(stride).to(dtype))
    matrix = cached(weight, f"pairwise {dtype}", pairwise, packed=True)
    pairs = torch.cat([x.mT[:, :-1], x.mT[:, 1:]], dim=-1)
    y = torch.ops.mkldnn._linear_pointwise(pairs, matrix, biases, "none", [], "")
    # Rows hold `stride` outputs each: [batch, time - 1, stride * channels] to [batch, channels, (time - 1) * stride].
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


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where possible."""

    def forward(self, input: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out_features"]:
        """Map the last axis."""
        dtype = onednn_dtype(input)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if dtype is None or input.numel() < MIN_ROWS * input.shape[-1]:
            if input.numel() == 0 or not dtype == weight.dtype == torch.bfloat16:
                return F.linear(input, weight, bias)
            # A row or few: reading the weights takes all the time, and a packed copy is read in two thirds of it.
            weight = cached(weight, "matrix of few rows", lambda values: values, packed=True)
        elif weight.dtype != dtype:  # a packed copy of weights that need no other dtype would double the memory
            weight = cached(weight, f"matrix {dtype}", lambda values: values.to(dtype), packed=True)
            bias = None if bias is None else cached(bias, f"{dtype}", lambda values: values.to(dtype))
        return torch.ops.mkldnn._linear_pointwise(input.to(dtype), weight, bias, "none", [], "")


def init_linear(layer: Linear, gain: float = 1.0) -> Linear:
    """Start from a truncated normal that keeps the mean square of the input, times `gain` squared, and no bias."""
    nn.init.trunc_normal_(layer.weight, std=gain * layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
