"""Vocos (arXiv 2306.00814): mel frames through ConvNeXt blocks to magnitudes and phases, and an inverse STFT."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.models.tts.config import VocosConfig
from flexicodec.nn.convnext import ConvNeXtBlock
from flexicodec.nn.masking import valid_steps
from flexicodec.nn.onednn import Linear

MAX_MAGNITUDE = 100.0
KERNEL = 7  # of the first convolution


class InverseSTFT(nn.Module):
    """Log magnitudes and phases to audio, as long as the frames' hops together.

    Overlapping frames are divided by the sum of their squared windows, at both ends by what there is of it.

    Args:
        window: Samples of a frame.
        hop: Samples from one frame to the next.
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.size = window
        self.hop = hop

    def forward(
        self, x: Float[Tensor, "batch frames window+2"], valid: Bool[Tensor, "batch frames"] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Invert frames, each with its log magnitudes first, then its phases; padding gives zeros."""
        # Computed here, since a buffer would lose its precision with the weights'.
        window = torch.hann_window(self.size, device=x.device, dtype=torch.float32)
        magnitude, phase = x.float().chunk(2, dim=-1)
        magnitude = magnitude.exp().clamp(max=MAX_MAGNITUDE)
        frames = torch.fft.irfft(torch.polar(magnitude, phase)) * window
        squares = window.square().expand_as(frames)
        if valid is None:
            return self._overlap_add(frames) / self._overlap_add(squares[:1])
        padding = ~valid[..., None]
        total = self._overlap_add(frames.masked_fill(padding, 0))
        weight = self._overlap_add(squares.masked_fill(padding, 0))
        # Windows reach beyond the last hop.
        beyond = padding.expand(-1, -1, self.hop).flatten(1)
        return (total / weight).masked_fill(beyond, 0)

    def _overlap_add(self, frames: Float[Tensor, "batch frames window"]) -> Float[Tensor, "batch samples"]:
        samples = (frames.shape[1] - 1) * self.hop + self.size
        total = F.fold(frames.mT, (1, samples), (1, self.size), stride=(1, self.hop)).flatten(1)
        margin = (self.size - self.hop) // 2
        return total[:, margin : samples - margin]


class Vocos(nn.Module):
    """Mel frames [B, C, T] to audio [B, T * hop].

    Args:
        config: Sizes.
    """

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv1d(config.num_mels, config.dim, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        scale = 1 / config.num_layers
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.hidden_dim, layer_scale=scale) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = Linear(config.dim, config.window + 2)
        self.inverse = InverseSTFT(config.window, config.hop)

    def forward(
        self, mel: Float[Tensor, "batch mels frames"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Compute the audio of each item's valid frames, all for None; the rest is zero."""
        valid = valid_steps(lengths, mel.shape[-1])
        return self.inverse(self.head(self.backbone(mel, valid)), valid)

    def backbone(
        self, mel: Float[Tensor, "batch mels frames"], valid: Bool[Tensor, "batch frames"] | None = None
    ) -> Float[Tensor, "batch frames dim"]:
        """Compute what the last linear layer maps to magnitudes and phases."""
        if valid is not None:
            mel = mel.masked_fill(~valid[:, None], 0)
        x = self.norm(self.embed(mel.to(self.embed.weight.dtype)).mT)
        for block in self.blocks:
            assert isinstance(block, ConvNeXtBlock)
            if valid is not None:
                x = x.masked_fill(~valid[..., None], 0)
            # Zeros continue a clip at both ends.
            x = block.refine(F.pad(x, (0, 0, block.reach, block.reach)))
        return self.final_norm(x)
