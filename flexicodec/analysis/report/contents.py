"""The report's sections on what tokens hold and on where they start."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flexicodec.analysis.agreement import AT_ALL_TOLERANCES, MAIN_TOLERANCE, Agreement
from flexicodec.analysis.content import ALL, MANY, SPEECH
from flexicodec.analysis.figures import (
    Series,
    draw_class_durations,
    draw_durations,
    draw_intervals,
    draw_merge_shares,
    draw_segments_per_token,
)
from flexicodec.analysis.report.document import Block, Cell, Figure, List, Number, Prose, Section, Table
from flexicodec.analysis.report.nulls import NULL_NAMES
from flexicodec.analysis.sharing import ODDS
from flexicodec.analysis.study import SettingStudy, Study
from flexicodec.statistics import Interval

LARGEST_LOG = 700.0  # whose exponential is a float still
KIND_NAMES = {
    "inside": "inside one phone",
    "across": "across two phones",
    "beyond": "with a whole phone between",
}


def contents(study: Study) -> Section:
    """Report what tokens hold and how long they last."""
    fixed = _fixed(study)
    seconds = study.gathered.format.frame_size / study.gathered.format.sample_rate
    blocks: list[Block] = [*_per_token(study, fixed)]
    found = {each.setting.name: each.durations for each in fixed if any(row.name != ALL for row in each.durations)}
    blocks += [
        Figure(
            "durations",
            "How many frames tokens last, where there is speech at their middle and where there is none.",
            "Histograms of token durations in speech and in silence, a panel for each setting.",
            draw_durations(found, seconds),
        ),
        _durations(study),
    ]
    if study.gathered.source == "alignment" and study.halves:
        blocks.append(
            Figure(
                "class_durations",
                "Mean duration of tokens by the class of the phone at their middle.",
                "Mean frames per token by class of phone, with intervals, a mark for each setting.",
                draw_class_durations(found),
            )
        )
    return Section("What tokens hold", (*blocks, *_merged(study), *_odds(study)))


def _fixed(study: Study) -> list[SettingStudy]:
    """Settings with one tau for all clips: what pictures show, four at most."""
    fixed = [each for each in study.settings if not each.setting.is_exact]
    return fixed[:4]


def _per_token(study: Study, fixed: Sequence[SettingStudy]) -> Iterator[Block]:
    units = list(dict.fromkeys(unit for each in study.settings for unit in each.per_token))
    if not units:
        return
    first = units[0]
    yield Figure(
        "per_token",
        f"How many {first} a token holds; each belongs to the token with its midpoint.",
        f"Bars: shares of tokens with 0 to {MANY} or more {first}, for each setting.",
        draw_segments_per_token({each.setting.name: each.per_token[first] for each in fixed}, first),
    )
    rows: list[tuple[Cell, ...]] = []
    for unit in units:
        for each in study.settings:
            found = each.per_token[unit]
            shares = [Number.of(share, "1", "share of tokens", 3) for share in found.shares]
            mean = Number.of(found.mean, f"{unit} per token", "ratio of sums", 2)
            entropy = Number.of(found.entropy_bits, "bits", "plug-in entropy", 2)
            rows.append((f"{each.setting.name}: {unit}", mean, *shares, entropy, found.tokens))
    columns = ("setting: unit", "mean per token", *(f"P({n})" for n in range(MANY)), f"P({MANY} or more)")
    yield Table(
        "per_token",
        "Segments per token: the mean is all segments over all tokens; P(n) is the share of tokens with n of them; the "
        "entropy is of that distribution.",
        (*columns, "entropy (bits)", "tokens"),
        tuple(rows),
    )
    outside = max(found.outside for each in study.settings for found in each.per_token.values())
    if outside:
        yield Prose(f"Up to {outside} segments lie past the last frame of their clip and were given to its last token.")


def _durations(study: Study) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for each in study.settings:
        merges = each.durations[0].mean.value > 1
        for row in each.durations if merges else each.durations[:1]:
            capped = "–" if row.capped is None else Number.of(row.capped, "1", "share of tokens", 3)
            rows.append((f"{each.setting.name}: {row.name}", Number.of(row.mean, "frames", "", 2), capped, row.tokens))
    return Table(
        "durations",
        "Frames per token by what sounds at its middle, and how many are as long as the cap allows.",
        ("setting: class", "frames per token", "share at the cap", "tokens"),
        tuple(rows),
    )


def _merged(study: Study) -> Iterator[Block]:
    main = study.main
    if not main.merged:
        return
    if all(one.first in (ALL, SPEECH) for one in main.merged):
        yield Prose("There are too few pairs of frames to tell classes of phones apart.")
        return
    yield Figure(
        "merged",
        "How often two neighbouring frames share a token, in percent, by what sounds at their middles: above, frames "
        "in the same phone; below, frames in two phones that follow each other. Dots: fewer than 30 such pairs.",
        "Two heat maps of merge probabilities by phone class.",
        draw_merge_shares(main.merged, f"{main.setting.name}: percent of neighbouring frames merged"),
    )
    rows: list[tuple[Cell, ...]] = []
    for each in study.settings:
        for one in each.merged:
            if one.first in (ALL, SPEECH) or each is main:
                where = {ALL: "", SPEECH: ", in speech"}.get(one.first, f", {one.first}")
                then = f" then {one.second}" if one.kind != "inside" and one.first not in (ALL, SPEECH) else ""
                share = Number.of(one.share, "1", "share of pairs of frames", 3)
                rows.append((f"{each.setting.name}: {KIND_NAMES[one.kind]}{where}{then}", share, one.pairs))
    yield Table(
        "merged",
        f"The same as numbers; classes for {main.setting.name} alone. Phones often last less than a frame of 80 ms, "
        "so that neighbouring frames may have whole phones between their middles.",
        ("pairs of neighbouring frames", "share merged", "pairs"),
        tuple(rows),
    )


def _odds(study: Study) -> Iterator[Block]:
    """Report what makes frames share a token once loudness and silence are known."""
    found = [each for each in study.settings if each.odds is not None]
    shown = [each for each in found if not each.setting.is_exact][:4]
    if not shown:
        return
    names = [name for name in ODDS if any(each.odds and name in each.odds.effects for each in found)]
    series: list[Series] = []
    rows: list[tuple[Cell, ...]] = []
    notes: dict[str, None] = {}
    for each in found:
        assert each.odds is not None
        ratios = {name: _exp(each.odds.effects[name]) for name in names if name in each.odds.effects}
        if each in shown and each.odds.converged:
            series.append(Series(each.setting.name, tuple(ODDS[n] for n in ratios), tuple(ratios.values())))
        rows += [
            (f"{each.setting.name}: {ODDS[name]}", Number.of(ratio, "odds ratio", "logistic regression, robust", 2))
            for name, ratio in ratios.items()
        ]
        notes |= dict.fromkeys(f"{note} ({each.setting.name})" for note in each.odds.notes)
    yield Figure(
        "odds",
        "How the odds that two neighbouring frames share a token change with what is between them and how they sound, "
        "all at once. Right of 1: merged more often.",
        f"Odds ratios of {len(names)} things at {len(series)} settings, with intervals, on a logarithmic axis.",
        draw_intervals(series, label="odds ratio", reference=1.0, log=True),
    )
    yield Table(
        "odds",
        "The same as numbers: logistic regression of being merged, beside two frames early in one phone that is no "
        "stressed vowel. Loudness and its change are known to the model, so that phone boundaries count for what they "
        "add. Intervals are robust: frames of one speaker (of one clip, where speakers are not several) vary together.",
        ("setting: for", "odds ratio"),
        tuple(rows),
    )
    if notes:
        yield Prose("The fits noted: " + "; ".join(notes) + ".")


def _exp(effect: Interval) -> Interval:
    """Turn a log odds into an odds ratio."""
    value, low, high = (math.exp(min(end, LARGEST_LOG)) for end in (effect.value, effect.low, effect.high))
    return replace(effect, value=value, low=low, high=high)


# ---------------------------------------------------------------------------------------------------------- boundaries


def boundaries(study: Study) -> Section:
    """Report where tokens start against where phones, syllables and words do."""
    title = "Token boundaries against phones, syllables and words"
    parts, scored = study.halves, [each for each in study.settings if each.agreement]
    if parts is None or not scored:
        return Section(title, (Prose("No clip has phones in time, so there is nothing to hold boundaries against."),))
    offset = parts.offset
    how = List(
        (
            f"Clips were parted in two halves, {len(parts.fitted)} to fit and {len(parts.scored)} to score. On the "
            f"first, moving all tokens by {1000 * offset.seconds:+.0f} ms gave the highest F1 against phones at 40 "
            f"ms ({offset.f1:.3f}, and {offset.f1_without:.3f} without); all scores here are of the second, with "
            "that offset.",
            "A boundary hits if it lies within the tolerance of one of the reference, each used once. F1 rises with "
            "the number of boundaries alone, so null codecs with as many tokens in every clip stand beside it, each "
            "moved by an offset of its own that was fitted in the same way.",
            "Corrected F1 is the share of the way from random boundaries to 1. Syllables are made of phones by rule "
            "(maximal onsets).",
            "For orientation, arXiv 2609.36951 reports at 6.25 Hz and 40 ms on TIMIT, for features of the full-size "
            "SenseVoice: phones 0.50 to 0.53 for all methods, syllables 0.56 by similarity and 0.38 uniform.",
        )
    )
    tables = (*(_f1_table(each) for each in scored), _tolerances(scored), _information(scored))
    return Section(title, (how, _f1_figure(scored), *tables))


def _at_main(each: SettingStudy) -> list[Agreement]:
    return [one for one in each.agreement if one.tolerance == MAIN_TOLERANCE]


def _f1_figure(scored: Sequence[SettingStudy]) -> Figure:
    """Draw F1 of the codec and of nulls, by tier and then by setting with one tau."""
    shown = [each for each in scored if not each.setting.is_exact] or list(scored)
    tiers = [one.tier for one in _at_main(shown[0])]
    found = {
        f"{tier}, {each.setting.name}": one
        for tier in tiers
        for each in shown
        for one in _at_main(each)
        if one.tier == tier
    }
    places = tuple(found)
    series = [Series("codec", places, tuple(one.measures["f1"] for one in found.values()))]
    for null in next(iter(found.values())).nulls:
        values = [one.nulls[null].scores.f1 for one in found.values()]
        series.append(Series(NULL_NAMES[null], places, tuple(Interval(v, v, v, 0.95, 1, 1) for v in values)))
    return Figure(
        "boundaries",
        "F1 of token boundaries at 40 ms, with its interval, and of null codecs with as many tokens in every clip.",
        "Dots with intervals for the codec and marks for six nulls, by tier and setting.",
        draw_intervals(series, label="F1 within 40 ms", reference=None),
    )


def _f1_table(each: SettingStudy) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in _at_main(each):
        for null, beside in one.nulls.items():
            rows.append(
                (
                    f"{one.tier}, over {NULL_NAMES[null]}",
                    Number.of(one.measures["f1"], "1", "pooled over clips", 3),
                    Number(beside.scores.f1, "1", digits=3),
                    Number.of(beside.gain, "1", "difference, bootstrap", 3),
                    Number(beside.corrected, "1", digits=3),
                    Number(1000 * beside.offset, "ms", digits=0),
                )
            )
    return Table(
        f"boundaries {each.setting.name}",
        f"{each.setting.name}: F1 within 40 ms beside null codecs with as many tokens in every clip.",
        ("tier, over null", "F1", "null's F1", "gain", "corrected F1", "null's offset (ms)"),
        tuple(rows),
    )


def _tolerances(scored: Sequence[SettingStudy]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for each in scored:
        for one in each.agreement:
            measures = [Number.of(value, "1", "pooled over clips", 3) for value in one.measures.values()]
            gains = [Number.of(one.nulls[null].gain, "1", "F1 less the null's", 3) for null in AT_ALL_TOLERANCES]
            fixed = Number(one.nulls["random"].corrected, "1", digits=3)
            over = Number(one.scores.over_segmentation, "1", digits=2)
            name = f"{each.setting.name}: {one.tier}, {1000 * one.tolerance:.0f} ms"
            rows.append((name, *measures, over, *gains, fixed))
    return Table(
        "tolerances",
        "All scores at all tolerances. R-value is 1 when perfect and does not reward mere over-segmentation, which "
        "is the surplus of token boundaries as a share of the reference.",
        (
            *("setting: tier, tolerance", "precision", "recall", "F1", "R-value", "over-segmentation"),
            *("gain over uniform", "gain over random", "corrected F1"),
        ),
        tuple(rows),
    )


def _information(scored: Sequence[SettingStudy]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for each in scored:
        for tier, found in each.information.items():
            cells = [Number(value, "bits per frame", digits=4) for value in (found.bits, found.chance, found.entropy)]
            share = Number(found.share, "1", items=found.instants, digits=3)
            rows.append((f"{each.setting.name}: {tier}", *cells, share))
    return Table(
        "information",
        "Without a tolerance: what a token's start, or none, between two frames tells about the distance to the "
        "nearest boundary of the reference (mutual information), beside shuffled tokens, and the most that it could "
        "tell. The share is of the information beyond chance.",
        ("setting: tier", "bits per frame", "shuffled tokens", "at most", "share"),
        tuple(rows),
    )
