"""Networks that losses look through but that nobody trains."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.resample import Resampler


class FrozenListener(nn.Module):
    """Let a network hear audio of another rate; gradients pass through it, and it stays as it is.

    A module is frozen and put into eval mode here. It moves along with this one, but is none of its children: no
    optimiser, no state dict and no `train()` gets at it.

    Args:
        network: Maps audio [B, S] at its own rate to whatever the loss wants of it.
        sample_rate: Hz of the audio at hand.
        network_rate: Hz that the network expects.
    """

    network: Callable[[Float[Tensor, "batch samples"]], Any]

    def __init__(
        self, network: Callable[[Float[Tensor, "batch samples"]], Any], sample_rate: int, network_rate: int = 16_000
    ) -> None:
        super().__init__()
        if isinstance(network, nn.Module):
            network.requires_grad_(False).eval()
        object.__setattr__(self, "network", network)
        self.resampler = Resampler(sample_rate, network_rate)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Any:
        """Resample and listen, without autocast."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.network(self.resampler(audio.to(self.resampler.filters.dtype)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenListener":
        if isinstance(self.network, nn.Module):
            self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self
