"""The paper's evaluation of codecs (arXiv 2510.00981, section 4), to be run by whoever has weights and data.

The list is LibriSpeech test-clean, clips of 4 to 10 s: 1,237 files, by which a third party came close to the paper's
numbers with the released weights. The settings are the taus of Table 5 (1, 0.91, 0.867) and of Table 2 (0.9, 0.8, 0.75,
0.7), with the semantic codes alone (the paper's q1) and with 7 acoustic codebooks (q1:8). The paper names neither its
recogniser nor PESQ's band nor how MCD was set up, so both of each are measured. Its similarity is WavLM-large's with an
ECAPA-TDNN head, which cannot be opened here; the fallback is labelled and held against nothing. Published numbers lie
in `data/`, each with its source.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from flexicodec.corpus import Utterance, read_manifest, scan
from flexicodec.evaluation import metrics
from flexicodec.evaluation.instruments import Measures
from flexicodec.evaluation.report import table
from flexicodec.evaluation.summary import Entry, Summary
from flexicodec.evaluation.systems import GROUND_TRUTH, Sweep

SHORTEST, LONGEST = 4.0, 10.0  # seconds, both included
CLIPS, CLIPS_OF_TEST_CLEAN = 1237, 2620
SWEEP = Sweep(thresholds=(1.0, 0.91, 0.9, 0.867, 0.8, 0.75, 0.7), codebooks=(0, 7))
MEASURES = Measures(
    metrics=("pesq_nb", "pesq_wb", "mcd_db", "mcd_dtw_db", "stoi"),
    transcribers=("hubert:facebook/hubert-large-ls960-ft", "whisper:openai/whisper-large-v3"),
    normaliser="whisper-english:openai/whisper-large-v3",
    speaker_encoders=("wavlm:microsoft/wavlm-base-plus-sv",),
    mos=("utmos:TigreGotico/utmos-onnx",),
)
# How near a parity run has to come to what the third party measured with the same weights.
TOLERANCES = {"wer_q1": 0.3, "wer_q1_8": 0.3, "pesq": 0.05, "mcd": 0.1}
HEADS = {
    "frame_rate_hz": "Hz",
    "wer_q1": "WER q1, %",
    "wer_q1_8": "WER q1:8, %",
    "pesq": "PESQ",
    "mcd": "MCD, dB",
    "similarity": "similarity",
    "mos": "UTMOS",
}


@dataclass(frozen=True)
class PaperList:
    """The clips of the protocol.

    Attributes:
        utterances: Clips of 4 to 10 s, by id.
        found: Clips of any length.
        unreadable: Files that could not be opened, with the reason; they are missing from the list.
    """

    utterances: list[Utterance]
    found: int
    unreadable: list[tuple[str, str]]

    @property
    def whole(self) -> bool:
        """Whether the list has as many clips as the third party's."""
        return len(self.utterances) == CLIPS and not self.unreadable

    @property
    def note(self) -> str:
        """Say how the list compares with the one that was meant."""
        count = len(self.utterances)
        counts = f"{count:,} {'clip' if count == 1 else 'clips'} of {SHORTEST:g} to {LONGEST:g} s among {self.found:,}"
        if self.whole:
            return f"The list: {counts}, the number that the third party reports."
        lost = f" and {len(self.unreadable)} that cannot be read" if self.unreadable else ""
        return (
            f"**Not the paper's list**: {counts}{lost}; LibriSpeech test-clean has {CLIPS_OF_TEST_CLEAN:,}, of which "
            f"{CLIPS:,} are that long. The published numbers below are for another list."
        )


def paper_list(source: str | Path) -> PaperList:
    """Choose the protocol's clips.

    Args:
        source: LibriSpeech's folder `test-clean` (or the one that holds it), or a manifest of it.

    Raises:
        ValueError: No such folder or manifest, or no clip of 4 to 10 s in it.
    """
    source = Path(source)
    unreadable: list[tuple[str, str]] = []
    if source.is_dir():
        inner = next(
            (path for path in (source / "test-clean", source / "LibriSpeech" / "test-clean") if path.is_dir()), source
        )
        listing = scan(inner, "librispeech")
        utterances, unreadable = listing.utterances, listing.unreadable
        utterances = [replace(u, id=u.path.stem, corpus="librispeech_test_clean", language="en") for u in utterances]
    else:
        utterances = read_manifest(source)
    kept = [utterance for utterance in utterances if SHORTEST <= utterance.duration <= LONGEST]
    if not kept:
        raise ValueError(f"none of {len(utterances)} clips in {source} lasts {SHORTEST:g} to {LONGEST:g} s")
    return PaperList(sorted(kept, key=lambda u: u.id), len(utterances), unreadable)


def published(name: str) -> list[dict[str, str]]:
    """Read published numbers: "operating_points" (the paper's and the third party's), or "table5" (other codecs)."""
    text = (files("flexicodec.evaluation") / "data" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def comparison(summary: Summary, clips: PaperList) -> str:
    """Write the published numbers and ours side by side, as Markdown."""
    ours, shipped = _ours(summary), _shipped(summary)
    points = published("operating_points")
    rows = [[each["by"], each["threshold"] or "–", *(each[name] or "–" for name in HEADS)] for each in points]
    rows += [[who, tau, *(_cell(name, values.get(name, [])) for name in HEADS)] for who, tau, values in ours]
    parts = [
        "## Beside the published numbers",
        clips.note,
        _heard_before(shipped),
        table(["measured by", "tau", *HEADS.values()], rows),
        f"Where a cell of ours has several numbers: {_order(summary)}. The paper does not say which of them its own "
        "is; its PESQ fits narrow band.",
        _other_encoder(summary),
        _parity(points, [each for each in ours if each[0] not in shipped], clips, bool(shipped)),
        "### Other codecs, as the paper has them (Table 5)",
        table(
            ["system", "kbps", *HEADS.values()],
            [[r["system"], r["bitrate_kbps"], *(r[name] or "–" for name in HEADS)] for r in published("table5")],
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _shipped(summary: Summary) -> list[str]:
    """Find the systems that are the model that ships, by its fingerprint."""
    config = files("flexicodec") / "assets" / "flexicodec-mini" / "config.json"
    shipped = json.loads(config.read_text(encoding="utf-8"))["fingerprint"]
    return [name for name, identity in summary.run["systems"].items() if identity.get("fingerprint") == shipped]


def _heard_before(names: Sequence[str]) -> str:
    """Warn of the model that ships, since it was trained on speakers of the list."""
    if not names:
        return ""
    return (
        f"**{', '.join(names)}: trained on 26 of the 40 speakers of test-clean.** Its numbers here are no numbers on "
        "LibriSpeech test-clean and may not be quoted as such."
    )


def _other_encoder(summary: Summary) -> str:
    """Say that similarities are by another encoder than the published ones."""
    used = [name.partition(".")[2] for name in summary.metrics if name.startswith("similarity.")]
    if not used:
        return ""
    return (
        f"Similarities of ours are by {', '.join(used)}, a fallback; the published ones are by WavLM-large with an "
        "ECAPA-TDNN head, which scores otherwise. They compare with ours alone."
    )


# System, tau, and by column the values with what each is called.
Named = list[tuple[str, float]]
Ours = tuple[str, str, dict[str, Named]]


def _ours(summary: Summary) -> list[Ours]:
    """Collect our numbers in the paper's columns, a row for each system and threshold."""
    names = summary.metrics
    wer = [name for name in names if name.startswith("wer.")]
    columns = {
        "frame_rate_hz": ["frame_rate_hz"],
        "pesq": [name for name in names if name.startswith("pesq_")],
        "mcd": [name for name in names if name.startswith("mcd_")],
        "similarity": [name for name in names if name.startswith("similarity.")],
        "mos": [name for name in names if name.startswith("utmos.")],
    }
    found: list[Ours] = []
    groups = dict.fromkeys((entry.system, entry.asked.get("threshold")) for entry in summary.entries)
    for system, tau in groups:
        entries = [e for e in summary.entries if (e.system, e.asked.get("threshold")) == (system, tau)]
        lean = next((entry for entry in entries if entry.asked.get("codebooks") == 0), None)
        full = next((entry for entry in entries if entry.asked.get("codebooks") != 0), entries[0])
        values = {name: _values(full, wanted) for name, wanted in columns.items()}
        values |= {"wer_q1": _values(lean, wer), "wer_q1_8": _values(full, wer)}
        if system == GROUND_TRUTH:
            values |= {"wer_q1": values["wer_q1_8"], "pesq": [], "mcd": [], "similarity": []}
        found.append((system, "–" if tau is None else f"{tau:g}", values))
    return found


def _values(entry: Entry | None, names: Sequence[str]) -> Named:
    if entry is None:
        return []
    return [(metrics.label(name), entry.scores[name].value * metrics.scale(name)) for name in names]


def _parity(points: Sequence[dict[str, str]], ours: Sequence[Ours], clips: PaperList, shipped: bool) -> str:
    """Hold every number of ours against the third party's, who measured the released weights, by the tolerances."""
    if not clips.whole:
        return "Parity is not judged: these are not the paper's clips."
    rows = []
    for who, tau, values in ours:
        for point in points:
            if point["by"] != "third party" or tau == "–" or float(point["threshold"]) != float(tau):
                continue
            for name, tolerance in TOLERANCES.items():
                target = float(point[name])
                for label, value in values.get(name, []):
                    if math.isfinite(value):
                        verdict = "yes" if abs(value - target) <= tolerance else "no"
                        cells = [f"{value:.2f}", f"{target:.2f}", f"{tolerance:g}", verdict]
                        rows.append([who, tau, HEADS[name], label, *cells])
    if not rows:
        return "Parity is not judged: the model that ships has other weights than were published." if shipped else ""
    head = ["system", "tau", "metric", "measured by", "ours", "third party", "tolerance", "within"]
    said = (
        "### Parity\n\nThe third party measured the released weights; a run of the same weights is to come this near. "
        "Which recogniser, band of PESQ and kind of MCD it used is not known: each of ours stands by itself."
    )
    return f"{said}\n\n{table(head, rows)}"


def _order(summary: Summary) -> str:
    """Say in which order the numbers of a cell stand."""
    wer = [name.partition(".")[2] for name in summary.metrics if name.startswith("wer.")]
    shown = [f"WER by {', '.join(wer)}"] if wer else []
    for kind in ("pesq_", "mcd_"):
        if labels := [metrics.label(name) for name in summary.metrics if name.startswith(kind)]:
            shown.append(", ".join(labels))
    return "; ".join(shown) or "they stand in the order of the first table"


def _cell(name: str, values: Named) -> str:
    shown = " / ".join(f"{value:.2f}" if math.isfinite(value) else "–" for _, value in values)
    return f"{shown} (other encoder)" if shown and name == "similarity" else shown or "–"
