"""H/ASP, the speaker encoder of NanoCodec's Speaker Consistency Loss: a squeezed ResNet-34 over mel energies.

From "Clova baseline system for the VoxCeleb Speaker Recognition Challenge 2020" (arXiv 2009.14153), without the norm of
the embedding. Weights come from a local copy of Edresson/Speaker_Encoder_H_ASP, under whose names they are kept here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn.mel_filters import htk_mel_filters
from flexicodec.weights import load_exactly, read_weights

SAMPLE_RATE = 16_000
FILES = ("model.safetensors", "pytorch_model.bin", "model_se.pth.tar")
NUM_MELS, FFT, WINDOW, HOP, PREEMPHASIS = 64, 512, 400, 160, 0.97
ENERGY_FLOOR, VARIANCE_FLOOR = 1e-6, 1e-5
WIDTHS, DEPTHS, EMBEDDING_DIM = (32, 64, 128, 256), (3, 4, 6, 3), 512
ATTENTION_DIM, SQUEEZE = 128, 8
FRONT_END = "torch_spec."  # constants that the released file keeps among its weights


class MelEnergies(nn.Module):
    """Log mel energies of audio at 16 kHz, every band brought to mean 0 and deviation 1 over time."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hamming_window(WINDOW), persistent=False)
        filters = torch.from_numpy(htk_mel_filters(SAMPLE_RATE, FFT, NUM_MELS))
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch mels frames"]:
        """Listen; reflections lie beyond both ends."""
        before = F.pad(audio[:, None], (1, 0), mode="reflect")[:, 0, :-1]
        spectrum = torch.stft(
            audio - PREEMPHASIS * before,
            FFT,
            HOP,
            WINDOW,
            self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        energies = self.filters @ (spectrum.real.square() + spectrum.imag.square())
        return F.instance_norm((energies + ENERGY_FLOOR).log())


class SqueezeExcite(nn.Module):
    """Weigh channels by what their means over the whole picture say (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // SQUEEZE
        self.fc = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "batch dim mels frames"]) -> Float[Tensor, "batch dim mels frames"]:
        """Weigh."""
        return x * self.fc(x.mean(dim=(2, 3)))[..., None, None]


class ResidualBlock(nn.Module):
    """Two convolutions and a squeeze, added to what came in; the first activation stands before its norm."""

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
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SpeakerEncoder(nn.Module):
    """Audio at 16 kHz to one embedding each, of which the angles matter."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = MelEnergies()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        before = WIDTHS[0]
        for number, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
            first = ResidualBlock(before, width, 1 if number == 1 else 2)
            blocks = [first, *(ResidualBlock(width, width, 1) for _ in range(depth - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        dim = WIDTHS[-1] * NUM_MELS // 8  # three stages of four halve the mels
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
        shares = self.attention(x)
        mean = (x * shares).sum(dim=2)
        variance = (x.square() * shares).sum(dim=2) - mean.square()
        return self.fc(torch.cat([mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()], dim=1))


def load_speaker_encoder(source: str | Path) -> SpeakerEncoder:
    """Open the released weights of H/ASP.

    Args:
        source: The file, or the folder it lies in.

    Raises:
        ValueError: There is no such file, or its weights are not H/ASP's.
    """
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
