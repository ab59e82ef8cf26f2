"""Train the ablations of flexicodec-mini's second stage, and compare each with the recipe on the same clips.

    python experiments/ablations/run.py DIR runs/ablations --stage-one runs/mini-v2/fixed/model

DIR holds train.jsonl and eval.jsonl. Every run starts from the same first stage. Runs and rows that are there are kept,
so that the same command goes on where it stopped, and can be given again with more names, seeds or clips. Needs the
extras train, eval and instruments.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import flexicodec
from flexicodec.config import from_dict, load_yaml, to_dict
from flexicodec.corpus import Utterance, read_manifest
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.results_store import Row
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.systems import GROUND_TRUTH, CodecSystem, Sweep
from flexicodec.io_utils import replacing
from flexicodec.statistics.bootstrap import Interval, bootstrap
from flexicodec.training.config import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "flexicodec"
STAGE_ONE = "runs/mini-spectral-fixed/model"  # as the configs name it
RECIPE = "mini_spectral"
NAMES = (
    RECIPE,
    "fixed_rate",
    "low_rates",
    "equal_durations",
    "similarity_rule",
    "dynamic_programme",
    "mean_pooling",
    "query_aggregator",
    "no_residual_loss",
    "vq",
    "residual_fsq",
    "semantic_dropout",
    "semantic_only",
    "sanm",
)
RATES = (12.5, 6.25, 4.0)
CODEBOOKS = (24, 8, 0)
# At 12.5 Hz with 11 and 7 codebooks, kilobits are those of 6.25 and 4 Hz with all 24.
SWEEPS = {
    RECIPE: Sweep(frame_rates=RATES, codebooks=(*CODEBOOKS, 7)),
    "fixed_rate": Sweep(frame_rates=(12.5,), codebooks=(24, 11, 8, 7, 0)),
    "residual_fsq": Sweep(frame_rates=RATES, codebooks=(6, 0)),
    "semantic_only": Sweep(frame_rates=RATES, codebooks=(0,)),
}
# (name, rate, codebooks) of an ablation beside those of the recipe, where they differ
MATCHED = {
    ("fixed_rate", 12.5, 11): (6.25, 24),
    ("fixed_rate", 12.5, 7): (4.0, 24),
    ("residual_fsq", 12.5, 6): (12.5, 7),
    ("residual_fsq", 6.25, 6): (6.25, 7),
    ("residual_fsq", 4.0, 6): (4.0, 7),
}
Setting = tuple[float, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder with train.jsonl and eval.jsonl")
    parser.add_argument("output", type=Path)
    parser.add_argument("--stage-one", required=True, help="folder of a model of mini_spectral_fixed.yaml")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=24, help="English clips with a text, evenly spread")
    parser.add_argument("--options", nargs="*", default=[], metavar="key=value", help="further settings of every run")
    parser.add_argument("--table", type=Path, help="write the comparison here as JSON too")
    arguments = parser.parse_args()

    known = [
        each for each in read_manifest(arguments.speech / "eval.jsonl") if each.text and each.language in (None, "en")
    ]
    utterances = known[:: max(1, len(known) // arguments.clips)][: arguments.clips]
    rows: dict[tuple[str, int], list[Row]] = {}
    for seed in arguments.seeds:  # all names once before any name twice
        for name in arguments.names:
            folder = arguments.output / f"{name}-{seed}"
            if not (folder / "model").exists():
                train(name, seed, arguments, folder)
            rows[name, seed] = measure(name, folder, utterances)
    table = compare(rows, arguments.names, arguments.seeds)
    print_table(table)
    if arguments.table:
        with replacing(arguments.table) as part:
            part.write_text(json.dumps({**provenance(arguments, len(utterances)), "table": table}, indent=1) + "\n")


# ----------------------------------------------------------------------------------------------- training and measuring


def train(name: str, seed: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Train one ablation in a process of its own."""
    path = CONFIGS / (f"{name}.yaml" if name == RECIPE else f"ablations/{name}.yaml")
    config = from_dict(TrainingConfig, load_yaml(path))
    starts = [to_dict(each) for each in config.init_from]
    for start in starts:
        if start["source"] == STAGE_ONE:
            start["source"] = str(Path(arguments.stage_one).resolve())
    # The features of one frozen encoder are the same in all runs.
    encoder = config.model.semantic_encoder.model_type
    settings = {
        "output": str(folder.resolve()),
        "init_from": starts,
        "data.manifest": [str((arguments.speech / "train.jsonl").resolve())],
        "data.validation": str((arguments.speech / "eval.jsonl").resolve()),
        "data.audio_cache": str((arguments.output / "audio.cache").resolve()),
        "data.feature_cache": str((arguments.output / f"{encoder}.cache").resolve()),
        "seed": seed,
        "steps": arguments.steps,
        "sample_every": None,
        "trackers": ["jsonl"],
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    command = [sys.executable, "-m", "flexicodec.training", str(path), *overrides, *arguments.options]
    print(f"== {name}, seed {seed}", flush=True)
    subprocess.run(command, check=True, cwd=CONFIGS.parents[1])


def measure(name: str, folder: Path, utterances: Sequence[Utterance]) -> list[Row]:
    """Encode and decode the clips at all settings of an ablation."""
    codec = flexicodec.load(folder / "model")
    metrics = MetricConfig(metrics=("stoi", "pesq_wb"), transcribers=("moonshine",), speaker_encoders=("ge2e",), mos=())
    sweep = SWEEPS.get(name, Sweep(frame_rates=RATES, codebooks=CODEBOOKS))
    config = EvaluationConfig(metrics, sweep)
    found = evaluate_corpus(utterances, [CodecSystem(codec, "model")], folder / "rows", config, progress=True).rows
    if failed := [row for row in found if "error" in row]:
        raise ValueError(f"{len(failed)} clips of {folder} failed; first: {failed[0]['id']}: {failed[0]['error']}")
    return [row for row in found if row["system"] != GROUND_TRUTH]


# ------------------------------------------------------------------------------------------------------------ comparing


def compare(rows: dict[tuple[str, int], list[Row]], names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """Summarise each setting of each name, and its difference from the recipe's, paired by clip and seed."""
    scores = {name: scores_of(name, rows, seeds) for name in names}
    table = []
    for name in names:
        for setting in scores[name]:
            entry = {"name": name, "frame_rate": setting[0], "codebooks": setting[1]}
            for metric in ("stoi", "pesq_wb", "wer", "ge2e"):
                entry[metric] = as_list(interval(scores[name][setting], metric))
            entry["kbps"] = round(float(np.mean(scores[name][setting]["kbps"])), 3)
            entry["seeds"] = [round(float(row.mean()), 4) for row in scores[name][setting]["stoi"]]
            beside = MATCHED.get((name, *setting), setting)
            if name != RECIPE and RECIPE in scores and beside in scores[RECIPE]:
                entry["beside"] = list(beside)
                for metric in ("stoi", "pesq_wb", "wer", "ge2e"):
                    difference = interval(scores[name][setting], metric, scores[RECIPE][beside])
                    entry[f"{metric}_difference"] = as_list(difference)
            table.append(entry)
    return table


def scores_of(
    name: str, rows: dict[tuple[str, int], list[Row]], seeds: Sequence[int]
) -> dict[Setting, dict[str, np.ndarray]]:
    """Return arrays [seeds, clips] by setting and metric."""
    found: dict[Setting, dict[str, list[list[float]]]] = {}
    for seed in seeds:
        for row in sorted(rows[name, seed], key=lambda row: row["id"]):
            words = row["transcripts"]["moonshine"]
            setting = (float(row["asked"]["frame_rate"]), int(row["asked"]["codebooks"]))
            values = {
                "stoi": row["stoi"],
                "pesq_wb": row["pesq_wb"],
                "ge2e": row["similarity.ge2e"],
                "errors": words["word_errors"],
                "words": words["words"],
                "kbps": row["bitrate_kbps"],
            }
            for key, value in values.items():
                of_setting = found.setdefault(setting, {}).setdefault(key, [])
                while len(of_setting) <= seeds.index(seed):
                    of_setting.append([])
                of_setting[seeds.index(seed)].append(value)
    return {setting: {key: np.array(value) for key, value in each.items()} for setting, each in found.items()}


def interval(scores: dict[str, np.ndarray], metric: str, beside: dict[str, np.ndarray] | None = None) -> Interval:
    """Estimate a mean, or a difference of means, over clips and then the seeds within each; WER over all words."""
    clips = np.tile(np.arange(scores["stoi"].shape[1]), len(scores["stoi"]))
    if metric != "wer":
        values = scores[metric] - (0 if beside is None else beside[metric])
        return bootstrap(np.mean, values.ravel(), clusters=clips, resamples=2000)
    errors = scores["errors"] - (0 if beside is None else beside["errors"])

    def rate(errors: np.ndarray, words: np.ndarray) -> float:
        return float(errors.sum() / words.sum())

    return bootstrap(rate, errors.ravel(), scores["words"].ravel(), clusters=clips, resamples=2000)


def as_list(found: Interval) -> list[float]:
    return [round(value, 4) for value in (found.value, found.low, found.high)]


def print_table(table: list[dict]) -> None:
    """Print the comparison as Markdown."""
    print("\n| ablation | Hz | books | kbps | STOI | PESQ-WB | WER, % | GE2E | less the recipe: STOI | WER, points |")
    print("|---" * 10 + "|")
    for row in table:
        differences = ["", ""]
        if "stoi_difference" in row:
            stoi, wer = row["stoi_difference"], [100 * value for value in row["wer_difference"]]
            differences = [
                f"{stoi[0]:+.3f} [{stoi[1]:+.3f}, {stoi[2]:+.3f}]",
                f"{wer[0]:+.1f} [{wer[1]:+.1f}, {wer[2]:+.1f}]",
            ]
        setting = f"{row['name']} | {row['frame_rate']:g} | {row['codebooks']} | {row['kbps']:.2f}"
        values = f"{row['stoi'][0]:.3f} | {row['pesq_wb'][0]:.2f} | {100 * row['wer'][0]:.1f} | {row['ge2e'][0]:.2f}"
        print(f"| {setting} | {values} | {' | '.join(differences)} |")


def provenance(arguments: argparse.Namespace, clips: int) -> dict:
    """Say how the numbers were made."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "clips": clips,
        "commit": done.stdout.strip() or "unknown",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


if __name__ == "__main__":
    main()
