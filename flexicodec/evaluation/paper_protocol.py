"""The codec evaluation of the FlexiCodec paper (arXiv 2510.00981, section 4), with the published numbers beside ours.

The clips are those of LibriSpeech test-clean that last 4 to 10 s: 1,237 files, on which a third party came close to the
paper's numbers with the released weights. The settings are the taus of Table 5 (1, 0.91, 0.867) and of Table 2 (0.9,
0.8, 0.75, 0.7), with semantic codes alone (the paper's q1) and with 7 acoustic codebooks (q1:8). The paper names
neither its recogniser nor PESQ's band nor the sort of MCD, so both of each are measured. Its speaker similarity is by
WavLM-large with an ECAPA-TDNN head, which cannot be loaded here; ours is labelled and compared with nothing. The
published numbers are in `data/`, each with its source.
"""

import csv
import json
import math
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from flexicodec.corpus import Utterance, read_manifest, scan
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.report import markdown_table
from flexicodec.evaluation.summary import Entry, Summary, metric_info
from flexicodec.evaluation.systems import GROUND_TRUTH, Sweep

SHORTEST = 4.0  # seconds, included
LONGEST = 10.0
CLIPS = 1237  # of that length
CLIPS_OF_TEST_CLEAN = 2620
SWEEP = Sweep(thresholds=(1.0, 0.91, 0.9, 0.867, 0.8, 0.75, 0.7), codebooks=(0, 7))
METRICS = MetricConfig(
    metrics=("pesq_nb", "pesq_wb", "mcd_db", "mcd_dtw_db", "stoi"),
    transcribers=("hubert:facebook/hubert-large-ls960-ft", "whisper:openai/whisper-large-v3"),
    normaliser="whisper-english:openai/whisper-large-v3",
    speaker_encoders=("wavlm:microsoft/wavlm-base-plus-sv",),
    mos=("utmos:TigreGotico/utmos-onnx",),
)
# How close a run of the released weights has to come to the third party's numbers.
TOLERANCES = {"wer_q1": 0.3, "wer_q1_8": 0.3, "pesq": 0.05, "mcd": 0.1}
# Columns of the published tables, and how the names of our metrics of the same quantity begin.
COLUMNS = {
    "frame_rate_hz": ("Hz", "frame_rate_hz"),
    "wer_q1": ("WER q1, %", "wer."),
    "wer_q1_8": ("WER q1:8, %", "wer."),
    "pesq": ("PESQ", "pesq_"),
    "mcd": ("MCD, dB", "mcd_"),
    "similarity": ("similarity", "similarity."),
    "mos": ("UTMOS", "utmos."),
}
HEADS = [head for head, _ in COLUMNS.values()]


@dataclass(frozen=True)
class PaperList:
    """The clips of the protocol."""

    utterances: list[Utterance]  # of 4 to 10 s, by id
    found: int  # clips of any length
    unreadable: list[tuple[str, str]]  # files that could not be opened, with the reason

    @property
    def is_complete(self) -> bool:
        """Whether there are as many clips as the third party reports."""
        return len(self.utterances) == CLIPS and not self.unreadable

    @property
    def note(self) -> str:
        """How the list compares with the paper's."""
        count = len(self.utterances)
        unit = "clip" if count == 1 else "clips"
        counts = f"{count:,} {unit} of {SHORTEST:g} to {LONGEST:g} s among {self.found:,}"
        if self.is_complete:
            return f"The list: {counts}, the number that the third party reports."
        if self.unreadable:
            counts += f" and {len(self.unreadable)} that cannot be read"
        return (
            f"**Not the paper's list**: {counts}; LibriSpeech test-clean has {CLIPS_OF_TEST_CLEAN:,}, of which "
            f"{CLIPS:,} are that long. The published numbers below are for another list."
        )


def paper_list(source: str | Path) -> PaperList:
    """Choose the protocol's clips from LibriSpeech's folder `test-clean`, the one above it, or a manifest."""
    source = Path(source)
    unreadable: list[tuple[str, str]] = []
    if source.is_dir():
        candidates = [source / "test-clean", source / "LibriSpeech" / "test-clean", source]
        listing = scan(next(folder for folder in candidates if folder.is_dir()), "librispeech")
        unreadable = listing.unreadable
        utterances = [
            replace(utterance, id=utterance.path.stem, corpus="librispeech_test_clean", language="en")
            for utterance in listing.utterances
        ]
    else:
        utterances = read_manifest(source)
    chosen = [utterance for utterance in utterances if SHORTEST <= utterance.duration <= LONGEST]
    if not chosen:
        raise ValueError(f"none of {len(utterances)} clips in {source} lasts {SHORTEST:g} to {LONGEST:g} s")
    return PaperList(sorted(chosen, key=lambda utterance: utterance.id), len(utterances), unreadable)


def published(name: str) -> list[dict[str, str]]:
    """Read published numbers: "operating_points" (the paper's and the third party's), or "table5" (other codecs)."""
    text = (files("flexicodec.evaluation") / "data" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def comparison(summary: Summary, clips: PaperList) -> str:
    """Write the published numbers and ours side by side, as Markdown."""
    ours = _our_numbers(summary)
    shipped = _shipped_systems(summary)
    rows = []
    for point in published("operating_points"):
        rows.append([point["by"], point["threshold"] or "–", *(point[name] or "–" for name in COLUMNS)])
    for (system, tau), numbers in ours.items():
        rows.append([system, tau, *(_cell(name, numbers[name]) for name in COLUMNS)])
    others = []
    for codec in published("table5"):
        others.append([codec["system"], codec["bitrate_kbps"], *(codec[name] or "–" for name in COLUMNS)])
    parts = ["## Beside the published numbers", clips.note]
    if shipped:
        parts.append(
            f"**{', '.join(shipped)}: trained on 26 of the 40 speakers of test-clean.** Its numbers here are no "
            "numbers on LibriSpeech test-clean and may not be quoted as such."
        )
    parts += [
        markdown_table(["measured by", "tau", *HEADS], rows),
        f"Where a cell of ours has several numbers: {_cell_order(summary)}. The paper does not say which of them its "
        "own is; its PESQ fits narrow band.",
    ]
    if encoders := [name.partition(".")[2] for name in summary.metrics if name.startswith("similarity.")]:
        parts.append(
            f"Similarities of ours are by {', '.join(encoders)}, a fallback; the published ones are by WavLM-large "
            "with an ECAPA-TDNN head, which scores otherwise. They compare with ours alone."
        )
    parity = _parity({key: numbers for key, numbers in ours.items() if key[0] not in shipped})
    if not clips.is_complete:
        parts.append("Parity is not judged: these are not the paper's clips.")
    elif parity:
        parts.append(parity)
    elif shipped:
        parts.append("Parity is not judged: the model that ships has other weights than were published.")
    parts += [
        "### Other codecs, as the paper has them (Table 5)",
        markdown_table(["system", "kbps", *HEADS], others),
    ]
    return "\n\n".join(parts)


# By system and tau: for each published column, our values with the labels of their metrics.
_Numbers = dict[tuple[str, str], dict[str, list[tuple[str, float]]]]


def _our_numbers(summary: Summary) -> _Numbers:
    groups: dict[tuple[str, float | None], list[Entry]] = {}
    for entry in summary.entries:
        groups.setdefault((entry.system, entry.asked.get("threshold")), []).append(entry)
    ours: _Numbers = {}
    for (system, tau), entries in groups.items():
        full = next((entry for entry in entries if entry.asked.get("codebooks") != 0), entries[0])
        semantic_only = next((entry for entry in entries if entry.asked.get("codebooks") == 0), None)
        sources = dict.fromkeys(COLUMNS, full) | {"wer_q1": semantic_only}
        if system == GROUND_TRUTH:
            sources |= {"wer_q1": full, "pesq": None, "mcd": None, "similarity": None}
        numbers: dict[str, list[tuple[str, float]]] = {}
        for column, source in sources.items():
            numbers[column] = []
            for name in ["frame_rate_hz", *summary.metrics]:
                if source is not None and name.startswith(COLUMNS[column][1]):
                    info = metric_info(name)
                    numbers[column].append((info.label, source.scores[name].value * info.scale))
        ours[system, "–" if tau is None else f"{tau:g}"] = numbers
    return ours


def _cell(column: str, values: list[tuple[str, float]]) -> str:
    texts = [f"{value:.2f}" if math.isfinite(value) else "–" for _, value in values]
    if texts and column == "similarity":
        return f"{' / '.join(texts)} (other encoder)"
    return " / ".join(texts) or "–"


def _cell_order(summary: Summary) -> str:
    """Say in which order the numbers of a cell stand."""
    recognisers = [name.partition(".")[2] for name in summary.metrics if name.startswith("wer.")]
    orders = [f"WER by {', '.join(recognisers)}"] if recognisers else []
    for prefix in ("pesq_", "mcd_"):
        if labels := [metric_info(name).label for name in summary.metrics if name.startswith(prefix)]:
            orders.append(", ".join(labels))
    return "; ".join(orders) or "they stand in the order of the first table"


def _shipped_systems(summary: Summary) -> list[str]:
    """Find the systems that are flexicodec-mini, by its fingerprint: it was trained on speakers of the list."""
    config = files("flexicodec") / "assets" / "flexicodec-mini" / "config.json"
    fingerprint = json.loads(config.read_text(encoding="utf-8"))["fingerprint"]
    return [name for name, identity in summary.run["systems"].items() if identity.get("fingerprint") == fingerprint]


def _parity(ours: _Numbers) -> str:
    """Compare each of our numbers with the third party's, by the tolerances; empty where none can be compared."""
    rows = []
    for point in published("operating_points"):
        for (system, tau), numbers in ours.items():
            if point["by"] != "third party" or tau == "–" or float(tau) != float(point["threshold"]):
                continue
            for column, tolerance in TOLERANCES.items():
                target = float(point[column])
                for label, value in numbers[column]:
                    if math.isfinite(value):
                        within = "yes" if abs(value - target) <= tolerance else "no"
                        cells = [f"{value:.2f}", f"{target:.2f}", f"{tolerance:g}", within]
                        rows.append([system, tau, COLUMNS[column][0], label, *cells])
    if not rows:
        return ""
    head = ["system", "tau", "metric", "measured by", "ours", "third party", "tolerance", "within"]
    return (
        "### Parity\n\nThe third party measured the released weights; a run of the same weights is to come this near. "
        "Which recogniser, band of PESQ and kind of MCD it used is not known: each of ours stands by itself.\n\n"
        + markdown_table(head, rows)
    )
