"""What an analysis looks at: clips with their tokens at several settings, their phones, and what could not be had.

`gather` makes these from a manifest and a codec; everything after it is counting.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.losses import Distortion
from flexicodec.analysis.segments import Alignment, Segment
from flexicodec.statistics import speaker_clusters
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

Source = Literal["alignment", "counts", "recogniser"]
SOURCES: tuple[Source, ...] = ("alignment", "counts", "recogniser")
"""Where phones come from: an alignment in time; the manifest's canonical count; a text laid along the sound by a CTC
recogniser, which gives the symbols it writes with."""


@dataclass(frozen=True)
class Setting:
    """One way to choose tokens, for all clips.

    Not an evaluation's `Setting`: a rate is here one of the corpus, met by a tau that is fitted to it.

    Attributes:
        name: What reports and files call it.
        threshold: tau, the same for all clips; None where each clip meets the frame rate by itself.
        frame_rate: Tokens per second asked for: of the corpus at a fitted tau, of every clip without one; None for a
            tau that was given.
    """

    name: str
    threshold: float | None = None
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is None and self.frame_rate is None:
            raise ValueError(f"setting {self.name!r} has neither a threshold nor a frame rate")

    @property
    def is_exact(self) -> bool:
        """Whether every clip meets the frame rate by itself; tokens per second are then all alike."""
        return self.threshold is None


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip, encoded.

    Attributes:
        id: As in the manifest.
        speaker: Who speaks; None where that is not known.
        corpus: Where it is from.
        seconds: Its duration.
        audio: Samples at the codec's rate.
        similarities: Cosine of each frame's semantic features with the next frame's.
        tokens: By the name of their setting.
        alignment: Phones in time, where the source is an alignment.
        num_phones: Canonical phones, where the source is counts.
        symbols: Letters, pieces or phones in time, where the source is a recogniser.
        transcript: What a recogniser heard, where one was asked.
        sentence: Name of what is read, where several speakers read the same.
    """

    id: str
    speaker: str | None
    corpus: str | None
    seconds: float
    audio: Float[np.ndarray, " samples"]
    similarities: Float[np.ndarray, " pairs"]
    tokens: Mapping[str, Tokens]
    alignment: Alignment | None = None
    num_phones: int | None = None
    symbols: tuple[Segment, ...] | None = None
    transcript: str | None = None
    sentence: str | None = None

    def coded(self, setting: Setting) -> Coded:
        """Return its tokens at a setting as analyses of timing take them."""
        return Coded.of(self.tokens[setting.name], self.audio)

    @property
    def has_phones(self) -> bool:
        """Whether phones were found, from whichever source."""
        return not (self.alignment is None and self.num_phones is None and self.symbols is None)


@dataclass(frozen=True, eq=False)
class Gathered:
    """All clips of an analysis, and an account of those that are missing.

    Attributes:
        clips: Those that were encoded.
        settings: Ways in which they were.
        source: Where phones come from.
        unit: What is counted: "phones", or the recogniser's "letters" or "pieces".
        format: Of the tokens.
        levels: Of the semantic FSQ's digits, the first the least significant; None for other quantisers.
        distortion: Of merging.
        listed: Clips of the manifest, after `limit`.
        unread: Clips left out altogether: id and reason.
        without_phones: Clips that count for tokens alone: id and reason.
    """

    clips: tuple[Clip, ...]
    settings: tuple[Setting, ...]
    source: Source
    unit: str
    format: TokenFormat
    levels: tuple[int, ...] | None
    distortion: Distortion
    listed: int
    unread: tuple[tuple[str, str], ...] = ()
    without_phones: tuple[tuple[str, str], ...] = field(default=())

    @property
    def with_phones(self) -> tuple[Clip, ...]:
        """Clips whose phones are known."""
        return tuple(clip for clip in self.clips if clip.has_phones)

    @property
    def seconds(self) -> float:
        """Of all clips."""
        return sum(clip.seconds for clip in self.clips)

    @property
    def speakers(self) -> int:
        """How many are named; 0 where none is."""
        return len({clip.speaker for clip in self.clips if clip.speaker is not None})

    def clusters(self, clips: tuple[Clip, ...] | None = None) -> list[str] | None:
        """Return the cluster of each clip; see `statistics.speaker_clusters`."""
        clips = self.clips if clips is None else clips
        return speaker_clusters([clip.speaker for clip in clips], [clip.id for clip in clips])

    @property
    def reasons(self) -> dict[str, int]:
        """Count why clips are missing, by the part of the reason before its colon."""
        given = [reason.split(":")[0] for _, reason in (*self.unread, *self.without_phones)]
        return dict(Counter(given).most_common())
