"""Distill-MOS (arXiv 2502.05356): opinion scores by a small network distilled from XLS-R, with weights that ship (MIT).

The score is the mean over windows of 7.68 s, each divided by its peak, so that level does not count. What is shorter
would be filled with zeros, and its score then depends on where the clip is cut (by 2 points and more); here it is
repeated until it fills a window.
"""

import math
from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.weights import WEIGHTS_NAME, load_exactly, read_weights

SAMPLE_RATE = 16_000
WINDOW = 122_880  # samples, 7.68 s
HOP = SAMPLE_RATE  # most samples from one window to the next
LEAST_SAMPLES = SAMPLE_RATE  # shorter clips have no score
FADE = 160  # samples over which the end of a repetition turns into the beginning of the next
SILENCE = 1e-7  # peak below which a clip has no score

FFT = 320  # 20 ms
FFT_HOP = 160
CHANNELS = (64, 64, 128, 256, 256, 256)  # of the convolutions
BINS = 4  # that are left of the spectrum's 161
STEPS = 384  # time steps of a window after the convolutions
DIM = 200
HEADS = 8
LAYERS = 7


class DistillMOS(nn.Module):
    """Convolutions over a compressed complex spectrum, a transformer, and attention pooling.

    Parameters have the names of the package distillmos.
    """

    def __init__(self) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        inputs = 2
        for index, channels in enumerate(CHANNELS):
            stride = (2 if index else 1, 2 if index == len(CHANNELS) - 1 else 1)  # of frequency, of time
            convolutions += [nn.Conv2d(inputs, channels, 3, stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
            inputs = channels
        self.cnn = nn.ModuleDict({"cnn": nn.Sequential(*convolutions)})
        self.transformer_pool_attn = PooledTransformer(inputs * BINS)

    @classmethod
    def load(cls, device: torch.device | str | None = None) -> "DistillMOS":
        """Load the weights that ship, in eval mode, frozen and in float32."""
        path = Path(str(files("flexicodec") / "assets" / "distillmos" / WEIGHTS_NAME))
        with torch.device("meta"):
            model = cls()
        state = {}
        for name, tensor in read_weights(path).items():
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
        load_exactly(model, state)
        return model.requires_grad_(False).to(device or "cpu").eval()

    def forward(self, windows: Float[Tensor, "windows 122880"]) -> Float[Tensor, " windows"]:
        """Score windows of 7.68 s at 16 kHz, from 1 to 5."""
        peaks = windows.abs().amax(dim=1, keepdim=True)
        features = self.cnn["cnn"](compressed_spectrum(windows / (peaks + 1e-8)))
        return 1 + 4 * self.transformer_pool_attn(features.flatten(1, 2).mT)

    @torch.no_grad()
    def score(self, audio: Float[Tensor, " samples"]) -> float:
        """Score a clip at 16 kHz; NaN for silence, and for clips shorter than 1 s."""
        if len(audio) < LEAST_SAMPLES or float(audio.abs().max()) < SILENCE:
            return math.nan
        # One at a time: a batch needs more memory and is not faster on one thread.
        scores = [float(self(window[None])) for window in cut_windows(audio)]
        return sum(scores) / len(scores)


class PooledTransformer(nn.Module):
    """The transformer over time steps, and one value from all of them, from 0 to 1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm_input = nn.BatchNorm1d(inputs)
        self.transformer = StepTransformer(inputs)
        self.norm_trans = nn.BatchNorm1d(DIM)
        self.pool = AttentionPooling()

    def forward(self, x: Float[Tensor, "windows steps inputs"]) -> Float[Tensor, " windows"]:
        """Return a value for each window."""
        x = self.norm_input(x.mT).mT
        x = self.transformer(x)
        x = self.norm_trans(x.mT).mT
        return torch.sigmoid(self.pool(x))


class StepTransformer(nn.Module):
    """Projection, positions and transformer blocks."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.linear_proj = nn.Linear(inputs, DIM)
        self.position_encoding = nn.Module()
        self.position_encoding.register_buffer("pe", torch.zeros(1, STEPS, DIM))  # stored with the weights
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 2 * DIM, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, x: Float[Tensor, "windows steps inputs"]) -> Float[Tensor, "windows steps dim"]:
        """Transform the steps."""
        x = self.linear_proj(self.norm(x.mT).mT)
        return self.transformer_encoder(x + cast(Tensor, self.position_encoding.pe))


class AttentionPooling(nn.Module):
    """Mean over time with learned weights, and a linear layer to one value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(DIM, 2 * DIM)
        self.linear2 = nn.Linear(2 * DIM, 1)
        self.linear3 = nn.Linear(DIM, 1)

    def forward(self, x: Float[Tensor, "windows steps dim"]) -> Float[Tensor, " windows"]:
        """Pool the steps of each window."""
        weights = self.linear2(F.relu(self.linear1(x))).softmax(dim=1)
        return self.linear3((weights * x).sum(dim=1))[:, 0]


def compressed_spectrum(windows: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows 2 bins frames"]:
    """Compute real and imaginary part of the spectrum, with its magnitude to the power of 0.3."""
    padding = (FFT - FFT_HOP) // 2
    padded = F.pad(windows, (padding, padding), mode="reflect")
    hann = torch.hann_window(FFT, device=windows.device)
    spectrum = torch.view_as_real(torch.stft(padded, FFT, FFT_HOP, window=hann, center=False, return_complex=True))
    magnitude = spectrum.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
    return (magnitude.pow(-0.7) * spectrum).permute(0, 3, 1, 2)


def cut_windows(audio: Float[Tensor, " samples"]) -> list[Float[Tensor, " window"]]:
    """Cut windows spread evenly over a clip, at most a second apart; a shorter clip is repeated to fill one."""
    spare = len(audio) - WINDOW
    if spare < 0:
        return [repeated(audio, WINDOW)]
    starts = np.linspace(0, 1, math.ceil(spare / HOP) + 1) * spare
    return [audio[int(start) : int(start) + WINDOW] for start in starts]


def repeated(audio: Float[Tensor, " samples"], samples: int) -> Float[Tensor, " samples"]:
    """Repeat a clip, each end fading into the next beginning, up to so many samples."""
    rising = torch.linspace(0, 1, FADE + 2, device=audio.device)[1:-1]
    period = audio[: len(audio) - FADE].clone()
    # The clip's beginning after its end: the last samples fade out, the first ones fade in.
    seam = audio[len(audio) - FADE :] * (1 - rising) + audio[:FADE] * rising
    following = torch.cat([seam, period[FADE:]])
    count = math.ceil(samples / len(following))
    return torch.cat([period, *([following] * count)])[:samples]
