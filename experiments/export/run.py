"""Accuracy of an ONNX export and cost of 8 bits: flips, STOI, size and speed of flexicodec-mini under onnxruntime.

flexicodec export flexicodec-mini -o FLOAT && flexicodec export flexicodec-mini -o INT8 --int8
python experiments/export/run.py FLOAT INT8 --manifest eval.jsonl --output experiments/export/results.json
"""

import argparse
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import flexicodec
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.evaluation.metrics.signal import ClipPair
from flexicodec.export.compare import Agreement, compare
from flexicodec.export.runtime import load_exported

HERE = Path(__file__).parent
FRAME_RATE = 8.33  # Hz
TIMED_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER", help="float32 and int8 export")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--clips", type=int, default=24, help="taken evenly from the manifest")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = flexicodec.load("flexicodec-mini")
    exact, eight = (load_exported(folder, threads=1) for folder in arguments.folders)
    codecs = {"torch": codec, "float": exact, "int8": eight}
    utterances = read_manifest(arguments.manifest)
    chosen = utterances[:: max(1, len(utterances) // arguments.clips)][: arguments.clips]
    clips = [torch.from_numpy(read_utterance(each, codec.sample_rate))[None] for each in chosen]
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "seconds": sum(clip.shape[1] for clip in clips) / codec.sample_rate,
        "clips": len(clips),
        "mebibytes": dict(zip(("float", "int8"), map(sizes, arguments.folders), strict=True)),
        "agreement": {},
        "stoi": {},
    }
    for name in ("float", "int8"):
        found = [compare(codec, codecs[name], clip, frame_rate=FRAME_RATE) for clip in clips]
        result["agreement"][name] = pooled(found)
        print(name, result["agreement"][name], flush=True)
    result["int8_flips"] = flips(codec, eight, clips)
    for who, encoder, decoder in (
        ("torch", "torch", "torch"),
        ("float", "float", "float"),
        ("int8", "int8", "int8"),
        ("int8 decoder alone", "torch", "int8"),
    ):
        scores = [score(clip, codecs[encoder], codecs[decoder]) for clip in clips]
        result["stoi"][who] = {"mean": float(np.mean(scores)), "clips": scores}
        print(who, result["stoi"][who]["mean"], flush=True)
    result["cpu_seconds_per_second"] = timed(codecs, arguments.repeats)
    print(json.dumps(result["cpu_seconds_per_second"], indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def pooled(found: list[Agreement]) -> dict:
    """Sum counts over clips and take the largest differences."""
    rows = [asdict(each) for each in found]
    pool = {"margin": max, "audio": max}
    return {name: pool.get(name, sum)(row[name] for row in rows) for name in rows[0]}


def flips(codec, exported, clips: list[torch.Tensor]) -> dict:
    """Count differing codes at the same durations: by codebook, semantic first, and tokens with any difference."""
    counts, tokens, touched = torch.zeros(1 + codec.num_codebooks, dtype=torch.long), 0, 0
    for clip in clips:
        ours = codec.encode(clip, frame_rate=FRAME_RATE)
        theirs = exported.encode(clip, durations=ours.durations)
        rows = [torch.cat([each.semantic[:, None], each.acoustic], dim=1)[0] for each in (ours, theirs)]
        differ = rows[0] != rows[1]
        counts += differ.sum(1)
        tokens, touched = tokens + differ.shape[1], touched + int(differ.any(0).sum())
    return {"tokens": tokens, "tokens_with_any": touched, "by_codebook": counts.tolist()}


def score(clip: torch.Tensor, encoder, decoder) -> float:
    """Measure STOI of a clip encoded and decoded by these codecs."""
    tokens = encoder.encode(clip, frame_rate=FRAME_RATE)
    return ClipPair(clip[0].numpy(), decoder.decode(tokens)[0].numpy(), encoder.sample_rate).stoi()


def sizes(folder: Path) -> dict[str, float]:
    """Return the size of every file in MiB."""
    return {path.name: round(path.stat().st_size / 2**20, 2) for path in sorted(folder.iterdir())}


def timed(codecs: dict, repeats: int) -> dict:
    """Measure CPU seconds per second of audio on one thread, interleaved; median, lowest and highest."""
    example = flexicodec.read_audio(Path(flexicodec.__file__).parent / "assets" / "example.flac")
    audio = example.repeat(1, 2)[:, : TIMED_SECONDS * 16_000]
    tokens = {name: codec.encode(audio, frame_rate=FRAME_RATE) for name, codec in codecs.items()}
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for name, codec in codecs.items():
            for verb, call in (
                ("encode", lambda codec=codec: codec.encode(audio, frame_rate=FRAME_RATE)),
                ("decode", lambda codec=codec, name=name: codec.decode(tokens[name])),
            ):
                start = time.process_time()
                call()
                if repeat:  # the first one warms up
                    taken.setdefault(f"{verb} {name}", []).append((time.process_time() - start) / TIMED_SECONDS)
    return {key: {"median": float(np.median(v)), "low": min(v), "high": max(v)} for key, v in sorted(taken.items())}


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
