"""What the metrics of an evaluation are called, which way is better, and where in a row they stand.

Metrics of the signal have the names of `signal.METRICS`; `wer.SPEC` and `cer.SPEC` are error rates by recogniser,
`similarity.SPEC` is by speaker encoder, `utmos.SPEC` and the like by predictor. Rates, too, are sums over sums.
"""

import math
from typing import Any

from flexicodec.evaluation import intelligibility, mos, signal
from flexicodec.evaluation.rows import Row

RATES = {
    "frame_rate_hz": "Hz",
    "bitrate_kbps": "kbps",
    "file_kbps": "kbps of files",
    "entropy_kbps": "kbps, entropy-coded",
}
LABELS = {
    "stoi": "STOI",
    "estoi": "ESTOI",
    "pesq_wb": "PESQ-WB",
    "pesq_nb": "PESQ-NB",
    "si_sdr_db": "SI-SDR, dB",
    "mel_distance": "mel distance",
    "mcd_db": "MCD, dB",
    "mcd_dtw_db": "MCD-DTW, dB",
    "f0_cents": "F0 error, cents",
    "vuv_error": "voicing error",
}
KINDS = {
    "wer": "WER, %",
    "cer": "CER, %",
    "similarity": "similarity",
    "utmos": "UTMOS",
    "dnsmos_ovrl": "DNSMOS overall",
    "dnsmos_sig": "DNSMOS speech",
    "dnsmos_bak": "DNSMOS background",
}
HIGHER_IS_BETTER = {
    **signal.HIGHER_IS_BETTER,
    **intelligibility.HIGHER_IS_BETTER,
    "similarity": True,
    **mos.HIGHER_IS_BETTER,
}
NOTHING = (math.nan, math.nan)
COUNTS = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}
DIGITS = {"si_sdr_db": 2, "mcd_db": 2, "mcd_dtw_db": 2, "f0_cents": 0, "pesq_wb": 2, "pesq_nb": 2}
DIGITS |= dict.fromkeys(mos.HIGHER_IS_BETTER, 2)
DIGITS |= {"frame_rate_hz": 2, "bitrate_kbps": 3, "file_kbps": 3, "entropy_kbps": 3, "wer": 1, "cer": 1}


def label(metric: str) -> str:
    """Say what a metric is called in tables and plots, with its unit."""
    kind, _, spec = metric.partition(".")
    return LABELS.get(metric) or RATES.get(metric) or f"{KINDS[kind]} ({spec})"


def higher_is_better(metric: str) -> bool:
    """Tell which way a metric is better."""
    return HIGHER_IS_BETTER[metric.partition(".")[0]]


def show(metric: str, value: float) -> str:
    """Write a value as tables have it: error rates in percent, a dash where there is none."""
    kind = metric.partition(".")[0]
    digits = DIGITS.get(metric, DIGITS.get(kind, 3))
    return "–" if value != value else f"{value * scale(metric):.{digits}f}"


def scale(metric: str) -> float:
    """What a value is multiplied by to be shown."""
    return 100.0 if metric.partition(".")[0] in COUNTS else 1.0


def fraction(row: Row, metric: str) -> tuple[float, float]:
    """What a row adds above and below the line: value and 1, errors and words, tokens and seconds; NaN if nothing.

    Sums of these over rows, divided, are means, corpus error rates and corpus rates. A reference without words adds
    what was heard in its place above the line and 0 below it (see `intelligibility`).
    """
    kind = metric.partition(".")[0]
    if kind in COUNTS:
        heard = transcript(row, metric)
        above, below = COUNTS[kind]
        return (float(heard[above]), float(heard[below])) if heard else NOTHING
    value = row.get(metric)
    if value is None or value != value:
        return NOTHING
    weight = coded_seconds(row) if metric in RATES else 1.0
    return float(value) * weight, weight


def transcript(row: Row, metric: str) -> dict[str, Any] | None:
    """What a recogniser heard in a row, with its counts, by the name of its error rate; None where it was not to."""
    return (row.get("transcripts") or {}).get(metric.partition(".")[2])


def coded_seconds(row: Row) -> float:
    """Seconds that a row's rates are over: of its tokens, or of the manifest where those are not known."""
    return float(row.get("coded_seconds") or row["seconds"])
