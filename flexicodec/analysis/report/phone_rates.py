"""The report's section on frame rate against phone rate: correlations, lines, controls, units, models, windows."""

from collections.abc import Iterator, Sequence

from flexicodec.analysis.figures import draw_scatter
from flexicodec.analysis.phone_rate import PhoneRate
from flexicodec.analysis.report.document import Block, Cell, Figure, List, Number, Prose, Section, Table
from flexicodec.analysis.report.nulls import nulls, sweep
from flexicodec.analysis.study import SettingStudy, Study

PAPER_R, PAPER_SLOPE = 0.775, 0.5
LINES = {
    "ols": "least squares",
    "rma": "reduced major axis",
}
CONTROL_NAMES = {
    "silence_share": "share of silence",
    "log_energy_mean": "mean loudness of speech",
    "log_energy_std": "spread of loudness",
    "seconds": "duration",
    "voiced_share": "share voiced",
    "all": "all of these",
}


def phone_rates(study: Study) -> Section:
    """Report the frame rate against the phone rate; a section of one sentence where nothing can be said."""
    settings = [each for each in study.settings if each.phone_rate]
    unit = study.gathered.unit
    title = f"Frame rate against {unit[:-1]} rate"
    if not settings:
        return Section(title, (Prose(f"No setting has frame rates that vary, in clips with {unit}, to be compared."),))
    return Section(
        title,
        (
            *_introduction(study, settings),
            *_scatter(study),
            _correlations(settings, unit),
            _lines(settings, unit),
            *_controls(settings, unit),
            *_groups(settings),
            *_units(settings),
            *_models(settings, unit),
            *_within(study, unit),
            *nulls(settings, unit),
            *sweep(study, unit, PAPER_R),
        ),
    )


def _introduction(study: Study, settings: Sequence[SettingStudy]) -> Iterator[Block]:
    unit = study.gathered.unit
    yield Prose(
        f"Does one tau give more tokens per second where {unit} come faster? The paper (arXiv 2510.00981) correlates "
        f"the two over utterances of TIMIT and reports r = {PAPER_R} and a slope of about {PAPER_SLOPE}; its tau, "
        "split and number of utterances, and whether silence counts, are not known. TIMIT has hand labels and 630 "
        "speakers, so its number stands beside those here for orientation, not as a target."
    )
    any_rate = next(iter(settings[0].phone_rate.values()))
    lost = [f"{len(names)} {reason}" for reason, names in any_rate.left_out.items()]
    yield List(
        (
            f"{any_rate.clips} clips are correlated; speakers: {any_rate.speakers or 'unknown'}"
            + (f"; left out: {'; '.join(lost)}." if lost else "; none is left out."),
            'Over "speech", silence is taken out of the seconds, and tokens whose middle lies in it out of the tokens. '
            'Over "all" both rates are divided by the whole duration, so that pauses alone correlate them.',
            f"Tokens were moved by {1000 * study.offset:+.0f} ms, see the section on boundaries."
            if study.halves
            else "Tokens were not moved in time.",
        )
    )


def _scatter(study: Study) -> Iterator[Block]:
    """Draw the main setting."""
    main = study.main
    found, table = main.phone_rate.get("speech"), main.rates
    if found is None or table is None:
        return
    r, unit = found.pearson.bca, study.gathered.unit
    yield Figure(
        "scatter",
        f"Each dot is a clip at {main.setting.name}. Least squares takes the {unit[:-1]} rate as exact and is too "
        "flat; the reduced major axis takes both as equally noisy. No slope is the ratio of the "
        f"rates: that is {found.phones_per_token} {unit} per token. Bands are where the lines may lie: 95 % "
        f"bootstrap intervals at each place, over {found.clusters}.",
        f"Scatter of {found.clips} clips, correlation {r}, with two lines.",
        draw_scatter(
            table.x,
            table.y,
            {LINES[name]: line for name, line in found.lines.items()},
            x_label=f"{unit} per second of speech",
            y_label="tokens per second of speech",
            bands={LINES[name]: band for name, band in found.bands.items()},
            title=f"{main.setting.name}: r = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}], {found.clips} clips",
        ),
    )


def _each(settings: Sequence[SettingStudy]) -> Iterator[tuple[str, str, PhoneRate]]:
    for each in settings:
        for over, found in each.phone_rate.items():
            yield each.setting.name, over, found


def _correlations(settings: Sequence[SettingStudy], unit: str) -> Table:
    rows = [
        (
            f"{name}, {over}",
            Number(found.phone_rate, "Hz", items=found.clips, digits=2),
            Number(found.frame_rate, "Hz", items=found.clips, digits=2),
            Number.of(found.pearson.bca, "1", f"bootstrap of {found.clusters}, BCa", 2),
            Number.of(found.pearson.percentile, "1", f"bootstrap of {found.clusters}, percentile", 2),
            Number.of(found.pearson.fisher, "1", "Fisher's z, as if clips were independent", 2),
            Number.of(found.spearman.bca, "1", f"bootstrap of {found.clusters}, BCa", 2),
            Number.of(found.phones_per_token, f"{unit} per token", "ratio of sums", 2),
        )
        for name, over, found in _each(settings)
    ]
    return Table(
        "correlations",
        f"Tokens per second against {unit} per second, over clips, at one tau for all of them. The bootstrap's "
        "interval is bias-corrected and accelerated (BCa), its plain percentiles stand beside it, and Fisher's takes "
        "clips as independent.",
        (
            "setting, over",
            f"{unit} (Hz)",
            "tokens (Hz)",
            "Pearson r, bootstrap",
            "percentile",
            "Fisher",
            "Spearman",
            f"{unit} per token",
        ),
        tuple(rows),
    )


def _lines(settings: Sequence[SettingStudy], unit: str) -> Table:
    rows = []
    for name, over, found in _each(settings):
        for kind, line in found.lines.items():
            rows.append(
                (
                    f"{name}, {over}: {LINES[kind]}",
                    Number.of(line.slope, f"tokens per {unit[:-1]}", "as if clips were independent", 2),
                    Number.of(found.slopes[kind], f"tokens per {unit[:-1]}", f"bootstrap of {found.clusters}", 2),
                    Number.of(line.intercept, "Hz", "as if clips were independent", 2),
                )
            )
    return Table(
        "slopes",
        f"Lines through the clips. A slope is tokens more per second for each {unit[:-1]} more per second.",
        ("line", "slope", "slope, bootstrap", "intercept (Hz)"),
        tuple(rows),
    )


def _controls(settings: Sequence[SettingStudy], unit: str) -> Iterator[Block]:
    rows = [
        (
            f"{name}, {over}: {CONTROL_NAMES[control]}",
            Number.of(each.bootstrap, "1", "partial correlation, bootstrap", 2),
            Number.of(each.fisher, "1", "partial correlation, Fisher's z", 2),
            Number(each.semi_partial, "1", digits=2),
            Number(each.r_squared_gain, "1", digits=3),
        )
        for name, over, found in _each(settings)
        for control, each in found.controlled.items()
    ]
    if rows:
        yield Table(
            "controls",
            "What is left of the correlation when something else that clips differ in is taken out of both rates. "
            f"The last column is the share of the frame rate's variance that the {unit[:-1]} rate explains beyond "
            "the control.",
            ("taken out", "partial r", "partial r, Fisher", "semi-partial r", "gain in R²"),
            tuple(rows),
        )


def _groups(settings: Sequence[SettingStudy]) -> Iterator[Block]:
    rows = [
        (f"{each.setting.name}: {name}", Number.of(found, "1", "Pearson, bootstrap", 2), found.items)
        for each in settings
        for name, found in each.groups.items()
    ]
    if rows:
        yield Table(
            "groups",
            "Inside corpora and speakers, over speech: these differ in pace and in much else at once, so that a "
            "mixture of them may correlate by their means alone. Where sentences that all speakers read (TIMIT's SA1 "
            "and SA2) are left out of everything else, the last row has them too.",
            ("setting: clips", "r", "clips"),
            tuple(rows),
        )


def _units(settings: Sequence[SettingStudy]) -> Iterator[Block]:
    rows = [
        (
            f"{name}, {over}: {unit}",
            Number(each.rate, "Hz", digits=2),
            Number.of(each.alone, "1", "Pearson, bootstrap", 2),
            Number.of(each.given_others, "1", "partial correlation, bootstrap", 2),
        )
        for name, over, found in _each(settings)
        for unit, each in found.units.items()
        if len(found.units) > 1
    ]
    if rows:
        yield Table(
            "units",
            "Phones, syllables and words side by side: each alone, and with the rates of the other two taken out.",
            ("unit", "per second", "r alone", "r given the others"),
            tuple(rows),
        )


def _models(settings: Sequence[SettingStudy], unit: str) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    notes: dict[str, list[str]] = {}
    for name, over, found in _each(settings):
        counts, mixed = found.counts.effects["phone_rate"], found.mixed.effects["phone_rate"]
        rows.append(
            (
                f"{name}, {over}",
                Number.of(counts, f"log tokens per ({unit}/s)", f"{found.counts.kind}, robust errors", 3),
                found.counts.kind,
                Number(found.counts.variances.get("dispersion", float("nan")), "1", digits=2),
                Number.of(mixed, f"tokens per {unit[:-1]}", found.mixed.kind, 3),
                found.mixed.kind,
            )
        )
        for note in (*found.counts.notes, *found.mixed.notes):
            notes.setdefault(note, []).append(f"{name}, {over}")
    yield Table(
        "models",
        f"Models without ratios and with speakers: the logarithm of the expected tokens for one {unit[:-1]} more per "
        "second, with seconds as exposure; and the frame rate on the same with all controls and, where speakers are "
        "several, a random intercept for each. Dispersion is 1 where counts vary as Poisson's.",
        ("setting, over", "count model", "kind", "dispersion", "mixed model", "kind"),
        tuple(rows),
    )
    if notes:
        told = [note + (f" ({'; '.join(where)})" if len(where) < len(rows) else "") for note, where in notes.items()]
        yield Prose("The fits noted: " + "; ".join(told) + ".")


def _within(study: Study, unit: str) -> Iterator[Block]:
    rows = []
    for each in study.settings:
        found = each.within or (each.phone_rate["speech"].within if "speech" in each.phone_rate else None)
        if found is not None:
            rows.append(
                (
                    each.setting.name,
                    Number.of(found.r, "1", "bootstrap of clips", 2),
                    Number.of(found.fisher, "1", "Fisher's z, as if windows were independent", 2),
                    Number.of(found.given_speech, "1", "partial correlation, bootstrap of clips", 2),
                    Number.of(found.slope, f"tokens per {unit[:-1]}", "least squares, bootstrap of clips", 2),
                    found.windows,
                )
            )
    if rows:
        yield Table(
            "within",
            f"Does the rate adapt inside a clip? Tokens against {unit} in windows of one second, each clip's own "
            "means taken out; with the seconds of speech in the window taken out too, what pauses explain is gone.",
            ("setting", "r", "r, Fisher", "r given speech", "slope", "windows"),
            tuple(rows),
        )
