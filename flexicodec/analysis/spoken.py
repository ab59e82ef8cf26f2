"""Clips beside what is said in them, and how many phones and tokens that makes: the table of which rates are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.nulls import NULLS, RATE_NULLS, active_frames
from flexicodec.analysis.segments import (
    Alignment,
    Segment,
    count_as,
    in_speech,
    is_unknown,
    speech_before,
    speech_seconds,
    spoken,
    syllables,
)
from flexicodec.analysis.sound import Controls

WINDOW_SECONDS = 1.0
MISALIGNED = 0.25  # seconds by which phones may outlast their clip, or an alignment end before it


@dataclass(frozen=True, eq=False)
class SpokenClip:
    """A clip, its tokens, and what is said in it.

    Attributes:
        id: Its name; no two clips share one.
        coded: Its tokens in time.
        phones: Phones in time; or how many there are, silence not counted, where their times are not known. Speech is
            then told from silence by energy.
        words: Words in time; none where they are not known.
        speaker: Who speaks; None where that is not known.
        sentence: What is read, where speakers read the same; TIMIT's "SA1", say.
        controls: What `measure_controls` makes of the audio; None where there is none.
    """

    id: str
    coded: Coded
    phones: tuple[Segment, ...] | int
    words: tuple[Segment, ...] = ()
    speaker: str | None = None
    sentence: str | None = None
    controls: Controls | None = None

    @property
    def speech(self) -> tuple[Segment, ...]:
        """Where there is speech: the phones, or stretches loud enough."""
        if not isinstance(self.phones, int):
            return spoken(self.phones)
        flags = np.concatenate([[False], active_frames(self.coded), [False]])
        times = np.minimum(np.flatnonzero(np.diff(flags)) * self.coded.frame_seconds, self.coded.seconds)
        return tuple(Segment(start, end, "speech") for start, end in times.reshape(-1, 2).tolist())


@dataclass(frozen=True, eq=False)
class ClipRates:
    """What is counted in one clip.

    Attributes:
        id: Its name.
        speaker: Who speaks; None where that is not known.
        seconds: Duration.
        speech_seconds: Duration less silence.
        phones: Phones, as counted.
        spoken_phones: The same without silences, which have no place in seconds of speech.
        tokens: Tokens of the whole clip.
        speech_tokens: Tokens whose middle lies in speech.
        syllables: By rule; None where phones have no times.
        words: None where they are not known.
        unknown: Stretches of speech that the alignment does not spell; phones there are not counted.
        sentence: What is read.
        log_energy_mean: Of the speech, dB; NaN where not measured, as are the next two.
        log_energy_std: Its spread, dB.
        voiced_share: Of the speech, how much is voiced.
        windows: Phones, tokens and seconds of speech in each whole second; None where phones have no times.
    """

    id: str
    speaker: str | None
    seconds: float
    speech_seconds: float
    phones: int
    spoken_phones: int
    tokens: int
    speech_tokens: int
    syllables: int | None = None
    words: int | None = None
    unknown: int = 0
    sentence: str | None = None
    log_energy_mean: float = np.nan
    log_energy_std: float = np.nan
    voiced_share: float = np.nan
    windows: Float[np.ndarray, "windows 3"] | None = None

    @property
    def silence_share(self) -> float:
        """Share of the clip that is silence."""
        return 1 - self.speech_seconds / self.seconds


def count_rates(
    clip: SpokenClip, *, counting: str = "speech", offset: float = 0.0, window_seconds: float = WINDOW_SECONDS
) -> ClipRates:
    """Count a clip's phones and tokens.

    Args:
        clip: Which.
        counting: Which phones count, one of `segments.COUNTINGS`; a clip with a mere number of phones has one way.
        offset: Seconds by which tokens are moved, see `fit_offset`.
        window_seconds: Of the windows within the clip; what remains after the last whole one is in none.

    Raises:
        ValueError: A counting that there is not.
    """
    coded, speech = clip.coded, clip.speech
    middles = coded.middles(offset)
    timed = () if isinstance(clip.phones, int) else clip.phones
    counted = count_as([phone for phone in timed if not is_unknown(phone.label)], counting)
    controls = clip.controls or Controls(np.nan, np.nan, np.nan)
    without_times = isinstance(clip.phones, int)
    return ClipRates(
        id=clip.id,
        speaker=clip.speaker,
        seconds=coded.seconds,
        speech_seconds=speech_seconds(speech),
        phones=clip.phones if isinstance(clip.phones, int) else len(counted),
        spoken_phones=clip.phones if isinstance(clip.phones, int) else len(spoken(counted)),
        tokens=coded.num_tokens,
        speech_tokens=int(in_speech(speech, middles).sum()),
        syllables=None if without_times else len(syllables(timed, clip.words)),
        words=len(spoken(clip.words)) if clip.words else None,
        unknown=sum(is_unknown(phone.label) for phone in timed),
        sentence=clip.sentence,
        log_energy_mean=controls.log_energy_mean,
        log_energy_std=controls.log_energy_std,
        voiced_share=controls.voiced_share,
        windows=None if without_times else _windows(counted, middles, speech, coded.seconds, window_seconds),
    )


def _windows(
    phones: Sequence[Segment],
    middles: Float[np.ndarray, " tokens"],
    speech: Sequence[Segment],
    seconds: float,
    window_seconds: float,
) -> Float[np.ndarray, "windows 3"]:
    """Count phones, tokens and seconds of speech in every whole window of a clip."""
    grid = np.arange(int(seconds / window_seconds + 1e-9) + 1) * window_seconds
    if len(grid) < 2:
        return np.zeros((0, 3))
    phone_counts, _ = np.histogram([phone.middle for phone in phones], grid)
    token_counts, _ = np.histogram(middles, grid)
    return np.stack([phone_counts, token_counts, np.diff(speech_before(speech, grid))], axis=1).astype(np.float64)


def null_clips(clips: Sequence[SpokenClip], name: str, *, per_clip: bool, seed: int = 0) -> list[SpokenClip]:
    """Give clips the tokens of a null codec, drawn once.

    Args:
        clips: All those of a corpus.
        name: One of `nulls.NULLS`.
        per_clip: Whether every clip keeps its number of tokens, else only the corpus does; see `nulls`.
        seed: Of the drawing.
    """
    if name not in NULLS:
        raise ValueError(f"null is {name!r}; expected one of {', '.join(NULLS)}")
    random = np.random.default_rng(seed)
    if per_clip:
        drawn = [NULLS[name](clip.coded, random) for clip in clips]
    else:
        drawn = RATE_NULLS[name]([clip.coded for clip in clips], random)
    made = zip(clips, drawn, strict=True)
    return [replace(clip, coded=clip.coded.with_durations(durations)) for clip, durations in made]


def fits(alignment: Alignment, seconds: float) -> bool:
    """Tell whether an alignment can be of a clip: no phone of it sounds after the clip has ended."""
    return max((s.end for s in spoken(alignment.phones)), default=0.0) <= seconds + MISALIGNED
