"""What an LFSC or a NanoCodec is made of; the defaults are NanoCodec at 1.78 kbps and 12.5 Hz.

`PUBLISHED` holds every config of the papers by name (configs/nanocodec has the same as YAML), and `published` says why
one of them is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

from flexicodec.nn.conv import PaddingMode
from flexicodec.quantize import GroupedFSQConfig

Activation = Literal["lrelu", "snake", "half_snake"]
OutputActivation = Literal["tanh", "clamp"]


@dataclass(frozen=True)
class EncoderConfig:
    """Audio to latents: HiFi-GAN's generator turned round.

    Attributes:
        strides: Downsampling, stage by stage.
        width: Channels of the first stage, doubled by every stage.
        causal: See nothing of later frames.
        padding_mode: What lies beyond the ends of a clip; zeros where causal.
        activation: "lrelu" (slope 0.01), "snake", or "half_snake", which is Snake on half of the channels.
        kernel_sizes: Of the chains of residual units that every stage averages.
        dilations: Of the residual units of a chain.
        in_kernel_size: Of the first convolution.
        out_kernel_size: Of the last.
    """

    strides: tuple[int, ...] = (2, 3, 6, 7, 7)
    width: int = 24
    causal: bool = False
    padding_mode: PaddingMode = "replicate"
    activation: Activation = "lrelu"
    kernel_sizes: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    in_kernel_size: int = 7
    out_kernel_size: int = 7

    def __post_init__(self) -> None:
        _check("encoder", self)


@dataclass(frozen=True)
class DecoderConfig:
    """Latents to audio: HiFi-GAN's generator (arXiv 2010.05646).

    Attributes:
        strides: Upsampling, stage by stage.
        width: Channels before the first stage, halved by every stage.
        causal: See nothing of later frames.
        padding_mode: What lies beyond the ends of a clip; zeros where causal.
        activation: As in the encoder.
        output_activation: What keeps samples in [-1, 1]: "tanh", or "clamp", which gives clipped ones no gradient.
        grouped_upsampling: Make each channel of a stage from two of the one before alone.
        kernel_sizes: As in the encoder, as for all that follow.
        dilations: Of the residual units of a chain.
        in_kernel_size: Of the first convolution.
        out_kernel_size: Of the last.
    """

    strides: tuple[int, ...] = (7, 7, 6, 3, 2)
    width: int = 864
    causal: bool = True
    padding_mode: PaddingMode = "zeros"
    activation: Activation = "half_snake"
    output_activation: OutputActivation = "clamp"
    grouped_upsampling: bool = True
    kernel_sizes: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    in_kernel_size: int = 7
    out_kernel_size: int = 3

    def __post_init__(self) -> None:
        _check("decoder", self)
        widths = [self.width // 2**i for i in range(len(self.strides))]
        if widths[-1] < 2 or (self.grouped_upsampling and any(width % 2 for width in widths)):
            raise ValueError(
                f"decoder width is {self.width}, to be halved {len(self.strides)} times; expected "
                f"{'a multiple of' if self.grouped_upsampling else 'at least'} {2 ** len(self.strides)}"
            )


@dataclass(frozen=True)
class NanoCodecConfig:
    """A whole model.

    Attributes:
        sample_rate: Hz.
        encoder: Audio to latents.
        decoder: Latents to audio.
        quantizer: Latents to codes; their width follows from it.
    """

    sample_rate: int = 22_050
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    quantizer: GroupedFSQConfig = field(default_factory=GroupedFSQConfig)

    def __post_init__(self) -> None:
        if self.sample_rate < 1000:
            raise ValueError(f"sample_rate is {self.sample_rate}, expected Hz, 1000 or more")
        if prod(self.encoder.strides) != prod(self.decoder.strides):
            raise ValueError(
                f"encoder strides {self.encoder.strides} make frames of {prod(self.encoder.strides)} samples, decoder "
                f"strides {self.decoder.strides} of {prod(self.decoder.strides)}; expected the same strides in reverse"
            )

    @property
    def frame_size(self) -> int:
        """Samples per frame: the product of the strides."""
        return prod(self.encoder.strides)

    @property
    def frame_rate(self) -> float:
        """Frames, which are tokens here, per second."""
        return self.sample_rate / self.frame_size


def _check(part: str, config: EncoderConfig | DecoderConfig) -> None:
    """Refuse sizes that no model can have."""
    if not config.strides or min(config.strides) < 2:
        raise ValueError(f"{part} strides are {config.strides}, expected 2 or more each")
    kernels = (*config.kernel_sizes, config.in_kernel_size, config.out_kernel_size)
    if not config.kernel_sizes or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"{part} kernel sizes are {kernels}, expected odd numbers")
    if not config.dilations or min(config.dilations) < 1 or config.width < 1:
        raise ValueError(f"{part} has dilations {config.dilations} and width {config.width}, expected 1 or more each")
    if config.causal and config.padding_mode != "zeros":
        raise ValueError(
            f"{part} is causal, which pads with zeros at the start of a clip alone, but padding_mode is "
            f"{config.padding_mode!r}; write padding_mode: zeros, or causal: false"
        )


# --------------------------------------------------------------------------------------------------- what was published


def _nano(strides: tuple[int, ...], num_groups: int, levels: tuple[int, ...] = (8, 7, 6, 6)) -> NanoCodecConfig:
    return NanoCodecConfig(
        encoder=EncoderConfig(strides),
        decoder=DecoderConfig(strides[::-1]),
        quantizer=GroupedFSQConfig(num_groups, levels),
    )


_LFSC = NanoCodecConfig(
    encoder=EncoderConfig((2, 2, 4, 8, 8), 48, padding_mode="reflect", dilations=(1,)),
    decoder=DecoderConfig((8, 8, 4, 2, 2), 1024, False, "reflect", "lrelu", "tanh", grouped_upsampling=False),
    quantizer=GroupedFSQConfig(8),
)
_AT_12_HZ = (2, 3, 6, 7, 7)

PUBLISHED: Mapping[str, NanoCodecConfig] = {
    "lfsc_1.89kbps_21.5fps": _LFSC,
    "nano_1.89kbps_21.5fps": _nano((2, 2, 4, 8, 8), 8),
    "nano_1.78kbps_12.5fps": _nano(_AT_12_HZ, 13),
    "nano_1.1kbps_12.5fps": _nano(_AT_12_HZ, 8),
    "nano_0.6kbps_12.5fps": _nano(_AT_12_HZ, 4, (9, 8, 8, 7)),
    "nano_1.1kbps_25fps": _nano((2, 3, 3, 7, 7), 4),
    "nano_1.1kbps_6.25fps": _nano((3, 4, 6, 7, 7), 16),
}


RELEASED: Mapping[str, str] = {
    "lfsc_1.89kbps_21.5fps": "nvidia/low-frame-rate-speech-codec-22khz",
    **{
        f"nano_{rates}": f"nvidia/nemo-nano-codec-22khz-{rates.replace('_', '-')}"
        for rates in ("1.89kbps_21.5fps", "1.78kbps_12.5fps", "0.6kbps_12.5fps")
    },
}


def published(name: str) -> NanoCodecConfig:
    """Return a config of the papers.

    Raises:
        ValueError: There is none of that name, or not enough of it was published.
    """
    check_levels_are_known(name)
    if name not in PUBLISHED:
        raise ValueError(f"there is no published config {name!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def check_levels_are_known(name: str) -> None:
    """Refuse to guess where the name of a config or of weights is that of a model whose levels nobody published.

    Raises:
        ValueError: It is.
    """
    if "nano" in name and "0.8kbps" in name:
        raise ValueError(
            f"{name} cannot be built: the paper gives its 4 codebooks 65536 codes each but not the levels they are the "
            "product of, and no weights were released; a config of your own may choose levels, and then says so, and a "
            ".nemo archive that you have names its own: give its path"
        )


def whereabouts(name: str) -> str:
    """Say where a published config is, and where its weights are if they were released."""
    weights = RELEASED.get(name)
    return f"{name} ({f'weights: {weights}' if weights else f'configs/nanocodec/{name}.yaml, weights not released'})"


def with_causality(config: NanoCodecConfig, *, encoder: bool, decoder: bool) -> NanoCodecConfig:
    """Make encoder and decoder causal or not, as in the paper's ablation (arXiv 2508.05835, table 1).

    How a part pads that is not causal and was never released is not published; it repeats the clip's ends, as the
    released encoders do, and a decoder's upsampling is not grouped, as LFSC's is not.
    """
    ends: dict[bool, PaddingMode] = {True: "zeros", False: "replicate"}
    return replace(
        config,
        encoder=replace(config.encoder, causal=encoder, padding_mode=ends[encoder]),
        decoder=replace(config.decoder, causal=decoder, padding_mode=ends[decoder], grouped_upsampling=decoder),
    )


def names_at(frame_rate: float, tolerance: float = 0.005) -> list[str]:
    """Name the published configs of a frame rate in Hz, give or take half a percent (21.533 Hz is called 21.5)."""
    return [name for name, config in PUBLISHED.items() if abs(config.frame_rate / frame_rate - 1) <= tolerance]
