"""GE2E speaker embeddings (arXiv 1710.10467) with the weights of Resemblyzer 0.1.4 (Apache-2.0), which ship.

The network saw audio of one level and takes audio of another level for another speaker (cosine .64 to .71 for 20 dB
between equal clips), so every clip is brought to one RMS first.
"""

import math
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn.mel_filters import slaney_mel_filters
from flexicodec.weights import WEIGHTS_NAME, load_exactly, read_weights

SAMPLE_RATE = 16_000
WINDOW = 400  # samples, 25 ms
HOP = 160
NUM_MELS = 40
DIM = 256
PART = 160  # frames that are embedded at a time; a clip's embedding is the mean over its parts
PART_STEP = 77  # frames, 1.3 parts a second
LEAST_COVERAGE = 0.75  # share of the last part that has to lie inside the clip
RMS = 10 ** (-24 / 20)  # of every clip that is embedded
LEAST_SAMPLES = 2 * SAMPLE_RATE  # embeddings of shorter clips depend on what is said
SILENCE = 1e-7  # peak below which a clip has no speaker


class GE2E(nn.Module):
    """LSTM over mel energies, and a linear layer; embeddings have length 1 and no negative value."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(NUM_MELS, DIM, num_layers=3, batch_first=True)
        self.linear = nn.Linear(DIM, DIM)
        # Both are constants of the front end, and made here so that they exist also under torch.device("meta").
        with torch.device("cpu"):
            self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
            filters = torch.from_numpy(slaney_mel_filters(SAMPLE_RATE, WINDOW, NUM_MELS).copy()).float()
            self.register_buffer("filters", filters, persistent=False)

    @classmethod
    def load(cls, device: torch.device | str | None = None) -> "GE2E":
        """Load the weights that ship, in eval mode, frozen and in float32."""
        path = Path(str(files("flexicodec") / "assets" / "ge2e" / WEIGHTS_NAME))
        with torch.device("meta"):
            model = cls()
        load_exactly(model, {name: tensor.float() for name, tensor in read_weights(path).items()})
        return model.requires_grad_(False).to(device or "cpu").eval()

    def forward(self, mels: Float[Tensor, "parts frames mels"]) -> Float[Tensor, "parts dim"]:
        """Embed parts of equal length."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=-1)

    def energies(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, "frames mels"]:
        """Compute mel energies (no logarithm), a frame every 10 ms; frame t is centred on sample 160 t."""
        spectrum = torch.stft(
            audio, WINDOW, HOP, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        return (self.filters @ spectrum.abs().square()).T

    @torch.no_grad()
    def embed(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, " dim"]:
        """Embed a clip at 16 kHz; NaN for silence, and for clips shorter than 2 s."""
        if len(audio) < LEAST_SAMPLES or float(audio.abs().max()) < SILENCE:
            return torch.full((DIM,), math.nan, device=audio.device)
        starts = part_starts(len(audio))
        padded = F.pad(audio, (0, max(0, (starts[-1] + PART) * HOP - len(audio))))
        energies = self.energies(padded * (RMS / audio.square().mean().sqrt()))
        parts = torch.stack([energies[start : start + PART] for start in starts])
        return F.normalize(self(parts).mean(dim=0), dim=0)


def part_starts(samples: int) -> list[int]:
    """List the first frames of a clip's parts, as Resemblyzer cuts it: the last one may reach beyond the end."""
    frames = math.ceil((samples + 1) / HOP)
    starts = list(range(0, max(1, frames - PART + PART_STEP + 1), PART_STEP))
    inside = (samples - starts[-1] * HOP) / (PART * HOP)
    return starts[:-1] if inside < LEAST_COVERAGE and len(starts) > 1 else starts
