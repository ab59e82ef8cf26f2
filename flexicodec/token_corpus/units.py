"""`run_unit`: tokenise one unit of a plan. It is all that an engine has to call, in any process, any number of times.

    from flexicodec.corpus import TokenDataset
    from flexicodec.token_corpus.units import run_unit

    dataset = TokenDataset.open("tokens")                     # planned by `flexicodec tokenize --plan-only`
    codec = flexicodec.load("flexicodec-mini", device="cuda", parts="encode")
    for unit in my_share(range(dataset.num_units)):           # of a Spark partition, a Curator task, an indexed job
        run_unit(codec, dataset, unit)

A unit that has its report is skipped, so that every engine resumes. Two processes on one unit write the same bytes.
"""

import errno
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import flexicodec
from flexicodec.code_margins import NOISE
from flexicodec.corpus.token_dataset import Choice, TokenDataset, file_hash, write_json
from flexicodec.corpus.token_tables import ClipRow, write_table
from flexicodec.models.batch_encode import FileResult, default_workers, encode_files
from flexicodec.models.codec import Codec
from flexicodec.parallel import one_thread
from flexicodec.token_corpus.lines import clip_id
from flexicodec.token_corpus.listing import UnitClip
from flexicodec.token_corpus.marks import Deaths, Marks, clean, read_deaths
from flexicodec.token_corpus.plan import unit_clips

DIED = "died"  # the reason of a clip that killed its process
LONGEST_MESSAGE = 500  # characters of a reason
REPORT_WAIT = 2.0  # seconds for the report of another process that wrote other bytes

Report = dict[str, Any]


def run_unit(codec: Codec, dataset: TokenDataset, unit: int, *, workers: int | None = None) -> Report:
    """Tokenise a unit, unless that is done, and return its report.

    Args:
        codec: The model of the dataset, on any device; on a CPU one thread is used, so that sums round the same.
        dataset: With a plan.
        unit: From 0 to `dataset.num_units - 1`.
        workers: Threads that read; as for `encode_files`.

    Raises:
        ValueError: Another codec than that of the plan, a manifest that changed, a batch that does not fit the memory,
            or files of the unit that are there with other bytes.
        OSError: Nothing can be written: the disk is full, or the folder is not ours.
    """
    report = dataset.report(unit)
    if report is not None:
        return report
    if codec.fingerprint != dataset.record["fingerprint"]:
        raise ValueError(
            f"the tokens in {dataset.folder} are made by {dataset.record['model']} "
            f"(fingerprint {dataset.record['fingerprint']}), and this codec is {codec.format.model} "
            f"({codec.fingerprint}); load the model of the plan"
        )
    began = time.time()
    deaths = read_deaths(dataset.folder, unit)
    with Marks(dataset.folder, unit) as marks:
        clips = list(unit_clips(dataset, unit, marks))
        results, batches_split = _encode_unit(codec, dataset, clips, deaths, workers, marks)
        rows, bad, unaligned = _rows(dataset, clips, results, deaths)
        report = {
            "unit": unit,
            "clips": len(clips),
            "seconds": round(sum(float(result.result().seconds[0]) for result in results.values() if result.tokens), 6),
            "bad": bad,
            "files": {},
            "alignments_unread": unaligned,
            "batches_split": batches_split,
            "attempts": deaths.count + 1,
            "apart": sorted(deaths.suspects),
            "made_with": _made_with(codec),
        }
        for choice in dataset.choices:
            report["files"][choice.name] = _write_file(dataset, choice, unit, rows[choice.name])
            if dataset.report(unit) is not None:  # of another process, whose bytes these are
                break
        report["wall_seconds"] = round(time.time() - began, 3)
        done = dataset.report(unit)
        if done is None:
            dataset.report_path(unit).parent.mkdir(exist_ok=True)
            write_json(dataset.report_path(unit), report)
            _sync_folder(dataset.report_path(unit).parent)
            done = report
    clean(deaths)
    return done


def _encode_unit(
    codec: Codec, dataset: TokenDataset, clips: list[UnitClip], deaths: Deaths, workers: int | None, marks: Marks
) -> tuple[dict[int, FileResult], int]:
    """Encode the clips of a unit; returns results by place, and how many batches failed as a whole."""
    margins = {"margins": True} if dataset.record["margins"] else {}
    choices = [choice.options | margins for choice in dataset.choices]
    usual = [clip for clip in clips if clip.place not in deaths.suspects | deaths.killers]
    alone = [clip for clip in clips if clip.place in deaths.suspects]
    if workers is None:
        workers = default_workers(codec.device)
    results: dict[int, FileResult] = {}
    failed: list[Exception] = []
    with one_thread() if codec.device.type == "cpu" else nullcontext():
        # Suspects of a death go last, one by one.
        for group, batch_seconds, threads in ((usual, dataset.record["batch_seconds"], workers), (alone, 0.0, 0)):
            encoded = encode_files(
                codec,
                group,
                batch_seconds=batch_seconds,
                workers=threads,
                in_order=False,
                choices=choices,
                on_batch=lambda places, group=group: marks.begin([group[i].place for i in places]),  # type: ignore[misc]
                precision=dataset.record["precision"],
            )
            for result in encoded:
                place = group[result.index].place
                marks.end([place])
                results[place] = result
                error = result.batch_error
                if error is not None and not any(error is other for other in failed):
                    failed.append(error)
                    _check_memory(error, batch_seconds)
    return results, len(failed)


def _check_memory(error: Exception, batch_seconds: float) -> None:
    if isinstance(error, torch.OutOfMemoryError):
        raise ValueError(
            f"a batch of {batch_seconds:g} s does not fit the memory ({' '.join(str(error).split())[:200]}); start "
            "anew with a smaller --batch-seconds, which is a setting of all units"
        ) from error


def _rows(
    dataset: TokenDataset, clips: list[UnitClip], results: dict[int, FileResult], deaths: Deaths
) -> tuple[dict[str, list[ClipRow]], list[list[str]], int]:
    """Return the rows of every choice in the order of the manifest, the bad clips, and alignments that were no use."""
    rows: dict[str, list[ClipRow]] = {choice.name: [] for choice in dataset.choices}
    bad = []
    unaligned = 0
    for clip in clips:
        name = clip_id(clip, dataset.record["ids"])
        if clip.place in deaths.killers:
            bad.append([name, DIED, "processes died again and again while this clip was the only one under way"])
            continue
        result = results[clip.place]
        if result.tokens is None:
            message = " ".join(str(result.error).split())[:LONGEST_MESSAGE]
            bad.append([name, type(result.error).__name__, message])
            continue
        words, ends, is_unread = _words(clip, float(result.tokens.seconds[0]))
        unaligned += is_unread
        utterance = clip.utterance
        for choice, tokens in zip(dataset.choices, result.all_tokens, strict=True):
            fragile = None
            if tokens.margins is not None:
                fragile = int((tokens.margins.fragile(tokens.durations, NOISE) & (tokens.durations > 0)).sum())
            row = ClipRow(
                name,
                tokens,
                path=clip.name,
                start=utterance.start,
                duration=utterance.duration,
                text=utterance.text,
                speaker=utterance.speaker,
                language=utterance.language,
                corpus=utterance.corpus,
                words=words,
                word_ends=ends,
                audio_hash=clip.audio_hash,
                fragile_tokens=fragile,
            )
            rows[choice.name].append(row)
    return rows, bad, unaligned


def _words(clip: UnitClip, seconds: float) -> tuple[list[str] | None, list[float] | None, bool]:
    """Return the words of a clip and where they end, and whether it names an alignment that cannot be used."""
    if clip.utterance.alignment is None:
        return None, None, False
    from flexicodec.analysis.collect import clip_alignment  # imports much that few manifests need

    try:
        words = clip_alignment(clip.utterance, seconds).words
    except (ValueError, OSError):
        return None, None, True
    spoken = [word for word in words if word.label]
    return [word.label for word in spoken], [word.end for word in spoken], False


# ------------------------------------------------------------------------------------------------------------- writing


def _write_file(dataset: TokenDataset, choice: Choice, unit: int, rows: list[ClipRow]) -> dict[str, Any]:
    """Write the table of a choice, which appears whole or not at all; other bytes that are there are not replaced."""
    target = dataset.table_path(choice, unit)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write_table(part, rows, dataset.header(choice, unit))
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        made = file_hash(part)
        if target.is_file() and file_hash(target) != made:
            _wait_for_report(dataset, unit)
            if dataset.report(unit) is None:
                raise ValueError(
                    f"{target} is there, without a report and with other bytes than this process made; was it begun "
                    "on another kind of device, or altered? Remove it, and tokenize makes it again"
                )
        else:
            os.replace(part, target)
        size = target.stat().st_size
    except OSError as error:
        if error.errno is None and "No space left" in str(error):  # of pyarrow
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return {"rows": len(rows), "bytes": size, "sha256": made, **_counts(rows)}


def _counts(rows: list[ClipRow]) -> dict[str, Any]:
    """Count what `info` shows, so that it need not open every file."""
    tokens = sum(int(row.tokens.token_lengths[0]) for row in rows)
    frames = sum(int(row.tokens.frame_lengths[0]) for row in rows)
    durations = np.concatenate([np.zeros(0, dtype=np.int64), *(row.tokens.durations[0].numpy() for row in rows)])
    values, counts = np.unique(durations[durations > 0], return_counts=True)
    histogram = {str(value): int(count) for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
    fragile = [row.fragile_tokens for row in rows if row.fragile_tokens is not None]
    return {"tokens": tokens, "frames": frames, "durations": histogram, "fragile": sum(fragile) if fragile else None}


def _wait_for_report(dataset: TokenDataset, unit: int) -> None:
    """Wait a little for a process that has written its file and not yet its report."""
    until = time.monotonic() + REPORT_WAIT
    while dataset.report(unit) is None and time.monotonic() < until:
        time.sleep(0.05)


def _sync_folder(folder: Path) -> None:
    """Make renamed files survive a stop of the machine, where folders can be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # not on this file system
        pass
    finally:
        os.close(descriptor)


def _made_with(codec: Codec) -> dict[str, Any]:
    """Describe device and libraries: what may change a code by float noise."""
    import pyarrow

    made = {"package": flexicodec.__version__, "host": platform.node(), "python": platform.python_version()}
    made |= {"torch": torch.__version__, "numpy": np.__version__, "soundfile": soundfile.__libsndfile_version__}
    made |= {"pyarrow": pyarrow.__version__}
    if codec.device.type == "cuda":
        made |= {"device": torch.cuda.get_device_name(codec.device), "cuda": str(torch.version.cuda)}
    else:
        made |= {"device": f"{codec.device.type} {platform.machine()}"}
    return made


def units_of_part(num_units: int, part: str | None) -> list[int]:
    """List the units of part "k/n", k from 0: every n-th one."""
    if part is None:
        return list(range(num_units))
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"part is {part!r}; expected k/n with k from 0 to n - 1, such as 0/16")
    return list(range(int(number), num_units, int(count)))


def remaining_units(dataset: TokenDataset, part: str | None = None) -> list[int]:
    """List the units of a part that have no report."""
    done = set(dataset.units_done())
    return [unit for unit in units_of_part(dataset.num_units, part) if unit not in done]


def run_units(codec: Codec, dataset: TokenDataset, units: list[int], workers: int | None = None) -> Iterator[Report]:
    """Run units one after another in this process, whose death `local.py` survives."""
    for unit in units:
        yield run_unit(codec, dataset, unit, workers=workers)
