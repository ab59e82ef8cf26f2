"""Weights from files into models, exactly, and what a conversion from another layout has to report."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
        f"{label}: {some(keys)}"
        for label, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if keys
    ]
    if faults:
        raise ValueError(f"the weights do not fit the config; {'; '.join(faults)}")
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(state, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def some(keys: list[str], limit: int = 8) -> str:
    """List the first few keys, and count the rest."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
