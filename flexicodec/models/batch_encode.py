"""Encoding of many files: reading, batching by length and encoding overlap.

    reading threads      read, mix to mono, resample; a few clips ahead, in the order of the sources
    one loading thread   sort windows of clips into batches of similar length, pad, copy to the device
    the caller's thread  encode, and yield tokens clip by clip

All queues are bounded, so that memory does not grow with the number of sources. Which clips share a batch depends on
the sources and their order only, never on how fast they were read.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import collate, read_audio
from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.corpus.manifest import Utterance
from flexicodec.io_utils import BAD_FILE
from flexicodec.models.codec import Codec
from flexicodec.tokens import Tokens


class ClipReader(Protocol):
    """A clip that reads itself, from inside a tar for instance."""

    def read(self, sample_rate: int) -> Float[Tensor, "1 samples"]:
        """Read it as mono; the errors of `BAD_FILE` say that this clip is bad."""
        ...


Source: TypeAlias = str | Path | Utterance | ClipReader

WINDOW_BATCHES = 8  # batches' worth of clips that are sorted by length together; the first windows are smaller
WINDOW_CLIPS = 4096  # limit of a window of very short or unreadable clips
BATCHES_AHEAD = 2  # loaded while one is computed
CLIPS_AHEAD = 2  # per reading thread
GPU_BATCH_SECONDS = 640.0
GPU_WORKERS = 8


@dataclass(frozen=True, eq=False)
class FileResult:
    """Tokens of one source, or the error."""

    index: int  # place among the sources
    source: Source
    tokens: Tokens | None = None  # one clip, on the CPU; of the first choice, where there are several
    error: Exception | None = None
    all_tokens: tuple[Tokens, ...] = ()  # of every choice
    batch_error: Exception | None = (
        None  # of the batch that the clip was in, where that failed and its clips went alone
    )

    def result(self) -> Tokens:
        """Return the tokens, or raise the error."""
        if self.tokens is None:
            raise self.error or RuntimeError("neither tokens nor an error")
        return self.tokens


@dataclass(frozen=True, eq=False)
class _Clip:
    index: int
    source: Source
    audio: Float[Tensor, "1 samples"] | None = None
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done with a batch."""

    codec: Codec
    choices: Sequence[Mapping[str, Any]]  # arguments of `tokenize`
    options: Mapping[str, Any]  # of `features`; with a single choice, of `encode`
    on_batch: Callable[[list[int]], None] = field(default=lambda _: None)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Padded clips, on the device or on the way there; no audio where the one clip could not be read."""

    clips: list[_Clip]
    audio: Float[Tensor, "batch samples"] | None = None
    lengths: Int[Tensor, " batch"] | None = None
    copied: Any = None  # the event after which the audio is on the device


def default_batch_seconds(device: torch.device) -> float:
    """Seconds of audio per batch; 0 on the CPU, where batches bring nothing."""
    return 0.0 if device.type == "cpu" else GPU_BATCH_SECONDS


def default_workers(device: torch.device) -> int:
    """Threads that read files: several with a GPU, none on a CPU.

    There reading is a hundredth of the work, and a thread takes a core from the computation (experiments/speed).
    """
    return 0 if device.type == "cpu" else min(GPU_WORKERS, os.cpu_count() or 1)


def encode_files(
    codec: Codec,
    sources: Iterable[Source],
    *,
    batch_seconds: float | None = None,
    workers: int | None = None,
    in_order: bool = True,
    choices: Sequence[Mapping[str, Any]] | None = None,
    on_batch: Callable[[list[int]], None] | None = None,
    **options: Any,
) -> Iterator[FileResult]:
    """Encode many recordings; each clip gets the tokens of encoding it alone, up to float noise (see `Tokens.margins`).

    A source that cannot be read or encoded yields a `FileResult` with the error, and the others go on. The clips of a
    batch that fails are tried one by one.

    Args:
        codec: Any of this package's.
        sources: Audio files, utterances of a manifest, or objects with `read(sample_rate)`; several channels are
            averaged. They are consumed as needed, so that a generator over millions works.
        batch_seconds: Most audio in a batch, padding included; a longer clip is a batch of its own. 0 encodes clips one
            by one. The default is 0 on the CPU and 640 elsewhere.
        workers: Threads that read; 0 reads each clip in the caller's thread. The default is 0 on the CPU, where more
            help with slow disks only, and up to 8 elsewhere.
        in_order: Yield results in the order of the sources. False: as they are done, by length within some batches.
        choices: Several ways to make tokens of the same features, each with arguments of `codec.tokenize`; the tokens
            are in `all_tokens`. The encoders run once.
        on_batch: Called with the indices of a batch's clips before they are encoded.
        options: Arguments of `codec.encode`, one value for all clips; beside several choices those of `codec.features`.
    """
    if batch_seconds is None:
        batch_seconds = default_batch_seconds(codec.device)
    if workers is None:
        workers = default_workers(codec.device)
    if not 0 <= batch_seconds < float("inf"):
        raise ValueError(f"batch_seconds is {batch_seconds}; expected seconds of audio, or 0 for one clip at a time")
    if workers < 0:
        raise ValueError(f"workers is {workers}; expected a number of threads, or 0 to read between the clips")
    work = _Work(codec, [{}] if choices is None else choices, options)
    if on_batch is not None:
        work = replace(work, on_batch=on_batch)
    results = _encode_all(work, sources, batch_seconds, workers)
    return _in_order(results) if in_order else results


def _encode_all(work: _Work, sources: Iterable[Source], batch_seconds: float, workers: int) -> Iterator[FileResult]:
    codec = work.codec
    pool = ThreadPoolExecutor(workers, "flexicodec-read") if workers else None
    clips = _clips(sources, codec.sample_rate, pool, workers)
    batches = _batches(clips, codec.sample_rate, batch_seconds, codec.device)
    if pool is None:
        for batch in batches:
            yield from _encode(work, batch)
        return
    ahead = _prefetched(batches, BATCHES_AHEAD)
    try:
        for batch in ahead:
            yield from _encode(work, batch)
    finally:  # also where the caller stops before the end
        pool.shutdown(wait=False, cancel_futures=True)
        ahead.close()
        pool.shutdown()


def _encode(work: _Work, batch: _Batch) -> Iterator[FileResult]:
    """Encode a batch, or its clips one by one where that fails."""
    clips = batch.clips
    if batch.audio is None or batch.lengths is None:
        yield FileResult(clips[0].index, clips[0].source, error=clips[0].error)
        return
    if batch.copied is not None:  # by another stream: wait for it, and keep the memory until this stream is done
        stream = torch.cuda.current_stream(work.codec.device)
        stream.wait_event(batch.copied)
        batch.audio.record_stream(stream)
    work.on_batch([clip.index for clip in clips])
    tokens, error = _tokens(work, batch.audio, batch.lengths)
    for i, clip in enumerate(clips):
        result = FileResult(clip.index, clip.source, error=error)
        own = [each[i] for each in tokens]
        if error is not None and len(clips) > 1:
            # One of the clips is the cause: try each.
            work.on_batch([clip.index])
            length = batch.lengths[i : i + 1]
            own, own_error = _tokens(work, batch.audio[i : i + 1, : int(length)], length)
            result = replace(result, error=own_error, batch_error=error)
        yield replace(result, tokens=own[0], all_tokens=tuple(own)) if own else result


def _tokens(work: _Work, audio: Tensor, lengths: Tensor) -> tuple[list[Tokens], Exception | None]:
    """Encode at every choice, or return the error, without its traceback, which would keep all that was computed."""
    codec = work.codec
    ragged = lengths if len(lengths) > 1 else None
    try:
        if len(work.choices) == 1:
            made = [codec.encode(audio, ragged, **work.options, **work.choices[0])]
        else:
            acoustic = any(choice.get("num_codebooks") != 0 for choice in work.choices)
            features = codec.features(audio, ragged, acoustic=acoustic, **work.options)
            made = [codec.tokenize(features, **choice) for choice in work.choices]
        return [tokens.to("cpu") for tokens in made], None
    except BAD_FILE as error:
        return [], error.with_traceback(None)


def _in_order(results: Iterator[FileResult]) -> Iterator[FileResult]:
    """Hold results until all before them are done."""
    held: dict[int, FileResult] = {}
    turn = 0
    for result in results:
        held[result.index] = result
        while turn in held:
            yield held.pop(turn)
            turn += 1


# ---------------------------------------------------------------------------------------------------------- reading


def read(source: Source, sample_rate: int) -> Float[Tensor, "1 samples"]:
    """Read a source as mono at a sample rate."""
    if isinstance(source, Utterance):
        return torch.from_numpy(read_utterance(source, sample_rate))[None]
    if not isinstance(source, str | Path):
        return source.read(sample_rate)
    return read_audio(source, sample_rate, channels="mix")


def _clips(
    sources: Iterable[Source], sample_rate: int, pool: ThreadPoolExecutor | None, workers: int
) -> Iterator[_Clip]:
    """Read sources in order, `workers` at a time and a few ahead of the consumer."""

    def load(index: int, source: Source) -> _Clip:
        try:
            return _Clip(index, source, read(source, sample_rate))
        except BAD_FILE as error:
            return _Clip(index, source, error=error)

    numbered = enumerate(sources)
    if pool is None:
        for index, source in numbered:
            yield load(index, source)
        return
    pending: deque[Future[_Clip]] = deque()
    while True:
        for index, source in islice(numbered, CLIPS_AHEAD * workers - len(pending)):
            pending.append(pool.submit(load, index, source))
        if not pending:
            return
        yield pending.popleft().result()


def _batches(clips: Iterator[_Clip], sample_rate: int, batch_seconds: float, device: torch.device) -> Iterator[_Batch]:
    """Sort windows of clips into batches of similar length, and copy these to the device."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for window in _windows(clips, sample_rate * batch_seconds * WINDOW_BATCHES):
        readable = []
        for clip in window:
            if clip.audio is None:
                yield _Batch([clip])
            else:
                readable.append((clip, clip.audio))
        seconds = np.array([audio.shape[-1] / sample_rate for _, audio in readable])
        for bucket in bucket_by_length(seconds, batch_seconds):
            yield _copy([readable[i] for i in bucket], device, stream)


def _windows(clips: Iterator[_Clip], samples: float) -> Iterator[list[_Clip]]:
    """Split clips into lists of so many samples, at least one clip; the first is an eighth of that, to start early."""
    # samples  1/8  1/4  1/2  1  1  1 ...
    window: list[_Clip] = []
    held = 0
    limit = samples / WINDOW_BATCHES
    for clip in clips:
        window.append(clip)
        if clip.audio is not None:
            held += clip.audio.shape[-1]
        if held >= limit or len(window) == WINDOW_CLIPS:
            yield window
            window = []
            held = 0
            limit = min(2 * limit, samples)
    if window:
        yield window


def _copy(group: list[tuple[_Clip, Tensor]], device: torch.device, stream: Any) -> _Batch:
    """Pad clips to a batch and copy it to a device; to a GPU from pinned memory, in a stream of its own."""
    clips = [replace(clip, audio=None) for clip, _ in group]
    audio, lengths = collate([audio for _, audio in group])
    if stream is None:
        return _Batch(clips, audio.to(device), lengths)
    with torch.cuda.stream(stream):
        audio = audio.pin_memory().to(device, non_blocking=True)
        return _Batch(clips, audio, lengths, stream.record_event())


def _prefetched(batches: Iterator[_Batch], count: int) -> Generator[_Batch, None, None]:
    """Make batches in a thread, `count` ahead of the consumer."""
    pool = ThreadPoolExecutor(1, "flexicodec-load")
    pending: deque[Future[_Batch | None]] = deque()
    try:
        while True:
            while len(pending) <= count:
                pending.append(pool.submit(next, batches, None))
            batch = pending.popleft().result()
            if batch is None:
                return
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
