"""What comes of an analysis: results at every setting, and what holds for all of them. `asking` fills these in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.agreement import Agreement, Halves
from flexicodec.analysis.clips import Gathered, Setting
from flexicodec.analysis.codes import CodeStudy
from flexicodec.analysis.content import ClassDurations, PerToken
from flexicodec.analysis.digits import DigitStudy
from flexicodec.analysis.excess import Excess, SweepPoint
from flexicodec.analysis.information import BoundaryInformation
from flexicodec.analysis.phone_rate import PhoneRate
from flexicodec.analysis.rate_table import Table
from flexicodec.analysis.sharing import Merged
from flexicodec.analysis.within import Within
from flexicodec.statistics import FittedModel, Interval


@dataclass(frozen=True)
class Options:
    """How much is drawn, and what counts.

    Attributes:
        resamples: For intervals of correlations and slopes; other intervals take 2,000 at most.
        draws: Of nulls that are drawn.
        seed: Of all drawing.
        counting: Which phones count: "all", "speech" (without silences), "merged" (closures and releases as one too).
        progress: Show a bar.
    """

    resamples: int = 10_000
    draws: int = 10
    seed: int = 0
    counting: str = "speech"
    progress: bool = False

    @property
    def few(self) -> int:
        """Resamples for intervals of which there are many."""
        return min(self.resamples, 2000)


@dataclass(frozen=True)
class SettingStudy:
    """What came out at one setting.

    Attributes:
        setting: Which.
        frame_rate: Tokens per second over all clips.
        frame_rates: Tokens per second of each clip.
        nominal_kbps: Bits of all fields per second over all clips.
        per_token: Of "phones", "syllables", "words", or the recogniser's unit.
        durations: By class of phone; by speech and silence alone where phones have no times.
        merged: What shares a token; empty where phones have no times.
        odds: The same beside loudness and silence, see `sharing.merge_odds`; None where phones have no times.
        phone_rate: Over "speech" and over "all"; empty where the frame rate does not vary.
        rates: The clips that it is made of over speech, as columns; None where there is none.
        groups: The correlation over speech inside corpora and speakers.
        within: Tokens and phones in windows, where the frame rate of clips is fixed.
        excess: Over each null, by measure.
        agreement: Boundaries; empty where phones have no times.
        information: What they tell without a tolerance, by tier; likewise.
        codes: What tokens cost; None with too few clips.
        digits: What the digits of semantic codes tell; None without an FSQ.
    """

    setting: Setting
    frame_rate: Interval
    frame_rates: Float[np.ndarray, " clips"]
    nominal_kbps: Interval
    per_token: Mapping[str, PerToken]
    durations: Sequence[ClassDurations]
    merged: Sequence[Merged]
    odds: FittedModel | None
    phone_rate: Mapping[str, PhoneRate]
    rates: Table | None
    groups: Mapping[str, Interval]
    within: Within | None
    excess: Mapping[str, Mapping[str, Excess]]
    agreement: Sequence[Agreement]
    information: Mapping[str, BoundaryInformation]
    codes: CodeStudy | None
    digits: DigitStudy | None


@dataclass(frozen=True)
class Curve:
    """Tokens per second at thresholds.

    Attributes:
        thresholds: In rising order.
        frame_rates: Of each clip.
        corpus: Of all clips together.
    """

    thresholds: Float[np.ndarray, " thresholds"]
    frame_rates: Float[np.ndarray, "thresholds clips"]
    corpus: Float[np.ndarray, " thresholds"]


@dataclass(frozen=True)
class Study:
    """What came out.

    Attributes:
        gathered: The clips.
        settings: One for each of theirs.
        curve: From tau to tokens per second.
        sweep: Correlation of rates at thresholds; empty where there are too few clips.
        halves: Which clips fitted the offset; None where phones have no times.
        notes: What was left out and why.
    """

    gathered: Gathered
    settings: tuple[SettingStudy, ...]
    curve: Curve
    sweep: tuple[SweepPoint, ...]
    halves: Halves | None
    notes: tuple[str, ...]

    @property
    def offset(self) -> float:
        """Seconds by which tokens were moved."""
        return self.halves.offset.seconds if self.halves else 0.0

    @property
    def main(self) -> SettingStudy:
        """The one that pictures show: with one tau for all clips, and nearest to half the grid's rate."""
        fixed = [each for each in self.settings if not each.setting.is_exact]
        half = self.gathered.format.base_frame_rate / 2
        return min(fixed, key=lambda each: abs(each.frame_rate.value - half))
