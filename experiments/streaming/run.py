"""Time to first audio and real-time factor of streaming decoders, by how many tokens come at once.

Tokens come at the pace of speech: a chunk is there when its last token's time is over. From then on the decoder works,
on one thread, for as much CPU time as is measured here; what it gives is heard when it has done so. Run it as

    python experiments/streaming/run.py --output experiments/streaming/results.json

NanoCodec has random weights, on which neither time depends; what a shorter look-ahead costs is measured on the model
that ships, for which there are weights. The released FlexiCodec has attention over the whole clip in its decoder, which
streams by windows and is never exact; how far off depends on how much its layers add, and so their gains are set to
what they start with, to what the mini's have learnt, and to 1.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.config import published, with_causality
from flexicodec.models.nanocodec.model import NanoCodec

SECONDS = 4.0
NANO = "nano_1.78kbps_12.5fps"
MINI_GAIN = 0.07  # mean magnitude of the layer scales in the mini's bottleneck
WINDOWS = {  # gain of the layers: windows of context, ahead and stride, in frames of 80 ms
    0.01: ((64, 24, 8), (256, 96, 8)),
    MINI_GAIN: ((64, 24, 8), (64, 96, 8), (256, 24, 8), (256, 96, 8)),
    1.0: ((64, 24, 8), (256, 96, 8)),
}


def random_nanocodec(*, causal: bool) -> NanoCodec:
    """A NanoCodec of the published size at 12.5 Hz, with either decoder."""
    torch.manual_seed(0)
    return NanoCodec(with_causality(published(NANO), encoder=False, decoder=causal)).eval()


def random_tokens(codec: NanoCodec) -> flexicodec.Tokens:
    """Some seconds of tokens."""
    frames = round(SECONDS * codec.base_frame_rate)
    codes = torch.randint(codec.quantizer.codebook_size, (1, codec.num_codebooks, frames))
    return flexicodec.Tokens(acoustic=codes, format=codec.format)


def cut(tokens: flexicodec.Tokens, size: int) -> Iterator[flexicodec.Tokens]:
    """Tokens chunk by chunk."""
    for start in range(0, tokens.durations.shape[1], size):
        part = slice(start, start + size)
        semantic = None if tokens.semantic is None else tokens.semantic[:, part]
        yield flexicodec.Tokens(semantic, tokens.acoustic[:, :, part], tokens.durations[:, part], None, tokens.format)


@torch.no_grad()
def released(audio: torch.Tensor) -> dict[str, Any]:
    """Stream the released size of FlexiCodec, random weights, by windows; the speech is played there and back."""
    torch.manual_seed(0)
    codec = FlexiCodec().eval()
    tokens = codec.encode(torch.cat([audio, audio.flip(1), audio], dim=1), frame_rate=8.33, num_codebooks=7)
    rows = []
    for gain, windows in WINDOWS.items():
        for layer in codec.bottleneck.layers:
            layer.scale1.fill_(gain), layer.scale2.fill_(gain)
        for context, ahead, stride in windows:
            settings = {"context_frames": context, "ahead_frames": ahead, "stride_frames": stride}
            rows.append({"layer_gain": gain} | measure(codec, tokens, 6, **settings))
    return {"offline_real_time_factor": offline(codec, tokens), "rows": rows}


@torch.no_grad()
def measure(codec: Any, tokens: flexicodec.Tokens, chunk: int, **settings: Any) -> dict[str, Any]:
    """Stream tokens at the pace of speech; seconds, and dB against decoding them whole."""
    tokens = flexicodec.Tokens(tokens.semantic, tokens.acoustic, tokens.durations, None, tokens.format)
    frame = codec.frame_size / codec.sample_rate
    stream = codec.streaming_decoder(**settings)
    for piece in list(cut(tokens, chunk))[:2]:
        stream.decode(piece)  # warm up
    stream.reset()
    now = came = work = 0.0  # clock of the listener, when the chunk was there, CPU time so far
    first, audio, state = None, [], 0
    for piece in [*cut(tokens, chunk), None]:
        came += 0.0 if piece is None else int(piece.durations.sum()) * frame
        started = time.process_time()
        audio.append(stream.flush() if piece is None else stream.decode(piece))
        took = time.process_time() - started
        now, work = max(now, came) + took, work + took
        state = max(state, stream.state.num_bytes)
        if first is None and audio[-1].shape[1]:
            first = now
    heard, whole = torch.cat(audio, dim=1), codec.decode(tokens)
    noise = (heard - whole).square().sum()
    return {
        "chunk_tokens": chunk,
        "settings": settings,
        "exact": stream.exact,
        "latency_seconds": round(stream.latency_seconds, 3),
        "latency_at_this_rate": round(stream.latency_at(float(tokens.frame_rates[0])), 3),
        "first_audio_seconds": round(first or 0.0, 3),
        "real_time_factor": round(work / (heard.shape[1] / codec.sample_rate), 3),
        "state_mb": round(state / 1e6, 3),
        "largest_difference": float((heard - whole).abs().max()),
        "snr_db": round(float(10 * torch.log10(whole.square().sum() / noise)), 1),
    }


def offline(codec: Any, tokens: flexicodec.Tokens) -> float:
    """Real-time factor of decoding all at once."""
    codec.decode(tokens)
    started = time.process_time()
    audio = codec.decode(tokens)
    return round((time.process_time() - started) / (audio.shape[1] / codec.sample_rate), 3)


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}

    for name, causal, choices in (
        ("NanoCodec 12.5 Hz, causal", True, [{}]),
        ("NanoCodec 12.5 Hz, not causal", False, [{}, {"lookahead_frames": 5}]),
    ):
        codec = random_nanocodec(causal=causal)
        tokens = random_tokens(codec)
        rows = [
            measure(codec, tokens, chunk, **choice, **({"chunk_tokens": chunk} if choice else {}))
            for choice in choices
            for chunk in (1, 2, 5, 12)
        ]
        results[name] = {"offline_real_time_factor": offline(codec, tokens), "rows": rows}

    mini = flexicodec.load("flexicodec-mini")
    audio = flexicodec.read_audio(str(files("flexicodec") / "assets" / "example.flac"), sample_rate=mini.sample_rate)
    tokens = mini.encode(audio, frame_rate=6.25)
    rows = [measure(mini, tokens, chunk) for chunk in (1, 6)]
    rows += [
        measure(mini, tokens, chunk, lookahead_frames=ahead, chunk_tokens=chunk)
        for ahead in (2, 4, 8, 16)
        for chunk in (1, 3, 6)
    ]
    results["flexicodec-mini at 6.25 Hz"] = {"offline_real_time_factor": offline(mini, tokens), "rows": rows}

    results["FlexiCodec, released size, at 8.33 Hz"] = released(audio)

    for name, result in results.items():
        print(f"{name}: offline {result['offline_real_time_factor']}")
        for row in result["rows"]:
            print("  ", *(f"{key}={value}" for key, value in row.items()))
    if args.output:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        machine = {"cpu": cpu[0].split(": ")[1] if cpu else platform.processor(), "threads": 1}
        about = {"commit": commit, "torch": torch.__version__, **machine}
        args.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
