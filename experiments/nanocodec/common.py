"""Shared by the scripts of this folder: list of models, machine description, summary of times."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from flexicodec.config import from_dict, load_yaml
from flexicodec.io_utils import replacing
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec

Result = TypeVar("Result")

CONFIGS = Path(__file__).parents[2] / "configs" / "nanocodec"
MODELS = (  # table 1 of the NanoCodec paper, in its order, and one more
    "lfsc_1.89kbps_21.5fps",
    "ablations/noncausal_noncausal_21.5fps",
    "ablations/causal_causal",
    "ablations/causal_noncausal",
    "ablations/noncausal_noncausal",
    "nano_1.1kbps_12.5fps",
    "nano_1.1kbps_25fps",
    "nano_1.1kbps_6.25fps",
    "nano_1.78kbps_12.5fps",
    "nano_0.6kbps_12.5fps",
    "nano_1.89kbps_21.5fps",
)

DESCRIBE = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
COMMIT = subprocess.run(DESCRIBE, capture_output=True, text=True, check=False).stdout.strip()  # at the start of the run


def read_config(name: str) -> NanoCodecConfig:
    """Read a config of `configs/nanocodec`."""
    return from_dict(NanoCodecConfig, load_yaml(CONFIGS / f"{name}.yaml")["model"])


def random_codec(name: str) -> NanoCodec:
    """Build a codec from this config with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NanoCodec(read_config(name)).eval()


def causality(config: NanoCodecConfig) -> str:
    """Return the causality of encoder and decoder in the paper's notation."""
    return f"{'C' if config.encoder.causal else 'N'}/{'C' if config.decoder.causal else 'N'}"


def kbps(config: NanoCodecConfig) -> float:
    """Return the bitrate in kbps, with log2 of the codebook size per code."""
    codes = float(np.prod(config.quantizer.levels))
    return config.frame_rate * config.quantizer.num_groups * float(np.log2(codes)) / 1000


def timed(function: Callable[..., Result], *arguments: Any) -> tuple[Result, float, float]:
    """Return the result of a call, its CPU seconds over all threads, and its wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles and minimum, to four digits."""
    found = [*np.percentile(values, [50, 25, 75]), min(values)]
    return {name: float(f"{value:.4g}") for name, value in zip(("median", "q25", "q75", "best"), found, strict=True)}


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Write results with machine and commit."""
    if path is None:
        return
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    about = {"commit": COMMIT, "machine": f"{cpu}, {torch.get_num_threads()} thread(s)", "torch": torch.__version__}
    with replacing(path) as part:
        part.write_text(json.dumps(about | results, indent=1) + "\n")
