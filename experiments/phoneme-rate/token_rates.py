"""Tokens of stored clips at one setting of a policy or null codec for all, and rates of phones and tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from collect import StoredClip

from flexicodec.analysis.clip_rates import WINDOW_SECONDS, ClipRates, SpokenClip, correlatable, count_rates
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.calibration import fit_policy, fit_threshold
from flexicodec.corpus.alignments.phones import in_speech, without_silence
from flexicodec.merging import Centroid, MinimumVariance, Threshold
from flexicodec.models.flexicodec.network import Features

GRID = 12.5  # Hz
MAX_DURATION = 8  # frames
RULES: dict[str, Callable[[float], Any]] = {
    "threshold": Threshold,
    "centroid": Centroid,
    "variance": lambda price: MinimumVariance(price=price),
}
NULLS = ("mel cosine", "loudness change", "random boundaries")  # one threshold on other similarities


# ----------------------------------------------------------------------------------------------------------- tokens


def similarities_of(clip: StoredClip, policy: str) -> torch.Tensor:
    """Return what a policy or null codec cuts by, between -1 and 1."""
    if policy == "mel cosine":
        return torch.from_numpy(clip.similarities["mel"])
    if policy == "loudness change":
        return torch.from_numpy(clip.similarities["energy"] / 200)  # dB
    if policy == "random boundaries":
        seed = [ord(letter) for letter in clip.id]
        return torch.from_numpy(np.random.default_rng(seed).random(len(clip.features) - 1, dtype=np.float32))
    return torch.from_numpy(clip.similarities["semantic"])


def as_features(clip: StoredClip) -> Features:
    """Return the semantic features as a codec does."""
    return Features(
        semantic=torch.from_numpy(clip.features).float().mT[None],
        acoustic=None,
        similarities=torch.from_numpy(clip.similarities["semantic"])[None],
        lengths=torch.tensor([len(clip.features)]),
        audio_lengths=torch.tensor([round(clip.seconds * 16_000)]),
    )


def calibrate(clips: Sequence[StoredClip], policy: str, rate: float) -> float:
    """Find the threshold or price with which these clips have a rate together."""
    seconds = [clip.seconds for clip in clips]
    if policy in ("centroid", "variance"):
        setting = "price" if policy == "variance" else "threshold"
        text = f"{policy}:cap={MAX_DURATION}"
        features = list(map(as_features, clips))
        return fit_policy(text, setting, features, seconds, rate, MAX_DURATION).threshold
    frames = [len(clip.features) for clip in clips]
    similarities = [similarities_of(clip, policy) for clip in clips]
    return fit_threshold(similarities, frames, seconds, rate, MAX_DURATION).threshold


def cut(clip: StoredClip, policy: str, value: float) -> TokenTimeline:
    """Return a clip's tokens."""
    rule = RULES.get(policy, Threshold)(value)
    features = as_features(clip)
    durations = rule(
        similarities_of(clip, policy)[None],
        features.lengths,
        features=features.semantic,
        max_duration=MAX_DURATION,
    )
    return TokenTimeline(durations[0].numpy(), 1 / GRID, clip.seconds, MAX_DURATION)


# --------------------------------------------------------------------------------------------------- rates of clips


@dataclass(frozen=True, eq=False)
class Group:
    """Clips that are correlated together, with what does not depend on their tokens."""

    clips: list[StoredClip]
    rates: list[ClipRates]  # with a token for each frame

    @classmethod
    def of(cls, clips: Sequence[StoredClip]) -> "Group":
        """Count phones; clips without speech, or with words that the alignment does not spell, are left out."""
        rates = []
        for clip in clips:
            frames = TokenTimeline(np.ones(len(clip.features), int), 1 / GRID, clip.seconds, MAX_DURATION)
            spoken = SpokenClip(clip.id, frames, clip.alignment.phones, clip.alignment.words, speaker=clip.speaker)
            names = ("log_energy_mean", "log_energy_std", "voiced_share")
            rates.append(replace(count_rates(spoken), **dict(zip(names, clip.controls, strict=True))))
        kept, _ = correlatable(rates, "speech")
        ids = {each.id for each in kept}
        return cls([clip for clip in clips if clip.id in ids], kept)

    def with_tokens(self, policy: str, value_of: Callable[[StoredClip], float]) -> list[ClipRates]:
        """Count tokens."""
        found = []
        for clip, rates in zip(self.clips, self.rates, strict=True):
            assert rates.windows is not None
            timeline = cut(clip, policy, value_of(clip))
            middles = timeline.middles()
            windows = rates.windows.copy()
            if len(windows):
                windows[:, 1] = np.histogram(middles, np.arange(len(windows) + 1) * WINDOW_SECONDS)[0]
            spoken = int(in_speech(without_silence(clip.alignment.phones), middles).sum())
            found.append(replace(rates, tokens=timeline.num_tokens, speech_tokens=spoken, windows=windows))
        return found
