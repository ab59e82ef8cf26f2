"""Discriminator on the hidden states of a frozen speech model (StyleTTS 2, arXiv 2306.07691).

LFSC and NanoCodec use WavLM. Gradients pass through the speech model to the generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from flexicodec.encoders.base import PREPROCESSOR_NAME, SSLConfig
from flexicodec.encoders.ssl import SSLEncoder, ssl_state
from flexicodec.training.discriminators.layers import DiscriminatorOutput, hidden_features
from flexicodec.training.speaker_encoder import FrozenNetwork

Layers = Sequence[Float[Tensor, "batch dim frames"]]


class HiddenStates(nn.Module):
    """All hidden states of WavLM, HuBERT or wav2vec 2.0: the input of the first block and each block's output."""

    def __init__(self, encoder: SSLEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = encoder.dim * (encoder.config.layer + 1)  # channels of all hidden states together

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Layers:
        """Encode audio at the model's rate, without normalising it."""
        lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        return list(self.encoder.hidden_states(audio, lengths))


def load_hidden_states(source: str | Path) -> HiddenStates:
    """Load a speech model from a local folder in transformers' layout; all of its weights must be there."""
    # NeMo never normalises the audio, whatever preprocessor_config.json says.
    has_preprocessor = (Path(source) / PREPROCESSOR_NAME).is_file()
    try:
        config = SSLConfig.from_folder(source, layer=None, normalise=None if has_preprocessor else False)
        with torch.device("meta"):
            encoder = replace(config, normalise=False).build()
        encoder.load_state_dict(ssl_state(source, config), assign=True)
    except ValueError as error:
        raise ValueError(f"adversarial.slm.source is {str(source)!r}: {error}") from error
    return HiddenStates(encoder.requires_grad_(False))


class SlmDiscriminator(nn.Module):
    """A few convolutions over all hidden states of a frozen speech model.

    Args:
        network: Maps audio [B, S] at 16 kHz to layers [B, D, T], like `HiddenStates`. A module gets frozen.
        dim: Channels of all layers together.
        sample_rate: Hz of the audio.
        channels: Of the hidden layers, after the projection to the first.
    """

    def __init__(
        self,
        network: Callable[[Float[Tensor, "batch samples"]], Layers],
        dim: int,
        sample_rate: int,
        channels: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.speech_model = FrozenNetwork(network, sample_rate)
        self.project = conv1d(dim, channels[0], 1)
        self.layers = nn.ModuleList()
        for before, after in zip(channels, channels[1:], strict=False):
            self.layers.append(conv1d(before, after, 5))
        self.post = conv1d(channels[-1], 1, 3)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[DiscriminatorOutput]:
        """Score audio that is long enough for the network; scores are [B, 1, T], features [B, D, T, 1]."""
        hidden = torch.cat(list(self.speech_model(audio)), dim=1)
        features = hidden_features(self.layers, self.project(hidden))
        scores = self.post(features[-1])
        # A trailing axis of one, so that relative feature matching takes its means as NeMo does.
        return [DiscriminatorOutput(scores, [feature[..., None] for feature in features])]


def conv1d(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """Make a weight-normed convolution over time, as many steps out as in."""
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2))
