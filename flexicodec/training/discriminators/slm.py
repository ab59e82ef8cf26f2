"""A discriminator on what a frozen speech model hears (SLM discriminator, StyleTTS 2, arXiv 2306.07691).

The speech model, WavLM in LFSC and NanoCodec, comes from outside; gradients pass through it to the generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.encoders.base import PREPROCESSOR_NAME, SSLConfig
from flexicodec.encoders.ssl import SSLEncoder, ssl_state
from flexicodec.training.discriminators.shared import Judgement, activations, conv1d
from flexicodec.training.frozen import FrozenListener

Layers = Sequence[Float[Tensor, "batch dim frames"]]


class HiddenStates(nn.Module):
    """Every hidden state of a speech model: what enters its first block, then what each block makes of it.

    Args:
        encoder: WavLM, HuBERT or wav2vec 2.0.
    """

    def __init__(self, encoder: SSLEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def dim(self) -> int:
        """Channels of all hidden states together."""
        return self.encoder.dim * (self.encoder.config.layer + 1)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Layers:
        """Listen to audio at the model's rate, neither shifted nor scaled."""
        lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        return list(self.encoder.hidden_states(audio, lengths))


def hidden_states(source: str | Path) -> HiddenStates:
    """Open a local folder in transformers' layout: WavLM base plus, as in LFSC and NanoCodec, or a relative of it.

    Audio reaches it as it is, whatever preprocessor_config.json says of normalisation: so it does in NeMo.

    Raises:
        ValueError: The folder holds no such model, or not all of its weights.
    """
    says_how = (Path(source) / PREPROCESSOR_NAME).is_file()
    try:
        config = SSLConfig.from_folder(source, layer=None, normalise=None if says_how else False)
        with torch.device("meta"):
            encoder = replace(config, normalise=False).build()
        encoder.load_state_dict(ssl_state(source, config), assign=True)
    except ValueError as error:
        raise ValueError(f"adversarial.slm.source is {str(source)!r}: {error}") from error
    return HiddenStates(encoder.requires_grad_(False))


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
