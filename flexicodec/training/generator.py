"""The generator of the GAN: a codec with its losses, from audio to decoded audio in one forward pass.

`FlexiCodecGenerator` follows the figure of arXiv 2510.00981, section 3; `NanoCodecGenerator` is encoder, quantiser and
decoder (arXiv 2508.05835, LFSC: 2409.12117). Every loss is one value per item; `TrainingConfig.losses` has the weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.merging import cosine_similarities, merge
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.training.config import TrainingConfig
from flexicodec.training.losses import AudioLosses, feature_alignment_loss, mean_of_valid, zero_padding
from flexicodec.training.rate_sampling import SampledRates, merge_items


@dataclass(frozen=True, eq=False)
class Generated:
    """Output of the generator for a batch."""

    audio: Float[Tensor, "batch samples"]  # decoded, zero past each item's length
    reference: Float[Tensor, "batch samples"]  # original, zero past the same lengths (the released geometry drops some)
    losses: dict[str, Float[Tensor, " batch"]]  # by the names of their weights and log keys
    semantic: Int[Tensor, "batch tokens"] | None  # codes; None where the codec has none
    acoustic: Int[Tensor, "batch codebooks tokens"]  # codes, 0 in codebooks that an item does not use
    durations: Int[Tensor, "batch tokens"]  # frames


class Generator(nn.Module, ABC):
    """A codec and its losses as one module, so that data parallelism has one forward pass; a subclass per family."""

    codec: Codec
    codebook_sizes: tuple[int | None, int]  # rows of the semantic codebook, if there is one, and of each acoustic one

    def __init__(self, codec: Codec, config: TrainingConfig) -> None:
        super().__init__()
        self.codec = codec
        self.heads = nn.ModuleDict()  # trained beside the codec and not exported, by their names in checkpoints
        self.audio_losses = AudioLosses(config.losses, config.reconstruction, codec.output_sample_rate)

    @abstractmethod
    def forward(
        self,
        audio: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        rates: SampledRates,
        features: Float[Tensor, "batch semantic_dim frames"] | None = None,
        inputs: Float[Tensor, "batch input_samples"] | None = None,
        input_lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        """Encode at the sampled rates, decode, and compute the losses.

        Args:
            audio: At the codec's output rate.
            lengths: Valid samples.
            rates: Of the items.
            features: Cached ones of the frozen encoder.
            inputs: The audio at the rate that the encoders take; None: `audio`.
            input_lengths: Valid samples of these.
        """

    def compare(
        self,
        decoded: Float[Tensor, "batch decoded"],
        audio: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"], dict[str, Float[Tensor, " batch"]]]:
        """Cut decoded and original audio to the same lengths, and compute the losses between them."""
        missing = max(0, audio.shape[1] - decoded.shape[1])
        decoded = F.pad(decoded.float(), (0, missing))[:, : audio.shape[1]]
        decoded = zero_padding(decoded, lengths)
        audio = zero_padding(audio.float(), lengths)
        return decoded, audio, self.audio_losses(decoded, audio, lengths)


class FlexiCodecGenerator(Generator):
    """A FlexiCodec: every item is merged by its own policy and decoded from its own number of codebooks."""

    codec: FlexiCodecNetwork

    def __init__(self, codec: FlexiCodecNetwork, config: TrainingConfig):
        super().__init__(codec, config)
        dim = codec.config.acoustic.latent_dim
        semantic_dim = codec.semantic_encoder.dim
        self.codebook_sizes = codec.semantic_quantizer.codebook_size, codec.acoustic_quantizer.codebook_size
        self.align = bool(config.losses.alignment)
        self.residual = bool(config.losses.residual)
        if self.align and dim != semantic_dim:  # latents are compared with features through a linear map
            self.heads["alignment"] = nn.Linear(dim, semantic_dim)
        if config.losses.repa:
            self.heads["repa"] = RepaHead(codec)

    def forward(
        self,
        audio: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        rates: SampledRates,
        features: Float[Tensor, "batch semantic_dim frames"] | None = None,
        inputs: Float[Tensor, "batch input_samples"] | None = None,
        input_lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        """See `Generator.forward`; cached features save the frozen encoder."""
        codec = self.codec
        # Encode: both encoders on the frame grid.
        if inputs is None or input_lengths is None:
            inputs, input_lengths = audio, lengths
        frames = codec.frame_counts(input_lengths)
        semantic = codec.encode_semantic(inputs, input_lengths, frames) if features is None else features
        acoustic = codec.encode_acoustic(inputs, input_lengths, frames)
        encoded = Features(semantic, acoustic, cosine_similarities(semantic, frames), frames, input_lengths)

        # Merge and quantise. An item may be decoded without its semantic latents (semantic dropout).
        durations = merge_items(rates.policies, encoded, codec.sample_rate, codec.max_duration)
        semantic_codes, acoustic_codes = codec.quantize(encoded, durations, rates.num_codebooks, rates.keeps_semantic)
        assert acoustic_codes.inputs is not None
        as_is = rates.unquantized[:, None, None]
        coded = torch.where(as_is, acoustic_codes.inputs, acoustic_codes.latents)
        latents = semantic_codes.latents * rates.keeps_semantic[:, None, None] + coded

        # Unmerge, smooth, decode.
        smoothed, _ = codec.smooth(latents, durations)
        decoded, decoded_lengths = codec.decode_frames(smoothed, frames)

        decoded, audio, losses = self.compare(decoded, audio, torch.minimum(lengths, decoded_lengths))
        losses |= semantic_codes.losses
        tokens = (durations > 0).sum(dim=1)
        if self.align:
            aligned = semantic_codes.latents
            if "alignment" in self.heads:
                aligned = self.heads["alignment"](aligned.mT).mT.float()
            losses["alignment"] = feature_alignment_loss(aligned, merge(semantic, durations), tokens)
        if self.residual:
            merged = acoustic_codes.inputs + semantic_codes.latents * rates.keeps_semantic[:, None, None]
            losses["residual"] = feature_alignment_loss(semantic_codes.latents, merged, tokens)
        for name, loss in acoustic_codes.losses.items():  # both quantisers may have a commitment loss
            losses[name] = losses.get(name, 0.0) + loss * ~rates.unquantized
        if "repa" in self.heads:
            losses["repa"] = self.heads["repa"](smoothed, semantic, acoustic, frames, rates)
        return Generated(decoded, audio, losses, semantic_codes.codes[:, 0], acoustic_codes.codes, durations)


class NanoCodecGenerator(Generator):
    """A NanoCodec: every frame is a token with all codes, so the sampled rates are not used."""

    codec: NanoCodec

    def __init__(self, codec: NanoCodec, config: TrainingConfig):
        super().__init__(codec, config)
        if config.losses.repa:
            raise ValueError("losses.repa aligns the bottleneck of a FlexiCodec, which this model lacks; set it to 0")
        self.codebook_sizes = None, codec.quantizer.codebook_size

    def forward(
        self,
        audio: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        rates: SampledRates,
        features: Float[Tensor, "batch semantic_dim frames"] | None = None,
        inputs: Float[Tensor, "batch input_samples"] | None = None,
        input_lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        """See `Generator.forward`; a NanoCodec has one rate, and no `inputs`."""
        assert inputs is None
        codec = self.codec
        frames = -(-lengths // codec.frame_size)
        quantized = codec.quantizer(codec.encode_latents(audio, lengths), frames)
        decoded = codec.decode_latents(quantized.latents, frames)
        decoded, audio, losses = self.compare(decoded, audio, lengths)
        codes = quantized.codes
        durations = (torch.arange(codes.shape[-1], device=frames.device) < frames[:, None]).long()
        return Generated(decoded, audio, losses | quantized.losses, None, codes, durations)


class RepaHead(nn.Module):
    """Representation alignment: a small MLP maps the bottleneck's output onto both encoders' features.

    The target is their sum, or the semantic features alone where an item has no acoustic codes (specs/flexicodec.md,
    section 12). It is detached; upstream's is not.
    """

    def __init__(self, codec: FlexiCodecNetwork):
        super().__init__()
        dim = codec.config.acoustic.latent_dim
        semantic_dim = codec.semantic_encoder.dim
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
        rates: SampledRates,
    ) -> Float[Tensor, " batch"]:
        """Mean squared distance over valid frames."""
        acoustic = acoustic * (rates.num_codebooks > 0)[:, None, None]
        target = (semantic + acoustic).detach()
        predicted = self.mlp(smoothed.transpose(1, 2)).transpose(1, 2)
        return mean_of_valid((predicted - target).square().mean(dim=1), lengths)


def make_generator(codec: Codec, config: TrainingConfig) -> Generator:
    """Make the generator of a codec's family; losses that the model cannot have are refused."""
    if isinstance(codec, NanoCodec):
        return NanoCodecGenerator(codec, config)
    assert isinstance(codec, FlexiCodecNetwork)
    return FlexiCodecGenerator(codec, config)
