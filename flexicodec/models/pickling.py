"""Pickles of modules that hold the values of their weights, so that hashes of equal modules are equal in all processes.

PyTorch pickles a tensor's memory under its address: `joblib.hash` of any other module differs from process to process.
"""

import copy
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class HeldTensor:
    """Stands for a tensor in what is pickled, and is that tensor when it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        tensor = self.tensor.detach().contiguous()
        values = tensor.flatten().view(torch.uint8).numpy()  # bytes, as numpy has no bfloat16
        dtype = str(tensor.dtype).removeprefix("torch.")
        return _restored, (values, dtype, tuple(tensor.shape), type(self.tensor), self.tensor.requires_grad)


def _restored(values: np.ndarray, dtype: str, shape: tuple[int, ...], kind: type, requires_grad: bool) -> Tensor:
    # Copied into memory that PyTorch allocates: Ray's arrays are read-only and numpy's are less aligned.
    memory = torch.empty(len(values), dtype=torch.uint8)
    memory.numpy()[:] = values
    tensor = memory.view(getattr(torch, dtype)).reshape(shape)
    if kind is nn.Parameter:
        return nn.Parameter(tensor, requires_grad)
    return tensor.requires_grad_(requires_grad)


def holding_values(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Copy the state of a module for a pickle, in which tensors are held by their values.

    Left to PyTorch are tensors in shared memory, which processes go on sharing, those on other devices, subclasses, and
    all tensors where a process is being started: it gets weights through shared memory.

    Args:
        module: Its parameters and buffers, and tensors that are attributes of it or its children, are held.
        state: Its attributes, in which they occur.
    """
    if get_spawning_popen() is not None:
        return state
    # What stands in `memo` is taken for the copy, everywhere that the tensor occurs.
    memo: dict[int, Any] = {}
    for child in module.modules():
        attributes = vars(child)
        for each in (*attributes["_parameters"].values(), *attributes["_buffers"].values(), *attributes.values()):
            if isinstance(each, Tensor) and id(each) not in memo:
                memo[id(each)] = HeldTensor(each) if _can_be_held(each) else each
    held: dict[str, Any] = copy.deepcopy(state, memo)
    return held


def _can_be_held(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not vars(tensor)
    return plain and tensor.device.type == "cpu" and tensor.is_leaf and not tensor.is_shared()
