"""Measure a codec on a manifest: STOI, PESQ and what a recogniser makes of it, by frame rate and by codebooks; token
durations in silence and speech; and speed.

python experiments/mini/evaluate.py ../shared/speech/eval.jsonl --output experiments/mini/results/v1.json \\
    --recogniser runs/asr-mini/model
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
from jiwer import cer
from pesq import NoUtterancesError, pesq
from pystoi import stoi
from tqdm import tqdm

import flexicodec
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import Utterance, read_manifest
from flexicodec.files import replacing
from flexicodec.merging import token_index
from flexicodec.models.recognizer import Recognizer

FRAME_RATES = (12.5, 8.33, 6.25, 4.0)
CODEBOOKS = (0, 1, 2, 4, 8, 16, 24)
NOT_ENGLISH = ("rhasspy_nathalie",)
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
    clips = [flexicodec.read_audio(u.path, sample_rate=codec.sample_rate) for u in tqdm(utterances, desc="read")]
    features = [codec.features(clip) for clip in tqdm(clips, desc="features")]
    counts = sorted({c for c in CODEBOOKS if c <= codec.num_codebooks} | {codec.num_codebooks})

    results = {
        "model": arguments.model,
        "fingerprint": codec.fingerprint,
        "clips": len(clips),
        "seconds": round(sum(clip.shape[1] for clip in clips) / codec.sample_rate, 1),
        "commit": git_commit(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    ears = Recognizer.load(arguments.recogniser) if arguments.recogniser else None
    if ears is not None:
        results["recogniser"] = {"original_cer": round(error_rate(ears, utterances, [c[0] for c in clips]), 4)}
    measured = {}
    for rate in FRAME_RATES:
        for count in counts if rate in (12.5, 6.25) else (codec.num_codebooks,):
            measured[rate, count] = measure(codec, utterances, clips, features, rate, count, ears)
    results["by_frame_rate"] = [measured[rate, codec.num_codebooks] for rate in FRAME_RATES]
    results["by_codebooks"] = [measured[rate, count] for rate in (12.5, 6.25) for count in counts]
    results["silence"] = silence_durations(codec, clips, features, 6.25)
    results["speed"] = speed(codec, clips)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.output) as part:
        part.write_text(json.dumps(results, indent=2) + "\n")
    print_tables(results)


def measure(codec, utterances: list[Utterance], clips, features, frame_rate: float, num_codebooks: int, ears) -> dict:
    """Means over all clips, and over the English ones and each corpus; `sem` is the standard error.

    PESQ and the recogniser take long, and are asked about all codebooks only.
    """
    whole = num_codebooks == codec.num_codebooks
    rows, decoded = [], []
    for utterance, clip, feature in zip(utterances, clips, features, strict=True):
        tokens = codec.tokenize(feature, frame_rate=frame_rate, num_codebooks=num_codebooks)
        reference, estimate = clip[0].numpy(), codec.decode(tokens)[0].numpy()
        row = {
            "corpus": utterance.corpus,
            "stoi": float(stoi(reference, estimate, codec.sample_rate)),
            "pesq_wb": wideband_pesq(reference, estimate, codec.sample_rate) if whole else float("nan"),
            "rate": float(tokens.frame_rates[0]),
            "kbps": float(tokens.bitrates_kbps[0]),
        }
        rows.append(row)
        decoded.append(torch.from_numpy(estimate))
    english = [row for row in rows if row["corpus"] not in NOT_ENGLISH]

    def mean(name: str, of: list[dict]) -> float:
        return round(float(np.nanmean([row[name] for row in of])), 4)

    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    result = {
        "frame_rate": frame_rate,
        "codebooks": num_codebooks,
        "stoi": mean("stoi", rows),
        "sem": round(float(np.std([row["stoi"] for row in rows]) / np.sqrt(len(rows))), 4),
        "stoi_english": mean("stoi", english),
        "realised_rate": mean("rate", rows),
        "kbps": mean("kbps", rows),
        "stoi_by_corpus": {name: mean("stoi", [r for r in rows if r["corpus"] == name]) for name in corpora},
    }
    if whole:
        result["pesq_wb"], result["pesq_wb_english"] = mean("pesq_wb", rows), mean("pesq_wb", english)
        result["pesq_failed"] = int(sum(np.isnan(row["pesq_wb"]) for row in rows))
    if whole and ears is not None:
        result["cer"] = round(error_rate(ears, utterances, decoded), 4)
    return result


def wideband_pesq(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """PESQ-WB, or NaN where it finds no speech."""
    try:
        return float(pesq(sample_rate, reference, estimate, "wb"))
    except NoUtterancesError:
        return float("nan")


def error_rate(ears: Recognizer, utterances: list[Utterance], audio: list[torch.Tensor]) -> float:
    """Character error rate over all English clips with a text."""
    pairs = [
        (utterance.text, ears.transcribe(clip[None], torch.tensor([len(clip)]))[0])
        for utterance, clip in zip(utterances, audio, strict=True)
        if utterance.text and utterance.corpus not in NOT_ENGLISH
    ]
    return float(cer([text for text, _ in pairs], [heard for _, heard in pairs]))


def silence_durations(codec, clips, features, frame_rate: float) -> dict:
    """Mean frames per token in silence and in speech, at the tau that gives `frame_rate` over all clips."""
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
    """CPU seconds per second of audio on one thread: the median over repeats of encoding and decoding ten seconds."""
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
