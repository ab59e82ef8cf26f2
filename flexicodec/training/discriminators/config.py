"""Configs of the discriminators and of the adversarial losses.

Two conventions are covered: DAC's, which FlexiCodec follows (sums over discriminators, audio normalised to one level),
and NeMo's, which LFSC and NanoCodec follow (means over discriminators, audio unchanged).
"""

from dataclasses import dataclass, field
from typing import Literal

Bands = tuple[tuple[float, float], ...]
PaddingMode = Literal["zeros", "reflect"]
DAC_BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@dataclass(frozen=True)
class PeriodDiscriminatorConfig:
    """HiFi-GAN's multi-period discriminator (arXiv 2010.05646, in DAC's form)."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples; one discriminator each
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    padding_mode: PaddingMode = "zeros"  # of the convolutions: "zeros" (DAC) or "reflect" (NeMo)
    match_scores: bool = False  # include the scores in feature matching (NeMo)


@dataclass(frozen=True)
class BandDiscriminatorConfig:
    """DAC's multi-resolution complex STFT discriminator over frequency bands (arXiv 2306.06546)."""

    windows: tuple[int, ...] = (2048, 1024, 512)  # samples; one discriminator each, the hop is a quarter
    channels: int = 64  # 32 in DAC, 64 in upstream FlexiCodec
    bands: Bands = DAC_BANDS  # edges as fractions of the spectrum; each band has its own convolutions


@dataclass(frozen=True)
class SpectrogramDiscriminatorConfig:
    """NeMo's complex STFT discriminators; the defaults are NanoCodec's multi-band one (arXiv 2508.05835).

    With `windows: [128, 256, 512, 1024, 2048]`, `bands: [[0, 1]]` and `dilations: [1, 2, 4]` it is EnCodec's (arXiv
    2210.13438), which LFSC uses.
    """

    windows: tuple[int, ...] = (512, 1024)  # samples; the hop is a quarter
    channels: int = 32
    bands: Bands = DAC_BANDS  # each band of each window is a discriminator of its own
    dilations: tuple[int, int, int] = (1, 1, 1)  # in time, of the three convolutions that halve the bins


@dataclass(frozen=True)
class SlmDiscriminatorConfig:
    """Discriminator on the hidden states of a frozen speech model (StyleTTS 2, arXiv 2306.07691)."""

    source: str  # folder in transformers' layout; WavLM base plus in LFSC and NanoCodec
    channels: tuple[int, ...] = (64, 128, 256, 256)  # of the head: its projection, then one convolution each


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminators and their losses; the defaults are upstream FlexiCodec's."""

    period: PeriodDiscriminatorConfig | None = field(default_factory=PeriodDiscriminatorConfig)
    band: BandDiscriminatorConfig | None = field(default_factory=BandDiscriminatorConfig)
    spectrogram: SpectrogramDiscriminatorConfig | None = None
    slm: SlmDiscriminatorConfig | None = None
    centre: bool = True  # subtract each item's mean and scale its peak to 0.8 first (DAC)
    average: bool = False  # means over discriminators, layers and real and decoded side (NeMo), not sums (DAC)
    relative: bool = False  # feature matching divides distances by the mean magnitude of the real features
    loss: Literal["lsgan", "hinge"] = "lsgan"
    start_step: int = 0  # first step with adversarial losses
    every: int = 1  # the discriminators are trained in every n-th step
    learning_rate: float | None = None  # peak, of the discriminators; None for the generator's
    init_from: str | None = None  # checkpoint folder or discriminators.safetensors; None for new weights

    def __post_init__(self) -> None:
        if self.every < 1 or self.start_step < 0:
            raise ValueError(
                f"every is {self.every} and start_step {self.start_step}, expected 1 or more and 0 or more"
            )
