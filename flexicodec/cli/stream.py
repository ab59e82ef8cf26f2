"""`flexicodec decode --stream`: tokens on stdin, audio out as it comes.

A line of input is a JSON object with one token, or with several; the keys are those of `Tokens`:

    {"semantic": 17, "acoustic": [3, 250, 9], "durations": 2}
    {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1], [9, 77]], "durations": [2, 1], "audio_lengths": 3000}

Codecs without semantic codes leave them out, those of a fixed rate the durations. `acoustic` has an entry for each
codebook, in the second form a row of codes each; it may be left out too. Lines without tokens are passed over. Every
line is decoded when it comes; when input ends, what is left comes out. A line with `audio_lengths`, the samples of its
own audio, is the last: the clip then ends there, and not with its last frame.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from flexicodec.cli import options

if TYPE_CHECKING:
    import torch

    from flexicodec import Codec, Tokens

CODES = ("semantic", "acoustic", "durations")
KEYS = (*CODES, "audio_lengths")
MAGIC = "FLXC"  # that .flxc files begin with
NO_LINES = "stdin holds no lines of JSON: a .flxc file? leave out --stream and name the file"
RAW_SUFFIXES = (".raw", ".pcm")
EPILOG = """\
streams:
  With --stream, each line of stdin is a JSON object with one token or with several:

  {"semantic": 17, "acoustic": [3, 250], "durations": 2}
  {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1]], "durations": [2, 1], "audio_lengths": 3000}

  What a codec has not is left out. The last line may say how many samples its own audio has, so that the clip does not
  end with a whole frame. Audio goes to -o as it comes: 16-bit samples, little-endian, mono, at the codec's
  rate, without a header to "-" (stdout) and to .raw or .pcm, with one to .wav. How long a sound waits is said on
  stderr.

  tokens | flexicodec decode --stream --lookahead 8 -o - | aplay -t raw -f S16_LE -c 1 -r 16000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stream and what goes with it."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("streams")
    group.add_argument("--stream", action="store_true", help="decode tokens from stdin as they come, see below")
    group.add_argument(
        "--lookahead",
        type=int,
        metavar="FRAMES",
        help="frames a sound waits for; fewer than all it depends on cost quality (default: all, where that is finite)",
    )
    group.add_argument(
        "--chunk-tokens", type=int, metavar="N", help="with fewer, give audio after every N tokens (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Decode stdin and return the exit code.

    Raises:
        ValueError: Files were given as well, or a line of stdin makes no tokens.
    """
    if args.inputs:
        raise ValueError("decode --stream reads tokens from stdin; leave out the files, or --stream to decode these")
    with _sink(args.output) as write:
        codec = options.load_codec(args, "decode")
        chosen = {"lookahead_frames": args.lookahead, "chunk_tokens": args.chunk_tokens}
        settings = {name: value for name, value in chosen.items() if value is not None}
        with codec.streaming_decoder(**settings) as stream:
            kind, latency = "exact" if stream.exact else "not exact", f"{stream.latency_seconds:.3g} s"
            print(f"{codec.sample_rate} Hz, {kind}, latency up to {latency}", file=sys.stderr, flush=True)
            ended = False
            for tokens in read_lines(sys.stdin, codec, args.codebooks):
                ended = tokens.audio_lengths is not None
                write(stream.decode(tokens, last=ended), codec.sample_rate)
            if not ended:
                write(stream.flush(), codec.sample_rate)
    return 0


def read_lines(lines: Iterable[str], codec: "Codec", codebooks: int | None) -> Iterator["Tokens"]:
    """Turn lines into tokens of a codec, one clip each; empty ones are passed over.

    Raises:
        ValueError: A line that makes none, with its number, or that comes after the last.
    """
    end = None
    for number, line in enumerate(_text(lines), start=1):
        if not line.strip():
            continue
        try:
            if end is not None:
                raise ValueError(f"line {end} ended the clip with its audio_lengths, which only the last line may have")
            tokens = _tokens(json.loads(line), codec)
            if tokens is None:
                continue
            if codebooks is not None and codebooks < tokens.num_codebooks:
                tokens = tokens.keep(acoustic=codebooks)
            codec.check_tokens(tokens, may_be_empty=True)
        except ValueError as error:
            raise ValueError(f"line {number} of stdin: {error}") from error
        end = None if tokens.audio_lengths is None else number
        yield tokens


def _text(lines: Iterable[str]) -> Iterator[str]:
    """Give lines as long as they are text.

    Raises:
        ValueError: They are not.
    """
    try:
        for number, line in enumerate(lines):
            if not number and line.startswith(MAGIC):
                raise ValueError(NO_LINES)
            yield line
    except UnicodeDecodeError as error:
        raise ValueError(NO_LINES) from error


def _tokens(fields: Any, codec: "Codec") -> "Tokens | None":
    import flexicodec

    if not isinstance(fields, dict) or not set(fields) & set(CODES) or not set(fields) <= set(KEYS):
        raise ValueError(f"expected a JSON object with {', '.join(KEYS)}, got {json.dumps(fields)[:60]}")
    values = {name: value for name, value in fields.items() if value is not None}
    audio_lengths = values.pop("audio_lengths", None)
    if values.get("acoustic") == []:  # no codebooks
        del values["acoustic"]
    if not values:
        return None
    if not any(isinstance(value, list) for name, value in values.items() if name != "acoustic"):
        rows = values.get("acoustic", [])
        if not (isinstance(rows, list) and any(isinstance(row, list) for row in rows)):  # a single token
            values = {name: [value] for name, value in values.items() if name != "acoustic"}
            if rows:
                values["acoustic"] = [[code] for code in rows] if isinstance(rows, list) else rows
    return flexicodec.Tokens(**values, audio_lengths=audio_lengths, format=codec.format)


@contextmanager
def _sink(output: str) -> "Iterator[Callable[[torch.Tensor, int], None]]":
    """See where audio goes; what is yielded writes [1, S] at a rate, and makes the file with the first sample."""
    suffix = output[output.rfind(".") :].lower() if "." in output else ""
    if output != "-" and suffix not in (".wav", *RAW_SUFFIXES):
        raise ValueError(f"cannot stream to {output}: expected - for stdout, .wav, {' or '.join(RAW_SUFFIXES)}")
    with ExitStack() as opened:
        file: Any = None

        def write(audio: "torch.Tensor", sample_rate: int) -> None:
            nonlocal file
            if not audio.shape[1]:
                return
            samples = _to_int16(audio)
            if suffix == ".wav":
                import soundfile

                file = file or opened.enter_context(soundfile.SoundFile(output, "w", sample_rate, 1, "PCM_16"))
                file.write(samples)
            else:
                file = file or (sys.stdout.buffer if output == "-" else opened.enter_context(open(output, "wb")))
                file.write(samples.astype("<i2").tobytes())
            file.flush()

        yield write


def _to_int16(audio: "torch.Tensor") -> Any:
    return (audio[0].cpu().double() * 32768).round().clamp(-32768, 32767).short().numpy()
