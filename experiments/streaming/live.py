"""Streaming in real time: tokens arrive at their end times, are decoded, and a simulated player plays the audio.

All times are wall times. A thread puts chunks of tokens into a queue in real time; the decoder takes them at once, and
each block of decoded audio gets a time stamp. The player starts with the first block, and pauses whenever its buffer is
empty.
"""

import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from sources import cut, example, frame_seconds, random_nanocodec, random_tokens
from torch import Tensor

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.tokens import Tokens

SECONDS = 8.0
CUSHION = 0.1  # seconds
TRIES, UNDISTURBED = 4, 1.1


@dataclass(frozen=True)
class Block:
    """A block of decoded audio: its time in seconds after the start of the speech, its duration and decoding time.

    Wall time, and CPU time beside it: where the two differ, the machine was busy with something else.
    """

    at: float
    seconds: float
    took: float
    cpu: float


def live(play: str | None) -> dict[str, Any]:
    """Stream every case in real time.

    Args:
        play: Command to play 16-bit samples at {rate} Hz, such as `aplay -t raw -f S16_LE -r {rate}`; None for none.
    """
    results: dict[str, Any] = {}
    for name, causal, chunks in (("NanoCodec, causal", True, (1, 2, 5, 12)), ("NanoCodec, not causal", False, (1, 5))):
        nano = random_nanocodec(causal=causal)
        tokens = random_tokens(nano, SECONDS)
        results[name] = [run(nano, tokens, chunk, {}, play) for chunk in chunks]
    mini = flexicodec.load("flexicodec-mini")
    tokens = mini.encode(example(mini.sample_rate), frame_rate=6.25)
    settings = [(chunk, {"lookahead_frames": 8, "chunk_tokens": chunk}) for chunk in (1, 3, 6)]
    results["flexicodec-mini, 8 frames ahead"] = [run(mini, tokens, chunk, each, play) for chunk, each in settings]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        released = FlexiCodec().eval()
    tokens = released.encode(example(released.sample_rate), frame_rate=8.33, num_codebooks=7)
    results["FlexiCodec, released size, by windows"] = [run(released, tokens, chunk, {}, play) for chunk in (1, 6)]
    return results


def run(codec: Any, tokens: Tokens, chunk: int, settings: dict[str, Any], play: str | None) -> dict[str, Any]:
    """Stream tokens in real time in chunks of this size, and summarise playback.

    A wall time of the decoder far above its CPU time means that the machine was busy; the stream is then run again, a
    few times at most, and the least disturbed run counts.
    """
    pieces = list(cut(tokens, chunk))
    stream = codec.streaming_decoder(**settings)
    for piece in pieces:  # warm up
        stream.decode(piece)
    runs: list[dict[str, float]] = []
    while len(runs) < TRIES and not any(disturbance(each) < UNDISTURBED for each in runs):
        stream.reset()
        runs.append(summarise_playback(once(stream, pieces, play)))
    about = {"chunk_tokens": chunk, "settings": settings, "exact": stream.exact, "runs": len(runs)}
    return about | min(runs, key=disturbance)


def disturbance(run: dict[str, float]) -> float:
    """Return the ratio of the decoder's wall time to its CPU time."""
    return run["real_time_factor"] / run["cpu_factor"]


def once(stream: Any, pieces: Sequence[Tokens], play: str | None) -> list[Block]:
    """Stream chunks of tokens in real time."""
    codec, queue = stream.codec, SimpleQueue[Tokens | None]()
    begin = time.monotonic()
    sender = threading.Thread(target=send, args=(pieces, frame_seconds(codec), begin, queue), daemon=True)
    sender.start()
    command = None if play is None else shlex.split(play.format(rate=codec.sample_rate))
    with subprocess.Popen(command, stdin=subprocess.PIPE) if command else nullcontext() as player:
        blocks = decode(stream, queue, begin, codec.sample_rate, None if player is None else player.stdin.write)
    sender.join()
    return blocks


def send(pieces: Iterable[Tokens], frame: float, begin: float, queue: "SimpleQueue[Tokens | None]") -> None:
    """Put each chunk into the queue at the end time of its last token."""
    due = begin
    for piece in pieces:
        due += int(piece.durations.sum()) * frame
        time.sleep(max(0.0, due - time.monotonic()))
        queue.put(piece)
    queue.put(None)


def decode(
    stream: Any, queue: "SimpleQueue[Tokens | None]", begin: float, rate: int, write: Callable[[bytes], Any] | None
) -> list[Block]:
    """Decode chunks until the end of the queue, and record each block of audio."""
    blocks, more = [], True
    while more:
        piece = queue.get()
        more = piece is not None
        started, cpu = time.monotonic(), time.process_time()
        audio = stream.flush() if piece is None else stream.decode(piece)
        if write is not None:
            write(as_bytes(audio))
        left = time.monotonic()
        blocks.append(Block(left - begin, audio.shape[1] / rate, left - started, time.process_time() - cpu))
    return blocks


def as_bytes(audio: Tensor) -> bytes:
    """Convert audio [1, S] to 16-bit samples, little-endian."""
    return (audio[0] * 32767).round().clamp(-32768, 32767).short().numpy().astype("<i2").tobytes()


def summarise_playback(blocks: Sequence[Block]) -> dict[str, float]:
    """Summarise a stream.

    Returns:
        Time of the first audio; the decoder's wall and CPU time per second of audio, and its longest call; number and
        total duration of pauses of a player that starts at once (a start delayed by this total has no pauses); and
        the number of pauses with a start delayed by `CUSHION`.
    """
    audible = [block for block in blocks if block.seconds]
    first, played = audible[0].at, sum(block.seconds for block in audible)
    waits, waits_later = gaps(audible, 0.0), gaps(audible, CUSHION)
    found = {
        "first_audio_seconds": first,
        "real_time_factor": sum(block.took for block in blocks) / played,
        "cpu_factor": sum(block.cpu for block in blocks) / played,
        "longest_call_seconds": max(block.took for block in blocks),
        "underruns": len(waits),
        "stalled_seconds": sum(waits),
        "underruns_with_cushion": len(waits_later),
        "audio_seconds": played,
    }
    return {name: round(value, 3) for name, value in found.items()}


def gaps(audible: Sequence[Block], cushion: float) -> list[float]:
    """Simulate a player that starts this many seconds after the first audio; return the duration of each pause."""
    waits, dry = [], audible[0].at + cushion
    for block in audible:
        if block.at > dry:
            waits.append(block.at - dry)
            dry = block.at
        dry += block.seconds
    return waits


def print_live(results: dict[str, Any]) -> None:
    """Print a table as Markdown."""
    columns = ("decoder", "tokens a chunk", "first audio, s", "real-time factor (CPU)", "underruns", "total pause, s")
    print(f"| {' | '.join(columns)} | underruns, {CUSHION} s later |\n|{'---|' * (len(columns) + 1)}")
    for name, rows in results.items():
        for row in rows:
            first, factor = row["first_audio_seconds"], row["real_time_factor"]
            print(
                f"| {name} | {row['chunk_tokens']} | {first:.2f} | {factor:.2f} ({row['cpu_factor']:.2f}) "
                f"| {row['underruns']} | {row['stalled_seconds']:.2f} | {row['underruns_with_cushion']} |"
            )
