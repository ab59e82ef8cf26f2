"""How a FlexiCodec streams: the semantic stream is refined token by token, then frames are smoothed and decoded."""

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.merging import unmerge
from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.nn.convnext import ConvNeXtStack
from flexicodec.nn.stages import ConvStage, Stage, TransformerStage, WindowStage
from flexicodec.tokens import Tokens

UnmergeState = tuple[tuple[Tensor | None, ...], Tensor | None]


class UnmergeStage:
    """Tokens in, frames out: refine their meaning, add their sound, and repeat each for its duration.

    # channels of a token   | meaning | sound | duration |

    Args:
        refine: The ConvNeXt stack behind the semantic quantiser.
        meaning_dim: Width of the semantic latents.
        sound_dim: Width of the acoustic ones.
    """

    exact, per_item = True, True

    def __init__(self, refine: ConvNeXtStack, meaning_dim: int, sound_dim: int) -> None:
        self.refine, self.meaning_dim = refine, meaning_dim
        self.channels = meaning_dim + sound_dim + 1
        self.lookahead = refine.reach

    def initial_state(self) -> UnmergeState:
        """See `Stage`."""
        return self.refine.initial_state(), None

    def step(
        self, x: Float[Tensor, "1 channels new"], state: UnmergeState, last: bool
    ) -> tuple[Float[Tensor, "1 sound_dim frames"], UnmergeState]:
        """See `Stage`."""
        blocks, queue = state
        meaning, blocks = self.refine.step(x[:, : self.meaning_dim], blocks, last)
        rest = x[:, self.meaning_dim :]
        rest = rest if queue is None else torch.cat([queue, rest], dim=-1)
        ready = meaning.shape[-1]
        durations = rest[:, -1, :ready].round().long()
        frames = unmerge(meaning + rest[:, :-1, :ready], durations, int(durations.sum()))
        return frames, (blocks, rest[..., ready:].clone())


def stages(codec: FlexiCodecNetwork, settings: DecoderOptions) -> list[Stage]:
    """Put a codec's stages in a row."""
    dim, bottleneck = codec.config.acoustic.latent_dim, codec.bottleneck
    row: list[Stage] = [UnmergeStage(codec.semantic_decoder_stack, codec.config.semantic.dim, dim)]
    if bottleneck is not None and bottleneck.config.window is not None:
        row.append(TransformerStage(bottleneck, dim))
    elif bottleneck is not None:
        windows = settings.context_frames, settings.ahead_frames, settings.stride_frames
        row.append(WindowStage(bottleneck, dim, *windows))
    return [*row, ConvStage(codec.decoder)]


def inputs(codec: FlexiCodecNetwork, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
    """Look up what the first stage takes."""
    assert tokens.semantic is not None
    lengths = tokens.token_lengths
    meaning = codec.semantic_quantizer.dequantize(tokens.semantic[:, None], lengths)
    sound = codec.acoustic_quantizer.dequantize(tokens.acoustic, lengths)
    return torch.cat([meaning, sound, tokens.durations[:, None].to(sound.dtype)], dim=1)
