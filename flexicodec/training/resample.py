"""Resampling that gradients pass through, for losses whose frozen networks hear another rate than the codec's."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.audio import check_sample_rate

ZERO_CROSSINGS, ROLLOFF = 6, 0.99


class Resampler(nn.Module):
    """A sinc in a Hann window, with torchaudio's defaults, which NeMo uses: 6 zero crossings, cut off at 99 %.

    Args:
        from_rate: Hz of what comes in.
        to_rate: Hz of what goes out.
    """

    filters: Float[Tensor, "to_step 1 taps"]

    def __init__(self, from_rate: int, to_rate: int) -> None:
        super().__init__()
        from_rate, to_rate = check_sample_rate(from_rate, "from_rate"), check_sample_rate(to_rate, "to_rate")
        common = math.gcd(from_rate, to_rate)
        self.from_step, self.to_step = from_rate // common, to_rate // common
        # One filter for each output of a block of `to_step`, which begins with the same input.
        cutoff = ROLLOFF * min(self.from_step, self.to_step)
        self.reach = math.ceil(ZERO_CROSSINGS * self.from_step / cutoff)
        inputs = torch.arange(-self.reach, self.reach + self.from_step, dtype=torch.float64) / self.from_step
        outputs = torch.arange(self.to_step, dtype=torch.float64)[:, None] / self.to_step
        crossings = (cutoff * (inputs - outputs)).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        taper = torch.cos(crossings * (math.pi / 2 / ZERO_CROSSINGS)).square()
        filters = torch.sinc(crossings) * taper * (cutoff / self.from_step)
        self.register_buffer("filters", filters[:, None].float(), persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch resampled"]:
        """Return ceil(samples * to_rate / from_rate) samples; beyond its ends the audio is silent."""
        if self.from_step == self.to_step:
            return audio
        padded = F.pad(audio[:, None], (self.reach, self.reach + self.from_step))
        blocks = F.conv1d(padded, self.filters, stride=self.from_step)
        return blocks.transpose(1, 2).flatten(1)[:, : -(-audio.shape[1] * self.to_step // self.from_step)]
