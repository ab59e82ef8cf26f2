"""From audio to decoded audio and losses, one way for each family of codecs.

A FlexiCodec walks through the rooms of arXiv 2510.00981, section 3; a NanoCodec (arXiv 2508.05835, LFSC: 2409.12117)
through encoder, quantiser and decoder.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.merging import cosine_similarities, merge
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.training.config import TrainingConfig
from flexicodec.training.draws import Draws, merge_items
from flexicodec.training.losses import feature_alignment_loss, mean_of_valid
from flexicodec.training.step import Generated, Generator


def make_generator(codec: Codec, config: TrainingConfig) -> Generator:
    """Make the generator of a codec's family.

    Raises:
        ValueError: Losses are asked for that this model cannot have.
    """
    if isinstance(codec, NanoCodec):
        return NanoCodecGenerator(codec, config)
    assert isinstance(codec, FlexiCodecNetwork)
    return FlexiCodecGenerator(codec, config)


class FlexiCodecGenerator(Generator):
    """Merges each item as drawn, and decodes it from as many codes as drawn.

    Raises:
        ValueError: Losses are asked for that compare features of different widths, or need a bottleneck that is not
            there.
    """

    codec: FlexiCodecNetwork

    def __init__(self, codec: FlexiCodecNetwork, config: TrainingConfig):
        super().__init__(codec, config)
        dim, semantic_dim = codec.config.acoustic.latent_dim, codec.semantic_encoder.dim
        if config.losses.alignment and dim != semantic_dim:
            raise ValueError(
                f"the alignment loss compares latents of width {dim} with features of width {semantic_dim}; set "
                f"model.acoustic.latent_dim to {semantic_dim}, or losses.alignment to 0"
            )
        self.codebook_sizes = codec.semantic_quantizer.codebook_size, codec.acoustic_quantizer.codebook_size
        self.align = bool(config.losses.alignment)
        if config.losses.repa:
            self.heads["repa"] = RepaHead(codec)

    def forward(self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], draws: Draws) -> Generated:
        """Encode at the rates drawn, decode, and compare."""
        codec = self.codec
        frames = codec.frame_counts(lengths)
        semantic = codec.encode_semantic(audio, lengths, frames)
        acoustic = codec.encode_acoustic(audio, lengths, frames)
        features = Features(semantic, acoustic, cosine_similarities(semantic, frames), frames, lengths)

        durations = merge_items(draws.policies, features, codec.sample_rate, codec.max_duration)
        tokens = (durations > 0).sum(dim=1)
        meaning, sound = codec.quantize(features, durations, draws.num_codebooks, draws.keeps_semantic)
        latents = meaning.latents * draws.keeps_semantic[:, None, None] + sound.latents
        smoothed, _ = codec.smooth(latents, durations)
        decoded, decoded_lengths = codec.decode_frames(smoothed, frames)

        decoded, audio, losses = self.compare(decoded, audio, torch.minimum(lengths, decoded_lengths))
        losses |= meaning.losses
        if self.align:
            losses["alignment"] = feature_alignment_loss(meaning.latents, merge(semantic, durations), tokens)
        for name, loss in sound.losses.items():
            losses[name] = losses.get(name, 0.0) + loss
        if "repa" in self.heads:
            losses["repa"] = self.heads["repa"](smoothed, semantic, acoustic, frames, draws)
        return Generated(decoded, audio, losses, meaning.codes[:, 0], sound.codes, durations)


class NanoCodecGenerator(Generator):
    """Codes every frame with all groups: nothing is merged or dropped, so nothing of the draws is used.

    Raises:
        ValueError: A loss is asked for that needs parts of a FlexiCodec.
    """

    codec: NanoCodec

    def __init__(self, codec: NanoCodec, config: TrainingConfig):
        super().__init__(codec, config)
        if config.losses.repa:
            raise ValueError("losses.repa aligns the bottleneck of a FlexiCodec, which this model lacks; set it to 0")
        self.codebook_sizes = None, codec.quantizer.codebook_size

    def forward(self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], draws: Draws) -> Generated:
        """Encode, decode, and compare."""
        codec = self.codec
        frames = -(-lengths // codec.frame_size)
        coded = codec.quantizer(codec.encode_latents(audio, lengths), frames)
        decoded = codec.decode_latents(coded.latents, frames)
        decoded, audio, losses = self.compare(decoded, audio, lengths)
        durations = (torch.arange(coded.codes.shape[-1], device=frames.device) < frames[:, None]).long()
        return Generated(decoded, audio, losses | coded.losses, None, coded.codes, durations)


class RepaHead(nn.Module):
    """Representation alignment of the bottleneck's output, which a small MLP maps onto both encoders' features.

    The target is their sum, the semantic features alone where an item has no acoustic codes (specs/flexicodec.md,
    section 12); it is detached, upstream's is not.
    """

    def __init__(self, codec: FlexiCodecNetwork):
        super().__init__()
        dim, semantic_dim = codec.config.acoustic.latent_dim, codec.semantic_encoder.dim
        if dim != semantic_dim or codec.bottleneck is None:
            raise ValueError(
                f"repa aligns a bottleneck's output with the sum of both encoders' features; this model's are {dim} "
                f"and {semantic_dim} wide, with{'out' if codec.bottleneck is None else ''} a bottleneck: set "
                "losses.repa to 0"
            )
        self.mlp = nn.Sequential(nn.Linear(dim, 3 * dim), nn.GELU(), nn.Linear(3 * dim, dim))

    def forward(
        self,
        smoothed: Float[Tensor, "batch dim frames"],
        semantic: Float[Tensor, "batch dim frames"],
        acoustic: Float[Tensor, "batch dim frames"],
        lengths: Int[Tensor, " batch"],
        draws: Draws,
    ) -> Float[Tensor, " batch"]:
        """Mean squared distance over valid frames."""
        heard = acoustic * (draws.num_codebooks > 0)[:, None, None]
        predicted = self.mlp(smoothed.transpose(1, 2)).transpose(1, 2)
        return mean_of_valid((predicted - (semantic + heard).detach()).square().mean(dim=1), lengths)
