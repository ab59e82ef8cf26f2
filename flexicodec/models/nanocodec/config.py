"""Configs of LFSC and NanoCodec; the defaults are NanoCodec at 1.78 kbps and 12.5 Hz.

`PUBLISHED` has the configs of the papers by name, as configs/nanocodec has them in YAML.
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
    """Audio to latents: HiFi-GAN's generator in reverse."""

    strides: tuple[int, ...] = (2, 3, 6, 7, 7)  # downsampling of each stage
    width: int = 24  # channels of the first stage, doubled by every stage
    causal: bool = False  # no look-ahead
    padding_mode: PaddingMode = "replicate"  # at the ends of a clip; zeros if causal
    activation: Activation = "lrelu"  # slope 0.01; "half_snake" is Snake on half of the channels
    kernel_sizes: tuple[int, ...] = (3, 7, 11)  # of the parallel residual branches of a stage
    dilations: tuple[int, ...] = (1, 3, 5)  # of the residual units of a branch
    in_kernel_size: int = 7  # of the first convolution
    out_kernel_size: int = 7  # of the last

    def __post_init__(self) -> None:
        _check("encoder", self)


@dataclass(frozen=True)
class DecoderConfig:
    """Latents to audio: HiFi-GAN's generator (arXiv 2010.05646). Fields as in `EncoderConfig`, except for:"""

    strides: tuple[int, ...] = (7, 7, 6, 3, 2)  # upsampling of each stage
    width: int = 864  # channels before the first stage, halved by every stage
    causal: bool = True
    padding_mode: PaddingMode = "zeros"
    activation: Activation = "half_snake"
    output_activation: OutputActivation = "clamp"  # limits samples to [-1, 1]; "clamp" gives clipped ones no gradient
    grouped_upsampling: bool = True  # each channel of a stage depends on two of the stage before only
    kernel_sizes: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    in_kernel_size: int = 7
    out_kernel_size: int = 3

    def __post_init__(self) -> None:
        _check("decoder", self)
        smallest = 2 ** len(self.strides)
        if self.width < smallest or (self.grouped_upsampling and self.width % smallest):
            wanted = "a multiple of" if self.grouped_upsampling else "at least"
            halvings = f"halved {len(self.strides)} times"
            raise ValueError(f"decoder width is {self.width}, to be {halvings}; expected {wanted} {smallest}")


@dataclass(frozen=True)
class NanoCodecConfig:
    """Sample rate (Hz), encoder, decoder and quantizer, which determines the channels of the latents."""

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
        """Frames per second; each is a token."""
        return self.sample_rate / self.frame_size


def _check(part: str, config: EncoderConfig | DecoderConfig) -> None:
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


# -------------------------------------------------------------------------------------------------- published configs


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
    "nano_1.89kbps_21.5fps": "nvidia/nemo-nano-codec-22khz-1.89kbps-21.5fps",
    "nano_1.78kbps_12.5fps": "nvidia/nemo-nano-codec-22khz-1.78kbps-12.5fps",
    "nano_0.6kbps_12.5fps": "nvidia/nemo-nano-codec-22khz-0.6kbps-12.5fps",
}


def published(name: str) -> NanoCodecConfig:
    """Return a config of the papers."""
    check_levels_are_known(name)
    if name not in PUBLISHED:
        raise ValueError(f"there is no published config {name!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def check_levels_are_known(name: str) -> None:
    """Refuse the names of the one model of the paper whose FSQ levels were not published."""
    if "nano" in name and "0.8kbps" in name:
        raise ValueError(
            f"{name} cannot be built: the paper gives its 4 codebooks 65536 codes each but not the levels they are the "
            "product of, and no weights were released; choose levels in a config of your own, or give the path of a "
            ".nemo archive, which names them"
        )


def describe_release(name: str) -> str:
    """Describe where a published config is, and its weights if they were released."""
    if name in RELEASED:
        return f"{name} (weights: {RELEASED[name]})"
    return f"{name} (configs/nanocodec/{name}.yaml, weights not released)"


def with_causality(config: NanoCodecConfig, *, encoder: bool, decoder: bool) -> NanoCodecConfig:
    """Make encoder and decoder causal or not, as in the paper's ablation (arXiv 2508.05835, table 1).

    The paper does not say how parts that are not causal pad. Here they repeat the clip's ends, as the released encoders
    do, and a decoder's upsampling is not grouped, as in LFSC.
    """
    ends: dict[bool, PaddingMode] = {True: "zeros", False: "replicate"}
    return replace(
        config,
        encoder=replace(config.encoder, causal=encoder, padding_mode=ends[encoder]),
        decoder=replace(config.decoder, causal=decoder, padding_mode=ends[decoder], grouped_upsampling=decoder),
    )


def published_at_rate(frame_rate: float, tolerance: float = 0.005) -> list[str]:
    """Name the published configs of a frame rate in Hz, within half a percent (21.533 Hz is called 21.5)."""
    return [name for name, config in PUBLISHED.items() if abs(config.frame_rate / frame_rate - 1) <= tolerance]
