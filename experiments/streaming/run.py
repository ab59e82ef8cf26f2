"""Time to first audio and real-time factor of streaming decoders, by number of tokens per chunk.

Tokens arrive in real time: a chunk is available at the end time of its last token. The decoder then needs the CPU time
measured here, on one thread, and its audio is played afterwards. Run it as

    python experiments/streaming/run.py --output experiments/streaming/results.json
    python experiments/streaming/run.py --live --output experiments/streaming/live.json    # in real time, see live.py

NanoCodec has random weights, which do not affect the times; the cost of a shorter look-ahead is measured on
flexicodec-mini, whose weights are trained. The released FlexiCodec has attention over the whole clip in its decoder, so
it streams in windows and is never exact; the error depends on the gains of its residual branches, which are set to
their initial value, to the mean learnt value of the mini, and to 1.
"""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from live import live, print_live
from sources import cut, example, frame_seconds, random_nanocodec, random_tokens

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec

SECONDS = 4.0
MINI_GAIN = 0.07  # mean magnitude of the layer scales in the mini's bottleneck
WINDOWS = {  # gain of the layers: windows of context, ahead and stride, in frames of 80 ms
    0.01: ((64, 24, 8), (256, 96, 8)),
    MINI_GAIN: ((64, 24, 8), (64, 96, 8), (256, 24, 8), (256, 96, 8)),
    1.0: ((64, 24, 8), (256, 96, 8)),
}


@torch.no_grad()
def released(audio: torch.Tensor) -> dict[str, Any]:
    """Stream the released size of FlexiCodec with random weights in windows, on speech and its reversal."""
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
    """Stream tokens in simulated real time; return times in seconds, and SNR in dB against decoding the whole."""
    tokens = flexicodec.Tokens(tokens.semantic, tokens.acoustic, tokens.durations, None, tokens.format)
    frame = frame_seconds(codec)
    stream = codec.streaming_decoder(**settings)
    for piece in list(cut(tokens, chunk))[:2]:
        stream.decode(piece)  # warm up
    stream.reset()
    now = came = work = 0.0  # time of the player, arrival of the chunk, CPU time so far
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
    decoded, whole = torch.cat(audio, dim=1), codec.decode(tokens)
    noise = (decoded - whole).square().sum()
    return {
        "chunk_tokens": chunk,
        "settings": settings,
        "exact": stream.exact,
        "latency_seconds": round(stream.latency_seconds, 3),
        "latency_at_this_rate": round(stream.latency_at(float(tokens.frame_rates[0])), 3),
        "first_audio_seconds": round(first or 0.0, 3),
        "real_time_factor": round(work / (decoded.shape[1] / codec.sample_rate), 3),
        "state_mb": round(state / 1e6, 3),
        "largest_difference": float((decoded - whole).abs().max()),
        "snr_db": round(float(10 * torch.log10(whole.square().sum() / noise)), 1) if noise else None,
    }


def offline(codec: Any, tokens: flexicodec.Tokens) -> float:
    """Measure the real-time factor of decoding all at once."""
    codec.decode(tokens)
    started = time.process_time()
    audio = codec.decode(tokens)
    return round((time.process_time() - started) / (audio.shape[1] / codec.sample_rate), 3)


def counted() -> dict[str, Any]:
    """Measure every decoder in simulated time, from CPU times."""
    results: dict[str, Any] = {}
    for name, causal, choices in (
        ("NanoCodec 12.5 Hz, causal", True, [{}]),
        ("NanoCodec 12.5 Hz, not causal", False, [{}, {"lookahead_frames": 5}]),
    ):
        codec = random_nanocodec(causal=causal)
        tokens = random_tokens(codec, SECONDS)
        rows = [
            measure(codec, tokens, chunk, **choice, **({"chunk_tokens": chunk} if choice else {}))
            for choice in choices
            for chunk in (1, 2, 5, 12)
        ]
        results[name] = {"offline_real_time_factor": offline(codec, tokens), "rows": rows}

    mini = flexicodec.load("flexicodec-mini")
    audio = example(mini.sample_rate)
    tokens = mini.encode(audio, frame_rate=6.25)
    rows = [measure(mini, tokens, chunk) for chunk in (1, 6)]
    rows += [
        measure(mini, tokens, chunk, lookahead_frames=ahead, chunk_tokens=chunk)
        for ahead in (2, 4, 8, 16)
        for chunk in (1, 3, 6)
    ]
    results["flexicodec-mini at 6.25 Hz"] = {"offline_real_time_factor": offline(mini, tokens), "rows": rows}
    results["FlexiCodec, released size, at 8.33 Hz"] = released(audio)
    return results


def print_counted(results: dict[str, Any]) -> None:
    """Print a table of each model as Markdown."""
    for name, result in results.items():
        print(f"\n{name}; all at once: {result['offline_real_time_factor']:.3f}\n")
        print("| settings | tokens a chunk | latency at this rate, s | first audio, s | RTF | state, MB | SNR, dB |")
        print("|---|---|---|---|---|---|---|")
        for row in result["rows"]:
            chosen = {"gain": row["layer_gain"]} if "layer_gain" in row else {}
            chosen |= {key.removesuffix("_frames"): value for key, value in row["settings"].items()}
            chosen.pop("chunk_tokens", None)
            settings = ", ".join(f"{key} {value}" for key, value in chosen.items()) or "all"
            snr = "exact" if row["exact"] else f"{row['snr_db']:.1f}"
            print(
                f"| {settings} | {row['chunk_tokens']} | {row['latency_at_this_rate']:.2f} "
                f"| {row['first_audio_seconds']:.2f} | {row['real_time_factor']:.3f} | {row['state_mb']:.2f} | {snr} |"
            )


def main() -> None:
    """Measure everything and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="by the clock in place of CPU times")
    parser.add_argument("--play", metavar="COMMAND", help="with --live: gets 16-bit samples at {rate} Hz on its stdin")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()  # at the start of the run
    results = live(args.play) if args.live else counted()
    print_live(results) if args.live else print_counted(results)
    if args.output:
        cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        machine = {"cpu": cpu[0].split(": ")[1] if cpu else platform.processor(), "threads": 1}
        about = {"commit": commit, "torch": torch.__version__, **machine}
        args.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
