"""Training speed of a codec by seconds of audio per step, and the time of each part of a step.

    python experiments/training-speed/run.py MANIFEST --output experiments/training-speed/results.json [key=value ...]

The trainer's own loop runs: some steps to warm up, then timed steps, then as many again with times by part (these
synchronise with the device at every boundary, so they are separate from the timed steps). Without the weights of the
config's `init_from`, the frozen encoder gets random weights and tau is calibrated to them: speed depends on the number
of tokens, not on their content.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from flexicodec.asr import Recognizer, RecognizerConfig
from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.encoders.base import SanmConfig
from flexicodec.io_utils import replacing
from flexicodec.training import trainer as trainer_module
from flexicodec.training.config import CalibratedRange, DataConfig, InitConfig, TrainingConfig
from flexicodec.training.discriminators.config import AdversarialConfig

CONFIG = Path(__file__).parents[2] / "configs" / "flexicodec" / "mini_cpu.yaml"
FORWARD, BACKWARD = "generator forward", "generator backward"
PARTS = ("loader", "frozen encoder", FORWARD, BACKWARD, "discriminators", "optimisers", "other")
CALIBRATION_CLIPS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="JSONL manifest of speech")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings such as compile=true; not after an option with a list",
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch-seconds", type=float, nargs="+", default=[4.8, 9.6, 19.2], help="audio a step")
    parser.add_argument("--adversary", choices=("without", "with", "both"), default="both")
    parser.add_argument("--threads", type=int, nargs="+", help="threads of torch (default: torch's own)")
    parser.add_argument("--steps", type=int, default=20, help="steps to time, and again for times by part")
    parser.add_argument("--warmup", type=int, default=3, help="steps before timing; compilation needs some more")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_intermixed_args()
    if min(arguments.steps, arguments.warmup) < 1:
        parser.error("--steps and --warmup are 1 at least")
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")

    overrides = [f"data.manifest=[{json.dumps(arguments.manifest)}]", "data.validation=null", *arguments.overrides]
    config = from_dict(TrainingConfig, apply_overrides(load_yaml(arguments.config), overrides))
    result: dict[str, Any] = {
        "config": os.path.relpath(arguments.config, Path(__file__).parents[2]),
        "overrides": arguments.overrides,
        "machine": machine(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = with_encoder(config, Path(folder))
        result["frozen_encoder"] = "random weights" if config.init_from[0].source.startswith(folder) else "trained"
        for threads in arguments.threads or [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            for seconds in arguments.batch_seconds:
                for game in adversaries(config, arguments.adversary):
                    sized = replace(config, data=with_batch(config, seconds), adversarial=game)
                    run = measure(sized, Path(folder), arguments.warmup, arguments.steps)
                    found = {"threads": threads, "batch_seconds": seconds, "adversary": game is not None} | run
                    result["runs"].append(found)
                    print(json.dumps(found), file=sys.stderr)
                    if arguments.output:  # after every run, for interrupted measurements
                        with replacing(arguments.output) as part:
                            part.write_text(json.dumps(result, indent=2) + "\n")
    print_tables(result["runs"])


# ------------------------------------------------------------------------------------------------------- what is run


def with_encoder(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """Give the config weights for its frozen encoder: its own, or random ones stored in `folder`."""
    missing = [source.source for source in config.init_from if not Path(source.source).exists()]
    if config.init_from and not missing:
        return config
    encoder = config.model.semantic_encoder
    if not isinstance(encoder, SanmConfig):
        raise ValueError(f"random weights are for SAN-M; name those of {encoder} in init_from")
    print(f"no {' or '.join(missing) or 'init_from'}: the frozen encoder gets random weights", file=sys.stderr)
    torch.manual_seed(0)
    source = InitConfig(str(Recognizer(RecognizerConfig(encoder)).save(folder / "recogniser")))
    rates = replace(config.rates, threshold_range=CalibratedRange(clips=CALIBRATION_CLIPS))
    return replace(config, init_from=(source,), rates=rates)


def adversaries(config: TrainingConfig, which: str) -> list[AdversarialConfig | None]:
    """List the adversarial configs: none, the config's from the first step on, or both."""
    there = [replace(config.adversarial, start_step=0)] if config.adversarial is not None else []
    if which == "with" and not there:
        raise ValueError("the config has no adversary")
    return {"without": [None], "with": there, "both": [None, *there]}[which]


def with_batch(config: TrainingConfig, seconds: float) -> DataConfig:
    """Size a forward pass so that a step uses this many seconds of audio.

    Raises:
        ValueError: The seconds are not a whole number of crops.
    """
    data, share = config.data, seconds / config.optim.accumulation
    if data.crop_seconds is None:
        return replace(data, batch_seconds=share)
    crops = round(share / data.crop_seconds)
    if crops < 1 or abs(crops * data.crop_seconds - share) > 1e-6:
        raise ValueError(f"{seconds} s a step are no whole number of crops of {data.crop_seconds} s in each pass")
    return replace(data, batch_size=crops)


class Watched(trainer_module.CodecTrainer):
    """The trainer, with a time stamp after every step instead of curves, validation and checkpoints."""

    def run(self) -> None:
        """Train, and record end time, CPU time and seconds of audio of each step."""
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.audio: list[float] = []
        super().run()

    def update(self, batches: Any) -> None:
        """Do one optimiser step."""
        super().update(batches)
        self.audio.append(sum(int(batch.lengths.sum()) for batch in batches) / self.codec.sample_rate)

    def _log_and_save(self, progress: Any) -> None:
        settle(self.device)
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


def measure(config: TrainingConfig, folder: Path, warmup: int, steps: int) -> dict[str, Any]:
    """Train with one config: time the steps, then their parts."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        config = replace(config, output=output, trackers=(), steps=warmup + steps)
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer = Watched(config)
        trainer.run()
        times, cpu = np.diff(trainer.ends)[-steps:], np.diff(trainer.cpu)[-steps:]
        audio = np.array(trainer.audio[-steps:])
        row = trainer.metrics.row(trainer.accelerator)
        found = {
            "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
            "batch_size": config.data.batch_size if config.data.crop_seconds else None,
            "steps": steps,
            "frame_rate": round(row["rate/frame_rate"], 2),
            "step_seconds": spread(times),
            "steps_per_second": spread(1 / times),
            "audio_seconds_per_second": spread(audio / times),
            "cpu_seconds_per_audio_second": spread(cpu / audio),
        }
        if trainer.device.type == "cuda":
            found["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        trainer.config = replace(config, steps=config.steps + 1 + steps)  # the first one starts the loader
        watch = Stopwatch(trainer.device)
        with instrumented(trainer, watch):
            trainer.run()
    seconds = {part: float(np.sum([lap[part] for lap in watch.laps[1:]])) for part in PARTS}
    total = sum(seconds.values())
    shares = {part: round(value / total, 4) for part, value in seconds.items()}
    return found | {"shares": shares, "step_seconds_while_told_apart": round(total / steps, 4)}


# ----------------------------------------------------------------------------------------------- time by part of a step


class Stopwatch:
    """Measures time by part. Parts nest, and time counts for the innermost one.

    Args:
        device: Device to synchronise with at every boundary.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.laps: list[dict[str, float]] = []
        self._parts = ["other"]
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def enter(self, part: str) -> None:
        """Start a part."""
        self._charge()
        self._parts.append(part)

    def leave(self) -> None:
        """End the innermost part and continue the enclosing one."""
        self._charge()
        self._parts.pop()

    def turn_into(self, part: str) -> None:
        """End a part and start another one in its place."""
        self._charge()
        self._parts[-1] = part

    def lap(self) -> None:
        """End a step."""
        self._charge()
        self.laps.append(self._seconds)
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context for a part."""
        self.enter(name)
        yield
        self.leave()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Count every call of a function for a part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _charge(self) -> None:
        settle(self.device)
        now = time.perf_counter()
        self._seconds[self._parts[-1]] += now - self._since
        self._since = now


@contextmanager
def instrumented(trainer: Watched, watch: Stopwatch) -> Iterator[None]:
    """Attach a stopwatch to a trainer's steps."""
    state, backward, log_and_save = trainer.state, trainer.accelerator.backward, trainer._log_and_save
    training_batches, generator_losses = trainer_module.training_batches, trainer_module.generator_losses

    def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
        made = training_batches(*args, **kwargs)
        while True:
            with watch.part("loader"):
                batch = next(made)
            yield batch

    def judged(made: Any, discriminators: Any, game: Any) -> Any:
        if discriminators is None:
            return generator_losses(made, discriminators, game)
        # The discriminators are last in the forward pass: backward is done with them once it reaches their input.
        decoded = made.audio.view_as(made.audio)
        decoded.register_hook(lambda _: watch.turn_into(BACKWARD))
        with watch.part("discriminators"):
            return generator_losses(replace(made, audio=decoded), discriminators, game)

    def through(loss: Any) -> None:
        with watch.part(BACKWARD if trainer.adversarial_config is None else "discriminators"):
            backward(loss)

    def end_step(*args: Any) -> None:
        log_and_save(*args)
        watch.lap()

    timed = [(trainer.codec, "encode_semantic", "frozen encoder"), (trainer, "_discriminator_step", "discriminators")]
    timed += [(optimized, "optimizer_step", "optimisers") for optimized in state.optimized]
    timed.append((state, "restart_dead_codes", "optimisers"))
    if state.average is not None:
        timed.append((state.average, "update_parameters", "optimisers"))
    replaced = [(owner, name, watch.around(part, getattr(owner, name))) for owner, name, part in timed]
    replaced += [(trainer_module, "training_batches", batches), (trainer_module, "generator_losses", judged)]
    replaced += [(trainer.accelerator, "backward", through), (trainer, "_log_and_save", end_step)]
    with ExitStack() as stack:
        for owner, name, replacement in replaced:
            stack.enter_context(patch.object(owner, name, replacement))
        generator = state.generator.module
        before = generator.register_forward_pre_hook(lambda *_: watch.enter(FORWARD))
        after = generator.register_forward_hook(lambda *_: watch.leave())
        stack.callback(before.remove)
        stack.callback(after.remove)
        yield


def settle(device: torch.device) -> None:
    """Synchronise with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -------------------------------------------------------------------------------------------------------------- results


def spread(values: np.ndarray) -> dict[str, float]:
    """Return median and quartiles, to four digits."""
    quartiles = np.percentile(values, [50, 25, 75])
    return {name: float(f"{value:.4g}") for name, value in zip(("median", "q25", "q75"), quartiles, strict=True)}


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Print the runs as Markdown."""
    columns = "steps/s | seconds of audio/s (quartiles) | CPU seconds a second of audio"
    print(f"\n| threads | audio a step | adversary | {columns} |")
    print("|---|---|---|---|---|---|")
    for run in runs:
        pace, cpu = run["audio_seconds_per_second"], run["cpu_seconds_per_audio_second"]
        print(
            f"| {label(run)} | {run['steps_per_second']['median']:.3g} "
            f"| {pace['median']:.3g} ({pace['q25']:.3g} to {pace['q75']:.3g}) | {cpu['median']:.3g} |"
        )
    print(f"\n| threads | audio a step | adversary | {' | '.join(PARTS)} |\n" + "|---" * (3 + len(PARTS)) + "|")
    for run in runs:
        print(f"| {label(run)} | " + " | ".join(f"{100 * run['shares'][part]:.1f} %" for part in PARTS) + " |")


def label(run: dict[str, Any]) -> str:
    """Return the first columns of a run in the tables."""
    return f"{run['threads']} | {run['batch_seconds']:g} s | {'with' if run['adversary'] else 'without'}"


def machine() -> str:
    """Return the processor and the number of usable cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model or platform.machine()}, {ours} of {os.cpu_count()} cores"


def git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
