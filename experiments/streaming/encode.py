"""Cost of encoding a stream: real-time factor by chunk, latency, and memory over hours.

    python experiments/streaming/encode.py --output experiments/streaming/encode.json

flexicodec-mini on one thread. First speech (the packaged example, repeated) in chunks of several sizes, against
encoding it whole; then two hours of noise bursts in chunks of a second, with the resident memory of the process and the
size of the stream's state over time.
"""

import argparse
import json
import platform
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

import flexicodec
from flexicodec.models.margins import compare_codes

CHUNKS = (0.02, 0.08, 0.32, 1.0, 5.0)  # seconds
REPEATS = 7  # of the example of 8.5 s


def resident_mib() -> float:
    """Return the current resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def stream(encoder: Any, audio: torch.Tensor, size: int) -> tuple[flexicodec.Tokens, float]:
    """Encode audio in chunks of this many samples; return tokens and CPU seconds."""
    started = time.process_time()
    pieces = [encoder.encode(chunk) for chunk in audio.split(size, dim=-1)]
    pieces.append(encoder.flush())
    seconds = time.process_time() - started
    return flexicodec.Tokens.concat([piece for piece in pieces if piece is not None]), seconds


def by_chunk(codec: Any) -> list[dict[str, Any]]:
    """Measure real-time factors, and count differences from the whole clip."""
    example = str(files("flexicodec") / "assets" / "example.flac")
    audio = flexicodec.read_audio(example, sample_rate=codec.sample_rate).repeat(1, REPEATS)
    length, rows = audio.shape[1] / codec.sample_rate, []
    codec.encode(audio)
    started = time.process_time()
    whole = codec.encode(audio, margins=True)
    rows.append({"chunk_seconds": None, "real_time_factor": round((time.process_time() - started) / length, 4)})
    for chunk in CHUNKS:
        encoder = codec.streaming_encoder()
        stream(encoder, audio[:, : 5 * codec.sample_rate], codec.sample_rate)  # warm up
        encoder.reset()
        tokens, seconds = stream(encoder, audio, round(chunk * codec.sample_rate))
        found = compare_codes(whole, tokens)
        parts = (found.boundaries, found.semantic, found.acoustic)
        rows.append(
            {
                "chunk_seconds": chunk,
                "real_time_factor": round(seconds / length, 4),
                "decisions": sum(len(part) for part in parts),
                "flips": sum(part.flips() for part in parts),
                "flips_above_1e-4": sum(part.flips(above=1e-4) for part in parts),
            }
        )
    return rows


def for_hours(codec: Any, hours: float) -> dict[str, Any]:
    """Stream noise for this duration, and record memory every ten minutes."""
    generator, second = torch.Generator().manual_seed(0), codec.sample_rate
    encoder, rows, tokens = codec.streaming_encoder(frame_rate=6.25), [], 0
    started = time.process_time()
    for count in range(1, round(hours * 3600) + 1):
        chunk = torch.randn(1, second, generator=generator)
        level = torch.rand(1, 10, generator=generator).repeat_interleave(second // 10, dim=1)
        piece = encoder.encode(0.2 * chunk * level)
        tokens += 0 if piece is None else int(piece.token_lengths)
        if count % 600 == 0:
            row = {
                "minutes": count // 60,
                "resident_mib": round(resident_mib(), 1),
                "state_bytes": encoder.state.num_bytes,
                "frame_rate": round(tokens / count, 3),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
            print(row, flush=True)
            rows.append(row)
    return {"asked_frame_rate": 6.25, "rows": rows}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = flexicodec.load("flexicodec-mini")
    settings = {"threshold": {}, "6.25 Hz": {"frame_rate": 6.25}, "semantic codes only": {"num_codebooks": 0}}
    latencies = {}
    for name, choice in settings.items():
        encoder = codec.streaming_encoder(**choice)
        at = {rate: round(encoder.latency_at(rate), 2) for rate in (12.5, 8.33, 6.25, 4.0)}
        latencies[name] = {"longest_seconds": round(encoder.latency_seconds, 2), "seconds_at_hz": at}
    rows = by_chunk(codec)
    for row in rows:
        print(row)
    hours = for_hours(codec, args.hours)
    if args.output:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        machine = {"cpu": cpu[0].split(": ")[1] if cpu else platform.processor(), "threads": 1}
        about = {"commit": commit, "torch": torch.__version__, **machine}
        results = {"latencies": latencies, "chunks": rows, "hours": hours}
        args.output.write_text(json.dumps({**about, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
