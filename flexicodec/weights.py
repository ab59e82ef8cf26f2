"""Writing and reading weights, loading them strictly, and models that are loaded in part."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flexicodec.io_utils import describe_missing, replacing

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
SCALE = ".scale"  # of 8-bit values, behind the name of their weight
ZERO_POINT = ".zero_point"
LEAST_ROW = 32  # values; shorter rows would hardly get smaller in 8 bits
SHIPPED_PARTS = "shipped_parts"  # in config.json: submodules whose weights ship with this package, by their names


def read_weights(path: str | Path, skip: tuple[str, ...] = ()) -> Mapping[str, Tensor]:
    """Read tensors by name from a safetensors or torch file, memory-mapped, without unpickling code.

    Args:
        path: The file.
        skip: Prefixes of tensors that are not read, in safetensors files only.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(describe_missing(path))
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                keys = [key for key in file.keys() if not skip or not key.startswith(skip)]
                return {key: file.get_tensor(key) for key in keys}
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}: {error})") from error
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} holds a {type(held).__name__}, expected tensors by name")
    return held


def write_model_folder(
    folder: str | Path, held: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Path:
    """Write `model.safetensors`, then `config.json`: a folder that has the config is complete.

    Args:
        folder: Created if missing. Each file appears at once, by rename.
        held: What the config holds.
        state: Weights by name.
        dtype: Of the stored floating-point weights; None keeps theirs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, tensor in state.items():
        stored[name] = tensor.detach().to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    # Both files are complete before the first of them appears; the one that is opened last appears first.
    with replacing(folder / CONFIG_NAME) as settings, replacing(folder / WEIGHTS_NAME) as weights:
        save_tensors(stored, weights)
        settings.write_text(json.dumps(held, indent=2) + "\n")
    return folder


def pack_rows(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round rows of matrices to 8 bits, each with a scale of its own; other floating-point weights to half precision.

    Returns:
        Weights by name, and the scales of 8-bit ones under their name and `SCALE`. `unpack` is the inverse.
    """
    packed = {}
    for name, value in state.items():
        values = value.detach().float()
        if not value.is_floating_point():
            packed[name] = value
        elif value.ndim < 2 or value.shape[-1] < LEAST_ROW:
            packed[name] = values.half()
        else:
            scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
            packed[name] = (values / scale).round().to(torch.int8)
            packed[name + SCALE] = scale
    return packed


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute floating-point weights in float32: (value - zero point) * scale where they are stored in 8 bits."""
    state = {}
    for name, value in stored.items():
        belongs_to = name.removesuffix(SCALE).removesuffix(ZERO_POINT)
        if belongs_to != name and belongs_to in stored:
            continue
        if name + SCALE in stored:
            values = value.float()
            if name + ZERO_POINT in stored:
                values = values - stored[name + ZERO_POINT].float()
            state[name] = values * stored[name + SCALE]
        else:
            state[name] = value.float() if value.is_floating_point() else value
    return state


def save_tensors(tensors: Mapping[str, Tensor | np.ndarray], path: str | Path) -> None:
    """Write a safetensors file as `open` would: with the mode that the umask gives, through links, whole or not at all.

    safetensors makes files that only their owner can read, in place of a link, and stores the memory of an array that
    is not contiguous in the wrong order (0.8.0).

    Args:
        tensors: By name, of any layout and device; they may share memory.
        path: The file, which is replaced.
    """
    # Copies, since safetensors refuses tensors that share memory.
    held = {}
    for name, values in tensors.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values.detach()
        held[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    with replacing(path) as part:
        part.touch()
        mode = part.stat().st_mode
        save_file(held, part, metadata={"format": "pt"})
        part.chmod(mode)


def load_exactly(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights into a model built on the meta device; every key must be there, and no other.

    Raises:
        ValueError: Names missing, unknown and misshapen keys.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    faults = {"missing": sorted(wanted.keys() - state.keys()), "unknown": sorted(state.keys() - wanted.keys())}
    faults["misshapen"] = []
    for key, shape in wanted.items():
        if key in state and tuple(state[key].shape) != shape:
            faults["misshapen"].append(f"{key} {tuple(state[key].shape)} instead of {shape}")
    told = [f"{label}: {abbreviated(keys)}" for label, keys in faults.items() if keys]
    if told:
        raise ValueError(f"the weights do not fit the config; {'; '.join(told)}")
    # assign=True replaces the parameters, and with them which ones are trained.
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(state, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def check_shapes(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    """Check that a foreign state dict has all expected keys with these shapes; errors use its own names."""
    faults = []
    for key, shape in expected.items():
        if key not in state:
            faults.append(f"{key} is missing")
        elif tuple(state[key].shape) != shape:
            faults.append(f"{key} is {tuple(state[key].shape)} instead of {shape}")
    if faults:
        raise ValueError(
            f"the weights do not fit the config: {abbreviated(sorted(faults))}; is this another model's file?"
        )


def abbreviated(keys: list[str], limit: int = 8) -> str:
    """List the first few keys, and count the rest."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


@dataclass(frozen=True)
class LoadReport:
    """Parts of a foreign checkpoint that a conversion did not use."""

    expected_extras: tuple[str, ...]  # keys known to carry nothing that is needed
    unexpected_extras: tuple[str, ...]  # unknown keys
    ignored_settings: tuple[str, ...]  # keys of the original config without a meaning here
    semantic_source: str | None = None  # origin of a frozen encoder's weights; None for models without one


# ---------------------------------------------------------------------------------------------------- partial loading


class UnloadedModule(nn.Module):
    """Placeholder of a submodule that was not loaded; every use raises a ValueError.

    Args:
        name: Of the submodule in the model.
        loaded: The choice of parts that excludes it.
    """

    def __init__(self, name: str, loaded: str) -> None:
        super().__init__()
        self._name = name
        self._loaded = loaded

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raise a ValueError that says what to load instead."""
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        remedy = "load it with parts='all', which is the default"
        if self._loaded == "semantic":
            remedy = f"it encodes semantic codes alone, num_codebooks=0; for more, {remedy}"
        raise ValueError(f"this model was loaded with parts={self._loaded!r}, without its {self._name}; {remedy}")


@contextmanager
def meta_device() -> Iterator[None]:
    """Build modules on the meta device, without initialising their weights.

    Random operators on that device import PyTorch's compiler, which takes as long as importing PyTorch.
    """
    with torch.device("meta"), _SkipInitialisation():
        yield


class _SkipInitialisation(TorchFunctionMode):
    """Leaves weights on the meta device as they are; others, such as constants on the CPU, are initialised."""

    initialisers = ("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_", "erfinv_", "clamp_")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.initialisers:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def drop_modules(model: nn.Module, kept: Iterable[str], loaded: str) -> None:
    """Replace every child of a model except those named by an `UnloadedModule`."""
    for name in {name for name, _ in model.named_children()}.difference(kept):
        setattr(model, name, UnloadedModule(name, loaded))


def unloaded_modules(model: nn.Module) -> list[str]:
    """Name the children that were not loaded."""
    return [name for name, child in model.named_children() if isinstance(child, UnloadedModule)]
