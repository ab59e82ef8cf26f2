"""The report's first page: the findings of the main setting in sentences, each with its number and interval."""

from collections.abc import Iterator

from flexicodec.analysis.agreement import MAIN_TOLERANCE
from flexicodec.analysis.content import ALL, SPEECH
from flexicodec.analysis.report.document import List, Section
from flexicodec.analysis.report.nulls import NULL_NAMES
from flexicodec.analysis.report.phone_rates import PAPER_R
from flexicodec.analysis.study import Study


def summary(study: Study) -> Section:
    """Say what came out, at one setting."""
    points = [*_rates(study), *_contents(study), *_boundaries(study), *_bits(study)]
    name = study.main.setting.name
    return Section(
        "In short", (List(tuple([f"All of this is at {name}, one tau for all clips, unless said.", *points])),)
    )


def _rates(study: Study) -> Iterator[str]:
    main, unit = study.main, study.gathered.unit
    found = main.phone_rate.get("speech")
    if found is None:
        yield f"Frame rate and {unit[:-1]} rate could not be compared."
        return
    r = found.pearson.bca
    yield (
        f"Clips with more {unit} per second of speech have {_direction(r.low, r.high)} tokens per second of speech: "
        f"r = {r} over {found.clips} clips. The paper reports {PAPER_R} on TIMIT, under conditions that are not "
        "known."
    )
    yield (
        f"There are {found.phones_per_token} {unit} per token of speech; the slope by least squares, "
        f"{found.lines['ols'].slope}, is not its inverse."
    )
    means = [f"{r} with the {name}" for name, r in main.groups.items() if name.endswith("taken out")]
    if means:
        yield f"Inside groups the same correlation is {', '.join(means)}."
    if main.excess:
        null, beside = max(main.excess.items(), key=lambda item: item[1]["pearson"].null_value)
        one = beside["pearson"]
        yield (
            f"Of the null codecs, the one that follows the {unit[:-1]} rate best ({NULL_NAMES[null]}) has r = "
            f"{one.null_value:.3f}; the codec's excess over it is {one.excess}."
        )
    if found.within is not None:
        yield (
            f"Inside clips, tokens and {unit} per second correlate with {found.within.r}, and with "
            f"{found.within.given_speech} once the share of speech in each second is taken out."
        )


def _direction(low: float, high: float) -> str:
    """Say which way a correlation goes, if its interval does."""
    return "more" if low > 0 else "fewer" if high < 0 else "not detectably more or fewer"


def _contents(study: Study) -> Iterator[str]:
    rows = {row.name: row for row in study.main.durations}
    if SPEECH in rows and "silence" in rows:
        yield (
            f"A token lasts {rows[SPEECH].mean} frames in speech and {rows['silence'].mean} in silence; the cap is "
            f"reached by {rows[ALL].capped} of all tokens."
        )
    shares = {one.kind: one.share for one in study.main.merged if one.first == ALL}
    spoken = [one.share for one in study.main.merged if one.kind == "inside" and one.first == SPEECH]
    if spoken and "across" in shares:
        yield (
            f"Neighbouring frames inside one phone share a token with probability {spoken[0]}, those in two phones "
            f"that follow each other with {shares['across']}."
        )


def _boundaries(study: Study) -> Iterator[str]:
    for one in study.main.agreement:
        if one.tolerance == MAIN_TOLERANCE:
            best = max(one.nulls, key=lambda null: one.nulls[null].scores.f1)
            random = one.nulls["random"]
            yield (
                f"Token boundaries against {one.tier} within 40 ms: F1 {one.measures['f1']}, {random.gain} above "
                f"random ones; the best null is {NULL_NAMES[best]} with {one.nulls[best].scores.f1:.3f}."
            )


def _bits(study: Study) -> Iterator[str]:
    codes = study.main.codes
    if codes is not None:
        yield (
            f"Fields take {codes.nominal_kbps} kbit/s, held-out codes {codes.coded_kbps}; durations alone "
            f"{codes.flags_bps['lengths, coded']} bit/s coded, {codes.flags_bps['a flag per frame']} as flags."
        )
