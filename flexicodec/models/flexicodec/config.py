"""Config of FlexiCodec: frozen encoder, acoustic encoder and decoder, merging, quantizers, bottleneck.

The defaults are the released `12hz_v1` checkpoint's values. A part that is None is absent: `merging=None` is the
fixed-rate model of the first training stage. `geometry` says how frames cover a clip: "whole" by
ceil(samples / 1280), "released" as upstream counts them.
"""

from dataclasses import dataclass, field
from math import prod
from typing import ClassVar, Literal, get_args

from flexicodec.encoders.base import EncoderConfig, SanmConfig
from flexicodec.merging.positions import PositionConfig
from flexicodec.merging.registry import make_policy
from flexicodec.nn.dac import DACDecoder, DACEncoder
from flexicodec.nn.spectral import SAMPLE_RATE, SpectralConfig
from flexicodec.nn.transformer import TransformerConfig
from flexicodec.quantize import FSQConfig, ResidualFSQConfig, RVQConfig, VQConfig

Geometry = Literal["released", "whole"]


@dataclass(frozen=True)
class AcousticConfig:
    """Convolutional encoder and decoder on the waveform, those of DAC.

    Attributes:
        strides: Downsampling of the encoder, block by block; the decoder's are these reversed.
        width: Channels of the encoder's first block, doubled by every block.
        latent_dim: Channels of acoustic features and of everything the decoder sees.
        decoder_width: Channels of the decoder's first block, halved by every block.
    """

    strides: tuple[int, ...] = (4, 4, 5, 8, 2)
    width: int = 32
    latent_dim: int = 512
    decoder_width: int = 1536
    output_sample_rate: ClassVar[None] = None  # the decoder's strides are the encoder's

    @property
    def frame_size(self) -> int:
        """Samples per frame: the product of the strides."""
        return prod(self.strides)

    def build_encoder(self, sample_rate: int) -> DACEncoder:
        """Make an encoder with random weights; it does not depend on the sample rate."""
        return DACEncoder(self.strides, self.width, self.latent_dim)

    def build_decoder(self, exact_length: bool = True) -> DACDecoder:
        """Make a decoder with random weights; `exact_length` False: as in the released geometry."""
        return DACDecoder(self.strides[::-1], self.decoder_width, self.latent_dim, exact_length)


@dataclass(frozen=True)
class MergingConfig:
    """How neighbouring frames become tokens.

    Attributes:
        threshold: Used when a call asks for nothing else: frames more similar than this are merged.
        threshold_range: Thresholds the model was trained with.
        max_duration: Most frames a token may hold.
        semantic_aggregator: What merges semantic features: a transformer, or `PositionConfig`, which unmerges as well;
            None takes their mean.
        acoustic_aggregator: The same for acoustic features.
        policy: How a `frame_rate` is met where a call names no policy (`merging.registry`): a name, with settings
            behind a colon.
    """

    threshold: float = 0.91
    threshold_range: tuple[float, float] = (0.8, 1.0)
    max_duration: int | None = 8
    semantic_aggregator: TransformerConfig | PositionConfig | None = field(
        default_factory=lambda: TransformerConfig(num_layers=6)
    )
    acoustic_aggregator: TransformerConfig | PositionConfig | None = field(
        default_factory=lambda: TransformerConfig(num_layers=6)
    )
    policy: str = "rate"

    def __post_init__(self) -> None:
        make_policy(self.policy, frame_rate=1.0)  # refuses what cannot meet a frame rate


@dataclass(frozen=True)
class SemanticConfig:
    """The semantic stream: ConvNeXt blocks around one quantiser.

    Attributes:
        quantizer: FSQ in the paper, plain VQ for its ablation.
        dim: Width of the ConvNeXt blocks.
        hidden_dim: Inner width of the ConvNeXt blocks.
        num_layers: Blocks before, and again after, the quantiser.
    """

    quantizer: FSQConfig | VQConfig = field(default_factory=FSQConfig)
    dim: int = 768
    hidden_dim: int = 2048
    num_layers: int = 4


@dataclass(frozen=True)
class FlexiCodecConfig:
    """A whole model.

    Attributes:
        geometry: "released" counts frames as upstream does: a clip-dependent resize of the semantic features, up to
            86 ms of tail not covered, 1280 T - 16 samples decoded. "whole" covers every sample: T = ceil(S / 1280), a
            fixed resize (4/3 for SAN-M, 10/3 for Moonshine, the mean of 4 frames at 50 Hz), 1280 T samples decoded.
        semantic_encoder: The frozen encoder, whose weights come with the model: SAN-M or Moonshine, taught by
            transcripts, or one that learnt from speech alone (the latter two with geometry "whole" only).
        acoustic: Acoustic encoder and decoder: convolutions on the waveform, or on spectra (geometry "whole" only).
        merging: None for a fixed-rate model.
        semantic: The semantic stream.
        acoustic_quantizer: The acoustic residual: RVQ in the paper.
        bottleneck: Transformer that smooths unmerged frames before the decoder; None for none.
    """

    geometry: Geometry = "released"
    semantic_encoder: EncoderConfig = field(default_factory=SanmConfig)
    acoustic: AcousticConfig | SpectralConfig = field(default_factory=AcousticConfig)
    merging: MergingConfig | None = field(default_factory=MergingConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    acoustic_quantizer: RVQConfig | ResidualFSQConfig = field(default_factory=RVQConfig)
    bottleneck: TransformerConfig | None = field(default_factory=lambda: TransformerConfig(num_layers=32))

    def __post_init__(self) -> None:
        if self.geometry not in get_args(Geometry):
            raise ValueError(f"geometry is {self.geometry!r}, expected one of {', '.join(get_args(Geometry))}")
        if self.geometry == "released" and not isinstance(self.semantic_encoder, SanmConfig):
            kind = type(self.semantic_encoder).__name__
            raise ValueError(
                f"geometry 'released' counts the frames of SAN-M and cannot go with a {kind} for semantic_encoder; "
                "choose geometry 'whole'"
            )
        if self.geometry == "released" and isinstance(self.acoustic, SpectralConfig):
            raise ValueError(
                "geometry 'released' decodes 1280 T - 16 samples as DAC's convolutions do and cannot go with a "
                "SpectralConfig for acoustic; choose geometry 'whole'"
            )

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return self.acoustic.frame_size

    @property
    def output_sample_rate(self) -> int:
        """Hz of decoded audio."""
        return self.acoustic.output_sample_rate or SAMPLE_RATE
