"""What is in a folder of tokens: how far it is, how much, what is bad and why, and statistics of its codes."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flexicodec.corpus.token_dataset import Choice, TokenDataset
from flexicodec.corpus.token_tables import flat_codes
from flexicodec.statistics.entropy import CodebookUse, counts_entropy
from flexicodec.token_corpus.marks import STATE, clean, read_deaths
from flexicodec.token_corpus.units import units_of_part

OLD_PART_SECONDS = 24 * 3600  # after which an unfinished file has no writer any more


@dataclass
class Summary:
    """Sums over the reports of units.

    Attributes:
        units: Of the plan, or of the part that was asked for.
        done: With a report.
        clips: In those, bad ones included.
        seconds: Of the clips that have tokens.
        bad: Id, class and message of every bad clip.
        tokens: By choice.
        frames: By choice.
        bytes: Of the files, by choice.
        durations: Tokens by their frames, by choice.
        fragile: Tokens with a decision that noise could turn, by choice; None without margins.
    """

    units: int = 0
    done: int = 0
    clips: int = 0
    seconds: float = 0.0
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    alignments_unread: int = 0
    batches_split: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    durations: dict[str, Counter[int]] = field(default_factory=dict)
    fragile: dict[str, int | None] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """Bad clips by class of error."""
        return dict(Counter(reason for _, reason, _ in self.bad).most_common())


def summarize(dataset: TokenDataset, part: str | None = None) -> Summary:
    """Add up the reports of a folder; a part is as for `tokenize`."""
    wanted = set(units_of_part(dataset.num_units, part))
    found = Summary(units=len(wanted))
    for unit in dataset.units_done():
        report = dataset.report(unit)
        if unit not in wanted or report is None:
            continue
        found.done += 1
        found.clips += report["clips"]
        found.seconds += report["seconds"]
        found.bad += [(name, reason, message) for name, reason, message in report["bad"]]
        found.alignments_unread += report["alignments_unread"]
        found.batches_split += report["batches_split"]
        for name, file in report["files"].items():
            found.tokens[name] += file["tokens"]
            found.frames[name] += file["frames"]
            found.bytes[name] += file["bytes"]
            histogram = found.durations.setdefault(name, Counter())
            histogram.update({int(value): count for value, count in file["durations"].items()})
            if file["fragile"] is not None:
                found.fragile[name] = (found.fragile.get(name) or 0) + file["fragile"]
    return found


def finish(dataset: TokenDataset, part: str | None = None) -> dict[str, Any]:
    """Remove what the dead left behind, and return what a job says at its end."""
    clear_state(dataset)
    found = summarize(dataset, part)
    shown = {"units": found.units, "done": found.done, "clips": found.clips, "seconds": found.seconds}
    return shown | {"reasons": found.reasons, "bad": found.bad[:10], "left_out": dataset.record["manifest"]["left_out"]}


def clear_state(dataset: TokenDataset) -> None:
    """Remove the logs of units that are done, and unfinished files that are old."""
    for unit in dataset.units_done():
        if next((dataset.folder / STATE).glob(f"{unit:06d}.*.log"), None) is not None:
            clean(read_deaths(dataset.folder, unit))
    for path in dataset.folder.rglob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > OLD_PART_SECONDS:
                path.unlink()
        except FileNotFoundError:  # its writer was alive
            continue


@dataclass(frozen=True)
class Measured:
    """Statistics that need the tables: rates of clips in Hz, and the use of codebooks."""

    mean_rate: float
    low_rate: float  # 5 % of the clips are below
    high_rate: float  # and 5 % above
    use: dict[str, CodebookUse]


def measure(dataset: TokenDataset, choice: Choice) -> Measured | None:
    """Read the tables of a choice; None where no clip has tokens."""
    form = dataset.format
    columns = ["num_tokens", "num_samples"]
    rates: list[np.ndarray] = []
    sums = np.zeros(2)
    counts: dict[str, np.ndarray] = {}
    if form.semantic_codebook_size is not None:
        columns.append("semantic")
        counts["semantic"] = np.zeros(form.semantic_codebook_size, dtype=np.int64)
    if choice.num_codebooks:
        columns.append("acoustic")
        for j in range(choice.num_codebooks):
            counts[f"acoustic {j + 1}"] = np.zeros(form.acoustic_codebook_size, dtype=np.int64)
    for _, table in dataset.tables(choice, columns, partial=True):
        tokens = table.column("num_tokens").to_numpy()
        seconds = table.column("num_samples").to_numpy() / form.sample_rate
        rates.append(tokens / seconds)
        sums += (tokens.sum(), seconds.sum())
        for name, column in _code_columns(table, choice.num_codebooks):
            counts[name] += np.bincount(column, minlength=len(counts[name]))
    joined = np.concatenate([np.zeros(0), *rates])
    if not len(joined):
        return None
    low, high = np.quantile(joined, [0.05, 0.95]).tolist()
    use = {name: _use(each) for name, each in counts.items()}
    return Measured(float(sums[0] / sums[1]), low, high, use)


def _code_columns(table: Any, num_codebooks: int) -> Sequence[tuple[str, np.ndarray]]:
    found = []
    if "semantic" in table.column_names:
        found.append(("semantic", flat_codes(table.column("semantic"))[0]))
    if num_codebooks:
        codes = flat_codes(table.column("acoustic"))[0].reshape(-1, num_codebooks)
        found += [(f"acoustic {j + 1}", codes[:, j]) for j in range(num_codebooks)]
    return found


def _use(counts: np.ndarray) -> CodebookUse:
    """Do what `codebook_use` does, from counts."""
    entropy = counts_entropy(counts)
    return CodebookUse(len(counts), int((counts > 0).sum()), entropy, 2**entropy)


def describe(dataset: TokenDataset, found: Summary) -> list[tuple[str, object]]:
    """List names and values: what `flexicodec info` prints of a folder."""
    record = dataset.record
    manifest = record["manifest"]
    bad = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    rows: list[tuple[str, object]] = [
        ("folder", f"{dataset.folder}, {found.done} of {found.units} units of {record['unit_hours']:g} h"),
        ("manifest", f"{manifest['name']}, {manifest['clips']} clips"),
        ("model", f"{record['model'] or 'not named'}, fingerprint {record['fingerprint']}"),
        ("clips", found.clips - len(found.bad)),
        ("hours", f"{found.seconds / 3600:.3f}"),
        ("bad clips", f"{len(found.bad)} ({bad})" if bad else "none"),
    ]
    rows += [("left out", f"{count} {reason}") for reason, count in manifest["left_out"].items()]
    if found.alignments_unread:
        rows.append(("no words", f"{found.alignments_unread} alignments cannot be used"))
    if found.batches_split:
        rows.append(("batches split", f"{found.batches_split} failed as a whole; their clips went one by one"))
    for choice in dataset.choices:
        measured = measure(dataset, choice)
        if measured is not None:
            rows += _describe_choice(dataset, choice, found, measured)
    return rows


def _describe_choice(
    dataset: TokenDataset, choice: Choice, found: Summary, measured: Measured
) -> list[tuple[str, object]]:
    form = dataset.format
    name = choice.name
    tokens = found.tokens[name]
    fields = form.semantic_bits + choice.num_codebooks * form.acoustic_bits
    durations = sorted(found.durations[name].items())
    bits = tokens * fields
    # Durations at fixed width, as a bit a frame, and at the entropy of their histogram.
    widths: dict[str, float] = {"lengths": tokens * (form.duration_bits or 0), "mask": found.frames[name]}
    widths["entropy"] = tokens * counts_entropy(np.array([count for _, count in durations]))
    rates = [f"{(bits + extra) / found.seconds / 1000:.3f} kbps by {label}" for label, extra in widths.items()]
    if form.max_duration == 1:
        rates = [f"{bits / found.seconds / 1000:.3f} kbps"]
    rows: list[tuple[str, object]] = [
        (name, f"{tokens} tokens, {choice.num_codebooks} codebooks, {found.bytes[name] / 1e6:.3f} MB"),
        ("  frame rate", f"{measured.mean_rate:.3f} Hz; of clips {measured.low_rate:.3f} to {measured.high_rate:.3f}"),
        ("  bitrate", f"{', '.join(rates)}; codes at fixed width, durations as named"),
        ("  durations", ", ".join(f"{value}: {100 * count / tokens:.1f} %" for value, count in durations)),
    ]
    for codebook, use in measured.use.items():
        rows.append((f"  {codebook}", f"{use.used} of {use.size} codes, entropy {use.entropy:.2f} bits"))
    if found.fragile.get(name) is not None:
        rows.append(("  fragile", f"{found.fragile[name]} tokens with a decision within float noise"))
    return rows
