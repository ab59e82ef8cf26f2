"""Encode a recording at several frame rates from one pass of the encoders, decode the files, plot and measure.

Run by `make demo`; results are in demo/. With your own recording: `python examples/demo.py --audio talk.flac`.
"""

import argparse
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from pystoi import stoi

import flexicodec
from flexicodec.analysis.plots import plot_tokens

EXAMPLE = flexicodec.EXAMPLE
FRAME_RATES = (12.5, 8.33, 6.25, 4.0)


@dataclass(frozen=True)
class Row:
    """Results at one frame rate.

    Attributes:
        asked: Target in tokens per second.
        realised: Tokens per second of this clip.
        tokens: Number of tokens.
        file_bytes: Size of the token file, header included.
        bitrate_kbps: Codes and durations, without header.
        stoi: Intelligibility of the decoded audio, 1 is best.
        encode_seconds: From audio to the file. Includes the single pass of both encoders in every row.
        decode_seconds: From the file to audio.
    """

    asked: float
    realised: float
    tokens: int
    file_bytes: int
    bitrate_kbps: float
    stoi: float
    encode_seconds: float
    decode_seconds: float


def main(argv: list[str] | None = None) -> None:
    """Encode and decode one recording at several frame rates, and print a table."""
    args = parse(argv)
    try:
        codec = flexicodec.load(args.model)
        audio = flexicodec.read_audio(args.audio, sample_rate=codec.sample_rate, channels="mix")
        args.output.mkdir(parents=True, exist_ok=True)
        rows = run(codec, audio, args.frame_rates, args.output)
    except (ValueError, OSError) as error:
        raise SystemExit(f"demo: {error}") from error
    threads = torch.get_num_threads()
    print(f"{args.model} on {audio.shape[1] / codec.sample_rate:.2f} s of {args.audio}, {threads} CPU threads\n")
    print(table(rows))
    print("\nkbps: codes and durations, without the file's header")
    print("encode: both encoders (run once for all rates), then merging and quantising at this rate")
    print(f"in {args.output}/: original.wav; for each rate tokens (.flxc), decoded audio (.wav) and a figure (.png)")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="flexicodec-mini", help="name, folder or hub id (default: %(default)s)")
    parser.add_argument("--audio", type=Path, default=EXAMPLE, help="a recording (default: the packaged example)")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--frame-rates", type=float, nargs="+", default=FRAME_RATES, metavar="HZ", help="tokens per second"
    )
    return parser.parse_args(argv)


def run(codec: flexicodec.Codec, audio: torch.Tensor, frame_rates: Iterable[float], output: Path) -> list[Row]:
    """Encode audio [1, S] to a file and decode it at each rate; write everything to the folder."""
    flexicodec.write_audio(output / "original.wav", audio, codec.sample_rate)
    codec.decode(codec.encode(audio[:, : codec.sample_rate]))  # warm up: first calls are slower
    started = time.perf_counter()
    features = codec.features(audio)
    features_seconds = time.perf_counter() - started

    rows = []
    for rate in frame_rates:
        path = output / f"{rate:g}hz.flxc"
        started = time.perf_counter()
        codec.tokenize(features, frame_rate=rate).save(path)
        encoded = time.perf_counter()
        tokens = flexicodec.Tokens.load(path)  # the decoder gets the file only
        decoded_audio = codec.decode(tokens)
        decoded = time.perf_counter()
        flexicodec.write_audio(path.with_suffix(".wav"), decoded_audio, codec.sample_rate)
        plot_tokens(audio, tokens, features.similarities, path=path.with_suffix(".png"))
        rows.append(
            Row(
                asked=rate,
                realised=float(tokens.frame_rates[0]),
                tokens=int(tokens.token_lengths[0]),
                file_bytes=path.stat().st_size,
                bitrate_kbps=float(tokens.bitrates_kbps[0]),
                stoi=intelligibility(audio, decoded_audio, codec.sample_rate),
                encode_seconds=features_seconds + encoded - started,
                decode_seconds=decoded - encoded,
            )
        )
    return rows


def intelligibility(reference: torch.Tensor, estimate: torch.Tensor, sample_rate: int) -> float:
    """Measure STOI (Taal et al., 2011); NaN for recordings with too little speech."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi's signal for too little speech
        try:
            return float(stoi(reference[0].numpy(), estimate[0].numpy(), sample_rate))
        except RuntimeWarning:
            return float("nan")


def table(rows: Iterable[Row]) -> str:
    """Format the rows as an aligned text table."""
    lines = [("asked Hz", "realised Hz", "tokens", "file bytes", "kbps", "STOI", "encode s", "decode s")]
    for row in rows:
        numbers = (
            *(f"{row.asked:g}", f"{row.realised:.2f}", f"{row.tokens}", f"{row.file_bytes}"),
            *(f"{row.bitrate_kbps:.2f}", f"{row.stoi:.3f}", f"{row.encode_seconds:.2f}", f"{row.decode_seconds:.2f}"),
        )
        lines.append(numbers)
    return "\n".join(
        "  ".join(f"{cell:>{len(name)}}" for cell, name in zip(line, lines[0], strict=True)) for line in lines
    )


if __name__ == "__main__":
    main()
