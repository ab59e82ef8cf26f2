"""A discriminator on what a frozen speech model hears (SLM discriminator, StyleTTS 2, arXiv 2306.07691).

The speech model, WavLM in LFSC and NanoCodec, comes from outside; gradients pass through it to the generator.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.shared import Judgement, activations, conv1d
from flexicodec.training.frozen import FrozenListener

Layers = Sequence[Float[Tensor, "batch dim frames"]]


class HiddenStates(nn.Module):
    """Every hidden state of a speech model of Transformers: the embeddings', then each layer's.

    Args:
        model: A frozen `WavLMModel`, `HubertModel` or the like.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def dim(self) -> int:
        """Channels of all hidden states together."""
        return int((self.model.config.num_hidden_layers + 1) * self.model.config.hidden_size)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Layers:
        """Listen to audio at the model's rate, neither shifted nor scaled."""
        states = self.model(audio, output_hidden_states=True).hidden_states
        return [state.transpose(1, 2) for state in states]


class SlmDiscriminator(nn.Module):
    """A few convolutions on all layers of a frozen speech model.

    Args:
        network: Maps audio [B, S] at its own rate to layers [B, D, T]; see `HiddenStates`. A module gets frozen.
        dim: Channels of all layers together.
        sample_rate: Hz of the audio that is judged.
        network_rate: Hz that the network expects.
        channels: Of the hidden layers, after the projection to the first.
    """

    def __init__(
        self,
        network: Callable[[Float[Tensor, "batch samples"]], Layers],
        dim: int,
        sample_rate: int,
        network_rate: int = 16_000,
        channels: tuple[int, ...] = (64, 128, 256, 256),
    ) -> None:
        super().__init__()
        self.listener = FrozenListener(network, sample_rate, network_rate)
        self.project = conv1d(dim, channels[0], 1)
        self.layers = nn.ModuleList(
            conv1d(before, after, 5) for before, after in zip(channels, channels[1:], strict=False)
        )
        self.post = conv1d(channels[-1], 1, 3)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio that is long enough for the network; scores are [B, 1, T], features [B, D, T, 1]."""
        heard = torch.cat(list(self.listener(audio)), dim=1)
        features = activations(self.layers, self.project(heard))
        return [Judgement(self.post(features[-1]), [feature[..., None] for feature in features])]
