"""Null codecs: tokens that know little or nothing of the sound, to hold the real ones against.

What a codec's tokens seem to say about phones has to be more than such tokens would say. `NULLS` make, for one clip, as
many tokens as the codec made: for boundaries, and for what happens inside a clip. `RATE_NULLS` make, for a corpus, as
many tokens in all but leave it to each clip how many of them it takes: for rates of clips, which a null of the first
kind would copy. All obey the same cap on a token's frames.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.cutting import (
    Durations,
    by_similarity,
    by_threshold,
    even,
    fewest,
    pace_speech,
    paced_tokens,
    total_tokens,
)
from flexicodec.analysis.sound import active, frame_energies_db, frame_mels

Null = Callable[[Coded, np.random.Generator], Durations]
RateNull = Callable[[Sequence[Coded], np.random.Generator], list[Durations]]


# ---------------------------------------------------------------------------------- as many tokens in every clip


def uniform(clip: Coded, random: np.random.Generator) -> Durations:
    """Make tokens of equal durations, as near as whole frames allow; nothing is drawn."""
    return even(clip.num_frames, clip.num_tokens)


def random_boundaries(clip: Coded, random: np.random.Generator) -> Durations:
    """Let tokens start anywhere: the codec's own rule for a rate, fed with noise in the place of similarities."""
    return by_similarity(clip, random.random(clip.num_frames - 1))


def shuffled(clip: Coded, random: np.random.Generator) -> Durations:
    """Put the clip's own tokens into another order."""
    return random.permutation(clip.durations)


def energy_flux(clip: Coded, random: np.random.Generator) -> Durations:
    """Cut where loudness changes most between neighbouring frames; nothing is drawn."""
    return by_similarity(clip, energy_similarities(clip))


def mel_cosine(clip: Coded, random: np.random.Generator) -> Durations:
    """Cut where mel spectra of neighbouring frames are least alike, by cosine; nothing is drawn."""
    return by_similarity(clip, mel_similarities(clip))


def voice_activity(clip: Coded, random: np.random.Generator) -> Durations:
    """Know only speech from silence: merge silence as far as the cap allows, and space speech evenly; nothing is drawn.

    Where there are too few tokens for every change between the two, the shortest stretches are not told apart.
    """
    return pace_speech(active_frames(clip), clip.num_tokens, clip.max_duration)


NULLS: Mapping[str, Null] = MappingProxyType(
    {
        "uniform": uniform,
        "random": random_boundaries,
        "shuffled": shuffled,
        "voice_activity": voice_activity,
        "energy": energy_flux,
        "mel_cosine": mel_cosine,
    }
)
"""Nulls with as many tokens as the codec made of the clip, by name."""

DRAWN = frozenset(("random", "shuffled"))
"""Those that differ from draw to draw."""


# ---------------------------------------------------------------------------------- as many tokens in the corpus


def uniform_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Give every clip the corpus's rate, in tokens of equal durations; nothing is drawn."""
    frames = np.array([clip.num_frames for clip in clips])
    ends = np.rint(np.cumsum(frames) * (total_tokens(clips) / frames.sum())).astype(int)
    counts = np.clip(np.diff(ends, prepend=0), [fewest(clip) for clip in clips], frames)
    return [even(clip.num_frames, int(count)) for clip, count in zip(clips, counts, strict=True)]


def random_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Toss a coin at every frame, the same in all clips."""
    return by_threshold(clips, [random.random(clip.num_frames - 1) for clip in clips])


def shuffled_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Shuffle the tokens of the corpus, lay them end to end, and cut them where clips end."""
    ends = np.cumsum(random.permutation(np.concatenate([clip.durations for clip in clips])))
    clip_ends = np.cumsum([clip.num_frames for clip in clips])
    every = np.union1d(ends, clip_ends)
    last = np.searchsorted(every, clip_ends)
    return [part for part in np.split(np.diff(every, prepend=0), last[:-1] + 1)]


def energy_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Cut where loudness changes by more than some dB, the same in all clips; nothing is drawn."""
    return by_threshold(clips, [energy_similarities(clip) for clip in clips])


def mel_cosine_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Merge neighbours whose mel spectra are more alike than a threshold, the same in all clips; nothing is drawn."""
    return by_threshold(clips, [mel_similarities(clip) for clip in clips])


def voice_activity_rate(clips: Sequence[Coded], random: np.random.Generator) -> list[Durations]:
    """Merge silence as far as the cap allows and space speech evenly, at a pace the same in all clips."""
    active = [active_frames(clip) for clip in clips]
    low, high = 0.0, 1.0  # tokens per frame of speech

    def paced(pace: float) -> list[int]:
        return [paced_tokens(each, pace, clip.max_duration) for each, clip in zip(active, clips, strict=True)]

    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(paced(middle)) <= total_tokens(clips) else (low, middle)
    return [
        pace_speech(each, count, clip.max_duration) for each, count, clip in zip(active, paced(low), clips, strict=True)
    ]


RATE_NULLS: Mapping[str, RateNull] = MappingProxyType(
    {
        "uniform": uniform_rate,
        "random": random_rate,
        "shuffled": shuffled_rate,
        "voice_activity": voice_activity_rate,
        "energy": energy_rate,
        "mel_cosine": mel_cosine_rate,
    }
)
"""Nulls with as many tokens as the codec made of the corpus, or as near as they can come, by the same names."""


# ------------------------------------------------------------------------------------------- what they listen to


def active_frames(clip: Coded) -> Bool[np.ndarray, " frames"]:
    """Tell for each frame whether it is loud enough for speech."""
    return active(frame_energies_db(_sound(clip), clip.sample_rate, clip.frame_seconds, clip.num_frames))


def energy_similarities(clip: Coded) -> Float[np.ndarray, " pairs"]:
    """Return minus the change in dB from each frame to the next."""
    return -np.abs(np.diff(frame_energies_db(_sound(clip), clip.sample_rate, clip.frame_seconds, clip.num_frames)))


def mel_similarities(clip: Coded) -> Float[np.ndarray, " pairs"]:
    """Return the cosine of each frame's log-mel spectrum, less the clip's mean, with the next one's."""
    mels = frame_mels(_sound(clip), clip.sample_rate, clip.frame_seconds, clip.num_frames)
    unit = mels / np.maximum(np.linalg.norm(mels, axis=1, keepdims=True), 1e-12)
    return (unit[:-1] * unit[1:]).sum(1)


def _sound(clip: Coded) -> Float[np.ndarray, " samples"]:
    if clip.audio is None:
        raise ValueError("this null listens to the clip: make it with audio=, as in Coded.of(tokens, audio)")
    return clip.audio
