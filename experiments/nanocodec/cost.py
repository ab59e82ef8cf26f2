"""Cost of LFSC and NanoCodec: weights, operations, time, latency and memory of every config of the paper's table 1.

    python experiments/nanocodec/cost.py --output experiments/nanocodec/results/cost.json [--nemo DIR]

Weights are random: no result depends on their values. With `--nemo` (see peer.py) NeMo's own code runs in the same
rounds, on one thread and with the same weights, after a check for equal tokens.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import MODELS, causality, kbps, random_codec, read_config, timed, write
from torch.utils.flop_counter import FlopCounterMode

import flexicodec
from flexicodec.hub import parameter_counts
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.convert_nemo import from_nemo
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn import streaming
from flexicodec.nn.conv import apply_weight_norm

SECONDS = 10
# NeMo 3.0.0 as recorded on another machine of this kind: wall seconds per second of audio, median of 5 and best, with
# 2 threads on 2 cores of an AMD EPYC beside other jobs, weight norms not folded, batch 1, 10 s of speech.
NEMO_RECORDED = {
    "nano_1.89kbps_21.5fps": {"encode": (0.235, 0.213), "decode": (0.388, 0.339)},
    "nano_1.78kbps_12.5fps": {"encode": (0.406, 0.142), "decode": (0.680, 0.222)},
    "nano_0.6kbps_12.5fps": {"encode": (0.178, 0.134), "decode": (0.244, 0.232)},
    "lfsc_1.89kbps_21.5fps": {"encode": (0.383, 0.287), "decode": (0.321, 0.283)},
}
STREAMED_FRAMES = 48
Times = dict[str, dict[str, dict[str, list[list[float]]]]]
FIELD_FRAMES = 81  # length of the clip for measuring receptive fields, which have at most 28 frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=inf, help="stop timing after this; another call continues")
    parser.add_argument("--nemo", type=Path, help="folder with an installed NeMo, see peer.py")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    sizes = found.get("sizes") or {
        name: size(read_config(name)) | fields(read_config(name)) | memory(name) for name in MODELS
    }
    times = speed(arguments.nemo, arguments.rounds, arguments.minutes, found.get("times", {}))
    print_sizes(sizes)
    print_speeds(times)
    recorded = {"what": "NeMo 3.0.0, 2 threads, another machine: wall, (median, best)", "rtf": NEMO_RECORDED}
    write(arguments.output, {"sizes": sizes, "times": times, "nemo_recorded": recorded})


# --------------------------------------------------------------------------------------------- weights and operations


def size(config: NanoCodecConfig) -> dict[str, Any]:
    """Count weights, as the papers do (with weight norms) and folded, and multiply-accumulates per second of audio."""
    with torch.device("meta"):
        codec = NanoCodec(config)
        samples = torch.empty(1, 1, 64 * config.frame_size)
        latents = torch.empty(1, config.quantizer.dim, 64)
    seconds = 64 / config.frame_rate
    work = {}
    for part, given in (("encoder", samples), ("decoder", latents)):
        with FlopCounterMode(display=False) as counter:
            getattr(codec, part)(given)
        work[part] = round(counter.get_total_flops() / 2 / seconds / 1e9, 2)
    folded = parameter_counts(codec)
    apply_weight_norm(codec)
    counts = parameter_counts(codec)
    return {
        "causality": causality(config),
        "kbps": round(kbps(config), 3),
        "frame_rate": round(config.frame_rate, 3),
        "parameters": {part: counts[part] for part in work},
        "parameters_folded": {part: folded[part] for part in work},
        "gmac_per_second": work,
    }


# --------------------------------------------------------------------------------------------------- receptive fields


def fields(config: NanoCodecConfig) -> dict[str, Any]:
    """Measure the receptive fields of encoder and decoder by setting parts of the input to NaN.

    They do not depend on the number of channels, so a narrow model is used.
    """
    narrow = NanoCodec(
        replace(config, encoder=replace(config.encoder, width=1), decoder=replace(config.decoder, width=64))
    ).eval()
    hop, rate, middle = config.frame_size, config.sample_rate, FIELD_FRAMES // 2
    end = FIELD_FRAMES * hop

    @torch.no_grad()
    def clean(spoiled: slice) -> bool:
        audio = torch.zeros(1, 1, end)
        audio[..., spoiled] = torch.nan
        return not bool(narrow.encoder(audio)[..., middle].isnan().any())

    start, stop = middle * hop, (middle + 1) * hop
    back = start - last(lambda sample: clean(slice(sample)), 0, start)
    ahead = first(lambda sample: clean(slice(sample, None)), stop, end) - stop
    assert ahead == narrow.encoder.layers.inputs_needed(1) - hop, (
        "the encoder's stated look-ahead differs from its receptive field"
    )

    latents = torch.zeros(1, config.quantizer.dim, FIELD_FRAMES)
    latents[..., middle] = torch.nan
    with torch.no_grad():
        reached = narrow.decoder(latents)[0, 0].isnan().nonzero().flatten()
    before, after = start - int(reached.min()), int(reached.max()) + 1 - stop
    waits = narrow.streaming_decoder().lookahead_frames
    assert waits == -(-before // hop), "the decoder's stated look-ahead differs from its receptive field"
    return {
        "encoder_samples": {"back": back, "ahead": ahead},
        "decoder_samples": {"back": after, "ahead": before},
        "encoder_look_ahead_seconds": round(ahead / rate, 4),
        "decoder_look_ahead_seconds": round(before / rate, 4),
        "decoder_look_ahead_frames": waits,
        "encoder_latency_seconds": round((hop + ahead) / rate, 4),
        "decoder_latency_seconds": round(narrow.streaming_decoder().latency_seconds, 4),
    }


def last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number in [low, high) with a property, given that it holds from `low` up to that number."""
    while high - low > 1:
        half = (low + high) // 2
        low, high = (half, high) if holds(half) else (low, half)
    return low


def first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number in [low, high] with a property, given that it holds from that number on."""
    return low if holds(low) else last(lambda number: not holds(number), low, high) + 1


@torch.no_grad()
def memory(name: str) -> dict[str, Any]:
    """Stream some frames one by one, and return the largest state of encoder and decoder in megabytes."""
    codec = random_codec(name)
    state, most = codec.encoder.initial_state(), 0
    for _ in range(STREAMED_FRAMES):
        _, state = codec.encoder.step(torch.zeros(1, 1, codec.frame_size), state, last=False)
        most = max(most, streaming.num_bytes(state))
    stream, largest = codec.streaming_decoder(), 0
    for _ in range(STREAMED_FRAMES):
        stream.decode(tokens_of(codec, 1))
        largest = max(largest, stream.state.num_bytes)
    return {"encoder_state_mb": round(most / 1e6, 3), "decoder_state_mb": round(largest / 1e6, 3)}


def tokens_of(codec: NanoCodec, frames: int) -> flexicodec.Tokens:
    """Make tokens with random codes."""
    codes = torch.randint(codec.quantizer.codebook_size, (1, codec.num_codebooks, frames))
    return flexicodec.Tokens(acoustic=codes, format=codec.format)


# --------------------------------------------------------------------------------------------------------------- speed


def speed(nemo: Path | None, rounds: int, minutes: float, times: Times) -> Times:
    """Time encoding and decoding of ten seconds of speech, every model once a round, for comparable load.

    Args:
        nemo: Folder with an installed NeMo, to time its code too.
        rounds: Number of times per call.
        minutes: Stop timing after this.
        times: Earlier times, CPU and wall seconds per second of audio; new ones are added.
    """
    example = Path(flexicodec.__file__).parent / "assets" / "example.flac"
    speech = flexicodec.read_audio(example, sample_rate=22_050)[0]
    audio = torch.cat([speech, speech])[: SECONDS * 22_050][None]
    calls: dict[tuple[str, str, str], Callable[[], Any]] = {}
    for name in MODELS:
        codec = random_codec(name)
        if nemo is not None and name in NEMO_RECORDED:
            codec = beside_nemo(name, nemo, audio, calls)
        tokens = codec.encode(audio)
        codec.decode(tokens)  # warm up; encoding and NeMo's code are warm already
        calls[name, "ours", "encode"] = lambda codec=codec: codec.encode(audio)
        calls[name, "ours", "decode"] = lambda codec=codec, tokens=tokens: codec.decode(tokens)
    until = time.monotonic() + 60 * minutes
    for number, key in [(number, key) for number in range(rounds) for key in calls]:
        name, whose, way = key
        taken = times.setdefault(name, {}).setdefault(whose, {}).setdefault(way, [])
        if len(taken) > number or time.monotonic() > until:
            continue
        _, *took = timed(calls[key])
        taken.append([each / SECONDS for each in took])
    return times


@torch.no_grad()
def beside_nemo(name: str, folder: Path, audio: torch.Tensor, calls: dict[Any, Callable[[], Any]]) -> NanoCodec:
    """Add NeMo's model to the timed calls, and return ours with the same weights, after checking equal results."""
    import peer

    torch.manual_seed(0)
    model, settings = peer.build(folder, read_config(name))
    codec = from_nemo(settings, model.state_dict())
    length = torch.tensor([audio.shape[1]])
    tokens, frames = model.encode(audio=audio, audio_len=length)
    nemo_audio, _ = model.decode(tokens=tokens, tokens_len=frames)
    ours = codec.encode(audio)
    assert torch.equal(ours.acoustic, tokens.long()), f"{name}: NeMo gives other tokens"
    assert float((codec.decode(ours) - nemo_audio[:, : audio.shape[1]]).abs().max()) < 2e-5, (
        f"{name}: NeMo sounds different"
    )
    inference = torch.inference_mode()
    calls[name, "NeMo", "encode"] = inference(lambda: model.encode(audio=audio, audio_len=length))
    calls[name, "NeMo", "decode"] = inference(lambda: model.decode(tokens=tokens, tokens_len=frames))
    return codec


# -------------------------------------------------------------------------------------------------------------- tables


def print_sizes(sizes: dict[str, Any]) -> None:
    """Print weights, operations and latencies as Markdown."""
    print("Encoder + decoder, or encoder and decoder: look-ahead / latency\n")
    print("| config | enc/dec | kbps | Hz | weights, M | GMAC a second | encoder | decoder | state, MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in sizes.items():
        weights = " + ".join(f"{count / 1e6:.1f}" for count in row["parameters"].values())
        work = " + ".join(f"{count:.1f}" for count in row["gmac_per_second"].values())
        seen = [f"{1000 * row[f'{part}_look_ahead_seconds']:.0f}" for part in ("encoder", "decoder")]
        waits = [f"{1000 * row[f'{part}_latency_seconds']:.0f}" for part in ("encoder", "decoder")]
        memory = " + ".join(f"{row[f'{part}_state_mb']:.2f}" for part in ("encoder", "decoder"))
        print(
            f"| {name} | {row['causality']} | {row['kbps']:.2f} | {row['frame_rate']:.4g} | {weights} | {work} "
            f"| {seen[0]} / {waits[0]} ms | {seen[1]} / {waits[1]} ms | {memory} |"
        )


def print_speeds(times: Times) -> None:
    """Print times as Markdown."""
    print("\n| config | code | runs | encode | decode |\n|---|---|---|---|---|")
    for name, codes in times.items():
        for whose, ways in codes.items():
            cells = " | ".join(cell(taken) for taken in ways.values())
            print(f"| {name} | {whose} | {len(ways['decode'])} | {cells} |")
    print("\n| config | ours, CPU | NeMo, CPU | NeMo as recorded elsewhere, 2 threads, wall: median, best |")
    print("|---|---|---|---|")
    for name, recorded in NEMO_RECORDED.items():
        for way, (usual, best) in recorded.items():
            both = " | ".join(cell(times[name].get(whose, {}).get(way, [])) for whose in ("ours", "NeMo"))
            print(f"| {name}, {way} | {both} | {usual}, {best} |")


def cell(taken: list[list[float]]) -> str:
    """Format the median CPU time and the range."""
    values = [cpu for cpu, _ in taken]
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
