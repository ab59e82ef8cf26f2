"""Which discriminators a run has, and how their game is scored.

Two traditions meet here: DAC's, which FlexiCodec follows (sums over discriminators, audio brought to one level), and
NeMo's, which LFSC and NanoCodec follow (means over discriminators, audio as it comes).
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class PeriodDiscriminatorConfig:
    """HiFi-GAN's multi-period discriminator (arXiv 2010.05646, in DAC's form).

    Attributes:
        periods: One discriminator each.
        channels: Of the convolutions.
        padding_mode: What convolutions see beyond the ends: "zeros" (DAC) or "reflect" (NeMo).
        match_scores: Feature matching compares scores too (NeMo).
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    match_scores: bool = False


@dataclass(frozen=True)
class BandDiscriminatorConfig:
    """DAC's multi-resolution complex STFT discriminator over frequency bands (arXiv 2306.06546).

    Attributes:
        windows: STFT windows in samples, one discriminator each; the hop is a quarter.
        channels: Of the convolutions; DAC has 32, upstream FlexiCodec 64.
        bands: Edges as shares of the spectrum, each band with convolutions of its own.
    """

    windows: tuple[int, ...] = (2048, 1024, 512)
    channels: int = 64
    bands: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@dataclass(frozen=True)
class SpectrogramDiscriminatorConfig:
    """NeMo's discriminators over complex spectrograms; the defaults are NanoCodec's, with bands (arXiv 2508.05835).

    With `windows: [128, 256, 512, 1024, 2048]`, `bands: [[0, 1]]` and `dilations: [1, 2, 4]` it is EnCodec's (arXiv
    2210.13438), which LFSC has.

    Attributes:
        windows: STFT windows in samples; the hop is a quarter.
        channels: Of the convolutions.
        bands: Edges as shares of the spectrum, each band of each window a discriminator of its own.
        dilations: In time, of the three convolutions that halve the bins.
    """

    windows: tuple[int, ...] = (512, 1024)
    channels: int = 32
    bands: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
    dilations: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class SlmDiscriminatorConfig:
    """A discriminator on what a frozen speech model hears (StyleTTS 2, arXiv 2306.07691), as in LFSC and NanoCodec.

    Attributes:
        source: Folder of the speech model in transformers' layout: WavLM base plus in both papers.
        channels: Of the head: its projection, then one convolution each.
    """

    source: str
    channels: tuple[int, ...] = (64, 128, 256, 256)


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminators and their game; the defaults are upstream FlexiCodec's.

    Attributes:
        period: Multi-period discriminator.
        band: Multi-resolution band discriminator.
        spectrogram: NeMo's spectrogram discriminators.
        slm: Discriminator on a frozen speech model.
        centre: Take an item's mean off and bring its peak to 0.8 before it is judged (DAC); NeMo judges what comes.
        average: Losses are means over discriminators, over the layers of each, and over the real and the decoded side
            (NeMo), and not sums (DAC).
        relative: Feature matching divides distances by the size of the real features.
        loss: "lsgan" (least squares) or "hinge".
        start_step: Step from which there is an adversary.
        every: The discriminators learn in every so-many-th step.
        learning_rate: Peak of the discriminators' rate; None takes the generator's.
        init_from: Weights of discriminators of these settings to start from: a training checkpoint, or the
            `discriminators.safetensors` of one; None starts them anew.
    """

    period: PeriodDiscriminatorConfig | None = field(default_factory=PeriodDiscriminatorConfig)
    band: BandDiscriminatorConfig | None = field(default_factory=BandDiscriminatorConfig)
    spectrogram: SpectrogramDiscriminatorConfig | None = None
    slm: SlmDiscriminatorConfig | None = None
    centre: bool = True
    average: bool = False
    relative: bool = False
    loss: Literal["lsgan", "hinge"] = "lsgan"
    start_step: int = 0
    every: int = 1
    learning_rate: float | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.start_step < 0:
            raise ValueError(
                f"every is {self.every} and start_step {self.start_step}, expected 1 or more and 0 or more"
            )
