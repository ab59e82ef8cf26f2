"""`pack`: folders of tokens to the arrays of `PackedTokens`.

Clips keep the order of the manifest, so that a corpus that grew at its end is packed to the same arrays, only longer.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

import flexicodec
from flexicodec.corpus.token_dataset import Choice, TokenDataset, read_json, write_json
from flexicodec.corpus.token_tables import TableHeader, flat_codes, parquet, read_table, table_tokens
from flexicodec.lm.packed import IDS_FILE, RECORD_FILE, VERSION, VOCABULARY_FILE, PackedTokens
from flexicodec.lm.vocabulary import Vocabulary
from flexicodec.token_format import TokenFormat, check_kept

SCALARS = ("id", "num_samples", "speaker", "language", "corpus")
# Two packings are compared by these; units come one after the other.
SETTINGS = ("version", "fingerprint", "choice", "precision", "num_codebooks", "base", "tokenizer")
PROBE = ["The quick brown fox jumps over the lazy dog.", "naïve café, 1984", ""]

Tokenizer = Callable[[list[str]], list[list[int]]]  # ids of each text, special ids left out

_log = logging.getLogger(__name__)


def pack(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    rate: float | str | None = None,
    *,
    num_codebooks: int | None = None,
    base: int = 0,
    tokenizer: Tokenizer | None = None,
) -> PackedTokens:
    """Pack the tokens of one or several corpora at one rate.

    What `output` holds already is kept if it is the same; if the corpora grew at their end, it is replaced by more.

    Args:
        folders: Made by `flexicodec tokenize`, all with the same codec and the same settings of this rate.
        rate: Frame rate or name of a choice; None where there is only one.
        num_codebooks: Acoustic codebooks to keep; None keeps all.
        base: Size of the text vocabulary; rows of the language model's embedding table.
        tokenizer: Gives the ids of texts; None packs no text.

    Raises:
        ValueError: Two codecs or settings, units that are missing, altered or damaged, text ids of `base` or more, or
            an output with something else in it.
    """
    paths = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    sources = [(dataset, dataset.choice(rate)) for dataset in map(TokenDataset.open, map(Path, paths))]
    _check_sources(sources)
    dataset, choice = sources[0]
    kept = choice.num_codebooks if num_codebooks is None else num_codebooks
    check_kept(kept, choice.num_codebooks, dataset.format)
    vocabulary = Vocabulary(base, dataset.format, kept)
    record = _record(sources, vocabulary, tokenizer)
    target = Path(output)
    if _is_done(target, record):
        return PackedTokens.open(target)

    # Everything is written beside the output, which is replaced as a whole.
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        record |= _write(part, sources, vocabulary, tokenizer)
        vocabulary.save(part / VOCABULARY_FILE)
        write_json(part / RECORD_FILE, record)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)
    return PackedTokens.open(target)


def _record(
    sources: Sequence[tuple[TokenDataset, Choice]], vocabulary: Vocabulary, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return what decides about the content of an output: settings, and the units with their hashes, in order."""
    dataset, choice = sources[0]
    units = []
    for source, its_choice in sources:
        for unit in source.units_to_read():
            said = (source.report(unit) or {})["files"][its_choice.name]
            units.append([source.folder.name, unit, said["sha256"]])
    return {
        "version": VERSION,
        "package": flexicodec.__version__,
        "fingerprint": vocabulary.format.fingerprint,
        "choice": {"frame_rate": choice.frame_rate, "threshold": choice.threshold, "policy": choice.policy},
        "precision": dataset.record["precision"],
        "num_codebooks": vocabulary.num_codebooks,
        "base": vocabulary.base,
        "tokenizer": None if tokenizer is None else _digest(tokenizer),
        "units": units,
    }


def _check_sources(sources: Sequence[tuple[TokenDataset, Choice]]) -> None:
    """Refuse corpora of two codecs or settings, naming what differs."""
    if not sources:
        raise ValueError("no folders to pack: name one that `flexicodec tokenize` made")
    folders = [dataset.folder.resolve() for dataset, _ in sources]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ValueError(f"{folder} is given twice; its clips would be packed twice")
    dataset, choice = sources[0]
    for other, its_choice in sources[1:]:
        ours = asdict(dataset.format) | asdict(choice) | {"precision": dataset.record["precision"]}
        theirs = asdict(other.format) | asdict(its_choice) | {"precision": other.record["precision"]}
        compared = {entry.name for entry in fields(TokenFormat) if not entry.compare}
        for name in ours.keys() - compared:
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{dataset.folder} and {other.folder} differ in {name}: {ours[name]!r} and {theirs[name]!r}; "
                    "tokens of two vocabularies cannot be packed together"
                )


def _is_done(target: Path, record: dict[str, Any]) -> bool:
    """Tell whether the output holds this already; refuse one with something else in it."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if not (target / RECORD_FILE).is_file():
        raise ValueError(f"{target} is there and holds no packed tokens; choose another output")
    there = read_json(target / RECORD_FILE)
    for name in SETTINGS:
        if there.get(name) != record[name]:
            raise ValueError(
                f"{target} was packed with {name} {there.get(name)!r}, and {record[name]!r} is asked now; choose "
                "another output"
            )
    for number, (ours, theirs) in enumerate(zip(record["units"], there["units"], strict=False)):
        if ours != theirs:
            raise ValueError(f"{target} holds {theirs} as unit {number}, and this is {ours} now; choose another output")
    if len(there["units"]) > len(record["units"]):
        raise ValueError(f"{target} holds {len(there['units'])} units, more than the {len(record['units'])} given now")
    return len(there["units"]) == len(record["units"])


def _write(
    folder: Path,
    sources: Sequence[tuple[TokenDataset, Choice]],
    vocabulary: Vocabulary,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """Write all arrays, a unit at a time; return what there is of clips, tokens, frames and texts."""
    counts = {"clips": 0, "tokens": 0, "frames": 0, "samples": 0, "clips_without_text": 0}
    arrays: dict[str, _GrowingArray] = {}
    ids = None
    try:
        for header, table, path in _tables(sources):
            columns = _columns(header, table, path, vocabulary.num_codebooks)
            if tokenizer is not None:
                texts = table.column("text").to_pylist()
                counts["clips_without_text"] += texts.count(None)
                columns |= _text_columns(texts, tokenizer, vocabulary.base)
            for name, values in columns.items():
                if name not in arrays:
                    arrays[name] = _GrowingArray(folder / f"{name}.npy", values)
                arrays[name].append(values)
            scalars = table.select(SCALARS)
            if ids is None:
                ids = parquet().ParquetWriter(folder / IDS_FILE, scalars.schema, compression="zstd")
            ids.write_table(scalars)
            counts["clips"] += len(table)
            for name in ("tokens", "frames", "samples"):
                counts[name] += int(table.column(f"num_{name}").to_numpy().sum())
    finally:
        for array in arrays.values():
            array.close()
        if ids is not None:
            ids.close()
    if not counts["clips"]:
        raise ValueError("there is no clip in these folders; `flexicodec info` says what became of them")
    if counts["clips_without_text"]:
        _log.warning(f"{counts['clips_without_text']} of {counts['clips']} clips have no text; theirs is empty")
    return counts


def _tables(sources: Sequence[tuple[TokenDataset, Choice]]) -> Iterator[tuple[TableHeader, Any, Path]]:
    """Yield the tables of all units, each after its file was compared with its report."""
    for dataset, choice in sources:
        for unit in dataset.units_to_read():
            dataset.check_files(unit, [choice])
            path = dataset.table_path(choice, unit)
            header, table = read_table(path)
            dataset.check_header(header, path, choice)
            yield header, table, path


def _columns(header: TableHeader, table: Any, path: Path, num_codebooks: int) -> dict[str, np.ndarray]:
    """Return the codes of a unit as flat arrays, checked against format and row counts."""
    form = header.format
    counts = table.column("num_tokens").to_numpy().astype(np.int64)
    # Whole columns are compared; which clip is wrong is found out only where one is.
    lists = {}
    agree = bool((counts > 0).all())
    for name, size, width in (
        ("semantic", form.semantic_codebook_size, 1),
        ("durations", (form.max_duration or 2**16) + 1, 1),
        ("acoustic", form.acoustic_codebook_size, header.num_codebooks),
    ):
        if name in table.column_names:
            column = table.column(name)
            values, offsets = flat_codes(column)
            values = values.astype(column.type.value_type.to_pandas_dtype(), copy=False)  # no rows: int64
            agree = agree and np.array_equal(np.diff(offsets), counts * width)
            agree = agree and (not len(values) or int(values.max()) < (size or 0))
            lists[name] = values
    if "durations" in lists and agree and len(counts):
        frames = np.add.reduceat(lists["durations"], np.cumsum(counts) - counts, dtype=np.int64)
        agree = lists["durations"].min() > 0 and np.array_equal(frames, table.column("num_frames").to_numpy())
    if not agree:
        for _ in table_tokens(table, header, path):  # says which clip, and what is wrong with it
            pass
        raise ValueError(f"{path} has clips without tokens; expected at least one in each")
    if "acoustic" in lists:
        lists["acoustic"] = lists["acoustic"].reshape(-1, header.num_codebooks)[:, :num_codebooks]
    if not num_codebooks:
        lists.pop("acoustic", None)
    return lists | {"offsets": counts}


def _text_columns(texts: list[str | None], tokenizer: Tokenizer, base: int) -> dict[str, np.ndarray]:
    """Return the ids of texts, joined, and how many each has."""
    ids = tokenizer([text or "" for text in texts])
    counts = np.array([0 if text is None else len(each) for text, each in zip(texts, ids, strict=True)], np.int64)
    joined = [id for text, each in zip(texts, ids, strict=True) if text is not None for id in each]
    values = np.array(joined, np.int64)
    if len(values) and not 0 <= values.min() <= values.max() < base:
        raise ValueError(
            f"the tokenizer gives ids up to {values.max()} and base is {base}; base is the number of rows of the "
            "language model's embedding table, which is at least the tokenizer's length with its added tokens"
        )
    return {"text": values.astype(np.uint32), "text_offsets": counts}


def _digest(tokenizer: Tokenizer) -> str:
    """Name a tokenizer by what it makes of a few texts."""
    ids = [[int(id) for id in each] for each in tokenizer(PROBE)]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


class _GrowingArray:
    """A `.npy` file that is written piece by piece; pieces of `offsets` are counts, of which it holds the sums."""

    def __init__(self, path: Path, like: np.ndarray):
        self.is_offsets = path.stem.endswith("offsets")
        self.shape = (int(self.is_offsets), *like.shape[1:])
        self.dtype = like.dtype
        self.total = 0
        self.file = path.open("wb")
        self._write_header()
        if self.is_offsets:
            self.file.write(np.zeros(1, self.dtype).tobytes())

    def _write_header(self) -> None:
        # NumPy leaves room in a header for the first axis to grow, so that the length of the header stays the same.
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, described)

    def append(self, values: np.ndarray) -> None:
        """Write a piece behind what is there."""
        if self.is_offsets:
            values = np.cumsum(values) + self.total
            self.total = int(values[-1]) if len(values) else self.total
        self.file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.shape = (self.shape[0] + len(values), *self.shape[1:])

    def close(self) -> None:
        """Write how much there is, and wait until it is on the disk."""
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
