"""What the metrics of an evaluation are called, which way is better, and where in a row they stand.

Metrics of the signal have the names of `signal.METRICS`; `wer.SPEC` and `cer.SPEC` are error rates by recogniser,
`similarity.SPEC` is by speaker encoder, `mos.SPEC` by predictor. Rates have names too, and are sums over sums as well.
"""

from collections.abc import Mapping
from typing import Any

from flexicodec.evaluation import signal
from flexicodec.evaluation.rows import Row

RATES = {"frame_rate_hz": "Hz", "bitrate_kbps": "kbps", "file_kbps": "kbps of files"}
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
KINDS = {"wer": "WER, %", "cer": "CER, %", "similarity": "similarity", "mos": "MOS"}
COUNTS = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}
DIGITS = {"si_sdr_db": 2, "mcd_db": 2, "mcd_dtw_db": 2, "f0_cents": 0, "pesq_wb": 2, "pesq_nb": 2, "mos": 2}
DIGITS |= {"frame_rate_hz": 2, "bitrate_kbps": 3, "file_kbps": 3, "wer": 1, "cer": 1}


def names(run: Mapping[str, Any]) -> list[str]:
    """List the metrics of a run by what `run.json` says."""
    transcribed = [f"{kind}.{spec}" for spec in run["transcribers"] for kind in ("wer", "cer")]
    voices = [f"similarity.{spec}" for spec in run["speaker_encoders"]]
    return [*run["metrics"], *transcribed, *voices, *(f"mos.{spec}" for spec in run["mos"])]


def label(metric: str) -> str:
    """Say what a metric is called in tables and plots, with its unit."""
    kind, _, spec = metric.partition(".")
    return LABELS.get(metric) or RATES.get(metric) or f"{KINDS[kind]} ({spec})"


def higher_is_better(metric: str) -> bool:
    """Tell which way a metric is better."""
    kind = metric.partition(".")[0]
    return signal.HIGHER_IS_BETTER[metric] if metric in LABELS else kind in ("similarity", "mos")


def show(metric: str, value: float) -> str:
    """Write a value as tables have it: error rates in percent, a dash where there is none."""
    kind = metric.partition(".")[0]
    digits = DIGITS.get(metric, DIGITS.get(kind, 3))
    return "–" if value != value else f"{value * scale(metric):.{digits}f}"


def scale(metric: str) -> float:
    """What a value is multiplied by to be shown."""
    return 100.0 if metric.partition(".")[0] in COUNTS else 1.0


def fraction(row: Row, metric: str) -> tuple[float, float]:
    """What a row adds above and below the line: value and 1, errors and words, tokens and seconds; 0 and 0 if nothing.

    Sums of these over rows, divided, are means, corpus error rates and corpus rates.
    """
    kind, _, spec = metric.partition(".")
    if kind in COUNTS:
        heard = (row.get("transcripts") or {}).get(spec)
        above, below = COUNTS[kind]
        return (float(heard[above]), float(heard[below])) if heard else (0.0, 0.0)
    value = row.get(metric)
    if value is None or value != value:
        return 0.0, 0.0
    weight = float(row["seconds"]) if metric in RATES else 1.0
    return float(value) * weight, weight
