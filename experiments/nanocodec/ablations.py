"""Table 1 of the NanoCodec paper as toy runs: its frame rates, bit rates and causality, trained for a minute each.

    python experiments/nanocodec/ablations.py DIR --output experiments/nanocodec/results/ablations.json

DIR contains `train.jsonl` and `eval.jsonl`; rows already in the output are kept. Every row is a config of `toy/`:
strides, codebooks, levels, padding and causality are the published model's (this is checked), with few channels. All
rows use the same crops in the same order; the base config of the table is also trained with other seeds, to measure the
variance between runs.
"""

import argparse
import csv
import json
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import causality, kbps, read_config, write

import flexicodec
from flexicodec.audio import resample
from flexicodec.config import from_dict, load_yaml
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.hub import parameter_counts
from flexicodec.models.nanocodec.config import NanoCodecConfig, published
from flexicodec.training.config import TrainingConfig
from flexicodec.training.losses import LogMelLoss
from flexicodec.training.trainer import train

TOY = Path(__file__).parent / "toy"
HUB, SEEDS = "nano_1.1kbps_12.5fps", (1, 2)
SHAPE = ("strides", "causal", "padding_mode", "activation", "kernel_sizes")
# Row numbers in the paper's table 1; some rows are printed more than once there. The model of 0.8 kbps cannot be built:
# its levels are not published.
ROWS = {
    "lfsc_1.89kbps_21.5fps": "1",
    "ablations/noncausal_noncausal_21.5fps": "2",
    "nano_1.89kbps_21.5fps": "14",
    "ablations/causal_causal": "3",
    "ablations/noncausal_noncausal": "4",
    "nano_1.1kbps_12.5fps": "5",
    "nano_1.1kbps_25fps": "6",
    "nano_1.1kbps_6.25fps": "8",
    "nano_1.78kbps_12.5fps": "9",
    "nano_0.8kbps_12.5fps": "11",
    "nano_0.6kbps_12.5fps": "12",
}
METRICS = ("sqmos", "pesq", "mel_dist", "secs", "cer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder with train.jsonl and eval.jsonl")
    parser.add_argument("--steps", type=int, help="steps of every run (default: the configs')")
    parser.add_argument("--clips", type=int, default=24, help="held-out clips, spread over the manifest")
    parser.add_argument("--rows", type=int, help="maximum number of rows to train now; rows in the output are kept")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(1)
    clips = held_out(arguments.speech / "eval.jsonl", arguments.clips)
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    done, left = {(row["config"], row.get("seed", 0)) for row in rows}, arguments.rows
    for name, seed in [(config, seed) for config in ROWS for seed in ((0, *SEEDS) if config == HUB else (0,))]:
        if (name, seed) in done or left == 0:
            continue
        try:
            wanted = published(name) if "/" not in name else read_config(name)
        except ValueError as error:
            rows.append({"config": name, "not_built": str(error)})
            continue
        config = toy_config(name, wanted, arguments.speech / "train.jsonl")
        config = replace(config, seed=seed, steps=arguments.steps or config.steps)
        rows.append({"config": name, "seed": seed} | run(config, clips))
        print(rows[-1], flush=True)
        rows.sort(key=lambda row: (list(ROWS).index(row["config"]), row.get("seed", 0)))
        write(arguments.output, {"clips": len(clips), "rows": rows})  # after each row, for interrupted runs
        left = None if left is None else left - 1
    print_table(rows)


def toy_config(name: str, wanted: NanoCodecConfig, manifest: Path) -> TrainingConfig:
    """Read a toy row's config, and compare it with the published one."""
    config = from_dict(TrainingConfig, load_yaml(TOY / f"{Path(name).name}.yaml"))
    assert isinstance(config.model, NanoCodecConfig)
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(config.model, part), getattr(wanted, part)
        for field in SHAPE:
            assert getattr(ours, field) == getattr(theirs, field), f"{name}: {part}.{field} is not the published one"
    assert config.model.decoder.output_activation == wanted.decoder.output_activation, name
    assert config.model.decoder.grouped_upsampling == wanted.decoder.grouped_upsampling, name
    assert config.model.quantizer == wanted.quantizer, f"{name}: quantizer is not the published one"
    return replace(config, trackers=(), data=replace(config.data, manifest=(str(manifest),)))


def held_out(manifest: Path, count: int) -> list[torch.Tensor]:
    """Read some held-out clips at 22.05 kHz, spread over the manifest."""
    utterances = read_manifest(manifest)
    chosen = utterances[:: max(1, len(utterances) // count)][:count]
    return [torch.from_numpy(read_utterance(utterance, 22_050))[None] for utterance in chosen]


def run(config: TrainingConfig, clips: list[torch.Tensor]) -> dict[str, Any]:
    """Train one row and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        codec: Any = flexicodec.load(train(replace(config, output=folder)))
        seconds = time.process_time() - started
    assert isinstance(config.model, NanoCodecConfig)
    counts = parameter_counts(codec)
    return {
        "causality": causality(config.model),
        "kbps": round(kbps(config.model), 3),
        "frame_rate": round(config.model.frame_rate, 3),
        "codes": [config.model.quantizer.num_groups, int(np.prod(config.model.quantizer.levels))],
        "parameters": {part: counts[part] for part in ("encoder", "decoder")},
        "steps": config.steps,
        "cpu_seconds": round(seconds, 1),
    } | evaluate(codec, clips)


@torch.no_grad()
def evaluate(codec: Any, clips: list[torch.Tensor]) -> dict[str, Any]:
    """Measure held-out clips: mel distance, STOI at 16 kHz, and the number of codes in use."""
    from pystoi import stoi

    distance = LogMelLoss(codec.sample_rate)
    mels, stois, used = [], [], []
    for clip in clips:
        tokens = codec.encode(clip)
        decoded = codec.decode(tokens)
        mels.append(float(distance(decoded, clip, torch.tensor([clip.shape[1]]))))
        reference, estimate = (resample(each, codec.sample_rate, 16_000)[0].numpy() for each in (clip, decoded))
        stois.append(float(stoi(reference, estimate, 16_000)))
        used.append(tokens.acoustic[0])
    codes = torch.cat(used, dim=1)
    return {
        "mel_distance": round(float(np.mean(mels)), 4),
        "mel_distance_sem": round(float(np.std(mels) / len(mels) ** 0.5), 4),
        "stoi": round(float(np.mean(stois)), 4),
        "stoi_sem": round(float(np.std(stois) / len(stois) ** 0.5), 4),
        "codes_used_per_codebook": round(float(np.mean([len(row.unique()) for row in codes])), 1),
        "frames": codes.shape[1],
    }


def paper() -> dict[tuple[str, str], str]:
    """Read the paper's table 1 as Markdown cells, by row and test set."""
    with (Path(__file__).parent / "paper" / "table1.csv").open(newline="") as file:
        return {(row["row"], row["dataset"]): " | ".join(row[name] for name in METRICS) for row in csv.DictReader(file)}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print our table and the paper's as Markdown, one below the other: their cells are not comparable."""
    print("| config | enc/dec | Hz | codes | kbps | toy: mel distance | toy: STOI | codes in use |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "not_built" in row:
            print(f"| {row['config']} | N/C | 12.5 | 4 of 65536 | 0.80 | not built | | |")
            continue
        seed = f", seed {row['seed']}" if row["config"] == HUB else ""
        measured = " | ".join(f"{row[name]:.3f} ({row[f'{name}_sem']:.3f})" for name in ("mel_distance", "stoi"))
        print(
            f"| {row['config']}{seed} | {row['causality']} | {row['frame_rate']:.4g} | {row['codes'][0]} of "
            f"{row['codes'][1]} | {row['kbps']:.2f} | {measured} | {row['codes_used_per_codebook']:.0f} |"
        )
    theirs, columns = paper(), " | ".join(("SQMOS", "PESQ", "mel", "SECS", "CER, %") * 2)
    print(f"\n| the paper's table 1 | {columns} |\n|---" + "|---" * 10 + "|")
    for name, number in ROWS.items():
        print(f"| {name} | {theirs[number, 'MLS']} | {theirs[number, 'DAPS']} |")


if __name__ == "__main__":
    main()
