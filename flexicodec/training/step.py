"""One training step, readable beside the paper (arXiv 2510.00981, section 3).

What the generator makes of a batch and how far off it was, and what the discriminators think of it.

Every loss is one value per item. `TrainingConfig.losses` weighs them, in `weighted_sum` and nowhere else.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.merging import cosine_similarities, merge
from flexicodec.models.flexicodec.rooms import Features, FlexiCodecRooms
from flexicodec.training.adversarial import Game, adversarial_loss, discriminator_loss, feature_matching_loss
from flexicodec.training.config import AdversarialConfig, LossWeights, TrainingConfig
from flexicodec.training.discriminators import Discriminators, Judgement
from flexicodec.training.draws import Draws, merge_items
from flexicodec.training.losses import MultiScaleMelLoss, feature_alignment_loss, mean_of_valid
from flexicodec.training.monitor import balance

Losses = dict[str, Float[Tensor, " batch"]]


@dataclass(frozen=True, eq=False)
class Generated:
    """What the generator made of a batch.

    Attributes:
        audio: Decoded, as long as what it was made from; zero past each item's length.
        reference: What it was made from, zero past the same lengths: the released geometry leaves out some of the end.
        losses: Named like the curves and the weights.
        semantic: Semantic codes.
        acoustic: Acoustic codes, 0 in codebooks that an item does not use.
        durations: Frames per token.
    """

    audio: Float[Tensor, "batch samples"]
    reference: Float[Tensor, "batch samples"]
    losses: Losses
    semantic: Int[Tensor, "batch tokens"]
    acoustic: Int[Tensor, "batch codebooks tokens"]
    durations: Int[Tensor, "batch tokens"]


class Generator(nn.Module):
    """The codec and what it learns from, in one module, so that data parallelism sees one forward pass.

    Args:
        codec: The model.
        config: Of the run.

    Raises:
        ValueError: Losses are asked for that compare features of different widths, or need a bottleneck that is not
            there.
    """

    def __init__(self, codec: FlexiCodecRooms, config: TrainingConfig):
        super().__init__()
        dim, semantic_dim = codec.config.acoustic.latent_dim, codec.semantic_encoder.dim
        if config.losses.alignment and dim != semantic_dim:
            raise ValueError(
                f"the alignment loss compares latents of width {dim} with features of width {semantic_dim}; set "
                f"model.acoustic.latent_dim to {semantic_dim}, or losses.alignment to 0"
            )
        self.codec = codec
        self.align = bool(config.losses.alignment)
        self.mel_loss = MultiScaleMelLoss(codec.sample_rate)
        self.repa = RepaHead(codec) if config.losses.repa else None

    def forward(self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], draws: Draws) -> Generated:
        """Encode at the rates drawn, decode, and compare."""
        codec = self.codec
        frames = codec.frame_counts(lengths)
        semantic = codec.listen(audio, lengths, frames)
        acoustic = codec.hear(audio, lengths, frames)
        features = Features(semantic, acoustic, cosine_similarities(semantic, frames), frames, lengths)

        durations = merge_items(draws.policies, features, codec.sample_rate, codec.max_duration)
        tokens = (durations > 0).sum(dim=1)
        meaning, sound = codec.quantize(features, durations, draws.num_codebooks, draws.keeps_semantic)
        latents = meaning.latents * draws.keeps_semantic[:, None, None] + sound.latents
        smoothed, _ = codec.smooth(latents, durations)
        decoded, decoded_lengths = codec.sound(smoothed, frames)

        lengths = torch.minimum(lengths, decoded_lengths)
        decoded, audio = (_fit(sound, lengths, audio.shape[1]) for sound in (decoded, audio))
        losses = {"mel": self.mel_loss(decoded, audio, lengths), **meaning.losses}
        if self.align:
            losses["alignment"] = feature_alignment_loss(meaning.latents, merge(semantic, durations), tokens)
        for name, loss in sound.losses.items():
            losses[name] = losses.get(name, 0.0) + loss
        if self.repa is not None:
            losses["repa"] = self.repa(smoothed, semantic, acoustic, frames, draws)
        return Generated(decoded, audio, losses, meaning.codes[:, 0], sound.codes, durations)


class RepaHead(nn.Module):
    """Representation alignment of the bottleneck's output, which a small MLP maps onto both encoders' features.

    The target is their sum, the semantic features alone where an item has no acoustic codes (specs/flexicodec.md,
    section 12); it is detached, upstream's is not.
    """

    def __init__(self, codec: FlexiCodecRooms):
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


def generator_losses(
    made: Generated,
    discriminators: Discriminators | None,
    game: AdversarialConfig | None,
) -> Losses:
    """Collect all the generator's losses; those of the adversary where there is one.

    The discriminators' own weights get no gradient from this.
    """
    if discriminators is None or game is None:
        return dict(made.losses)
    with frozen(discriminators):
        fake = discriminators(made.audio)
        with torch.no_grad():
            truth = discriminators(made.reference)
    return made.losses | {
        "adversarial": adversarial_loss(fake, game.loss),
        "feature_matching": feature_matching_loss(truth, fake),
    }


def weighted_sum(losses: Losses, weights: LossWeights) -> Float[Tensor, " batch"]:
    """Add the losses up, each by its weight; one of weight 0 is added too, so that what it hangs on has gradients."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum(dim=0)


class Judge(nn.Module):
    """The discriminators and their loss on a batch, in one forward pass for data parallelism."""

    def __init__(self, discriminators: Discriminators, kind: Game):
        super().__init__()
        self.discriminators, self.kind = discriminators, kind

    def forward(
        self, real: Float[Tensor, "batch samples"], fake: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, " batch"]]]:
        """Judge real and decoded audio.

        Returns:
            The discriminators' loss, and what the balance curves show.
        """
        judged = self.discriminators(torch.cat([real, fake.detach()]))
        truth = [_items(judgement, slice(None, len(real))) for judgement in judged]
        made = [_items(judgement, slice(len(real), None)) for judgement in judged]
        return discriminator_loss(truth, made, self.kind), balance(truth, made, self.kind)


class frozen:  # noqa: N801 - reads as a word in a `with`
    """Let a module's weights go without gradients for a while."""

    def __init__(self, module: nn.Module):
        self.learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.learnt:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.learnt:
            parameter.requires_grad_(True)


def _items(judgement: Judgement, items: slice) -> Judgement:
    return Judgement(judgement.scores[items], [features[items] for features in judgement.features])


def _fit(
    audio: Float[Tensor, "batch made"], lengths: Int[Tensor, " batch"], samples: int
) -> Float[Tensor, "batch samples"]:
    """Cut or pad to so many samples, silent past the lengths."""
    audio = nn.functional.pad(audio.float(), (0, max(0, samples - audio.shape[1])))[:, :samples]
    return audio.masked_fill(torch.arange(samples, device=audio.device) >= lengths[:, None], 0.0)
