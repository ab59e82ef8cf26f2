"""Many recordings into tokens: files are read while others are computed, and clips of like length go side by side.

    reading threads      read, mixed to mono, resampled; a few clips ahead, in the order of the sources
    one loading thread   windows of clips -> batches of like length, padded, on their way to the device
    the caller's thread  encodes, and hands out tokens clip by clip

Everything between them is bounded, so that memory does not grow with the number of sources. Which clips meet in a batch
depends on the sources and their order alone, never on how fast they were read.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import collate, read_audio
from flexicodec.corpus.buckets import buckets
from flexicodec.corpus.manifest import Utterance
from flexicodec.corpus.reading import read_utterance
from flexicodec.io_utils import BAD_FILE
from flexicodec.models.codec import Codec
from flexicodec.tokens import Tokens

Source: TypeAlias = str | Path | Utterance

WINDOW_BATCHES = 8  # batches' worth of clips that are sorted by length together; the first windows are smaller
WINDOW_CLIPS = 4096  # at most, however short or unreadable they are
BATCHES_AHEAD = 2  # that wait, loaded, while one is computed
CLIPS_AHEAD = 2  # per reading thread
GPU_BATCH_SECONDS = 640.0
GPU_WORKERS = 8


@dataclass(frozen=True, eq=False)
class FileResult:
    """What became of one source.

    Attributes:
        index: Its place among the sources.
        source: As it was given.
        tokens: Of one clip, on the CPU; None where it failed.
        error: Why it failed; None where it did not.
    """

    index: int
    source: Source
    tokens: Tokens | None = None
    error: Exception | None = None

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
class _Batch:
    """Clips side by side, on the device or on the way there; no audio where the one clip could not be read."""

    clips: list[_Clip]
    audio: Float[Tensor, "batch samples"] | None = None
    lengths: Int[Tensor, " batch"] | None = None
    arrived: Any = None  # the event after which the audio is there


def default_batch_seconds(device: torch.device) -> float:
    """Seconds of audio that go side by side unless told otherwise; on the CPU, where that gains nothing, 0."""
    return 0.0 if device.type == "cpu" else GPU_BATCH_SECONDS


def default_workers(device: torch.device) -> int:
    """Threads that read files unless told otherwise: several before a GPU, none beside a CPU.

    Reading is a hundredth of the work there, and a thread for it costs a core that computes more (experiments/speed).
    """
    return 0 if device.type == "cpu" else min(GPU_WORKERS, os.cpu_count() or 1)


def encode_files(
    codec: Codec,
    sources: Iterable[Source],
    *,
    batch_seconds: float | None = None,
    workers: int | None = None,
    in_order: bool = True,
    **choices: Any,
) -> Iterator[FileResult]:
    """Encode many recordings; a clip gets the tokens that it gets alone, up to float noise (see `Tokens.margins`).

    A source that cannot be read or encoded gives an `Encoded` with the error, and the others go on. Where a batch fails
    its clips are tried one by one.

    Args:
        codec: Any of this package's.
        sources: Audio files or utterances of a manifest; several channels are averaged. They are taken as they are
            needed, so that a generator over millions will do.
        batch_seconds: Most audio in a batch, padding included; a longer clip is a batch of its own. 0 takes clips one
            by one. The default is 0 on the CPU and 640 elsewhere.
        workers: Threads that read; 0 reads in the caller's thread, when a clip's turn comes. The default is 0 on the
            CPU, where only slow disks ask for more, and up to 8 elsewhere.
        in_order: Hand back in the order of the sources. False: as they are done, which is by length within some
            batches.
        choices: Those of `codec.encode`, one value for all clips.

    Raises:
        ValueError: A setting out of its range; at the call.
    """
    batch_seconds = default_batch_seconds(codec.device) if batch_seconds is None else batch_seconds
    workers = default_workers(codec.device) if workers is None else workers
    if not 0 <= batch_seconds < float("inf"):
        raise ValueError(f"batch_seconds is {batch_seconds}; expected seconds of audio, or 0 for one clip at a time")
    if workers < 0:
        raise ValueError(f"workers is {workers}; expected a number of threads, or 0 to read between the clips")
    done = _encode_all(codec, sources, batch_seconds, workers, choices)
    return _sorted(done) if in_order else done


def _encode_all(
    codec: Codec, sources: Iterable[Source], batch_seconds: float, workers: int, choices: dict[str, Any]
) -> Iterator[FileResult]:
    pool = ThreadPoolExecutor(workers, "flexicodec-read") if workers else None
    clips = _clips(sources, codec.sample_rate, pool, workers)
    batches = _batches(clips, codec.sample_rate, batch_seconds, codec.device)
    ahead = None if pool is None else _Ahead(batches, BATCHES_AHEAD)
    try:
        for batch in batches if ahead is None else ahead:
            yield from _encode(codec, batch, choices)
    finally:  # also where the caller has had enough
        if pool is not None and ahead is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            ahead.close()
            pool.shutdown()


def read(source: Source, sample_rate: int) -> Float[Tensor, "1 samples"]:
    """Read a source as mono at a rate; raises what `read_audio` and `read_utterance` do."""
    if isinstance(source, Utterance):
        return torch.from_numpy(read_utterance(source, sample_rate))[None]
    return read_audio(source, sample_rate, channels="mix")


def _clips(
    sources: Iterable[Source], sample_rate: int, pool: ThreadPoolExecutor | None, workers: int
) -> Iterator[_Clip]:
    """Read sources, `workers` at a time and a few ahead of who asks; clips come in order."""

    def load(index: int, source: Source) -> _Clip:
        try:
            return _Clip(index, source, read(source, sample_rate))
        except BAD_FILE as error:
            return _Clip(index, source, error=error)

    numbered = enumerate(sources)
    if pool is None:
        yield from (load(*each) for each in numbered)
        return
    waiting: deque[Future[_Clip]] = deque()
    while True:
        waiting.extend(pool.submit(load, *each) for each in islice(numbered, CLIPS_AHEAD * workers - len(waiting)))
        if not waiting:
            return
        yield waiting.popleft().result()


def _batches(clips: Iterator[_Clip], sample_rate: int, batch_seconds: float, device: torch.device) -> Iterator[_Batch]:
    """Sort windows of clips into batches of like length, and send these to the device."""
    send = _Sender(device)
    for window in _windows(clips, sample_rate * batch_seconds * WINDOW_BATCHES):
        good = [(clip, clip.audio) for clip in window if clip.audio is not None]
        yield from (_Batch([clip]) for clip in window if clip.audio is None)
        seconds = np.array([audio.shape[-1] / sample_rate for _, audio in good])
        for group in buckets(seconds, batch_seconds):
            yield send([good[place] for place in group])


def _windows(clips: Iterator[_Clip], samples: float) -> Iterator[list[_Clip]]:
    """Cut clips into lists of so many samples together, of at least one clip; work starts with an eighth of that."""
    window: list[_Clip] = []
    held, limit = 0, samples / WINDOW_BATCHES
    for clip in clips:
        window.append(clip)
        held += 0 if clip.audio is None else clip.audio.shape[-1]
        if held >= limit or len(window) == WINDOW_CLIPS:
            yield window
            window, held, limit = [], 0, min(2 * limit, samples)
    if window:
        yield window


class _Sender:
    """Lays clips side by side and copies them to a device; to a GPU from pinned memory, in a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, group: list[tuple[_Clip, Tensor]]) -> _Batch:
        clips = [replace(clip, audio=None) for clip, _ in group]
        audio, lengths = collate([audio for _, audio in group])
        if self.stream is None:
            return _Batch(clips, audio.to(self.device), lengths)
        with torch.cuda.stream(self.stream):
            audio = audio.pin_memory().to(self.device, non_blocking=True)
            return _Batch(clips, audio, lengths, self.stream.record_event())


class _Ahead:
    """Batches, made in a thread some ahead of who asks for them.

    Args:
        batches: What to make.
        count: How many may wait.
    """

    def __init__(self, batches: Iterator[_Batch], count: int) -> None:
        self._waiting: queue.Queue[_Batch | BaseException | None] = queue.Queue(count)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(batches,), name="flexicodec-load", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_Batch]:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop, and wait until nothing is under way."""
        self._closed.set()
        self._thread.join()

    def _work(self, batches: Iterator[_Batch]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # raised again where the batches are asked for
            self._put(error)

    def _put(self, item: _Batch | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._waiting.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False


def _encode(codec: Codec, batch: _Batch, choices: dict[str, Any]) -> Iterator[FileResult]:
    """Encode a batch, or its clips one by one where that fails."""
    clips = batch.clips
    if batch.audio is None or batch.lengths is None:
        yield FileResult(clips[0].index, clips[0].source, error=clips[0].error)
        return
    if batch.arrived is not None:
        stream = torch.cuda.current_stream(codec.device)
        stream.wait_event(batch.arrived)
        batch.audio.record_stream(stream)
    tokens, error = _tokens(codec, batch.audio, batch.lengths, choices)
    for place, clip in enumerate(clips):
        own, reason = (None, error) if tokens is None else (tokens[place], None)
        if error is not None and len(clips) > 1:
            length = batch.lengths[place : place + 1]
            own, reason = _tokens(codec, batch.audio[place : place + 1, : int(length)], length, choices)
        yield FileResult(clip.index, clip.source, own, reason)


def _tokens(
    codec: Codec, audio: Tensor, lengths: Tensor, choices: dict[str, Any]
) -> tuple[Tokens | None, Exception | None]:
    """Encode, or tell why not; without the traceback, which would hold on to all that was computed."""
    try:
        ragged = lengths if len(lengths) > 1 else None
        return codec.encode(audio, ragged, **choices).to("cpu"), None
    except BAD_FILE as error:
        return None, error.with_traceback(None)


def _sorted(done: Iterator[FileResult]) -> Iterator[FileResult]:
    """Hold back what is done before its turn."""
    held: dict[int, FileResult] = {}
    turn = 0
    for each in done:
        held[each.index] = each
        while turn in held:
            yield held.pop(turn)
            turn += 1
