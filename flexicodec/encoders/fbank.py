"""Front end of speech encoders: Kaldi log-mel filterbanks, low-frame-rate stacking and mean/variance normalisation.

Batched and in plain torch, so it runs on the model's device; each item depends only on its own samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.encoders.base import FrontEndConfig
from flexicodec.nn.masking import length_mask
from flexicodec.nn.streaming import register_state

ENERGY_FLOOR = 1.1920928955078125e-07  # float32 epsilon, Kaldi's floor under the logarithm
FRAMES_PER_BLOCK = 4096  # bounds the memory of the framed signal on long audio
FRAMES_PER_BATCH = 2**17  # and in large batches, all items together
DITHER_PERIOD = 1024  # frames after which the dither repeats


@register_state
@dataclass(frozen=True)
class FbankState:
    """State of a `KaldiFbank`.

    Attributes:
        position: Index of the next fbank frame, modulo the dither's period.
        samples: Samples that coming frames need.
        fbank: Frames that coming outputs need; None before the first.
    """

    position: Int[Tensor, " batch"]
    samples: Float[Tensor, "batch buffered"]
    fbank: Float[Tensor, "batch buffered mels"] | None = None


class KaldiFbank(nn.Module):
    """16 kHz audio to the features SenseVoice was trained on (Kaldi fbank, LFR 7/6, CMVN).

    Args:
        config: Sizes.
        cmvn: Optional [2, dim]: row 0 is added, row 1 then multiplies (FunASR's `am.mvn`).
    """

    sample_rate = 16_000
    frame_length = 400  # samples, 25 ms
    frame_shift = 160  # samples, 10 ms

    # As a `StreamingModule`, from samples [B, 1, S] to features [B, dim, frames].
    exact = True
    per_item = False
    channels = 1

    shift: Tensor
    scale: Tensor

    def __init__(self, config: FrontEndConfig | None = None, cmvn: Float[Tensor, "2 dim"] | None = None) -> None:
        super().__init__()
        self.config = config or FrontEndConfig()
        dim = self.config.dim
        if cmvn is not None and cmvn.shape != (2, dim):
            raise ValueError(
                f"cmvn has shape {tuple(cmvn.shape)}, expected (2, {dim}): shifts and scales of stacked features"
            )
        self.register_buffer("shift", torch.zeros(dim) if cmvn is None else cmvn[0].float().clone())
        self.register_buffer("scale", torch.ones(dim) if cmvn is None else cmvn[1].float().clone())
        self.before = (self.config.stack - 1) // 2  # fbank frames of a stack before its own
        self.behind = self.config.stack - 1 - self.before

    def num_frames(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the stacked feature frames of each item."""
        # Whole 25 ms windows, without padding at the ends.
        fbank_lengths = (audio_lengths - self.frame_length) // self.frame_shift + 1
        return -(-fbank_lengths.clamp(min=0) // self.config.stride)

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, "batch frames dim"], Int[Tensor, " batch"]]:
        """Extract normalised features.

        Args:
            audio: Samples in [-1, 1] at 16 kHz, at least 400 of them.
            lengths: Valid samples of each item, at least 400; None means all.

        Returns:
            Features, zero past each item's end, and the number of valid feature frames of each item.
        """
        if lengths is None:
            lengths = torch.full((audio.shape[0],), audio.shape[1], device=audio.device)
        fbank_lengths = (lengths - self.frame_length) // self.frame_shift + 1
        assert int(fbank_lengths.min()) > 0, "the caller pads clips to at least one 25 ms window"
        # LFR, then CMVN.
        stacked = stack_frames(self.fbank(audio), fbank_lengths, self.config.stack, self.config.stride)
        features = (stacked + self.shift) * self.scale
        frame_lengths = -(-fbank_lengths // self.config.stride)
        valid = length_mask(frame_lengths, features.shape[1])
        return features.masked_fill(~valid[..., None], 0.0), frame_lengths

    def inputs_needed(self, frames: int) -> int:
        """Count the samples a stream must have received to have returned so many features."""
        fbank = (frames - 1) * self.config.stride + self.behind + 1
        return (fbank - 1) * self.frame_shift + self.frame_length

    @property
    def lookahead(self) -> int:
        """Samples after its first that a feature depends on."""
        return self.inputs_needed(1) - 1

    def initial_state(self) -> FbankState:
        """Return the state before the first sample."""
        device = self.shift.device
        samples = torch.zeros(1, 0, dtype=torch.float32, device=device)
        return FbankState(torch.zeros(1, dtype=torch.long, device=device), samples)

    def step(
        self, x: Float[Tensor, "batch 1 new"], state: FbankState, last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], FbankState]:
        """Extract the features that the next samples complete."""
        config = self.config
        assert config.stack >= config.stride, "streams need every fbank frame to be in some stack"

        # New fbank frames, with the first one repeated before the clip and the last one behind it.
        samples = torch.cat([state.samples.expand(len(x), -1), x[:, 0]], dim=-1)
        count = max(0, (samples.shape[-1] - self.frame_length) // self.frame_shift + 1)
        fbank = state.fbank
        position = state.position
        if count:
            end = (count - 1) * self.frame_shift + self.frame_length
            new = self.fbank(samples[:, :end], position)
            before = new[:, :1].expand(-1, self.before, -1) if fbank is None else fbank
            fbank = torch.cat([before, new], dim=1)
            position = (position + count) % DITHER_PERIOD
        samples = samples[:, count * self.frame_shift :].clone()
        if last and fbank is not None:
            fbank = torch.cat([fbank, fbank[:, -1:].expand(-1, self.behind, -1)], dim=1)

        # All stacks that are complete.
        available = 0 if fbank is None else fbank.shape[1]
        ready = max(0, (available - config.stack) // config.stride + 1)
        if fbank is None or not ready:
            return x.new_zeros(len(x), config.dim, 0), FbankState(position, samples, fbank)
        stacked = fbank.unfold(1, config.stack, config.stride).transpose(2, 3).flatten(2)
        features = (stacked + self.shift) * self.scale
        return features.transpose(1, 2), FbankState(position, samples, fbank[:, ready * config.stride :].clone())

    def fbank(
        self, audio: Float[Tensor, "batch samples"], first: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch fbank_frames mels"]:
        """Compute Kaldi log-mel energies: 25 ms Hamming windows every 10 ms of audio scaled to 16 bits.

        Args:
            audio: Samples in [-1, 1] at 16 kHz.
            first: Which frame of its clip each item begins with, for the dither; None: the first.
        """
        device = audio.device
        frames = audio.float().unfold(1, self.frame_length, self.frame_shift)
        window = _on(device, _hamming_window, self.frame_length)
        filters = _on(device, _mel_filters, self.config.num_mels, self.sample_rate)
        blocks = []
        size = min(FRAMES_PER_BLOCK, max(64, FRAMES_PER_BATCH // len(frames)))
        for start in range(0, frames.shape[1], size):
            block = frames[:, start : start + size] * 32768.0
            # Dither, then Kaldi's order: remove the mean, pre-emphasis, window, power spectrum, mel energies.
            if self.config.dither:
                index = torch.arange(start, start + block.shape[1], device=device)
                index = index if first is None else index + first.to(device)[:, None]
                noise = _on(device, _dither_noise, self.frame_length)[index % DITHER_PERIOD]
                block = block + self.config.dither * noise
            block = block - block.mean(dim=-1, keepdim=True)
            previous = torch.cat([block[..., :1], block[..., :-1]], dim=-1)
            spectrum = torch.fft.rfft((block - 0.97 * previous) * window, n=512)
            power = spectrum.real.square() + spectrum.imag.square()
            with torch.autocast(device.type, enabled=False):  # energies span more than half precision holds
                energies = power[..., :256] @ filters
            blocks.append(torch.log(torch.clamp(energies, min=ENERGY_FLOOR)))
        return torch.cat(blocks, dim=1)


def stack_frames(
    fbank: Float[Tensor, "batch fbank_frames mels"], lengths: Int[Tensor, " batch"], stack: int, stride: int
) -> Float[Tensor, "batch frames dim"]:
    """Stack neighbouring frames at a lower rate (FunASR's LFR).

    Output frame i holds frames stride*i - stack//2 ... of the item; before its first and after its last frame these
    are repeated. Frames past an item's end hold copies of its last frame.
    """
    num_frames = -(-int(lengths.max()) // stride)
    # Indices of the stacked frames, clamped to the item: its first and last frames are repeated.
    offsets = torch.arange(stack, device=fbank.device) - (stack - 1) // 2
    source = (torch.arange(num_frames, device=fbank.device) * stride)[:, None] + offsets
    source = torch.minimum(source.clamp(min=0), (lengths - 1)[:, None, None])
    batch = torch.arange(fbank.shape[0], device=fbank.device)[:, None, None]
    return fbank[batch, source].flatten(2)


@lru_cache(maxsize=32)
def _on(device: torch.device, make: Callable[..., np.ndarray], *numbers: int) -> Tensor:
    """Compute a constant once per device."""
    with torch.inference_mode(False):
        return torch.from_numpy(make(*numbers)).to(device)


def _hamming_window(length: int) -> np.ndarray:
    return (0.54 - 0.46 * np.cos(2 * math.pi * np.arange(length) / (length - 1))).astype(np.float32)


def _mel_filters(num_mels: int, sample_rate: int, low: float = 20.0) -> np.ndarray:
    """Kaldi's triangular filters, linear in mel, on the 256 bins below the Nyquist frequency. [256, num_mels]."""

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0)

    edges = np.linspace(mel(low), mel(sample_rate / 2), num_mels + 2)
    bins = mel(np.arange(256) * sample_rate / 512)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _dither_noise(frame_length: int) -> np.ndarray:
    """One period of the fixed dither, [DITHER_PERIOD, frame_length], standard normal."""
    noise = np.random.Generator(np.random.Philox(20250930)).standard_normal((DITHER_PERIOD, frame_length))
    return noise.astype(np.float32)
