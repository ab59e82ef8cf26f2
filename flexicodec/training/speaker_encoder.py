"""H/ASP, the speaker encoder of NanoCodec's Speaker Consistency Loss, and the wrapper of frozen networks in losses.

H/ASP is a ResNet-34 with squeeze-and-excitation over mel energies, from "Clova baseline system for the VoxCeleb Speaker
Recognition Challenge 2020" (arXiv 2009.14153), without the norm of the embedding. Weights are loaded from a local copy
of Edresson/Speaker_Encoder_H_ASP and keep the names they have there.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.audio import check_sample_rate
from flexicodec.hub import read_weights
from flexicodec.nn.mel_filters import htk_mel_filters
from flexicodec.weights import load_exactly

SAMPLE_RATE = 16_000
FILES = ("model.safetensors", "pytorch_model.bin", "model_se.pth.tar")
FRONT_END = "torch_spec."  # constants that the released file keeps among its weights
NUM_MELS = 64
FFT = 512  # samples
WIDTHS = (32, 64, 128, 256)  # half of ResNet-34's
DEPTHS = (3, 4, 6, 3)
ATTENTION_DIM = 128
EMBEDDING_DIM = 512
ZERO_CROSSINGS = 6  # of the resampler's filters; this and the roll-off are torchaudio's defaults, which NeMo uses
ROLLOFF = 0.99


class MelEnergies(nn.Module):
    """Log mel energies of audio at 16 kHz, each band normalised to mean 0 and deviation 1 over time."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hamming_window(400), persistent=False)
        filters = torch.from_numpy(htk_mel_filters(SAMPLE_RATE, FFT, NUM_MELS))
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch mels frames"]:
        """Compute energies; the audio is reflected at both ends."""
        before = F.pad(audio[:, None], (1, 0), mode="reflect")[:, 0, :-1]
        emphasised = audio - 0.97 * before
        spectrum = torch.stft(emphasised, FFT, hop_length=160, win_length=400, window=self.window, return_complex=True)
        energies = self.filters @ (spectrum.real.square() + spectrum.imag.square())
        return F.instance_norm((energies + 1e-6).log())


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: scale channels by a function of their means (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 8
        self.fc = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "batch dim mels frames"]) -> Float[Tensor, "batch dim mels frames"]:
        """Scale the channels."""
        return x * self.fc(x.mean(dim=(2, 3)))[..., None, None]


class ResidualBlock(nn.Module):
    """Residual block of two convolutions and squeeze-and-excitation; the first activation is before its norm."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels)
        self.downsample: nn.Module | None = None
        if stride > 1:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "batch dim mels frames"]) -> Float[Tensor, "batch out out_mels out_frames"]:
        """Run the block."""
        y = self.bn1(F.relu(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(y + x)


class SpeakerEncoder(nn.Module):
    """H/ASP: audio at 16 kHz to one embedding per clip; clips are compared by the angle between embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = MelEnergies()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        before = WIDTHS[0]
        for number, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
            stage = nn.Sequential(ResidualBlock(before, width, 1 if number == 1 else 2))
            for _ in range(depth - 1):
                stage.append(ResidualBlock(width, width, 1))
            self.add_module(f"layer{number}", stage)
            before = width
        dim = WIDTHS[-1] * NUM_MELS // 8  # three of the four stages halve the mels
        self.attention = nn.Sequential(
            nn.Conv1d(dim, ATTENTION_DIM, 1),
            nn.ReLU(),
            nn.BatchNorm1d(ATTENTION_DIM),
            nn.Conv1d(ATTENTION_DIM, dim, 1),
            nn.Softmax(dim=2),
        )
        self.fc = nn.Linear(2 * dim, EMBEDDING_DIM)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Embed clips of more than 256 samples, padding included."""
        x = self.bn1(F.relu(self.conv1(self.front_end(audio)[:, None])))
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        x = x.flatten(1, 2)
        # Attentive statistics pooling: weighted mean and deviation over time.
        weights = self.attention(x)
        mean = (x * weights).sum(dim=2)
        variance = (x.square() * weights).sum(dim=2) - mean.square()
        return self.fc(torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1))


def load_speaker_encoder(source: str | Path) -> SpeakerEncoder:
    """Load the released weights of H/ASP from their file, or from the folder that holds it."""
    path = Path(source)
    path = next((path / name for name in FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise ValueError(
            f"reconstruction.speaker_encoder is {str(source)!r}, which holds none of {', '.join(FILES)}; expected a "
            "local copy of Edresson/Speaker_Encoder_H_ASP"
        )
    held: Mapping[str, Any] = read_weights(path)
    held = held.get("model", held)  # the released file is a checkpoint of its training
    state = {name: value for name, value in held.items() if not name.startswith(FRONT_END)}
    encoder = SpeakerEncoder()
    try:
        load_exactly(encoder, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return encoder.requires_grad_(False).eval()


class FrozenNetwork(nn.Module):
    """Run a frozen network on resampled audio; gradients pass through it.

    A module is frozen and set to eval mode. It moves along with this one but is not its child: no optimiser, state dict
    or `train()` reaches it.

    Args:
        network: Maps audio [B, S] at `network_rate` to what the loss compares.
        sample_rate: Hz of the audio.
        network_rate: Hz that the network expects.
    """

    network: Callable[[Float[Tensor, "batch samples"]], Any]

    def __init__(
        self, network: Callable[[Float[Tensor, "batch samples"]], Any], sample_rate: int, network_rate: int = 16_000
    ) -> None:
        super().__init__()
        if isinstance(network, nn.Module):
            network.requires_grad_(False).eval()
        object.__setattr__(self, "network", network)  # past nn.Module, which would register it
        self.resampler = Resampler(sample_rate, network_rate)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Any:
        """Resample the audio and run the network, without autocast."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.network(self.resampler(audio.to(self.resampler.filters.dtype)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenNetwork":
        if isinstance(self.network, nn.Module):
            self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self


class Resampler(nn.Module):
    """Differentiable resampling from one rate (Hz) to another by a Hann-windowed sinc."""

    filters: Float[Tensor, "to_step 1 taps"]

    def __init__(self, from_rate: int, to_rate: int) -> None:
        super().__init__()
        from_rate = check_sample_rate(from_rate, "from_rate")
        to_rate = check_sample_rate(to_rate, "to_rate")
        common = math.gcd(from_rate, to_rate)
        self.from_step = from_rate // common
        self.to_step = to_rate // common
        # One filter for each output of a block of `to_step`; all filters start at the same input.
        cutoff = ROLLOFF * min(self.from_step, self.to_step)
        self.reach = math.ceil(ZERO_CROSSINGS * self.from_step / cutoff)
        inputs = torch.arange(-self.reach, self.reach + self.from_step, dtype=torch.float64) / self.from_step
        outputs = torch.arange(self.to_step, dtype=torch.float64)[:, None] / self.to_step
        crossings = (cutoff * (inputs - outputs)).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        taper = torch.cos(crossings * (math.pi / 2 / ZERO_CROSSINGS)).square()
        filters = torch.sinc(crossings) * taper * (cutoff / self.from_step)
        self.register_buffer("filters", filters[:, None].float(), persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch resampled"]:
        """Return ceil(samples * to_rate / from_rate) samples; the audio is silent beyond its ends."""
        if self.from_step == self.to_step:
            return audio
        padded = F.pad(audio[:, None], (self.reach, self.reach + self.from_step))
        blocks = F.conv1d(padded, self.filters, stride=self.from_step)
        return blocks.transpose(1, 2).flatten(1)[:, : -(-audio.shape[1] * self.to_step // self.from_step)]
