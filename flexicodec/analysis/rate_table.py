"""Clips as columns: which of them can be correlated, their rates, their speakers, and what else they differ in."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.spoken import ClipRates
from flexicodec.statistics import speaker_clusters

Over = Literal["speech", "all"]
CONTROLS = ("silence_share", "log_energy_mean", "log_energy_std", "seconds", "voiced_share")
"""What is taken out of correlations, by the names of `ClipRates`."""

TIMIT_DIALECT = ("SA1", "SA2")
"""Sentences that all speakers of TIMIT read; without them, correlations rest on different ones."""

Values = Float[np.ndarray, " clips"]


def usable(
    rates: Sequence[ClipRates], over: Over, leave_sentences: Sequence[str] = TIMIT_DIALECT
) -> tuple[list[ClipRates], dict[str, tuple[str, ...]]]:
    """Part clips that can be correlated from those that cannot; returns them, and the ids of the others by reason.

    Raises:
        ValueError: Two clips of one id.
    """
    twice = [name for name, times in Counter(clip.id for clip in rates).items() if times > 1]
    if twice:
        raise ValueError(f"clip {twice[0]!r} is there twice; expected every id once (are two corpora mixed?)")
    unwanted = {sentence.lower() for sentence in leave_sentences}
    kept: list[ClipRates] = []
    lost: dict[str, list[str]] = {}
    for clip in rates:
        if (clip.sentence or "").lower() in unwanted:
            lost.setdefault("sentence that all speakers read", []).append(clip.id)
        elif clip.unknown:
            lost.setdefault("words that the alignment does not spell", []).append(clip.id)
        elif clip.phones == 0:
            lost.setdefault("no phones", []).append(clip.id)
        elif clip.speech_seconds <= 0:
            lost.setdefault("no speech", []).append(clip.id)
        elif over == "speech" and clip.speech_tokens == 0:
            lost.setdefault("no token in speech", []).append(clip.id)
        else:
            kept.append(clip)
    return kept, {reason: tuple(names) for reason, names in lost.items()}


@dataclass(frozen=True, eq=False)
class Table:
    """Clips as columns.

    Attributes:
        phones: Counted in each clip.
        tokens: Likewise.
        seconds: Over which both were counted.
        clusters: Of clips, see `statistics.speaker_clusters`.
    """

    phones: Values
    tokens: Values
    seconds: Values
    clusters: list[str] | None

    @classmethod
    def of(cls, rates: Sequence[ClipRates], over: Over) -> "Table":
        """Lay out clips, over all or over speech."""
        speech = over == "speech"
        return cls(
            np.array([clip.spoken_phones if speech else clip.phones for clip in rates], dtype=np.float64),
            np.array([clip.speech_tokens if speech else clip.tokens for clip in rates], dtype=np.float64),
            np.array([clip.speech_seconds if speech else clip.seconds for clip in rates], dtype=np.float64),
            clusters_of(rates),
        )

    @property
    def x(self) -> Values:
        """Phones per second."""
        return self.phones / self.seconds

    @property
    def y(self) -> Values:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def xy(self) -> tuple[Values, Values]:
        """Both rates."""
        return self.x, self.y


def clusters_of(rates: Sequence[ClipRates]) -> list[str] | None:
    """List the cluster of each clip; see `statistics.speaker_clusters`."""
    return speaker_clusters([clip.speaker for clip in rates], [clip.id for clip in rates])


def controls_of(rates: Sequence[ClipRates]) -> tuple[Float[np.ndarray, "clips controls"], list[int]]:
    """Lay out the controls of clips that have them all; returns them and which clips these are."""
    values = np.array([[getattr(clip, name) for name in CONTROLS] for clip in rates], dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(values).all(1))
    return values[rows], rows.tolist()
