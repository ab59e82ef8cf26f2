"""Measure a codec on a manifest for the tables in README.md.

Measures STOI, PESQ and character errors by frame rate and number of codebooks; token durations in silence and speech;
and speed.

python experiments/mini/evaluate.py ../shared/speech/eval.jsonl --output experiments/mini/results/v1.json \\
    --recogniser runs/asr-mini/model

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
from statistics import stdev

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

FRAME_RATES = (12.5, 8.33, 6.25, 4.0)
BY_CODEBOOKS = (12.5, 6.25)  # frame rates
CODEBOOKS = (0, 1, 2, 4, 8, 16, 24)
SILENCE_DB = 35.0  # frames this far below the clip's loud frames (95th percentile) count as silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recogniser", type=Path, help="folder of a recogniser, for character error rates")
    parser.add_argument("--limit", type=int, help="clips to measure, evenly spread over the manifest")
    arguments = parser.parse_args()

    codec = flexicodec.load(arguments.model)
    utterances = read_manifest(arguments.manifest)
    if arguments.limit:
        utterances = utterances[:: max(1, len(utterances) // arguments.limit)]
    results = {
        "model": arguments.model,
        "fingerprint": codec.fingerprint,
        "clips": len(utterances),
        "seconds": round(sum(utterance.duration for utterance in utterances), 1),
        "commit": git_commit(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    system = CodecSystem(codec, "model")
    rows = arguments.output.with_suffix(".rows") / system.identity["weights"]  # one folder per model
    transcriber = f"ctc:{arguments.recogniser}" if arguments.recogniser else None
    all_codebooks = EvaluationConfig(
        MetricConfig(metrics=("stoi", "pesq_wb"), transcribers=(transcriber,) if transcriber else ()),
        Sweep(frame_rates=FRAME_RATES),
    )
    by_rate = evaluate_corpus(utterances, [system], rows / "by_frame_rate", all_codebooks, progress=True).rows
    counts = sorted({count for count in CODEBOOKS if count <= codec.num_codebooks} | {codec.num_codebooks})
    each_count = EvaluationConfig(
        MetricConfig(metrics=("stoi",), transcribers=()), Sweep(frame_rates=BY_CODEBOOKS, codebooks=tuple(counts))
    )
    by_count = evaluate_corpus(utterances, [system], rows / "by_codebooks", each_count, progress=True).rows
    dutch = {utterance.id for utterance in utterances if utterance.language == "nl"}
    if transcriber:
        original = [row for row in by_rate if row["system"] == GROUND_TRUTH]
        results["recogniser"] = {
            "original_cer": round(MetricTable(original).score((GROUND_TRUTH, ""), f"cer.{transcriber}").value, 4)
        }
    results["by_frame_rate"] = entries(by_rate, transcriber, dutch)
    results["by_codebooks"] = entries(by_count, None, dutch)

    clips = [torch.from_numpy(read_utterance(utterance, codec.sample_rate))[None] for utterance in utterances]
    features = [codec.features(clip) for clip in tqdm(clips, desc="features")]
    results["silence"] = silence_durations(codec, clips, features, 6.25)
    results["speed"] = speed(codec, clips)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.output) as part:
        part.write_text(json.dumps(results, indent=2) + "\n")
    print_tables(results)


def entries(rows: list[Row], transcriber: str | None, dutch: set[str]) -> list[dict]:
    """Summarise the rows of each setting: over all clips, over the English ones and by corpus.

    Rates are those of the corpus: all tokens, or bits, over all seconds. `sem` is the standard error.
    """
    table = MetricTable(rows, resamples=1)
    english = MetricTable([row for row in rows if row["id"] not in dutch], resamples=1)
    found = []
    for group in (group for group in table.groups if group[0] != GROUND_TRUTH):
        clips = [row for row in rows if (row["system"], row["setting"]) == group]
        asked = clips[0]["asked"]
        if failed := [row for row in clips if "error" in row]:
            raise ValueError(f"{len(failed)} clips failed; first: {failed[0]['id']}: {failed[0]['error']}")
        stoi = [row["stoi"] for row in clips if row["stoi"] is not None]

        def mean(metric: str, of: MetricTable, group: tuple[str, str] = group) -> float:
            return round(of.score(group, metric).value, 4)

        entry = {
            "frame_rate": asked["frame_rate"],
            "codebooks": asked["codebooks"],
            "stoi": mean("stoi", table),
            "sem": round(stdev(stoi) / len(stoi) ** 0.5, 4) if len(stoi) > 1 else None,
            "stoi_english": mean("stoi", english),
            "realised_rate": mean("frame_rate_hz", table),
            "kbps": mean("bitrate_kbps", table),
            "stoi_by_corpus": {name: round(value, 4) for name, value in table.by_corpus(group, "stoi").items()},
        }
        if "pesq_wb" in clips[0]:
            entry["pesq_wb"], entry["pesq_wb_english"] = mean("pesq_wb", table), mean("pesq_wb", english)
            entry["pesq_failed"] = sum(row["pesq_wb"] is None for row in clips)
        if transcriber:
            entry["cer"] = mean(f"cer.{transcriber}", table)
        found.append(entry)
    return found


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
    corpora = list(results["by_frame_rate"][0]["stoi_by_corpus"])
    head = "asked Hz | realised Hz | kbps | STOI (standard error) | STOI, English | PESQ-WB, English | CER"
    print(f"\n| {head} | {' | '.join(corpora)} |")
    print("|---" * (7 + len(corpora)) + "|")
    for row in results["by_frame_rate"]:
        each = " | ".join(f"{row['stoi_by_corpus'][name]:.3f}" for name in corpora)
        print(
            f"| {row['frame_rate']:g} | {row['realised_rate']:.2f} | {row['kbps']:.2f} "
            f"| {row['stoi']:.3f} ({row['sem']:.3f}) | {row['stoi_english']:.3f} | {row['pesq_wb_english']:.2f} "
            f"| {row.get('cer', float('nan')):.3f} | {each} |"
        )
    counts = sorted({row["codebooks"] for row in results["by_codebooks"]})
    print(f"\n| mean STOI, acoustic codebooks: | {' | '.join(map(str, counts))} |")
    print("|---" * (1 + len(counts)) + "|")
    for rate in sorted({row["frame_rate"] for row in results["by_codebooks"]}, reverse=True):
        row = {r["codebooks"]: f"{r['stoi']:.3f}" for r in results["by_codebooks"] if r["frame_rate"] == rate}
        print(f"| {rate:g} Hz | {' | '.join(row[count] for count in counts)} |")
    if "recogniser" in results:
        print(f"\nThe recogniser's character error rate on the originals: {results['recogniser']['original_cer']:.3f}.")
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
