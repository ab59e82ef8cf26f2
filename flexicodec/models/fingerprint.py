"""Fingerprints: short hashes of the weights and settings that give tokens their meaning, and when they are out of date.

Everything derived of weights, fingerprints and packed copies alike, is dropped by the first call of a codec after the
weights changed; `WeightSnapshot` says which changes are noticed.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flexicodec.nn.onednn import clear_cache

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec

Method = TypeVar("Method", bound=Callable[..., Any])

COARSE_SAMPLES = 8  # values of a tensor that are compared between the chunks of a stream, where it has as many
FINE_SAMPLES = 64  # at other calls
SHORT_ROW = 16  # values of a row of which at least one is compared
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bits as they are, also of NaN


def hash_weights(
    state: Mapping[str, Tensor],
    settings: str = "",
    dtype: torch.dtype | None = None,
    counts: Callable[[str], bool] = bool,
) -> str:
    """Hash settings and the names, shapes and values of weights; 16 hexadecimal digits.

    Args:
        state: Weights by name.
        settings: Hashed before them.
        dtype: Convert values first. With torch.float16 a model keeps its hash when it is stored in half precision.
        counts: Which names are hashed.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(state.items()):
        if counts(name):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu", tensor.dtype if dtype is None else dtype)
            digest.update(np.ascontiguousarray(values.numpy()).data)
    return digest.hexdigest()[:16]


class WeightSnapshot:
    """Weights and buffers of some modules at one moment, by which `current_weights` tells whether they changed.

    Noticed are, however small:

    - writes that PyTorch counts: in-place operators, `copy_`, `load_state_dict`, optimisers, views of a weight;
    - other modules, parameters and buffers in place of the old ones, and other memory, shapes or strides of a tensor.

    Writes that PyTorch does not count (`p.data.mul_()`, `p.data.copy_()`, `p.detach().numpy()`, storages) are noticed
    where they change the bits of a sample: all values of vectors, one of every row of a matrix with short rows (a
    codebook), and 64 or more of every other tensor, or all it has. So a change of a whole tensor is always noticed, and
    one of a few values may not be. `Codec.compute_fingerprint` and `Codec.save_pretrained` hash every value. Between
    the chunks of a stream the sample is 8 values of every tensor, and shapes and strides are not compared. On one core
    this takes about 1.5 ms of 90 ms for 2 s of audio and the mini (1.1 ms between chunks), 10 of 700 ms for the
    released size; most of it is to find the tensors.

    Args:
        origin: The config, then the modules.

    Attributes:
        names: Fingerprints of these weights, as far as they are known.
        half: A dtype of a parameter that is not float32; None for none.
    """

    def __init__(self, origin: list[Any]) -> None:
        self.names: dict[str, str] = {}
        self.origin = origin
        modules: dict[nn.Module, None] = {}
        for root in origin[1:]:
            if root is not None:
                modules.update(dict.fromkeys(root.modules()))
        # The dictionaries of all modules, and what is in them. All is kept alive, so that an id or an address stands
        # for the same object or memory as long as this snapshot exists.
        holders: list[dict[str, Any]] = []
        for module in modules:
            holders += [holder for holder in (module._modules, module._parameters, module._buffers) if holder]
        self.holders = holders
        self.members = list(chain.from_iterable(map(dict.values, holders)))
        self.ids = list(map(id, self.members))
        # Tensors made in inference mode do not count their changes; those on `meta` and subclasses have no memory.
        tensors = [member for member in self.members if isinstance(member, Tensor)]
        self.counting = [tensor for tensor in tensors if not tensor.is_inference()]
        self.tensors = [tensor for tensor in tensors if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta]
        self.versions = [tensor._version for tensor in self.counting]
        self.addresses = [tensor.data_ptr() for tensor in self.tensors]
        self.layouts = [(tensor.shape, tensor.stride()) for tensor in self.tensors]
        halves = [each.dtype for each in tensors if isinstance(each, nn.Parameter) and each.is_floating_point()]
        self.half = next((dtype for dtype in halves if dtype != torch.float32), None)
        # A coarse sample and a fine one.
        self.pieces = [_pieces(self.tensors, fine) for fine in (False, True)]
        self.samples = [np.concatenate([*arrays, *map(_fetch, others)]) for arrays, others in self.pieces]
        # PyTorch's older norms and pruning compute the weight when a module is called, which streams of chunks are not.
        for module in modules:
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, BasePruningMethod | SpectralNorm | WeightNorm):
                    with torch.no_grad():
                        hook(module, None)


def current_weights(codec: "Codec", fine: bool = True) -> tuple[WeightSnapshot, WeightSnapshot]:
    """Return a codec's weights that tokens depend on, and all others; what was derived of earlier ones is dropped.

    Args:
        codec: Its weights are looked at, except within a call that has done so.
        fine: Take the larger sample, and compare shapes and strides.
    """
    known = _known.setdefault(codec, [None, None])
    if _checked.get() is codec and known[1] is not None:
        return known[0], known[1]
    # One function for all of it, since every call of a codec comes here.
    for part, of_tokens in enumerate((True, False)):
        origin = [getattr(codec, "config", None)]
        origin += [child for name, child in codec._modules.items() if (name in codec.token_modules) == of_tokens]
        old = known[part]
        if old is not None and old.origin == origin:
            arrays, others = old.pieces[fine]
            if (
                list(map(id, chain.from_iterable(map(dict.values, old.holders)))) == old.ids
                and [tensor._version for tensor in old.counting] == old.versions
                and [tensor.data_ptr() for tensor in old.tensors] == old.addresses
                and (not fine or [(tensor.shape, tensor.stride()) for tensor in old.tensors] == old.layouts)
                and np.array_equal(np.concatenate([*arrays, *map(_fetch, others)]), old.samples[fine])
            ):
                continue
        new = WeightSnapshot(origin)
        known[part] = new
        clear_cache([*new.tensors, *([] if old is None else old.tensors)])
    return known[0], known[1]


def inference_call(method: Method) -> Method:
    """Run a public method of a codec or of its streams on the weights as they are; a decorator.

    In float32, without gradients and outside a caller's autocast. Weights are looked at once, before the call.
    """

    @wraps(method)
    def wrapped(self: Any, *arguments: Any, **choices: Any) -> Any:
        of_stream = not isinstance(self, nn.Module)
        codec = self.codec if of_stream else self
        weight = next(codec.parameters(), None)  # an export has none
        if weight is not None and weight.is_meta:
            raise ValueError(
                "this model's weights are on the meta device and have no values; load it with device='cpu' or 'cuda'"
            )
        # A copy in half precision has the same fingerprint and would make other tokens.
        for weights in current_weights(codec, fine=not of_stream):
            if weights.half is not None:
                raise ValueError(
                    f"this model's weights are {weights.half}; codecs keep theirs in float32 (model.float()), and work "
                    "in half the precision by precision='bfloat16'"
                )
        outer = _checked.set(codec)
        try:
            with torch.no_grad(), torch.autocast(codec.device.type, enabled=False):
                return method(self, *arguments, **choices)
        finally:
            _checked.reset(outer)

    return cast(Method, wrapped)


def forget_weights(codec: "Codec") -> None:
    """Drop everything derived of a codec's weights, which are about to move; their memory can then be freed."""
    for snapshot in _known.pop(codec, ()):
        clear_cache(snapshot.tensors)


def sampled_values(tensors: Iterable[Tensor]) -> np.ndarray:
    """Return some values of tensors, by which they can be compared whatever their dtype and device."""
    return np.concatenate([np.empty(0), *(_sample(each, True).to("cpu", torch.float64).numpy() for each in tensors)])


_known: "WeakKeyDictionary[Codec, Any]" = WeakKeyDictionary()  # codec: its two snapshots
# The codec whose weights the call in progress has looked at.
_checked: "ContextVar[Codec | None]" = ContextVar("checked", default=None)


def _pieces(tensors: Iterable[Tensor], fine: bool) -> tuple[list[np.ndarray], list[list[Tensor]]]:
    """View the bits of a sample of tensors: those on the CPU, and lists of the others by device."""
    # NumPy gathers many small pieces five times as fast as PyTorch.
    arrays: list[np.ndarray] = [np.empty(0, np.uint8)]
    others: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        bits = _sample(tensor, fine).view(INTEGERS[tensor.element_size()])
        if tensor.device.type == "cpu":
            arrays.append(np.from_dlpack(bits))
        else:
            others.setdefault(tensor.device, []).append(bits)
    return arrays, list(others.values())


def _fetch(pieces: list[Tensor]) -> np.ndarray:
    return torch.cat(pieces).cpu().numpy()


def _sample(tensor: Tensor, fine: bool) -> Tensor:
    """View some values of a tensor, in other columns from row to row; see `WeightSnapshot`."""
    size = tensor.numel()
    if not size:
        return tensor.detach().flatten()
    extent = 1 + sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
    count = FINE_SAMPLES if fine else COARSE_SAMPLES
    if fine and tensor.ndim and size <= SHORT_ROW * tensor.shape[0]:
        count = max(count, tensor.shape[0])
    # Less than a row at a time, so that none is left out; all of what is not dense.
    step = max(1, size // count - 1) if extent == size else 1
    return tensor.detach().as_strided((extent,), (1,))[::step]
