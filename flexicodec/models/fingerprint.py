"""Fingerprints: short hashes of the weights and settings that give tokens their meaning."""

import hashlib
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn


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


def weight_version(model: nn.Module) -> int:
    """Count the writes to weights and buffers, as PyTorch counts them for autograd."""
    count = 0
    modules = [model]
    # `parameters()` takes ten times as long, and every call of a codec asks.
    while modules:
        module = modules.pop()
        modules.extend(child for child in module._modules.values() if child is not None)
        for tensors in (module._parameters, module._buffers):
            for tensor in cast(Mapping[str, Tensor | None], tensors).values():
                # Tensors made in inference mode are never written to and have no version.
                if tensor is not None and not tensor.is_inference():
                    count += tensor._version
    return count
