"""The report's tables and pictures of correlations beside those of null codecs, and as a function of tau."""

from collections.abc import Iterator, Sequence

from flexicodec.analysis.figures import Series, draw_correlations, draw_intervals
from flexicodec.analysis.report.document import Block, Figure, Number, Table
from flexicodec.analysis.study import SettingStudy, Study
from flexicodec.statistics import Interval

NULL_NAMES = {
    "uniform": "uniform",
    "random": "random boundaries",
    "shuffled": "shuffled durations",
    "voice_activity": "speech or silence only",
    "energy": "change of loudness",
    "mel_cosine": "mel spectra, cosine",
}


def nulls(settings: Sequence[SettingStudy], unit: str) -> Iterator[Block]:
    """Report by how much correlations exceed those of null codecs."""
    measures = {"pearson": "clips", "within": "windows", "within_given_speech": "windows given speech"}
    rows, series = [], []
    for each in settings:
        values: list[Interval] = []
        for null, found in each.excess.items():
            for measure, one in found.items():
                rows.append(
                    (
                        f"{each.setting.name}, {measures[measure]}: {NULL_NAMES[null]}",
                        Number(one.value, "1", digits=2),
                        Number(one.null_value, "1", digits=2),
                        Number.of(one.excess, "1", "difference, bootstrap", 2),
                        Number(one.null_frame_rate, "Hz", digits=2),
                    )
                )
            values.append(found["pearson"].excess)
        series.append(Series(each.setting.name, tuple(NULL_NAMES[null] for null in each.excess), tuple(values)))
    if not rows:
        return
    yield Figure(
        "excess",
        f"By how much the correlation of tokens with {unit} per second of speech exceeds that of null codecs which "
        "know little of the sound and have as many tokens in all. Right of 0: the codec follows more than they do.",
        f"Differences in r over {len(NULL_NAMES)} nulls at {len(series)} settings, with intervals.",
        draw_intervals(series, label="r minus the null's r"),
    )
    yield Table(
        "nulls",
        "Correlations beside those of null codecs: over clips, with as many tokens in the corpus; over windows "
        "within clips, with as many in every clip. A null whose rate never changes has no correlation, and 0 stands "
        "for it.",
        ("setting, over: null", "r", "null's r", "excess", "null's tokens (Hz)"),
        tuple(rows),
    )


def sweep(study: Study, unit: str, paper: float) -> Iterator[Block]:
    """Report the correlation at one tau after another, with the paper's beside it."""
    points = study.sweep
    if not points:
        return
    rates = tuple(round(point.frame_rate, 3) for point in points)
    yield Figure(
        "sweep",
        f"Correlation of tokens with {unit} per second of speech at one tau after another, against the frame rate "
        "that tau gives; tau itself stands above. The band is the bootstrap interval.",
        f"r runs from {points[0].r.value:.2f} at {rates[0]:.1f} Hz to {points[-1].r.value:.2f} at {rates[-1]:.1f} Hz.",
        draw_correlations(
            [Series("these clips", rates, tuple(point.r for point in points))],
            x_label="tokens per second of speech (Hz) at one tau",
            marks=[(f"paper, TIMIT: {paper}", paper)],
            above=("tau", [(rate, f"{point.threshold:.3f}") for rate, point in zip(rates, points, strict=True)]),
        ),
    )
    yield Table(
        "sweep",
        "The same as numbers.",
        ("tau", "tokens (Hz)", "r, bootstrap", "r, Fisher", "slope, least squares", "r in windows"),
        tuple(
            (
                f"{point.threshold:.3f}",
                Number(point.frame_rate, "Hz", items=point.clips, digits=2),
                Number.of(point.r, "1", "bootstrap", 2),
                Number.of(point.fisher, "1", "Fisher's z", 2),
                Number(point.slope, f"tokens per {unit[:-1]}", digits=2),
                Number(point.within, "1", digits=2),
            )
            for point in points
        ),
    )
