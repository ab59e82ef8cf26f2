"""The measurements of `gpu.py`, one function per part; each takes a `Bench` and writes its rows immediately."""

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import systems
import torch
from torch.utils.flop_counter import FlopCounterMode
from worker import EXAMPLE, batch, commit_and_machine

import flexicodec
from flexicodec import Tokens
from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.models import batch_encode as bulk_encoding
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn import dac, onednn
from flexicodec.nn.convnext import ConvNeXtBlock
from flexicodec.nn.dac import DecoderBlock, EncoderBlock
from flexicodec.nn.snake import Snake
from flexicodec.nn.transformer import TransformerConfig, TransformerLayer
from flexicodec.quantize import FSQConfig, RVQConfig

ROOT = Path(__file__).parents[2]
VERBS = ("encode", "decode")
# tf32: products and convolutions of float32 in TensorFloat-32. bfloat16: transformers (and, decoding, convolutions) in
# bfloat16, the rest as in tf32: the fastest usable setting.
PRECISIONS = ("float32", "tf32", "bfloat16")
DEFAULT = "PyTorch's default"  # TF32 in convolutions and not in products
WORST = 0.97  # share of the best throughput: larger batches are not tried after two results below it
PROFILED = {  # words in kernel names, by kind of kernel
    "matrix products": ("gemm", "matmul", "addmm", "cutlass", "nvjet", "linear", "::mm", "::bmm"),
    "convolutions": ("conv", "cudnn", "implicit", "winograd", "dgrad", "wgrad"),
    "attention": ("attention", "flash", "fmha", "softmax"),
    "copies and layouts": ("copy", "memcpy", "memset", "cat", "transpose", "fill", "nchw", "nhwc"),
    "value by value": ("elementwise", "vectorized", "triton", "sin", "mul", "add", "norm"),
}


@dataclass(frozen=True)
class Bench:
    """Device, time limit and output folder of a measurement."""

    device: str
    small: bool
    deadline: float
    folder: Path
    writer: Callable[[Path, dict[str, Any]], None]

    def write(self, part: str, **row: Any) -> None:
        self.writer(self.folder, {"part": part, **row})

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Read the results of an earlier part."""
        path = self.folder / "results.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["part"] == part and "skipped" not in row]

    @property
    def clip_seconds(self) -> float:
        return 1.0 if self.small else 10.0

    @property
    def batches(self) -> list[int]:
        return [1, 2, 4] if self.small else [2**i for i in range(10)]

    def system(self, model: str) -> systems.Ours:
        """Prepare a model for measurement; with `small`, a tiny one in place of both."""
        if not self.small:
            return systems.Ours(model, self.device, "float32")
        with (
            mock.patch.object(flexicodec, "load", return_value=tiny()),
            mock.patch("flexicodec.models.flexicodec.model.FlexiCodec", tiny),
        ):
            return systems.Ours(model, self.device, "float32")

    def clips(self, count: int) -> torch.Tensor:
        return batch([self.clip_seconds] * count, 16_000, self.device)[0]

    def synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], least: float = 0.4) -> float:
        """Return the median wall seconds of a call: one to warm up, then repeats up to a time limit."""
        call()
        self.synchronize()
        times: list[float] = []
        while sum(times) < least or (len(times) < 3 and sum(times) < 1.5):
            started = time.perf_counter()
            call()
            self.synchronize()
            times.append(time.perf_counter() - started)
            if self.left() < 0 or len(times) == 50:
                break
        return float(np.median(times))

    def free(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def peak_gib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device.startswith("cuda") else None


def tiny() -> FlexiCodec:
    """Build a tiny model with all parts."""
    transformer = TransformerConfig(num_layers=2, dim=32, num_heads=2, feedforward_dim=64)
    merging = MergingConfig(semantic_aggregator=replace(transformer, num_layers=1), acoustic_aggregator=transformer)
    encoder = SanmConfig(
        num_layers=2, dim=32, num_heads=2, feedforward_dim=64, kernel_size=5, front_end=FrontEndConfig(num_mels=20)
    )
    config = FlexiCodecConfig(
        semantic_encoder=encoder,
        acoustic=AcousticConfig(width=2, latent_dim=16, decoder_width=64),
        merging=merging,
        semantic=SemanticConfig(FSQConfig((8, 8, 5)), dim=24, hidden_dim=32, num_layers=1),
        acoustic_quantizer=RVQConfig(num_codebooks=8, codebook_size=64, codebook_dim=4),
        bottleneck=transformer,
    )
    return FlexiCodec(config, name="tiny").eval()


def set_precision(precision: str) -> str:
    """Set the precision of float32 products, and return the codec's precision."""
    assert precision in (*PRECISIONS, DEFAULT), precision
    torch.set_float32_matmul_precision("highest" if precision in ("float32", DEFAULT) else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    return "bfloat16" if precision == "bfloat16" else "float32"


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


# ------------------------------------------------------------------------------------------------------------- limits


def limits(bench: Bench) -> None:
    """Measure the machine's fastest matrix products and copies, as the reference for shares."""
    gpu = torch.cuda.get_device_properties(bench.device) if bench.device.startswith("cuda") else None
    commit, machine = commit_and_machine()
    about = {"commit": commit, "machine": machine, "torch": torch.__version__, "small": bench.small}
    if gpu is not None:
        about |= {"gpu": gpu.name, "gib": round(gpu.total_memory / 2**30), "multiprocessors": gpu.multi_processor_count}
    bench.write("about", **about)
    size = 256 if bench.small else 8192 if gpu is not None else 2048
    for precision in PRECISIONS:
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = bench.seconds(lambda a=a, b=b: a @ b)
        bench.write("limits", precision=precision, tflops=2 * size**3 / seconds / 1e12, size=size)
    x = torch.randn(2**29 if gpu is not None else 2**20, device=bench.device)
    y = torch.empty_like(x)
    seconds = bench.seconds(lambda: y.copy_(x))
    bench.write("copy", terabytes_per_second=2 * 4 * x.numel() / seconds / 1e12)


# -------------------------------------------------------------------------------------------------------------- speed


def speed(bench: Bench, model: str) -> None:
    """Measure throughput of encoding and decoding at every precision and batch size."""
    system = bench.system(model)
    flops = {}
    first = system.encode(bench.clips(1))
    for verb in VERBS:
        counter = FlopCounterMode(display=False)
        with counter, mock.patch.object(onednn, "_supported_dtypes", return_value=()):
            system.encode(bench.clips(1)) if verb == "encode" else system.decode(first)
        flops[verb] = counter.get_total_flops() / bench.clip_seconds
    peaks = {row["precision"]: row["tflops"] for row in bench.rows("limits")}
    share = bench.left() / (len(PRECISIONS) * len(VERBS))
    for turn, (precision, verb) in enumerate((p, v) for p in PRECISIONS for v in VERBS):
        until = bench.deadline - share * (len(PRECISIONS) * len(VERBS) - turn - 1)
        system.precision = set_precision(precision)
        sweep(bench, system, model, verb, precision, flops[verb], peaks.get(precision), until)


def sweep(
    bench: Bench,
    system: systems.Ours,
    model: str,
    verb: str,
    precision: str,
    flops: float,
    peak: float | None,
    until: float,
) -> None:
    """Double the batch until memory or time is exhausted, or throughput falls."""
    about = {"model": model, "verb": verb, "precision": precision}
    best, worse = 0.0, 0
    for count in bench.batches:
        if time.monotonic() > until:
            bench.write("speed", **about, batch=count, skipped="the time was over")
            return
        try:
            call = workload(bench, system, verb, count)
            if bench.device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
            seconds = bench.seconds(call)
        except Exception as error:
            reason = "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"[:300]
        else:
            reason = None
        if reason:
            bench.free()
            bench.write("speed", **about, batch=count, skipped=reason)
            return
        rate = count * bench.clip_seconds / seconds
        tflops = rate * flops / 1e12
        row = {"batch": count, "seconds": seconds, "hours_per_hour": rate, "tflops": tflops, "gib": bench.peak_gib()}
        bench.write("speed", **about, **row, share_of_peak=tflops / peak if peak else None)
        worse = worse + 1 if rate < WORST * best else 0
        best = max(best, rate)
        if worse == 2:
            return


def workload(bench: Bench, system: systems.Ours, verb: str, count: int) -> Callable[[], object]:
    """Prepare a call on this many clips."""
    if verb == "encode":
        audio = bench.clips(count)
        return lambda: system.encode(audio)
    some = system.encode(bench.clips(min(count, 16)))
    tokens = Tokens.cat([some] * -(-count // len(some)))[:count]
    return lambda: system.decode(tokens)


def best_of(bench: Bench, model: str, verb: str, precisions: tuple[str, ...] = PRECISIONS) -> dict[str, Any]:
    """Return the fastest batch size of an earlier part, or a medium one."""
    rows = [r for r in bench.rows("speed") if (r["model"], r["verb"]) == (model, verb) and r["precision"] in precisions]
    guess = {"precision": precisions[0], "batch": bench.batches[len(bench.batches) // 2]}
    return max(rows, key=lambda row: row["hours_per_hour"], default=guess)


# ------------------------------------------------------------------------------------------------------------ profile


def profile(bench: Bench, model: str) -> None:
    """Profile the best batch: time by kernel and by kind, and idle time of the GPU."""
    system = bench.system(model)
    cuda = bench.device.startswith("cuda")
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    for verb in VERBS:
        best = best_of(bench, model, verb)
        system.precision = set_precision(best["precision"])
        call = workload(bench, system, verb, best["batch"])
        plain = bench.seconds(call)
        with torch.profiler.profile(activities=activities) as profiler:
            call()
            bench.synchronize()
        field = "self_device_time_total" if cuda else "self_cpu_time_total"
        events = [event for event in profiler.key_averages() if getattr(event, field) > 0]
        if cuda:  # kernels only: the operators that launched them count the same time again
            events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        events.sort(key=lambda event: -getattr(event, field))
        total = sum(getattr(event, field) for event in events) / 1e6
        kinds: dict[str, float] = {}
        for event in events:
            name = event.key.lower()
            kind = next((kind for kind, words in PROFILED.items() if any(word in name for word in words)), "other")
            kinds[kind] = kinds.get(kind, 0.0) + getattr(event, field) / 1e6
        top = [
            {"kernel": event.key[:120], "seconds": round(getattr(event, field) / 1e6, 5), "calls": event.count}
            for event in events[:12]
        ]
        shares = {kind: round(seconds / total, 3) for kind, seconds in sorted(kinds.items(), key=lambda k: -k[1])}
        about = {"model": model, "verb": verb, "precision": best["precision"], "batch": best["batch"]}
        launches = sum(event.count for event in events)
        busy = {"seconds": plain, "kernel_seconds": total, "busy_share": min(1.0, total / plain), "kernels": launches}
        bench.write("profile", **about, **busy, kinds=shares, top=top)
        text = profiler.key_averages().table(sort_by=field, row_limit=40, max_name_column_width=80)
        (bench.folder / f"profile-{model}-{verb}.txt").write_text(text)


# -------------------------------------------------------------------------------------------------------------- flips


def flips(bench: Bench) -> None:
    """Count flips on the GPU against float32 on the CPU, by margin: flexicodec-mini on the speech in the repository."""
    margins = _script(ROOT / "experiments" / "margins" / "run.py")
    codec = tiny() if bench.small else flexicodec.load("flexicodec-mini")
    clips = cuts(codec.sample_rate, 2.0 if bench.small else 4.0)[: 3 if bench.small else None]
    first = margins.one_by_one(codec, clips, [{}] * len(clips), margins=True, windows=None)
    codec = codec.to(bench.device)
    for precision in (*PRECISIONS, DEFAULT):
        asked = set_precision(precision)
        encode = partial(margins.in_batches, codec, clips, precision=asked)
        found = margins.compare(codec, first, encode, {})
        seconds = sum(clip.shape[-1] for clip in clips) / codec.sample_rate
        bench.write("flips", precision=precision, clips=len(clips), seconds=seconds, **found)


def cuts(sample_rate: int, seconds: float) -> list[torch.Tensor]:
    """Cut the recordings of the repository into clips."""
    paths = [EXAMPLE, *sorted((ROOT / "tests" / "data" / "speech").glob("*.flac"))]
    clips = []
    for path in paths:
        audio = flexicodec.read_audio(path, sample_rate, channels="mix")[0]
        clips += [clip for clip in audio.split(int(seconds * sample_rate)) if len(clip) > sample_rate]
    return clips


def _script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------------------------------------------- bulk


def bulk(bench: Bench, model: str) -> None:
    """Measure from files to tokens, with and without reader threads, in the fastest precision for encoding."""
    system = bench.system(model)
    best = best_of(bench, model, "encode")
    system.precision = set_precision(best["precision"])
    with tempfile.TemporaryDirectory() as folder:
        paths, seconds = write_files(Path(folder), 8 if bench.small else 64, bench.clip_seconds)
        rounds = 1 if bench.small else 24 if model == "mini" else 12
        lengths = [2.0] if bench.small else [640.0, 2560.0]
        choices = {"frame_rate": systems.FRAME_RATE, "num_codebooks": systems.CODEBOOKS}
        if system.precision != "float32":
            choices["precision"] = system.precision
        list(bulk_encoding.encode_files(system.codec, paths, batch_seconds=lengths[0], **choices))  # warms up
        for workers in (1, 8):
            with ThreadPoolExecutor(workers) as pool:
                started = time.perf_counter()
                list(pool.map(partial(bulk_encoding.read, sample_rate=16_000), paths))
                rate = seconds / (time.perf_counter() - started)
            bench.write("reading", workers=workers, hours_per_hour=rate)
        for batch_seconds in lengths:
            for workers in (0, 2) if bench.small else (8, 0, 16):
                if bench.left() < 3:
                    bench.write("bulk", model=model, skipped="the time was over", workers=workers)
                    return
                started, failed = time.perf_counter(), 0
                for done in bulk_encoding.encode_files(
                    system.codec,
                    paths * rounds,
                    batch_seconds=batch_seconds,
                    workers=workers,
                    in_order=False,
                    **choices,
                ):
                    failed += done.tokens is None
                taken = time.perf_counter() - started
                about = {"model": model, "precision": best["precision"], "files": len(paths) * rounds}
                settings = {"batch_seconds": batch_seconds, "workers": workers, "failed": failed}
                bench.write("bulk", **about, **settings, seconds=taken, hours_per_hour=rounds * seconds / taken)


def write_files(folder: Path, count: int, seconds: float) -> tuple[list[Path], float]:
    """Write clips of half to one and a half times this duration as FLAC; also return their total duration."""
    random, paths, total = np.random.default_rng(0), [], 0
    wave = systems.speech(EXAMPLE, 2 * seconds + 20, 16_000)
    for index in range(count):
        samples = int(16_000 * seconds * random.uniform(0.5, 1.5))
        start = int(random.integers(0, len(wave) - samples))
        paths.append(folder / f"{index}.flac")
        flexicodec.write_audio(paths[-1], wave[start : start + samples], 16_000)
        total += samples
    return paths, total / 16_000


# ------------------------------------------------------------------------------------------------------------ compile


def compile(bench: Bench, model: str) -> None:
    """Measure the gain of `torch.compile` part by part within the time limit; successful parts stay compiled."""
    system = bench.system(model)
    torch._dynamo.config.recompile_limit = 64
    with one_chunk():
        for precision in ("bfloat16", "tf32"):
            system.precision = set_precision(precision)
            kept: list[torch.nn.Module] = []
            calls, before = {}, {}
            for verb in VERBS:
                count = min(best_of(bench, model, verb, (precision,))["batch"], 128)
                calls[verb] = workload(bench, system, verb, count), count
                before[verb] = bench.seconds(calls[verb][0])
            for name, (verb, modules) in heavy(system.codec).items():
                about = {"model": model, "precision": precision, "verb": verb, "compiled": name}
                if bench.left() < 15 and not bench.small:
                    bench.write("compile", **about, skipped="the time was over")
                    continue
                call, count = calls[verb]
                started = time.perf_counter()
                try:
                    for module in modules:
                        module.compile(dynamic=name == "snakes", backend="eager" if bench.small else "inductor")
                    call()
                    bench.synchronize()
                    first = time.perf_counter() - started
                    seconds = bench.seconds(call)
                except Exception as error:
                    for module in modules:
                        module._compiled_call_impl = None
                    bench.free()
                    bench.write("compile", **about, skipped=f"{type(error).__name__}: {error}"[:300])
                    continue
                kept += modules
                rate = count * bench.clip_seconds / seconds
                faster = {"hours_per_hour": rate, "times_faster": before[verb] / seconds}
                bench.write("compile", **about, batch=count, compile_seconds=round(first, 1), **faster)
            for module in kept:
                module._compiled_call_impl = None
            torch.compiler.reset()


def heavy(codec: FlexiCodec) -> dict[str, tuple[str, list[torch.nn.Module]]]:
    """List the parts worth compiling with the verb to time, those with a short compilation and frequent use first."""

    def of(root: torch.nn.Module, *kinds: type) -> list[torch.nn.Module]:
        return [module for module in root.modules() if isinstance(module, kinds)]

    return {
        "snakes of the decoder": ("decode", of(codec.decoder, Snake)),
        "snakes of the encoder": ("encode", of(codec.encoder, Snake)),
        "semantic encoder layers": ("encode", list(codec.semantic_encoder.encoder.layers)),
        "aggregator layers": (
            "encode",
            of(codec.semantic_aggregator, TransformerLayer) + of(codec.acoustic_aggregator, TransformerLayer),
        ),
        "bottleneck layers": ("decode", of(codec.bottleneck, TransformerLayer)),
        "ConvNeXt blocks": ("encode", of(codec, ConvNeXtBlock)),
        "decoder blocks": ("decode", of(codec.decoder, DecoderBlock)),
        "encoder blocks": ("encode", of(codec.encoder, EncoderBlock)),
    }


@contextmanager
def one_chunk() -> Iterator[None]:
    """Run the convolutions on whole batches without chunks: only this path can be compiled."""
    with mock.patch.object(dac, "CHUNK_SAMPLES", 2**40):
        yield
