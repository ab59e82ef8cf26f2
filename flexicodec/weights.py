"""Reading weights, loading them strictly, and models that are loaded in part."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class UnloadedModule(nn.Module):
    """Stands in the place of a part that was left out.

    Args:
        name: Of the part, as the model has it.
        loaded: The choice of parts that left it out.
    """

    def __init__(self, name: str, loaded: str) -> None:
        super().__init__()
        self._name, self._loaded = name, loaded

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always; the message says what to load instead.
        """
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"this model was loaded with parts={self._loaded!r}, without its {self._name}; load it with parts='all', "
            "which is the default"
        )


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
    """Put an `Absent` in the place of every child of a model but those named."""
    kept = set(kept)
    for name, _ in list(model.named_children()):
        if name not in kept:
            setattr(model, name, UnloadedModule(name, loaded))


def unloaded_modules(model: nn.Module) -> list[str]:
    """Name the children that were left out."""
    return [name for name, child in model.named_children() if isinstance(child, UnloadedModule)]


@dataclass(frozen=True)
class LoadReport:
    """What a conversion found beside what it needed.

    Attributes:
        expected_extras: Keys that were left out knowingly.
        unexpected_extras: Keys nobody knows; worth a look.
        ignored_settings: Keys of the original config that mean nothing here.
        semantic_source: Where a frozen encoder's weights came from; None for models without one.
    """

    expected_extras: tuple[str, ...]
    unexpected_extras: tuple[str, ...]
    ignored_settings: tuple[str, ...]
    semantic_source: str | None = None


def read_weights(path: str | Path, leave: tuple[str, ...] = ()) -> Mapping[str, Tensor]:
    """Read tensors by name from a safetensors or torch file, memory-mapped, never unpickling code.

    Args:
        path: The file.
        leave: Tensors whose names begin so are not read; of safetensors files only.

    Raises:
        ValueError: The file is neither, or is damaged.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as held:
                return {key: held.get_tensor(key) for key in held.keys() if not (leave and key.startswith(leave))}
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}: {error})") from error
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} holds a {type(held).__name__}, expected tensors by name")
    return held


def load_exactly(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Put weights into a model built on the meta device; every key must be there, and nothing else.

    Raises:
        ValueError: Names missing, unknown and misshapen keys.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    faults = [
        f"{label}: {abbreviated(keys)}"
        for label, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if keys
    ]
    if faults:
        raise ValueError(f"the weights do not fit the config; {'; '.join(faults)}")
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(state, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def abbreviated(keys: list[str], limit: int = 8) -> str:
    """List the first few keys, and count the rest."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
