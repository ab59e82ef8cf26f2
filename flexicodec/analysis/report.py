"""The report of a study: `report.html` from one template, its figures as PNG files, and `numbers.json`.

The page embeds its figures and loads nothing. `numbers.json` lists every number of every table, with its unit and
interval. Tables are made here; captions and all other text are in `report.html.j2`.
"""

import base64
import html
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jinja2
import numpy as np
import pandas
import torch

from flexicodec.analysis import plots
from flexicodec.analysis.boundary_scores import AT_ALL_TOLERANCES, MAIN_TOLERANCE
from flexicodec.analysis.code_entropy import BitsPerPart, DigitStudy, flag_limit_bps
from flexicodec.analysis.collect import AnalysisClip, clip_tiers
from flexicodec.analysis.run_study import SettingResults, StudyResults
from flexicodec.analysis.token_contents import ALL, MANY, ODDS, SPEECH
from flexicodec.corpus.alignments.phones import CLASSES
from flexicodec.io_utils import replacing
from flexicodec.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
CODEBOOKS_LISTED = 8  # acoustic ones in the table of parts
SETTINGS_PLOTTED = 4  # in figures with a colour or panel per setting
EXAMPLE_SECONDS = 4.5  # the example is the clip whose duration is nearest to this
EXAMPLE_SHOWN = 6.0  # seconds of it
LARGEST_LOG = 700.0  # larger ones have no float as exponential

NULL_NAMES = {
    "uniform": "uniform",
    "random": "random boundaries",
    "shuffled": "shuffled durations",
    "voice_activity": "speech or silence only",
    "energy": "change of loudness",
    "mel_cosine": "mel spectra, cosine",
}
CONTROL_NAMES = {
    "silence_share": "share of silence",
    "log_energy_mean": "mean loudness of speech",
    "log_energy_std": "spread of loudness",
    "seconds": "duration",
    "voiced_share": "share voiced",
    "all": "all of these",
}
MEASURE_NAMES = {"pearson": "clips", "within": "windows", "within_given_speech": "windows given speech"}
PAIR_NAMES = {"inside": "inside one phone", "across": "across two phones", "beyond": "with a whole phone between"}


@dataclass(frozen=True)
class Number:
    """A number of a table."""

    value: Interval | float  # NaN is shown as a dash
    unit: str  # "Hz", "bits", ...; "1" for shares and correlations
    digits: int = 3  # shown after the decimal point
    how: str = ""  # how value and interval were computed, in a few words
    items: int | None = None  # how many were measured, where no interval says so

    def __str__(self) -> str:
        """Format the value, and its interval in brackets that do not break over lines."""
        found = self.value
        if not isinstance(found, Interval):
            found = _without_ends(found)
        if not math.isfinite(found.value):
            return "–"
        text = f"{found.value:.{self.digits}f}"
        if math.isfinite(found.low + found.high):
            text += f" [{found.low:.{self.digits}f},\u00a0{found.high:.{self.digits}f}]"
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `numbers.json` that are known; numbers that are not finite are None."""
        fields: dict[str, Any] = {"value": self.value, "unit": self.unit, "items": self.items, "how": self.how}
        if isinstance(self.value, Interval):
            fields |= asdict(self.value)
            del fields["failed"]
        known = {name: value for name, value in fields.items() if value not in (None, "")}
        for name, value in known.items():
            if isinstance(value, float):  # six digits are more than any of these has
                known[name] = float(f"{value:.6g}") if math.isfinite(value) else None
        return known


Cell: TypeAlias = str | int | Number
Row: TypeAlias = dict[str, Cell]
"""Cells by the heading of their column; the first cell names the row."""


def write_report(study: StudyResults, about: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html`, `numbers.json` and `figures/*.png` into a folder, which is created if missing.

    Args:
        study: The results.
        about: Where they are from, JSON-able; "model" and "manifest" are in the heading of the page.
        folder: Existing files in it are replaced.

    Returns:
        The files, the page first.
    """
    # Everything is made before anything is written.
    tables = make_tables(study)
    images = {}
    for name, figure in make_figures(study).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        images[f"figures/{name}.png"] = buffer.getvalue()
    page = render_page(study, about, tables, images)
    numbers = to_json({**about, **_describe(study)}, tables)

    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    contents = {"report.html": page.encode(), "numbers.json": numbers.encode(), **images}
    for name, content in contents.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in contents]


def render_page(
    study: StudyResults, about: Mapping[str, Any], tables: Mapping[str, list[Row]], images: Mapping[str, bytes]
) -> str:
    """Fill in the template."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("flexicodec.analysis").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        study=study,
        data=study.data,
        main=study.main,
        about=about,
        tables={name: to_html(rows) for name, rows in tables.items()},
        images={Path(name).stem: base64.b64encode(image).decode() for name, image in images.items()},
        example=_example(study),
        short_clips=int((~study.long_enough).sum()),
        null_names=NULL_NAMES,
        main_tolerance=MAIN_TOLERANCE,
        paper_r=plots.PAPER_R,
    )


def to_html(rows: list[Row]) -> str:
    """Format a table; the tooltip of a number has its unit, sample size and method."""
    table = pandas.DataFrame(rows, dtype=object).map(_cell_html).rename(columns=html.escape)
    with pandas.option_context("display.max_colwidth", None):  # the default shortens cells
        return table.to_html(index=False, escape=False, border=0)


def _cell_html(cell: Cell | float) -> str:
    if isinstance(cell, float):  # NaN: this row has no such column
        return "–"
    text = html.escape(str(cell))
    if isinstance(cell, Number):
        details = cell.as_dict().items()
        tooltip = ", ".join(f"{name} {value}" for name, value in details if name not in ("value", "low", "high"))
        text = f'<span title="{html.escape(tooltip)}">{text}</span>'
    return text


def to_json(about: Mapping[str, Any], tables: Mapping[str, list[Row]]) -> str:
    """Format the numbers of all tables, one per line, and what they are about."""
    lines = []
    for name, rows in tables.items():
        for row in rows:
            label = next(iter(row.values()))  # the first cell
            for column, cell in row.items():
                if isinstance(cell, Number):
                    place = {"table": name, "row": label, "column": column}
                    lines.append(json.dumps(place | cell.as_dict(), ensure_ascii=False, allow_nan=False))
    numbers = ",\n".join(lines)
    return f'{{"about": {json.dumps(about, ensure_ascii=False, allow_nan=False)},\n"numbers": [\n{numbers}\n]}}\n'


def _describe(study: StudyResults) -> dict[str, Any]:
    """Return the clips and settings of a study for `numbers.json`."""
    data = study.data
    return {
        "clips": len(data.clips),
        "listed": data.listed,
        "seconds": round(data.seconds, 3),
        "speakers": data.speakers,
        "source": data.source,
        "unit": data.unit,
        "settings": [asdict(setting) for setting in data.settings],
        "unread": data.unread,
        "without_phones": data.without_phones,
        "alignment_changes": data.alignment_changes,
        "offset_seconds": study.offset,
        "notes": study.notes,
    }


def _example(study: StudyResults) -> AnalysisClip:
    """Choose the clip that the report shows."""
    clips = study.data.with_phones or study.data.clips
    return min(clips, key=lambda clip: abs(clip.seconds - EXAMPLE_SECONDS))


# ------------------------------------------------------------------------------------------------------------- tables


def make_tables(study: StudyResults) -> dict[str, list[Row]]:
    """Make all tables for which the study has results, by name."""
    rows: list[Row] = []
    for each in study.settings:
        for section in (_rate_rows, _phone_rate_rows, _null_rows, _content_rows, _boundary_rows, _bit_rows):
            rows += section(study, each)
    # Each row names its table in an additional cell.
    tables: dict[str, list[Row]] = {}
    for row in [*rows, *_study_rows(study)]:
        tables.setdefault(str(row.pop("table")), []).append(row)
    return tables


def _study_rows(study: StudyResults) -> Iterator[Row]:
    """Correlations at one threshold after another, and the loss of merging."""
    for point in study.sweep:
        yield {
            "table": "sweep",
            "tau": f"{point.threshold:.3f}",
            "tokens (Hz)": Number(point.frame_rate, "Hz", 2, items=point.clips),
            "r, bootstrap": Number(point.r, "1", 2, "bootstrap"),
            "r, Fisher": Number(point.fisher, "1", 2, "Fisher's z"),
            "slope, least squares": Number(point.slope, f"tokens per {study.data.unit[:-1]}", 2),
            "r in windows": Number(point.within, "1", 2),
        }
    distortion = study.data.distortion
    lost = distortion.lost.sum(2) / max(float(distortion.whole.sum()), 1e-8)
    rates = distortion.tokens.sum(2) / distortion.seconds.sum()
    for i, policy in enumerate(distortion.policies):
        row: Row = {"table": "loss", "rule": policy}
        for j, requested in enumerate(distortion.frame_rates):
            how = f"at {rates[i, j]:.2f} Hz"
            row[f"{requested:g} Hz"] = Number(lost[i, j], "1", 3, how, len(distortion.seconds))
        yield row


def _rate_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Frame rate with its spread over clips, and bitrate."""
    rates = pandas.Series(each.frame_rates[study.long_enough])
    threshold = each.setting.threshold
    middle = "–"
    if len(rates):
        middle = "{:.2f} to {:.2f}".format(*rates.quantile([0.05, 0.95]))
    yield {
        "table": "rates",
        "setting": each.setting.name,
        "tau": "–" if threshold is None else Number(threshold, "cosine", 4),
        "tokens per second (Hz)": Number(each.frame_rate, "Hz", 2, "all tokens over all seconds"),
        "spread (Hz)": Number(np.nan_to_num(rates.std()), "Hz", 2, items=len(rates)),  # 0 for one clip
        "middle 90 % (Hz)": middle,
        "nominal kbit/s": Number(each.nominal_kbps, "kbit/s", 3, "all fields of all tokens over all seconds"),
    }


def _phone_rate_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Frame rate against phone rate: correlations, lines, controls, units and models."""
    unit = study.data.unit
    per_unit = f"tokens per {unit[:-1]}"
    for over, found in each.phone_rate.items():
        name = f"{each.setting.name}, {over}"
        bootstrap = f"bootstrap of {found.clusters}"
        yield {
            "table": "correlations",
            "setting, over": name,
            f"{unit} (Hz)": Number(found.phone_rate, "Hz", 2, items=found.clips),
            "tokens (Hz)": Number(found.frame_rate, "Hz", 2, items=found.clips),
            "Pearson r, bootstrap": Number(found.pearson.bca, "1", 2, f"{bootstrap}, BCa"),
            "Fisher": Number(found.pearson.fisher, "1", 2, "Fisher's z, as if clips were independent"),
            "Spearman": Number(found.spearman.bca, "1", 2, f"{bootstrap}, BCa"),
            f"{unit} per token": Number(found.phones_per_token, f"{unit} per token", 2, "ratio of sums"),
        }
        for kind, line_name in plots.LINE_NAMES.items():
            line = found.lines[kind]
            yield {
                "table": "slopes",
                "line": f"{name}: {line_name}",
                "slope": Number(line.slope, per_unit, 2, "as if clips were independent"),
                "slope, bootstrap": Number(found.slopes[kind], per_unit, 2, bootstrap),
                "intercept (Hz)": Number(line.intercept, "Hz", 2, "as if clips were independent"),
            }
        for control, partial in found.controlled.items():
            yield {
                "table": "controls",
                "taken out": f"{name}: {CONTROL_NAMES[control]}",
                "partial r": Number(partial.bootstrap, "1", 2, "partial correlation, bootstrap"),
                "partial r, Fisher": Number(partial.fisher, "1", 2, "partial correlation, Fisher's z"),
                "semi-partial r": Number(partial.semi_partial, "1", 2),
                "gain in R²": Number(partial.r_squared_gain, "1", 3),
            }
        for counted, of_unit in found.units.items():
            if len(found.units) == 1:
                continue  # nothing to compare it with
            yield {
                "table": "units",
                "unit": f"{name}: {counted}",
                "per second": Number(of_unit.rate, "Hz", 2),
                "r alone": Number(of_unit.alone, "1", 2, "Pearson, bootstrap"),
                "r given the others": Number(of_unit.given_others, "1", 2, "partial correlation, bootstrap"),
            }
        counts = found.counts.effects["phone_rate"]
        yield {
            "table": "models",
            "setting, over": name,
            "count model": Number(counts, f"log tokens per ({unit}/s)", 3, f"{found.counts.kind}, robust errors"),
            "kind": found.counts.kind,
            "dispersion": Number(found.counts.variances.get("dispersion", math.nan), "1", 2),
            "mixed model": Number(found.mixed.effects["phone_rate"], per_unit, 3, found.mixed.kind),
            "kind of mixed model": found.mixed.kind,
        }


def _null_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Correlations inside groups of clips and inside clips, and beside those of null codecs."""
    for group, r in each.groups.items():
        name = f"{each.setting.name}: {group}"
        cell = Number(r, "1", 2, "Pearson, bootstrap")
        yield {"table": "groups", "setting: clips": name, "r": cell, "clips": r.items}
    within = each.within
    if "speech" in each.phone_rate:
        within = each.phone_rate["speech"].within
    if within is not None:
        yield {
            "table": "within",
            "setting": each.setting.name,
            "r": Number(within.r, "1", 2, "bootstrap of clips"),
            "r, Fisher": Number(within.fisher, "1", 2, "Fisher's z, as if windows were independent"),
            "r given speech": Number(within.given_speech, "1", 2, "partial correlation, bootstrap of clips"),
            "slope": Number(within.slope, f"tokens per {study.data.unit[:-1]}", 2, "least squares, bootstrap of clips"),
            "windows": within.windows,
        }
    for null, measures in each.excess.items():
        for measure, found in measures.items():
            yield {
                "table": "nulls",
                "setting, over: null": f"{each.setting.name}, {MEASURE_NAMES[measure]}: {NULL_NAMES[null]}",
                "r": Number(found.value, "1", 2),
                "null's r": Number(found.null_value, "1", 2),
                "excess": Number(found.excess, "1", 2, "difference, bootstrap"),
                "null's tokens (Hz)": Number(found.null_frame_rate, "Hz", 2),
            }


def _content_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Segments per token, durations by class, and how often neighbouring frames are merged."""
    name = each.setting.name
    for unit, found in each.per_token.items():
        row: Row = {
            "table": "per_token",
            "setting: unit": f"{name}: {unit}",
            "mean per token": Number(found.mean, f"{unit} per token", 2, "ratio of sums"),
        }
        for n, share in enumerate(found.shares):
            heading = f"P({n})" if n < MANY else f"P({MANY} or more)"
            row[heading] = Number(share, "1", 3, "share of tokens")
        row["entropy (bits)"] = Number(found.entropy_bits, "bits", 2, "plug-in entropy")
        row["tokens"] = found.tokens
        yield row

    for kind in each.durations:
        if kind.name != ALL and each.durations[0].mean.value == 1:
            continue  # nothing is merged: every class lasts one frame
        capped = "–" if kind.capped is None else Number(kind.capped, "1", 3, "share of tokens")
        yield {
            "table": "durations",
            "setting: class": f"{name}: {kind.name}",
            "frames per token": Number(kind.mean, "frames", 2),
            "share at the cap": capped,
            "tokens": kind.tokens,
        }

    # Pairs of frames; by class of phone for the main setting alone
    for pairs in each.merged:
        where = {ALL: "", SPEECH: ", in speech"}.get(pairs.first, f", {pairs.first}")
        if pairs.first not in (ALL, SPEECH):
            if each is not study.main:
                continue
            if pairs.kind != "inside":
                where += f" then {pairs.second}"
        yield {
            "table": "merged",
            "pairs of neighbouring frames": f"{name}: {PAIR_NAMES[pairs.kind]}{where}",
            "share merged": Number(pairs.share, "1", 3, "share of pairs of frames"),
            "pairs": pairs.pairs,
        }
    for effect, ratio in _odds_ratios(each).items():
        cell = Number(ratio, "odds ratio", 2, "logistic regression, robust")
        yield {"table": "odds", "setting: for": f"{name}: {effect}", "odds ratio": cell}


def _odds_ratios(each: SettingResults) -> dict[str, Interval]:
    """Return the exponentials of log odds, by the description of their effect."""
    if each.odds is None:
        return {}
    ratios = {}
    for name, effect in each.odds.effects.items():
        if name in ODDS:  # no intercept
            # A predictor that separates the classes has an end near infinity.
            ends = np.minimum([effect.value, effect.low, effect.high], LARGEST_LOG)
            value, low, high = np.exp(ends).tolist()
            ratios[ODDS[name]] = replace(effect, value=value, low=low, high=high)
    return ratios


def _boundary_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Boundary scores beside null codecs and at all tolerances, and mutual information."""
    name = each.setting.name
    for found in each.agreement:
        scores = {measure: Number(value, "1", 3, "pooled over clips") for measure, value in found.measures.items()}
        for null, beside in found.nulls.items():
            if found.tolerance == MAIN_TOLERANCE:
                yield {
                    "table": f"boundaries {name}",
                    "tier, over null": f"{found.tier}, over {NULL_NAMES[null]}",
                    "F1": scores["f1"],
                    "null's F1": Number(beside.scores.f1, "1", 3),
                    "gain": Number(beside.gain, "1", 3, "difference, bootstrap"),
                    "corrected F1": Number(beside.corrected, "1", 3),
                    "null's offset (ms)": Number(1000 * beside.offset, "ms", 0),
                }
        row: Row = {
            "table": "tolerances",
            "setting: tier, tolerance": f"{name}: {found.tier}, {1000 * found.tolerance:.0f} ms",
            "precision": scores["precision"],
            "recall": scores["recall"],
            "F1": scores["f1"],
            "R-value": scores["r_value"],
            "over-segmentation": Number(found.scores.over_segmentation, "1", 2),
        }
        for null in AT_ALL_TOLERANCES:
            row[f"gain over {null}"] = Number(found.nulls[null].gain, "1", 3, "F1 less the null's")
        row["corrected F1"] = Number(found.nulls["random"].corrected, "1", 3)
        yield row
    for tier, information in each.information.items():
        yield {
            "table": "information",
            "setting: tier": f"{name}: {tier}",
            "bits per frame": Number(information.bits, "bits per frame", 4),
            "shuffled tokens": Number(information.chance, "bits per frame", 4),
            "at most": Number(information.entropy, "bits per frame", 4),
            "share": Number(information.share, "1", 3, items=information.instants),
        }


def _bit_rows(study: StudyResults, each: SettingResults) -> Iterator[Row]:
    """Field widths against code lengths: of tokens, of their parts, and of durations."""
    name = each.setting.name
    base = study.data.format.base_frame_rate
    if each.codes is not None:
        nominal = each.codes.nominal_kbps
        coded = each.codes.coded_kbps
        yield {
            "table": "bitrates",
            "setting": name,
            "nominal kbit/s": Number(nominal, "kbit/s", 3, "fields"),
            "coded kbit/s": Number(coded, "kbit/s", 3, "held-out code length"),
            "saved": Number(1 - coded.value / nominal.value, "1", 3),
            "tokens": each.codes.tokens,
        }
        row: Row = {"table": "flags", "setting": name}
        for way, bps in each.codes.flags_bps.items():
            row[way] = Number(bps, "bit/s", 2, "all bits over all seconds")
        row["without pattern"] = Number(flag_limit_bps(min(base, each.frame_rate.value), base), "bit/s", 2)
        yield row
    if each.digits is not None:
        yield from _digit_rows(name, each.digits)
    if each is not study.main:
        return

    # Parts of tokens and pairs of digits are listed for one setting.
    if each.codes is not None:
        layers = [part for part in each.codes.parts if part.name.startswith("acoustic")]
        for part in each.codes.parts:
            if part not in layers[CODEBOOKS_LISTED:]:
                yield from _part_rows(part)
    if each.digits is not None and len(each.digits.levels) > 1:
        for i, shared in enumerate(each.digits.shared.tolist()):
            row = {"table": "digit_pairs", "digit": f"digit {i}"}
            row |= {f"digit {j}": Number(bits, "bits", 3) for j, bits in enumerate(shared)}
            yield row


def _part_rows(part: BitsPerPart) -> Iterator[Row]:
    """Every model of one part of a token."""
    field: Cell = "–" if part.nominal is None else Number(part.nominal, "bits per token", 0)
    for model, bits in part.coded.items():
        if model == "as its field":
            continue  # a column of its own
        cheapest = " (cheapest)" if model == part.best else ""
        row: Row = {
            "table": "parts",
            "part, model": f"{part.name}, {model}{cheapest}",
            "field (bits)": field,
            "coded (bits)": Number(bits, "bits per token", 2, "held-out code length"),
            "entropy by itself": Number(part.miller_madow, "bits", 2),
        }
        if part.use is not None:
            row["codes used"] = f"{part.use.used} of {part.use.size}"
            row["perplexity"] = Number(part.use.perplexity, "codes", 1)
        yield row


def _digit_rows(name: str, digits: DigitStudy) -> Iterator[Row]:
    """Entropy of each digit, and its information about other digits and about the phone."""
    for j, entropy in enumerate(digits.entropies):
        others = np.delete(digits.shared[j], j)  # without the digit's own entropy
        row: Row = {
            "table": "digits",
            "setting: digit": f"{name}: digit {j}",
            "entropy (bits)": Number(entropy, "bits", 2),
            "at most (bits)": Number(math.log2(digits.levels[j]), "bits", 2),
            "about another digit (bits)": Number(max(others, default=math.nan), "bits", 3),
        }
        if digits.phones:
            share = math.nan  # of nothing, where all phones are the same
            if digits.phone_entropy > 0:
                share = (digits.phones[j] - digits.chance[j]) / digits.phone_entropy
            row |= {
                "about the phone (bits)": Number(digits.phones[j], "bits", 3, items=digits.spoken),
                "shuffled phones (bits)": Number(digits.chance[j], "bits", 3, items=digits.spoken),
                "share of the phones' entropy": Number(share, "1", 3),
            }
        yield row


# ------------------------------------------------------------------------------------------------------------ figures


def make_figures(study: StudyResults) -> dict[str, "Figure"]:
    """Make all figures for which the study has results, by name."""
    figures = {"rate_curve": plots.plot_rate_curve(study), "loss": plots.plot_distortion(study)}
    main = study.main
    fixed = study.fixed[:SETTINGS_PLOTTED]

    # One clip at the main setting, with its phones and words
    clip = _example(study)
    shown = ("phones", "words", study.data.unit)
    figures["example"] = plots.plot_tokens(
        torch.as_tensor(clip.audio),
        clip.tokens[main.setting.name],
        torch.as_tensor(clip.similarities),
        tiers={name: tier for name, tier in clip_tiers(clip, study.data.unit).items() if name in shown},
        span=(0.0, min(clip.seconds, EXAMPLE_SHOWN)),
    )

    # Frame rate against phone rate
    if "speech" in main.phone_rate:
        figures["scatter"] = plots.plot_scatter(main, study.data.unit)
    excess = {}
    for each in study.settings:
        if each.excess:
            over = {NULL_NAMES[null]: measures["pearson"].excess for null, measures in each.excess.items()}
            excess[each.setting.name] = over
    if excess:
        figures["excess"] = plots.plot_intervals(excess, "r minus the null's r", reference=0.0)
    if study.sweep:
        figures["sweep"] = plots.plot_sweep(study)

    # Token contents
    for unit in list(main.per_token)[:1]:
        figures["per_token"] = plots.plot_segments_per_token(fixed, unit)
    figures["durations"] = plots.plot_durations(fixed, 1 / study.data.format.base_frame_rate)
    if study.split is not None:
        means = {}
        for each in fixed:
            means[each.setting.name] = {row.name: row.mean for row in each.durations if row.name in CLASSES}
        figures["class_durations"] = plots.plot_intervals(means, "frames per token")
    if any(pairs.first not in (ALL, SPEECH) for pairs in main.merged):
        title = f"{main.setting.name}: percent of neighbouring frames merged"
        figures["merged"] = plots.plot_merge_probabilities(main.merged, title)
    odds = {each.setting.name: _odds_ratios(each) for each in fixed if each.odds and each.odds.converged}
    if odds:
        figures["odds"] = plots.plot_intervals(odds, "odds ratio", reference=1.0, log=True)

    # Boundaries and bits
    f1 = _boundary_scores(study)
    if f1:
        figures["boundaries"] = plots.plot_intervals(f1, f"F1 within {1000 * MAIN_TOLERANCE:.0f} ms")
    if main.codes is not None:
        bits: dict[str, dict[str, Interval]] = {"field": {}, "cheapest model, held out": {}}
        for part in main.codes.parts:
            bits["cheapest model, held out"][part.name] = part.coded[part.best]
            if part.nominal is not None:
                bits["field"][part.name] = _without_ends(part.nominal)
        figures["bits"] = plots.plot_intervals(bits, "bits per token")
    return figures


def _without_ends(value: float) -> Interval:
    return Interval(value, math.nan, math.nan, 0.95, 1, 1)


def _boundary_scores(study: StudyResults) -> dict[str, dict[str, Interval]]:
    """Return F1 of the codec and of null codecs by tier and setting, at the main tolerance."""
    scores: dict[str, dict[str, Interval]] = {}
    # Settings with one threshold; if none of them merges, those with one rate per clip.
    scored = [each for each in study.fixed if each.agreement] or study.settings
    for each in scored:
        for found in each.agreement:
            if found.tolerance == MAIN_TOLERANCE:
                row = f"{found.tier}, {each.setting.name}"
                scores.setdefault("codec", {})[row] = found.measures["f1"]
                for null, beside in found.nulls.items():
                    scores.setdefault(NULL_NAMES[null], {})[row] = _without_ends(beside.scores.f1)
    return scores
