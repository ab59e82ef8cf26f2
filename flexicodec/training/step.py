"""One training step, readable beside the papers: what the generator makes of a batch, and what that costs it.

`generators` has the way through each family of codecs; here is what they share, and what the discriminators think of
the result.

Every loss is one value per item. `TrainingConfig.losses` weighs them, in `weighted_sum` and nowhere else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.models.codec import Codec
from flexicodec.training.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
from flexicodec.training.audio_losses import AudioLosses
from flexicodec.training.config import LossWeights, TrainingConfig
from flexicodec.training.discriminators import Discriminators, Judgement
from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.draws import Draws
from flexicodec.training.monitor import balance

Losses = dict[str, Float[Tensor, " batch"]]


@dataclass(frozen=True, eq=False)
class Generated:
    """What the generator made of a batch.

    Attributes:
        audio: Decoded, as long as what it was made from; zero past each item's length.
        reference: What it was made from, zero past the same lengths: the released geometry leaves out some of the end.
        losses: Named like the curves and the weights.
        semantic: Semantic codes; None where the codec has none.
        acoustic: Acoustic codes, 0 in codebooks that an item does not use.
        durations: Frames per token.
    """

    audio: Float[Tensor, "batch samples"]
    reference: Float[Tensor, "batch samples"]
    losses: Losses
    semantic: Int[Tensor, "batch tokens"] | None
    acoustic: Int[Tensor, "batch codebooks tokens"]
    durations: Int[Tensor, "batch tokens"]


class Generator(nn.Module, ABC):
    """A codec and what it learns from, in one module, so that data parallelism sees one forward pass.

    One subclass a family of codecs; nothing else in training asks which family it has before it.

    Attributes:
        codec: The model.
        heads: What is trained beside it and not exported, by the names that checkpoints give them.
        codebook_sizes: Rows of the semantic codebook, None where there is none, and of each acoustic one.
    """

    codec: Codec
    codebook_sizes: tuple[int | None, int]

    def __init__(self, codec: Codec, config: TrainingConfig) -> None:
        super().__init__()
        self.codec = codec
        self.heads = nn.ModuleDict()
        self.audio_losses = AudioLosses(config.losses, config.reconstruction, codec.sample_rate)

    @abstractmethod
    def forward(self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], draws: Draws) -> Generated:
        """Encode as drawn, decode, and compare."""

    def compare(
        self,
        decoded: Float[Tensor, "batch made"],
        audio: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"], Losses]:
        """Cut decoded and original audio to the same lengths; also measures how far apart they are."""
        decoded, audio = (_fit(sound, lengths, audio.shape[1]) for sound in (decoded, audio))
        return decoded, audio, self.audio_losses(decoded, audio, lengths)


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
        "adversarial": adversarial_loss(fake, game.loss, average=game.average),
        "feature_matching": feature_matching_loss(truth, fake, relative=game.relative, average=game.average),
    }


def weighted_sum(losses: Losses, weights: LossWeights) -> Float[Tensor, " batch"]:
    """Add the losses up, each by its weight; one of weight 0 is added too, so that what it hangs on has gradients."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum(dim=0)


class Judge(nn.Module):
    """The discriminators and their loss on a batch, in one forward pass for data parallelism."""

    def __init__(self, discriminators: Discriminators, game: AdversarialConfig):
        super().__init__()
        self.discriminators, self.game = discriminators, game

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
        loss = discriminator_loss(truth, made, self.game.loss, average=self.game.average)
        return loss, balance(truth, made, self.game.loss)


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
