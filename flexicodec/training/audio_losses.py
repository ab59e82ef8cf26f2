"""What decoded and original audio are compared by: the losses that a run weighs, and no others."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.training.config import LossWeights, ReconstructionConfig
from flexicodec.training.losses import MultiScaleMelLoss
from flexicodec.training.reconstruction import (
    LogMelLoss,
    LogStftLoss,
    SpeakerConsistencyLoss,
    si_sdr_loss,
    waveform_loss,
)
from flexicodec.training.speaker import load_speaker_encoder

Comparison = Callable[
    [Float[Tensor, "batch samples"], Float[Tensor, "batch samples"], Int[Tensor, " batch"]], Float[Tensor, " batch"]
]
NAMES = ("mel", "log_mel", "log_mel_squared", "stft", "waveform", "waveform_squared", "si_sdr", "speaker")


class AudioLosses(nn.Module):
    """The comparisons of audio that have a weight; where none has, `mel` all the same, for gradients to hang on.

    Args:
        weights: Of the losses.
        config: How audio is compared.
        sample_rate: Hz.

    Raises:
        ValueError: A speaker encoder is asked for and not there.
    """

    def __init__(self, weights: LossWeights, config: ReconstructionConfig, sample_rate: int) -> None:
        super().__init__()
        names = [name for name in NAMES if getattr(weights, name)] or ["mel"]
        self.comparisons = {name: _comparison(name, config, sample_rate) for name in names}
        self.parts = nn.ModuleList(each for each in self.comparisons.values() if isinstance(each, nn.Module))

    def forward(
        self,
        estimate: Float[Tensor, "batch samples"],
        reference: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Compare item by item, by the names of the weights."""
        return {name: compare(estimate, reference, lengths) for name, compare in self.comparisons.items()}


def _comparison(name: str, config: ReconstructionConfig, sample_rate: int) -> Comparison:
    windows, mels, compatible = config.windows, config.num_mels, config.compatible
    if name == "mel":
        return MultiScaleMelLoss(sample_rate, windows, mels)
    if name in ("log_mel", "log_mel_squared"):
        return LogMelLoss(sample_rate, windows, mels, squared=name == "log_mel_squared", compatible=compatible)
    if name == "stft":
        return LogStftLoss(windows, compatible)
    if name in ("waveform", "waveform_squared"):
        return partial(waveform_loss, squared=name == "waveform_squared", compatible=compatible)
    if name == "si_sdr":
        return si_sdr_loss
    assert name == "speaker"
    if config.speaker_encoder is None:
        raise ValueError(
            "losses.speaker compares speaker embeddings, but reconstruction.speaker_encoder is null; name a local copy "
            "of Edresson/Speaker_Encoder_H_ASP there, or set losses.speaker to 0"
        )
    return SpeakerConsistencyLoss(load_speaker_encoder(config.speaker_encoder), sample_rate)
