r"""What a recogniser still understands when its frames are merged: policies, rates and layers, without any training.

    python experiments/merging/run.py speech --rows runs/merging.jsonl --output experiments/merging/results.json \
        --figure experiments/merging/wer.png

`speech` holds eval.jsonl (English clips with a text are measured) and train.jsonl (to set thresholds). Moonshine Tiny
encodes each clip. Its features are brought to the 12.5 Hz grid, merged (the mean of each token's frames, 8 at most),
repeated and given to its own decoder. Rows are written as they come, and a run that was stopped goes on where it was.
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from figure import draw
from torch import Tensor

from flexicodec.asr.moonshine import BEGIN, END, Moonshine, token_limit
from flexicodec.corpus import Utterance, read_manifest, read_utterance
from flexicodec.evaluation.metrics.asr import character_errors, open_normaliser, word_errors
from flexicodec.merging import (
    Centroid,
    ExactRate,
    MinimumVariance,
    Shuffled,
    Threshold,
    Uniform,
    cosine_similarities,
    make_policy,
    merge,
    unmerge,
)
from flexicodec.models.flexicodec.frame_resampler import resample_frames
from flexicodec.statistics import Resamples, speaker_clusters

GRID = 12.5  # Hz
FRAME_SIZE = 1280  # samples
MAX_DURATION = 8  # frames
RATES = (10.0, 8.33, 6.25, 5.0, 4.0, 3.0, 2.5)
LAYERS = (2, 4)  # whose similarities decide, beside the last one's
CALIBRATION_CLIPS = 200
UNMERGED = "unmerged"
BY_NAME = ("recognition",)  # policies measured by their names alone


@dataclass
class Clip:
    """A clip's features on the grid, of the last layer and of others, and what the recogniser makes of them."""

    utterance: Utterance
    seconds: float
    features: dict[str, Tensor]  # "last", "layer 2", ...: [1, dim, frames]
    native: Tensor  # of the last layer at 41.67 Hz
    tokens: list[int]  # of the transcript from unmerged features on the grid


# ----------------------------------------------------------------------------------------------------------- policies


def by_policy(policy: Any, features: Tensor, seconds: float) -> Tensor:
    """Apply a policy of the package to features [1, dim, frames]."""
    lengths = torch.tensor([features.shape[2]])
    return policy(
        cosine_similarities(features, lengths), lengths, seconds=[seconds], features=features, max_duration=MAX_DURATION
    )


Cut = Callable[[Clip], Tensor]


def text_policies() -> dict[tuple[str, float], Cut]:
    """List the policies that are measured by their names alone, at every rate."""
    cuts: dict[tuple[str, float], Cut] = {}
    for name in BY_NAME:
        for rate in RATES:
            policy = make_policy(name, frame_rate=rate)
            cuts[name, rate] = lambda clip, policy=policy: by_policy(policy, clip.features["last"], clip.seconds)
    return cuts


def settings(thresholds: dict[tuple[str, float], float]) -> dict[tuple[str, float], Cut]:
    """List every policy at every rate."""
    cuts = text_policies()

    def exact(kind: type, rate: float, layer: str = "last") -> Cut:
        return lambda clip: by_policy(kind(rate), clip.features[layer], clip.seconds)

    for rate in RATES:
        cuts["adjacent cosine", rate] = exact(ExactRate, rate)
        cuts["uniform", rate] = exact(Uniform, rate)
        cuts["variance", rate] = exact(MinimumVariance, rate)
        for layer in LAYERS:
            cuts[f"adjacent cosine of layer {layer}", rate] = exact(ExactRate, rate, f"layer {layer}")
        cuts["shuffled durations", rate] = exact(Shuffled, rate)
        fixed = thresholds["threshold", rate]
        cuts["adjacent cosine, one threshold", rate] = lambda clip, tau=fixed: by_policy(
            Threshold(tau), clip.features["last"], clip.seconds
        )
        fixed = thresholds["centroid", rate]
        cuts["centroid, one threshold", rate] = lambda clip, tau=fixed: by_policy(
            Centroid(tau), clip.features["last"], clip.seconds
        )
    return cuts


def calibrate(clips: list[Clip]) -> dict[tuple[str, float], float]:
    """Find the thresholds at which clips have each rate on average."""
    cuts = {
        "threshold": lambda clip, tau: by_policy(Threshold(tau), clip.features["last"], clip.seconds),
        "centroid": lambda clip, tau: by_policy(Centroid(tau), clip.features["last"], clip.seconds),
    }
    found = {}
    seconds = sum(clip.seconds for clip in clips)
    for name, cut in cuts.items():
        for rate in RATES:
            low, high = 0.0, 1.0
            for _ in range(14):
                middle = (low + high) / 2
                tokens = sum(cut(clip, middle).shape[1] for clip in clips)
                low, high = (low, middle) if tokens / seconds > rate else (middle, high)
            found[name, rate] = (low + high) / 2
    return found


# -------------------------------------------------------------------------------------------------- the recogniser


@torch.no_grad()
def open_clip(model: Moonshine, utterance: Utterance) -> Clip:
    """Encode a clip, and decode its features on the grid without merging."""
    samples = torch.from_numpy(read_utterance(utterance, model.sample_rate))
    inner: dict[str, Tensor] = {}
    hooks = []
    for layer in LAYERS:
        block = model.encoder.layers[layer - 1]
        hooks.append(block.register_forward_hook(lambda *args, key=f"layer {layer}": inner.update({key: args[2].mT})))
    native, frames = model.encoder(samples[None], torch.tensor([len(samples)]))
    for hook in hooks:
        hook.remove()
    grid = torch.tensor([-(-len(samples) // FRAME_SIZE)])
    features = {}
    for name, each in {"last": native, **inner}.items():
        features[name] = resample_frames(each, frames, grid, model.encoder.frame_rate / GRID)
    seconds = len(samples) / model.sample_rate
    (tokens,) = model.generate(features["last"], grid, [token_limit(seconds)])
    return Clip(utterance, seconds, features, native, tokens)


@torch.no_grad()
def understood(model: Moonshine, clip: Clip, features: Tensor) -> tuple[str, float]:
    """Return the transcript of features, and the likelihood of the transcript without merging, in nats per token."""
    (tokens,) = model.generate(features, torch.tensor([features.shape[2]]), [token_limit(clip.seconds)])
    given = torch.tensor([[BEGIN, *clip.tokens]])
    logits, _ = model.decoder(given, model.decoder.memory(features))
    nll = F.cross_entropy(logits[0], torch.tensor([*clip.tokens, END]))
    return model.text(tokens), float(nll)


def measure(model: Moonshine, clip: Clip, cuts: dict[tuple[str, float], Cut], done: set[tuple]) -> Iterable[dict]:
    """Yield a row for every setting that is not done."""
    normaliser = open_normaliser("english")
    everything: dict[tuple[str, float], Cut | None] = {(UNMERGED, 41.67): None, (UNMERGED, GRID): None, **cuts}
    for (policy, rate), cut in everything.items():
        if (clip.utterance.id, policy, rate) in done:
            continue
        features = clip.native if rate == 41.67 else clip.features["last"]
        rows: dict[str, Any] = {"tokens": features.shape[2]}
        if cut is not None:
            durations = cut(clip)
            merged = merge(features, durations)
            error = (unmerge(merged, durations) - features).square().sum() / features.square().sum()
            rows = {"tokens": durations.shape[1], "error": round(float(error), 6)}
            features = unmerge(merged, durations)
        text, nll = understood(model, clip, features)
        reference = clip.utterance.text or ""
        words = word_errors(reference, text, normaliser)
        characters = character_errors(reference, text, normaliser)
        yield {
            **{"id": clip.utterance.id, "speaker": clip.utterance.known_speaker, "corpus": clip.utterance.corpus},
            **{"policy": policy, "rate": rate, "seconds": round(clip.seconds, 4), **rows},
            **{"word_errors": words.errors, "words": words.length},
            **{"character_errors": characters.errors, "characters": characters.length},
            **{"nll": round(nll, 5), "nll_tokens": len(clip.tokens) + 1},
        }


# ------------------------------------------------------------------------------------------------------------ summary


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pool every setting over clips, with intervals by speaker and paired differences from uniform and variance."""
    by_setting: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault((row["policy"], row["rate"]), {})[row["id"]] = row
    ids = sorted(by_setting[UNMERGED, GRID])
    speakers = [by_setting[UNMERGED, GRID][each]["speaker"] for each in ids]
    resamples = Resamples.sample(len(ids), speaker_clusters(speakers, ids))

    def column(setting: tuple[str, float], name: str) -> np.ndarray:
        found = by_setting[setting]
        return np.array([found[each][name] if each in found else np.nan for each in ids], dtype=float)

    summary = []
    for policy, rate in by_setting:
        here = (policy, rate)
        words = column(here, "words")
        tokens = column(here, "nll_tokens")
        result: dict[str, Any] = {
            **{"policy": policy, "rate": rate, "clips": len(by_setting[here])},
            "tokens_per_second": float(np.nansum(column(here, "tokens")) / np.nansum(column(here, "seconds"))),
            "wer": shown(resamples.ratio(column(here, "word_errors"), words)),
            "cer": shown(resamples.ratio(column(here, "character_errors"), column(here, "characters"))),
            "nll": shown(resamples.ratio(column(here, "nll") * tokens, tokens)),
        }
        if policy != UNMERGED:
            result["squared_error"] = float(np.nanmean(column(here, "error")))
        for other in ("uniform", "variance", "adjacent cosine"):
            if policy in (UNMERGED, other):
                continue
            there = (other, rate)
            result[f"wer_less_{other}"] = shown(
                resamples.difference(
                    np.stack([column(here, "word_errors"), column(there, "word_errors")]),
                    np.stack([words, column(there, "words")]),
                )
            )
            result[f"nll_less_{other}"] = shown(
                resamples.difference(
                    np.stack([column(here, "nll") * tokens, column(there, "nll") * tokens]), np.stack([tokens, tokens])
                )
            )
        summary.append(result)
    return summary


def shown(interval: Any) -> list[float]:
    """Round an interval to [value, low, high]."""
    return [round(each, 5) for each in (interval.value, interval.low, interval.high)]


def english(path: Path) -> list[Utterance]:
    """List the English clips with a text."""
    return [each for each in read_manifest(path) if each.text and each.language == "en"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of rows, continued if there")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="PNG of WER against the rate")
    parser.add_argument("--limit", type=int, help="clips")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = Moonshine.load()
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    thresholds_file = args.rows.with_suffix(".thresholds.json")
    if thresholds_file.is_file():
        thresholds = {(name, rate): tau for name, rate, tau in json.loads(thresholds_file.read_text())}
    else:
        known = english(args.speech / "train.jsonl")
        chosen = np.random.default_rng(0).choice(len(known), CALIBRATION_CLIPS, replace=False)
        thresholds = calibrate([open_clip(model, known[index]) for index in chosen])
        thresholds_file.write_text(json.dumps([[name, rate, tau] for (name, rate), tau in thresholds.items()]))

    rows = []
    if args.rows.is_file():
        rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    done = {(row["id"], row["policy"], row["rate"]) for row in rows}
    cuts = settings(thresholds)
    with args.rows.open("a") as file:
        for utterance in english(args.speech / "eval.jsonl")[: args.limit]:
            for row in measure(model, open_clip(model, utterance), cuts, done):
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    results = {
        **{"commit": commit, "machine": platform.processor() or platform.machine(), "torch": torch.__version__},
        "thresholds": [[name, rate, round(tau, 4)] for (name, rate), tau in thresholds.items()],
        "summary": summarise(rows),
    }
    args.output.write_text(json.dumps(results, indent=1) + "\n")
    if args.figure:
        draw(results["summary"], args.figure)


if __name__ == "__main__":
    main()
