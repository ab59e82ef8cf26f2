"""Measure a codec on a manifest for the tables in README.md.

Measures STOI, PESQ, errors of Moonshine and speaker similarity by frame rate and number of codebooks, on English clips;
token durations in silence and speech; and speed. Needs the extras eval and instruments.

python experiments/mini/evaluate.py ../shared/speech/eval.jsonl --output experiments/mini/results/v2.json

Quality is measured by `flexicodec.evaluation`, whose rows are stored in a folder next to the output: the same command
resumes a stopped run.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import flexicodec
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.results_store import Row
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.summary import MetricTable
from flexicodec.evaluation.systems import GROUND_TRUTH, CodecSystem, Sweep
from flexicodec.io_utils import replacing
from flexicodec.merging import token_index

FRAME_RATES = (12.5, 8.33, 6.25, 4.0, 3.0)
CODEBOOKS = (24, 8, 0)
METRICS = {
    "stoi": "STOI",
    "pesq_wb": "PESQ-WB",
    "wer.moonshine": "WER",
    "cer.moonshine": "CER",
    "similarity.ge2e": "GE2E",
}
SILENCE_DB = 35.0  # frames this far below the clip's loud frames (95th percentile) count as silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="clips to measure, evenly spread over the English ones with a text")
    arguments = parser.parse_args()

    codec = flexicodec.load(arguments.model)
    utterances = [each for each in read_manifest(arguments.manifest) if each.text and each.language in (None, "en")]
    if arguments.limit:
        utterances = utterances[:: max(1, len(utterances) // arguments.limit)]
    system = CodecSystem(codec, "model")
    rows = arguments.output.with_suffix(".rows") / system.identity["weights"]  # one folder per model
    config = EvaluationConfig(
        MetricConfig(metrics=("stoi", "pesq_wb"), transcribers=("moonshine",), speaker_encoders=("ge2e",)),
        Sweep(frame_rates=FRAME_RATES, codebooks=tuple(min(each, codec.num_codebooks) for each in CODEBOOKS)),
    )
    measured = evaluate_corpus(utterances, [system], rows, config, progress=True).rows
    clips = [torch.from_numpy(read_utterance(utterance, codec.sample_rate))[None] for utterance in utterances]
    features = [codec.features(clip) for clip in tqdm(clips, desc="features")]
    results = {
        "model": arguments.model,
        "fingerprint": codec.fingerprint,
        "clips": len(utterances),
        "seconds": round(sum(utterance.duration for utterance in utterances), 1),
        "commit": git_commit(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        **entries(measured),
        "silence": silence_durations(codec, clips, features, 6.25),
        "speed": speed(codec, clips),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.output) as part:
        part.write_text(json.dumps(results, indent=2) + "\n")
    print_tables(results)


def entries(rows: list[Row]) -> dict:
    """Summarise the rows of each setting, and the recogniser's errors on the originals.

    Rates are those of the corpus: all tokens, or bits, over all seconds; error rates those of all words.
    """
    table = MetricTable(rows, resamples=1)
    if failed := [row for row in rows if "error" in row]:
        raise ValueError(f"{len(failed)} clips failed; first: {failed[0]['id']}: {failed[0]['error']}")
    settings = []
    for group in (group for group in table.groups if group[0] != GROUND_TRUTH):
        asked = next(row["asked"] for row in rows if (row["system"], row["setting"]) == group)
        found = {"frame_rate": asked["frame_rate"], "codebooks": asked["codebooks"]}
        for name in (*METRICS, "frame_rate_hz", "bitrate_kbps"):
            found[name] = round(table.score(group, name).value, 4)
        settings.append(found)
    original = {name: round(table.score((GROUND_TRUTH, ""), name).value, 4) for name in METRICS if "er." in name}
    return {"original": original, "settings": settings}


def silence_durations(codec, clips, features, frame_rate: float) -> dict:
    """Return mean frames per token in silence and in speech, at the tau for `frame_rate` over all clips."""
    fit = fit_threshold(
        [f.similarities[0] for f in features],
        [int(f.lengths[0]) for f in features],
        [clip.shape[1] / codec.sample_rate for clip in clips],
        frame_rate,
        codec.max_duration,
    )
    silent_tokens, speech_tokens = [], []
    for clip, feature in zip(clips, features, strict=True):
        durations = codec.tokenize(feature, threshold=fit.threshold, num_codebooks=0).durations
        num_frames = int(durations.sum())
        padded = torch.nn.functional.pad(clip[0], (0, max(0, num_frames * codec.frame_size - clip.shape[1])))
        frames = padded[: num_frames * codec.frame_size].reshape(num_frames, codec.frame_size)
        level = 10 * torch.log10(frames.square().mean(1) + 1e-10)
        silent = level < torch.quantile(level, 0.95) - SILENCE_DB
        index = token_index(durations, num_frames)[0]
        share = torch.zeros(durations.shape[1]).index_add_(0, index, silent.float()) / durations[0]
        silent_tokens += durations[0][share > 0.5].tolist()
        speech_tokens += durations[0][share <= 0.5].tolist()
    return {
        "threshold": round(fit.threshold, 4),
        "corpus_rate": round(fit.mean, 3),
        "clip_rate_std": round(fit.std, 3),
        "frames_per_token_in_silence": round(float(np.mean(silent_tokens)), 3),
        "frames_per_token_in_speech": round(float(np.mean(speech_tokens)), 3),
        "silent_tokens": len(silent_tokens),
        "speech_tokens": len(speech_tokens),
    }


def speed(codec, clips, seconds: float = 10.0, repeats: int = 5) -> dict:
    """Measure CPU seconds per second of audio on one thread: the median of encoding and decoding ten seconds."""
    samples = int(seconds * codec.sample_rate)
    audio = torch.cat([clip[0] for clip in clips])[:samples]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encode_times, decode_times = [], []
    for _ in range(repeats + 1):
        started = time.process_time()
        tokens = codec.encode(audio, frame_rate=6.25)
        encoded = time.process_time()
        codec.decode(tokens)
        encode_times.append(encoded - started)
        decode_times.append(time.process_time() - encoded)
    torch.set_num_threads(threads)
    encode, decode = np.median(encode_times[1:]) / seconds, np.median(decode_times[1:]) / seconds
    return {"encode_rtf": round(float(encode), 4), "decode_rtf": round(float(decode), 4), "threads": 1}


def print_tables(results: dict) -> None:
    """Print the results as Markdown."""
    print(f"\n{results['clips']} clips, {results['seconds']:.0f} s; model {results['fingerprint']}")
    print(f"\n| Hz | books | tokens/s | kbps | {' | '.join(METRICS.values())} | WER / original's |")
    print("|---" * (5 + len(METRICS)) + "|")
    original = results["original"]["wer.moonshine"]
    for row in results["settings"]:
        scores = " | ".join(f"{row[name]:.3f}" for name in METRICS)
        print(
            f"| {row['frame_rate']:g} | {row['codebooks']} | {row['frame_rate_hz']:.2f} | {row['bitrate_kbps']:.2f} "
            f"| {scores} | {row['wer.moonshine'] / original:.2f} |"
        )
    print(f"\nMoonshine on the originals: {json.dumps(results['original'])}.")
    silence, speed = results["silence"], results["speed"]
    print(
        f"\nAt tau {silence['threshold']:.3f} ({silence['corpus_rate']:.2f} Hz over all clips) a token lasts "
        f"{silence['frames_per_token_in_silence']:.2f} frames in silence (n = {silence['silent_tokens']}) and "
        f"{silence['frames_per_token_in_speech']:.2f} in speech (n = {silence['speech_tokens']})."
    )
    print(f"One thread: encoding {speed['encode_rtf']:.4f}, decoding {speed['decode_rtf']:.4f} seconds per second.")


def git_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
