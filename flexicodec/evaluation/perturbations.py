"""Perturbed copies of clips, and how much a codec's tokens change with them (token stability).

A perturbation is written KIND:VALUE: `noise:20db` (white, at that signal-to-noise ratio), `gain:-6db`, `codec:opus16`
(Opus at about 16 kbps), `shift:40ms` (a delay; negative values cut off the beginning).
"""

import io
import math
import re
import zlib
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from jaxtyping import Int

from flexicodec.audio import resample
from flexicodec.evaluation.metrics.loading import Waveform
from flexicodec.tokens import Tokens

FORMS = {
    "noise": re.compile(r"(-?\d+(?:\.\d+)?)db"),
    "gain": re.compile(r"([+-]?\d+(?:\.\d+)?)db"),
    "codec": re.compile(r"opus(\d+(?:\.\d+)?)"),
    "shift": re.compile(r"(-?\d+(?:\.\d+)?)ms"),
}
EXAMPLES = "noise:20db, gain:-6db, codec:opus16, shift:40ms"
METRICS = ("unit_edit", "boundary_f1", "acoustic_agreement")
MARGINS = ("boundary_margin", "semantic_margin")
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz
OPUS_KBPS = (6.0, 256.0)  # lowest and highest, of libsndfile
TOLERANCE = 0.5  # frames by which a boundary may be elsewhere: a shift moves the grid by as much


@dataclass(frozen=True)
class Perturbation:
    """One way to change a clip."""

    name: str  # as written
    kind: str
    value: float  # dB, kbps or ms

    @classmethod
    def parse(cls, name: str) -> "Perturbation":
        """Read KIND:VALUE; ValueError for anything else."""
        kind, _, value = name.lower().partition(":")
        form = FORMS.get(kind)
        found = form.fullmatch(value) if form else None
        if found is None:
            raise ValueError(f"there is no perturbation {name!r}; expected some of {EXAMPLES}")
        number = float(found[1])
        if kind == "codec" and not OPUS_KBPS[0] <= number <= OPUS_KBPS[1]:
            raise ValueError(f"{name!r}: Opus has {OPUS_KBPS[0]:g} to {OPUS_KBPS[1]:g} kbps")
        return cls(name, kind, number)

    @property
    def delay_seconds(self) -> float:
        """Seconds by which everything comes later."""
        return self.value / 1000 if self.kind == "shift" else 0.0

    def apply(self, wave: Waveform, sample_rate: int) -> Waveform:
        """Change a clip; its length stays, but for a shift."""
        if self.kind == "gain":
            return (wave * 10 ** (self.value / 20)).astype(np.float32)
        if self.kind == "noise":
            return _with_noise(wave, self.value)
        if self.kind == "codec":
            return _through_opus(wave, sample_rate, self.value)
        samples = round(self.delay_seconds * sample_rate)
        if -samples >= len(wave):
            raise ValueError(f"{self.name} leaves nothing of a clip of {len(wave) / sample_rate:g} s")
        return np.pad(wave, (samples, 0)) if samples >= 0 else wave[-samples:]


def _with_noise(wave: Waveform, snr_db: float) -> Waveform:
    # The seed is the clip itself: the same noise in every run, another one for every clip.
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(wave, np.float32).tobytes()))
    level = math.sqrt(float(np.mean(np.square(wave, dtype=np.float64)))) * 10 ** (-snr_db / 20)
    return (wave + level * random.standard_normal(len(wave))).astype(np.float32)


def _through_opus(wave: Waveform, sample_rate: int, kbps: float) -> Waveform:
    rate = sample_rate if sample_rate in OPUS_RATES else OPUS_RATES[-1]
    coded = io.BytesIO()
    # libsndfile spreads the compression level evenly over its bitrates.
    level = (OPUS_KBPS[1] - kbps) / (OPUS_KBPS[1] - OPUS_KBPS[0])
    samples = resample(torch.from_numpy(np.ascontiguousarray(wave, np.float32)), sample_rate, rate).numpy()
    soundfile.write(coded, np.clip(samples, -1, 1), rate, format="OGG", subtype="OPUS", compression_level=level)
    coded.seek(0)
    decoded, _ = soundfile.read(coded, dtype="float32")
    back = resample(torch.from_numpy(decoded), rate, sample_rate).numpy()[: len(wave)]
    return np.pad(back, (0, len(wave) - len(back)))


def token_stability(clean: Tokens, perturbed: Tokens, delay_seconds: float = 0.0) -> dict[str, float]:
    """Compare the tokens of one clip with those of its perturbed copy.

    Returns:
        `unit_edit`: insertions, deletions and substitutions of semantic codes, over the clean clip's tokens (NaN
        without semantic codes). `boundary_f1`: of the boundaries between tokens, half a frame apart at most.
        `acoustic_agreement`: share of equal acoustic codes, frame by frame and codebook by codebook (NaN without).
    """
    delay = delay_seconds * clean.format.sample_rate / clean.format.frame_size  # in frames
    unit_edit = math.nan
    if clean.semantic is not None and perturbed.semantic is not None:
        first = clean.semantic[0][clean.durations[0] > 0].numpy()
        second = perturbed.semantic[0][perturbed.durations[0] > 0].numpy()
        unit_edit = edit_distance(first, second) / len(first)
    return {
        "unit_edit": unit_edit,
        "boundary_f1": _boundary_f1(clean, perturbed, delay),
        "acoustic_agreement": _acoustic_agreement(clean, perturbed, delay),
    }


def edit_distance(first: Int[np.ndarray, " a"], second: Int[np.ndarray, " b"]) -> int:
    """Count the insertions, deletions and substitutions that turn one sequence into another (Levenshtein)."""
    places = np.arange(len(second) + 1)
    costs = places.copy()
    for index, code in enumerate(first, start=1):
        # Deletion and substitution; insertions then run along the row.
        row = np.concatenate([[index], np.minimum(costs[1:] + 1, costs[:-1] + (second != code))])
        costs = np.minimum.accumulate(row - places) + places
    return int(costs[-1])


def _boundary_f1(clean: Tokens, perturbed: Tokens, delay: float) -> float:
    first, second = (tokens.durations[0].cumsum(0)[:-1].double().numpy() for tokens in (clean, perturbed))
    second = second - delay
    second = second[(second > TOLERANCE) & (second < float(clean.frame_lengths) - TOLERANCE)]
    if not len(first) and not len(second):
        return 1.0
    # Both are in order, so matching each with the first that is free and near is the most that can be matched.
    hits = 0
    at = 0
    for boundary in first:
        while at < len(second) and second[at] < boundary - TOLERANCE - 1e-9:
            at += 1
        if at < len(second) and second[at] <= boundary + TOLERANCE + 1e-9:
            hits += 1
            at += 1
    return 2 * hits / (len(first) + len(second))


def _acoustic_agreement(clean: Tokens, perturbed: Tokens, delay: float) -> float:
    if not clean.num_codebooks or not perturbed.num_codebooks:
        return math.nan
    first, second = (_frames(tokens) for tokens in (clean, perturbed))
    middles = np.arange(first.shape[1]) + 0.5 + delay
    places = np.floor(middles + 1e-9).astype(int)
    inside = (places >= 0) & (places < second.shape[1])
    return float(np.mean(first[:, inside] == second[:, places[inside]])) if inside.any() else math.nan


def _frames(tokens: Tokens) -> Int[np.ndarray, "codebooks frames"]:
    """Repeat the acoustic codes of each token for its frames."""
    return np.repeat(tokens.acoustic[0].numpy(), tokens.durations[0].numpy(), axis=1)


def median_margins(tokens: Tokens) -> dict[str, float]:
    """Return the median margins of a clip's boundaries and semantic codes; NaN where they are not known.

    Decisions that nothing can flip have no margin to count.
    """
    if tokens.margins is None:
        return {}
    found: dict[str, float] = {}
    for name, margins in zip(MARGINS, (tokens.margins.boundaries, tokens.margins.semantic), strict=True):
        finite = margins[torch.isfinite(margins)] if margins is not None else torch.zeros(0)
        found[name] = float(finite.median()) if len(finite) else math.nan
    return found
