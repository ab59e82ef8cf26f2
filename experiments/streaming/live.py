"""Streaming with the clock running: tokens come when their sound is over, audio leaves, and somebody listens to it.

Nothing here is computed from CPU times. A thread puts chunks of tokens into a queue at the pace of speech; the decoder
takes them as they come, and each block of audio is stamped when it leaves. The listener plays the first block at once,
and stands still whenever there is nothing left to play.
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
    """Audio that has left: when, in seconds after the first sound began, how much, and the decoder's time for it.

    Wall time, and CPU time beside it: where the two differ, the machine was busy with something else.
    """

    at: float
    seconds: float
    took: float
    cpu: float


def live(play: str | None) -> dict[str, Any]:
    """Stream every case by the clock.

    Args:
        play: A command that 16-bit samples at {rate} Hz go to, as `aplay -t raw -f S16_LE -r {rate}`; None for none.
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
    """Stream tokens by the clock, so many at a time, and sum up what the listener had of it.

    Where the decoder's wall time is far above its CPU time, the machine was busy with something else; the stream is run
    again then, a few times at most, and the run that was disturbed least counts.
    """
    pieces = list(cut(tokens, chunk))
    stream = codec.streaming_decoder(**settings)
    for piece in pieces:  # warm up
        stream.decode(piece)
    runs: list[dict[str, float]] = []
    while len(runs) < TRIES and not any(disturbance(each) < UNDISTURBED for each in runs):
        stream.reset()
        runs.append(listened(once(stream, pieces, play)))
    about = {"chunk_tokens": chunk, "settings": settings, "exact": stream.exact, "runs": len(runs)}
    return about | min(runs, key=disturbance)


def disturbance(run: dict[str, float]) -> float:
    """Return by how much the decoder's wall time is above its CPU time."""
    return run["real_time_factor"] / run["cpu_factor"]


def once(stream: Any, pieces: Sequence[Tokens], play: str | None) -> list[Block]:
    """Stream chunks of tokens by the clock."""
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
    """Put each chunk into the queue when the sound of its last token is over."""
    due = begin
    for piece in pieces:
        due += int(piece.durations.sum()) * frame
        time.sleep(max(0.0, due - time.monotonic()))
        queue.put(piece)
    queue.put(None)


def decode(
    stream: Any, queue: "SimpleQueue[Tokens | None]", begin: float, rate: int, write: Callable[[bytes], Any] | None
) -> list[Block]:
    """Decode what comes until nothing more does, and note each block of audio as it leaves."""
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
    """Write audio [1, S] as 16-bit samples, little-endian."""
    return (audio[0] * 32767).round().clamp(-32768, 32767).short().numpy().astype("<i2").tobytes()


def listened(blocks: Sequence[Block]) -> dict[str, float]:
    """Sum up a stream.

    Returns:
        The first audio; the decoder's wall and CPU time per second of audio, and its longest call; how often and for
        how long in all a listener stands still who plays at once, which is also how much later to begin and never do
        so; and how often one who begins `CUSHION` later.
    """
    heard = [block for block in blocks if block.seconds]
    first, played = heard[0].at, sum(block.seconds for block in heard)
    waits, waits_later = gaps(heard, 0.0), gaps(heard, CUSHION)
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


def gaps(heard: Sequence[Block], cushion: float) -> list[float]:
    """Let somebody listen who begins so many seconds after the first audio; return the seconds of each standstill."""
    waits, dry = [], heard[0].at + cushion
    for block in heard:
        if block.at > dry:
            waits.append(block.at - dry)
            dry = block.at
        dry += block.seconds
    return waits


def print_live(results: dict[str, Any]) -> None:
    """Print a table as Markdown."""
    columns = ("decoder", "tokens a chunk", "first audio, s", "real-time factor (CPU)", "underruns", "still for, s")
    print(f"| {' | '.join(columns)} | underruns, {CUSHION} s later |\n|{'---|' * (len(columns) + 1)}")
    for name, rows in results.items():
        for row in rows:
            first, factor = row["first_audio_seconds"], row["real_time_factor"]
            print(
                f"| {name} | {row['chunk_tokens']} | {first:.2f} | {factor:.2f} ({row['cpu_factor']:.2f}) "
                f"| {row['underruns']} | {row['stalled_seconds']:.2f} | {row['underruns_with_cushion']} |"
            )
