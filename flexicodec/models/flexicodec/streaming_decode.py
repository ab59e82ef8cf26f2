"""Streaming decoder of FlexiCodec: ConvNeXt stack by tokens, then bottleneck transformer and conv decoder by frames."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.nn.convnext import ConvNeXtStack
from flexicodec.nn.streaming import SlidingWindow, StreamingModule, append
from flexicodec.tokens import Tokens

UnmergeState = tuple[tuple[Tensor | None, ...], Tensor | None]


class StreamingUnmerge:
    """Tokens to frames: refine the semantic latents, add the acoustic ones, and unmerge each sum.

    # channels of a token   | semantic | acoustic | duration |

    Args:
        refine: The ConvNeXt stack behind the semantic quantizer.
        unmerger: Maps tokens to frames, each token alone.
        semantic_dim: Width of the semantic latents.
        acoustic_dim: Width of the acoustic latents.
    """

    exact = True
    per_item = True

    def __init__(self, refine: ConvNeXtStack, unmerger: nn.Module, semantic_dim: int, acoustic_dim: int) -> None:
        self.refine = refine
        self.unmerger = unmerger
        self.semantic_dim = semantic_dim
        self.channels = semantic_dim + acoustic_dim + 1
        self.lookahead = refine.reach

    def initial_state(self) -> UnmergeState:
        """Return the state before the first token."""
        return self.refine.initial_state(), None

    def step(
        self, x: Float[Tensor, "1 channels new"], state: UnmergeState, last: bool
    ) -> tuple[Float[Tensor, "1 acoustic_dim frames"], UnmergeState]:
        """Unmerge the next tokens, any number."""
        blocks, pending = state
        semantic, blocks = self.refine.step(x[:, : self.semantic_dim], blocks, last)
        pending = append(pending, x[:, self.semantic_dim :])  # acoustic latents and durations
        ready = semantic.shape[-1]
        durations = pending[:, -1, :ready].round().long()
        frames = self.unmerger(semantic + pending[:, :-1, :ready], durations, int(durations.sum()))
        return frames, (blocks, pending[..., ready:].clone())


def stages(codec: FlexiCodecNetwork, settings: DecoderOptions) -> list[StreamingModule]:
    """Return a codec's decoding modules in order."""
    dim = codec.config.acoustic.latent_dim
    modules: list[StreamingModule] = [
        StreamingUnmerge(codec.semantic_decoder_stack, codec.unmerger, codec.config.semantic.dim, dim)
    ]
    bottleneck = codec.bottleneck
    if bottleneck is not None and bottleneck.config.window is not None:
        modules.append(bottleneck)
    elif bottleneck is not None:
        windows = settings.context_frames, settings.ahead_frames, settings.stride_frames
        modules.append(SlidingWindow(bottleneck, dim, *windows))
    return [*modules, codec.decoder]


def inputs(codec: FlexiCodecNetwork, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
    """Dequantize tokens to the first module's input."""
    assert tokens.semantic is not None
    lengths = tokens.token_lengths
    semantic = codec.semantic_quantizer.dequantize(tokens.semantic[:, None], lengths)
    acoustic = codec.acoustic_quantizer.dequantize(tokens.acoustic, lengths)
    return torch.cat([semantic, acoustic, tokens.durations[:, None].to(acoustic.dtype)], dim=1)
