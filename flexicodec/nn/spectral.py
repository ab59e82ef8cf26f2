"""Encoder and decoder that work on spectra: log-mel energies in, magnitudes and phases out, ConvNeXt blocks between.

Most of the work is done at two low frame rates (50 and 12.5 Hz by default), which takes a fraction of the time of
convolutions on the waveform, as in Vocos (arXiv 2306.00814). Both are a `ConvStack`, as DAC's are, with a finite
receptive field.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn.convnext import ConvNeXtBlock
from flexicodec.nn.dac import ConvStack
from flexicodec.nn.mel_filters import htk_mel_filters
from flexicodec.nn.onednn import Linear, init_linear
from flexicodec.nn.windowed import PerFrame, WindowedLayer

SAMPLE_RATE = 16_000  # Hz of the audio that encoders take
POWER_FLOOR = 1e-5  # of mel energies, 50 dB below a sine of full scale in its own band
LOG_MEAN, LOG_DEVIATION = -5.0, 3.0  # about those of the log energies of speech
MAX_LOG_MAGNITUDE = 7.0  # of the decoder; a sine of full scale has log(window / 2), 5.8 for 640 samples
HEADROOM = 1.2  # above such a sine, of longer windows
NEW_BINS = -3.0  # log magnitude of bins that a head gets at a higher rate, over the highest known bin: almost silent
HEAD_GAIN = 0.3  # of the decoder's last linear layer, so that training starts with little sound


@dataclass(frozen=True)
class TwoRateConfig:
    """ConvNeXt blocks at two frame rates.

    Attributes:
        fast_dim: Width of the blocks at the higher rate.
        fast_layers: Number of these.
        slow_dim: Width of the blocks at the codec's frame rate.
        slow_layers: Number of these.
    """

    fast_dim: int
    fast_layers: int
    slow_dim: int
    slow_layers: int

    def __post_init__(self) -> None:
        if min(self.fast_dim, self.slow_dim) < 1 or min(self.fast_layers, self.slow_layers) < 0:
            raise ValueError(f"widths must be at least 1 and numbers of layers at least 0, got {self}")


@dataclass(frozen=True)
class SpectralConfig:
    """Encoder and decoder on spectra; the defaults are those of `configs/flexicodec/mini_spectral.yaml`.

    Attributes:
        num_mels: Mel bands of the encoder's input.
        latent_dim: Channels of acoustic features and of everything the decoder sees.
        mel_window: Window of the log-mel energies in samples, at least `hop`.
        hop: Samples from one fast frame to the next; 320 are 50 Hz.
        hops_per_frame: Fast frames per frame of the codec.
        encoder: Blocks of the encoder.
        decoder: Blocks of the decoder.
        istft_window: Window of the decoder's inverse STFT in samples of its output: even, and twice `istft_hop` or
            more.
        istft_hop: Its hop; divides `output_hop` and `istft_window`.
        expansion: Inner width of the blocks over their width.
        output_sample_rate: Hz of decoded audio; None: the 16 kHz that the encoder takes. Tokens do not depend on it.
    """

    num_mels: int = 100
    latent_dim: int = 192
    mel_window: int = 1024
    hop: int = 320
    hops_per_frame: int = 4
    encoder: TwoRateConfig = field(default_factory=lambda: TwoRateConfig(256, 2, 384, 3))
    decoder: TwoRateConfig = field(default_factory=lambda: TwoRateConfig(448, 5, 512, 2))
    istft_window: int = 640
    istft_hop: int = 160
    expansion: int = 3
    output_sample_rate: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_mels", "latent_dim", "hop", "hops_per_frame", "istft_hop", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mel_window < self.hop or self.mel_window % 2:
            raise ValueError(
                f"mel_window must be even and at least hop, {self.hop} samples, so that no sample goes unheard; got "
                f"{self.mel_window}"
            )
        rate = self.output_sample_rate
        if rate is not None and (rate < 1 or self.hop * rate % SAMPLE_RATE):
            raise ValueError(
                f"output_sample_rate is {rate} Hz, at which hop, {self.hop} samples at {SAMPLE_RATE} Hz, is not a "
                "whole number of samples; expected Hz such as 24000, 44100 or 48000 (not kHz)"
            )
        window, hop, output_hop = self.istft_window, self.istft_hop, self.output_hop
        if window < 2 * hop or window % hop or window % 2 or output_hop % hop:
            name = "hop" if rate is None else f"hop at {rate} Hz"
            raise ValueError(
                f"istft_window must be even and twice istft_hop or another multiple of it, and {name} a multiple too; "
                f"got {window}, {hop} and {output_hop}"
            )

    @property
    def frame_size(self) -> int:
        """Samples per frame of the codec, of the encoder's audio."""
        return self.hop * self.hops_per_frame

    @property
    def output_hop(self) -> int:
        """Samples of decoded audio from one fast frame to the next."""
        return self.hop * (self.output_sample_rate or SAMPLE_RATE) // SAMPLE_RATE

    def build_encoder(self, sample_rate: int) -> "SpectralEncoder":
        """Make an encoder with random weights."""
        return SpectralEncoder(self, sample_rate)

    def build_decoder(self, exact_length: bool = True) -> "SpectralDecoder":
        """Make a decoder with random weights; it always gives whole frames, so `exact_length` has to be True."""
        assert exact_length, "the config refuses the released geometry"
        return SpectralDecoder(self)


# ------------------------------------------------------------------------------------------------------------- layers


class ConvNeXtLayer(WindowedLayer):
    """A `ConvNeXtBlock` with a layer scale, as a layer of a `ConvStack`.

    Args:
        dim: Width of the features.
        hidden_dim: Width inside the block.
        layer_scale: Initial gain of what the block adds.
    """

    def __init__(self, dim: int, hidden_dim: int, layer_scale: float) -> None:
        block = ConvNeXtBlock(dim, hidden_dim, layer_scale=layer_scale)
        super().__init__(dim, dim, width=2 * block.reach + 1, left=block.reach)
        self.block = block
        nn.init.trunc_normal_(block.depthwise.weight, std=self.width**-0.5)
        assert block.depthwise.bias is not None
        nn.init.zeros_(block.depthwise.bias)
        init_linear(block.linear1)
        init_linear(block.linear2)

    def compute(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch out_time dim"]:
        """See `WindowedLayer.compute`."""
        return self.block.refine(x)


class LogMel(WindowedLayer):
    """Audio to log-mel energies, shifted and scaled to about unit variance for speech.

    Args:
        sample_rate: Of the audio, Hz.
        num_mels: Bands from 0 Hz to half the sample rate, on HTK's scale.
        window: Samples of the periodic Hann window.
        hop: Samples between frames; each frame is in the middle of its window.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, num_mels: int, window: int, hop: int) -> None:
        super().__init__(1, num_mels, width=window, stride=hop, left=(window - hop) // 2)
        taper = _hann(window)
        # A window of energy 1: the energies of noise do not depend on its length.
        filters = htk_mel_filters(sample_rate, window, num_mels).T / float(np.square(taper).sum())
        self.register_buffer("window", torch.from_numpy(taper), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters.astype(np.float32)), persistent=False)

    def compute(self, x: Float[Tensor, "batch time 1"]) -> Float[Tensor, "batch frames mels"]:
        """See `WindowedLayer.compute`."""
        with torch.autocast(x.device.type, enabled=False):  # energies span more than half precision holds
            frames = x[..., 0].to(self.window.dtype).unfold(1, self.width, self.stride) * self.window
            if torch.compiler.is_exporting():  # runtimes are slow at Fourier transforms, or lack them
                cosines, sines = _fourier_basis(self.width)
                power = (frames @ cosines.T).square() + (frames @ sines.T).square()
            else:
                spectrum = torch.fft.rfft(frames)
                power = spectrum.real.square() + spectrum.imag.square()
            energies = power @ self.filters
            return ((energies + POWER_FLOOR).log() - LOG_MEAN) / LOG_DEVIATION


class InverseSpectrum(nn.Module):
    """Log magnitudes and phases to windowed frames of audio, several per step, ready to be overlapped and added.

    Args:
        window: Samples of a frame.
        hop: Samples from one frame to the next; the windows of all frames add up to 1.
    """

    window: Tensor

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.size = window
        self.most = max(MAX_LOG_MAGNITUDE, math.log(window / 2) + HEADROOM)
        taper = _hann(window) * np.float32(2 * hop / window)
        self.register_buffer("window", torch.from_numpy(taper), persistent=False)

    def forward(self, x: Float[Tensor, "batch steps frames*(window+2)"]) -> Float[Tensor, "batch steps frames*window"]:
        """Compute the frames; each has its log magnitudes first, then its phases."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.window.dtype).unflatten(2, (-1, self.size + 2))
            magnitude, phase = x.split(self.size // 2 + 1, dim=-1)
            magnitude = magnitude.clamp(max=self.most).exp()
            if torch.compiler.is_exporting():
                cosines, sines = _fourier_basis(self.size)
                # Bins between the first and the last stand for two of the full spectrum each.
                weights = np.full(self.size // 2 + 1, 2.0, np.float32)
                weights[[0, -1]] = 1.0
                magnitude = magnitude * torch.from_numpy(weights / self.size)
                frames = (magnitude * phase.cos()) @ cosines - (magnitude * phase.sin()) @ sines
            else:
                frames = torch.fft.irfft(torch.polar(magnitude, phase), n=self.size)
            return (frames * self.window).flatten(2)


class OverlapAdd(WindowedLayer):
    """Frames of audio, several per step, to audio.

    Args:
        window: Samples of a frame.
        hop: Samples from one frame to the next.
        frames: Frames per step.
    """

    # One frame per step, window 4 hops, of which `lead` lie before the samples of its step:
    #
    # frames    |a1 a2 a3 a4|
    #              |b1 b2 b3 b4|
    #                 |c1 c2 c3 c4|
    # samples b      |   |            half of window - hop behind the start of frame b

    def __init__(self, window: int, hop: int, frames: int) -> None:
        self.hop = hop
        self.overlap = window // hop
        self.lead = (window - hop) // 2
        step = frames * hop
        # Frames before the step's own whose end reaches its samples, and behind them those whose start does.
        left = -(-((window - 1 - self.lead) // hop) // frames)
        right = -(-((step - 1 + self.lead) // hop - frames + 1) // frames)
        super().__init__(frames * window, 1, width=left + 1 + right, outputs=step, left=left)

    def compute(self, x: Float[Tensor, "batch time in_channels"]) -> Float[Tensor, "batch samples 1"]:
        """See `WindowedLayer.compute`."""
        steps = x.shape[1] - self.width + 1
        # Each frame in pieces of a hop; piece j goes j hops behind the frame's start.
        pieces = x.unflatten(2, (-1, self.overlap, self.hop)).flatten(1, 2)
        total = F.pad(pieces[:, :, 0], (0, 0, 0, self.overlap - 1))
        for j in range(1, self.overlap):
            total = total + F.pad(pieces[:, :, j], (0, 0, j, self.overlap - 1 - j))
        first = self.left * self.outputs + self.lead
        return total.flatten(1)[:, first : first + steps * self.outputs, None]


def _hann(size: int) -> np.ndarray:
    """Periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def _fourier_basis(size: int) -> tuple[Tensor, Tensor]:
    """Cosines and negative sines [size // 2 + 1, size] of the real Fourier transform."""
    # Whole turns are taken off first, for the precision of large arguments.
    turns = np.outer(np.arange(size // 2 + 1), np.arange(size)) % size / size
    cosines = np.cos(2 * np.pi * turns).astype(np.float32)
    sines = np.sin(2 * np.pi * turns).astype(np.float32)
    return torch.from_numpy(cosines), torch.from_numpy(sines)


# ------------------------------------------------------------------------------------------------- encoder and decoder


class SpectralEncoder(ConvStack):
    """Audio [B, 1, S] to features [B, latent_dim, T] of mean 0 and variance 1 in each frame, S = T * frame_size.

    Args:
        config: Sizes.
        sample_rate: Of the audio, Hz.
    """

    def __init__(self, config: SpectralConfig, sample_rate: int) -> None:
        sizes = config.encoder
        layers = [
            LogMel(sample_rate, config.num_mels, config.mel_window, config.hop),
            _linear(config.num_mels, sizes.fast_dim),
            *_blocks(sizes.fast_dim, sizes.fast_layers, config.expansion),
            _linear(sizes.fast_dim, sizes.slow_dim, side_by_side=config.hops_per_frame),
            *_blocks(sizes.slow_dim, sizes.slow_layers, config.expansion),
            # The last norm, without a gain, fixes the size of the features, which quantizers rely on.
            PerFrame(
                nn.LayerNorm(sizes.slow_dim),
                init_linear(Linear(sizes.slow_dim, config.latent_dim)),
                nn.LayerNorm(config.latent_dim, elementwise_affine=False),
                in_channels=sizes.slow_dim,
                out_channels=config.latent_dim,
            ),
        ]
        strides = (config.hop, config.hops_per_frame)
        super().__init__(layers, 1, config.latent_dim, strides, inputs_per_frame=config.frame_size)


class SpectralDecoder(ConvStack):
    """Latents [B, latent_dim, T] to audio [B, 1, S] in [-1, 1], S = T * frame_size at the config's output rate.

    Args:
        config: Sizes.
    """

    def __init__(self, config: SpectralConfig) -> None:
        sizes = config.decoder
        window = config.istft_window
        frames = config.output_hop // config.istft_hop  # of the inverse STFT, per fast frame
        head = Linear(sizes.fast_dim, frames * (window + 2))
        layers = [
            _linear(config.latent_dim, sizes.slow_dim),
            *_blocks(sizes.slow_dim, sizes.slow_layers, config.expansion),
            _linear(sizes.slow_dim, sizes.fast_dim, outputs=config.hops_per_frame),
            *_blocks(sizes.fast_dim, sizes.fast_layers, config.expansion),
            PerFrame(
                nn.LayerNorm(sizes.fast_dim),
                init_linear(head, HEAD_GAIN),
                InverseSpectrum(window, config.istft_hop),
                in_channels=sizes.fast_dim,
                out_channels=frames * window,
            ),
            OverlapAdd(window, config.istft_hop, frames),
            nn.Hardtanh(),
        ]
        strides = (config.hops_per_frame, config.output_hop)
        super().__init__(layers, config.latent_dim, 1, strides, inputs_per_frame=1)
        self.head_name = f"layers.{len(layers) - 3}.body.1"  # of the last linear layer


def fit_head(
    weight: Float[Tensor, "rows dim"],
    bias: Float[Tensor, " rows"],
    fresh: Float[Tensor, "new_rows dim"],
    old: SpectralConfig,
    new: SpectralConfig,
) -> tuple[Float[Tensor, "new_rows dim"], Float[Tensor, " new_rows"]] | None:
    """Fit the last linear layer of a trained decoder to another output rate.

    Up to half of the lower rate the new decoder then gives the sound of the old one: where both have samples, the same
    values but for what is new. Above, magnitudes follow the highest bin that is known, and phases are fresh.

    Args:
        weight: Of the old layer.
        bias: The same.
        fresh: Weight of the new layer.
        old: Config of the weights.
        new: Config of the new decoder.

    Returns:
        Weight and bias; None where windows or hops last another time, and bins are not those of the old layer.
    """
    ratio = new.output_hop / old.output_hop
    if new.istft_window != ratio * old.istft_window or new.istft_hop != ratio * old.istft_hop:
        return None
    # Rows are [frames, magnitudes and phases, bins], and bins lie at the same frequencies.
    rows = torch.cat([weight, bias[:, None]], dim=1).float().unflatten(0, (-1, 2, old.istft_window // 2 + 1))
    fitted = F.pad(fresh, (0, 1)).unflatten(0, (-1, 2, new.istft_window // 2 + 1)).clone()
    shared = min(rows.shape[2], fitted.shape[2])
    fitted[:, :, :shared] = rows[:, :, :shared]
    fitted[:, 0, shared:] = rows[:, 0, shared - 2 : shared - 1]
    fitted[:, 0, shared:, -1] += NEW_BINS
    # The inverse transform divides by the window, and counts all bins twice but the first and the last.
    fitted[:, 0, :, -1] += math.log(ratio)
    if fitted.shape[2] != rows.shape[2]:
        fitted[:, 0, shared - 1, -1] += math.copysign(math.log(2), 1 - ratio)
    fitted = fitted.flatten(0, 2)
    return fitted[:, :-1], fitted[:, -1]


def _linear(in_channels: int, out_channels: int, side_by_side: int = 1, outputs: int = 1) -> PerFrame:
    """Map each frame's channels, or those of several frames `side_by_side`, to those of `outputs` frames."""
    layer = init_linear(Linear(in_channels * side_by_side, out_channels * outputs))
    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
    return PerFrame(layer, **sizes, side_by_side=side_by_side, outputs=outputs)


def _blocks(dim: int, count: int, expansion: int) -> list[ConvNeXtLayer]:
    """Make blocks that together add about as much as the input."""
    return [ConvNeXtLayer(dim, expansion * dim, layer_scale=1 / max(count, 4)) for _ in range(count)]
