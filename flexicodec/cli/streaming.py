"""`encode --stream` and `decode --stream`: samples on stdin to tokens, tokens on stdin to audio, while input arrives.

The epilogs below describe the formats. A line of tokens has one token or several. Codecs without semantic codes omit
them, those of a fixed rate the durations; `acoustic` has an entry per codebook. With `audio_lengths`, in the last line
only, the clip ends after so many samples of that line, and not with its last frame.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import flexicodec
from flexicodec.cli import options

if TYPE_CHECKING:
    import numpy as np
    import torch

    from flexicodec import Codec, Tokens
    from flexicodec.models.streaming.decoder import StreamingDecoder
    from flexicodec.models.streaming.encoder import StreamingEncoder

BLOCK = 2**16  # bytes read at most at once
CODES = ("semantic", "acoustic", "durations")
KEYS = (*CODES, "audio_lengths")
MAGIC = "FLXC"  # first bytes of .flxc files
NO_LINES = "stdin holds no lines of JSON: a .flxc file? leave out --stream and name the file"
RAW_SUFFIXES = (".raw", ".pcm")

ENCODE_EPILOG = """\
streams:
  With --stream, stdin is 16-bit samples, little-endian, mono, at the codec's rate, without a header. Tokens are
  written to -o ("-" for stdout, or a .jsonl file) as they are decided, a JSON object a line, as decode --stream reads
  them:

  {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1]], "durations": [2, 1]}

  The last line also has the number of samples of its audio, as "audio_lengths". The latency is printed on stderr.
  --frame-rate is met by adapting the threshold: on average from the first frame on, and not by the cuts that files get.

  arecord -t raw -f S16_LE -c 1 -r 16000 | flexicodec encode --stream -o - | flexicodec decode --stream -o copy.wav
"""
DECODE_EPILOG = """\
streams:
  With --stream, each line of stdin is a JSON object with one token or with several:

  {"semantic": 17, "acoustic": [3, 250], "durations": 2}
  {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1]], "durations": [2, 1], "audio_lengths": 3000}

  Keys that a codec does not have are left out. The last line may have the number of samples of its own audio, so that
  the clip need not end with a whole frame. Audio is written to -o as it is decoded: 16-bit samples, little-endian,
  mono, at the decoder's rate, without a header to "-" (stdout) and to .raw or .pcm, with one to .wav. The latency is
  printed on stderr.

  tokens | flexicodec decode --stream --lookahead 8 -o - | aplay -t raw -f S16_LE -c 1 -r 16000
"""


def _print_latency(stream: "StreamingEncoder | StreamingDecoder", sample_rate: int) -> None:
    print(f"{sample_rate} Hz, {stream}", file=sys.stderr, flush=True)


def _add_lookahead(parser: argparse.ArgumentParser, chunk: str, unit: str) -> None:
    """Add --stream, --lookahead and the option `chunk` to a verb."""
    verb = parser.prog.split()[-1]
    group = parser.add_argument_group("streams")
    group.add_argument("--stream", action="store_true", help=f"{verb} stdin as it arrives, see below")
    lookahead_help = f"frames of look-ahead; fewer than {verb} depends on cost quality (default: all, where finite)"
    group.add_argument("--lookahead", type=int, metavar="FRAMES", help=lookahead_help)
    group.add_argument(chunk, type=int, metavar="N", help=f"with fewer, write after every N {unit}")


def _lookahead(args: argparse.Namespace, chunk: str) -> dict[str, int]:
    """Return the look-ahead and the chunks that were given; others keep the stream's defaults."""
    given = {"lookahead_frames": args.lookahead, chunk: getattr(args, chunk)}
    return {name: value for name, value in given.items() if value is not None}


# --------------------------------------------------------------------------------------------------------------- encode


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stream and its options to `encode`."""
    parser.epilog = ENCODE_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_lookahead(parser, "--chunk-frames", "frames")


def encode(args: argparse.Namespace) -> int:
    """Encode stdin and return the exit code."""
    if args.inputs:
        raise ValueError("encode --stream reads samples from stdin; leave out the files")
    if args.output != "-" and not args.output.endswith(".jsonl"):
        raise ValueError(f"cannot stream tokens to {args.output}: expected - for stdout, or a .jsonl file")
    codec = options.load_codec(args)
    rate = options.given_rate(args)
    fixed_rate = codec.format.max_duration == 1
    with ExitStack() as stack:
        asked: dict[str, Any] = {name: value for name, value in rate.items() if value is not None}
        stream = stack.enter_context(codec.streaming_encoder(**asked, **_lookahead(args, "chunk_frames")))
        out = sys.stdout if args.output == "-" else stack.enter_context(open(args.output, "w"))
        _print_latency(stream, codec.sample_rate)
        # Flushed after every block, for a reader at the other end of a pipe.
        for samples in read_samples(sys.stdin.buffer):
            out.write(_json_line(stream.encode(samples), fixed_rate))
            out.flush()
        out.write(_json_line(stream.flush(), fixed_rate, last=True))
        out.flush()
    return 0


def read_samples(source: BinaryIO) -> "Iterator[np.ndarray]":
    """Yield 16-bit little-endian samples as they arrive, never half of one."""
    import numpy as np

    rest = b""
    while block := source.read1(BLOCK):  # type: ignore[attr-defined]
        block = rest + block
        even = len(block) // 2 * 2
        rest = block[even:]  # half a sample
        if even:
            yield np.frombuffer(block[:even], "<i2").astype(np.int16)
    if rest:
        raise ValueError("stdin ends in the middle of a 16-bit sample; is it raw audio of another format?")


def _json_line(tokens: "Tokens | None", fixed_rate: bool, last: bool = False) -> str:
    """Write tokens as a line of JSON, without the keys that the codec does not have."""
    if tokens is None:
        return ""
    fields: dict[str, Any] = {}
    if tokens.semantic is not None:
        fields["semantic"] = tokens.semantic[0].tolist()
    if tokens.num_codebooks:
        fields["acoustic"] = tokens.acoustic[0].tolist()
    if not fixed_rate:
        fields["durations"] = tokens.durations[0].tolist()
    if last and tokens.audio_lengths is not None:
        fields["audio_lengths"] = int(tokens.audio_lengths)
    return json.dumps(fields) + "\n"


# --------------------------------------------------------------------------------------------------------------- decode


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stream and its options to `decode`."""
    parser.epilog = DECODE_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_lookahead(parser, "--chunk-tokens", "tokens")


def decode(args: argparse.Namespace) -> int:
    """Decode stdin and return the exit code."""
    if args.inputs:
        raise ValueError("decode --stream reads tokens from stdin; leave out the files, or --stream to decode these")
    with _audio_writer(args.output) as write:
        codec = options.load_codec(args, "decode")
        with codec.streaming_decoder(**_lookahead(args, "chunk_tokens")) as stream:
            _print_latency(stream, codec.output_sample_rate)
            # A line with audio_lengths ends the clip; otherwise the end of the input does.
            ended = False
            for tokens in read_lines(sys.stdin, codec, args.codebooks):
                ended = tokens.audio_lengths is not None
                write(stream.decode(tokens, last=ended), codec.output_sample_rate)
            if not ended:
                write(stream.flush(), codec.output_sample_rate)
    return 0


def read_lines(lines: Iterable[str], codec: "Codec", codebooks: int | None) -> Iterator["Tokens"]:
    """Yield the tokens of each line, one clip each; a bad line is a `ValueError` with its number."""
    end = None  # number of the line with audio_lengths
    for number, line in enumerate(_text(lines), start=1):
        if not line.strip():
            continue
        try:
            if end is not None:
                raise ValueError(f"line {end} ended the clip with its audio_lengths, which only the last line may have")
            tokens = _parse_tokens(json.loads(line), codec)
            if tokens is None:
                continue
            if codebooks is not None and codebooks < tokens.num_codebooks:
                tokens = tokens.keep(acoustic=codebooks)
            codec.check_tokens(tokens, may_be_empty=True)
        except ValueError as error:
            raise ValueError(f"line {number} of stdin: {error}") from error
        if tokens.audio_lengths is not None:
            end = number
        yield tokens


def _text(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, and name a likely slip if they are not text."""
    try:
        for number, line in enumerate(lines):
            if number == 0 and line.startswith(MAGIC):
                raise ValueError(NO_LINES)
            yield line
    except UnicodeDecodeError as error:
        raise ValueError(NO_LINES) from error


def _parse_tokens(fields: Any, codec: "Codec") -> "Tokens | None":
    if not isinstance(fields, dict) or not set(fields) & set(CODES) or not set(fields) <= set(KEYS):
        raise ValueError(f"expected a JSON object with {', '.join(KEYS)}, got {json.dumps(fields)[:60]}")
    # None stands for an absent key.
    values = {name: value for name, value in fields.items() if value is not None}
    audio_lengths = values.pop("audio_lengths", None)
    if values.get("acoustic") == []:  # no codebooks
        del values["acoustic"]
    if not values:
        return None
    if _is_single(values):  # 17 > [17], and per codebook [3, 250] > [[3], [250]]
        acoustic = values.pop("acoustic", None)
        values = {name: [value] for name, value in values.items()}
        if acoustic is not None:
            values["acoustic"] = [[code] for code in acoustic] if isinstance(acoustic, list) else acoustic
    return flexicodec.Tokens(**values, audio_lengths=audio_lengths, format=codec.format)


def _is_single(values: dict[str, Any]) -> bool:
    """Tell the form of a line with one token: no list but that of the codebooks, which holds numbers."""
    entries = [value for name, value in values.items() if name != "acoustic"]
    if isinstance(values.get("acoustic"), list):
        entries += values["acoustic"]
    return not any(isinstance(entry, list) for entry in entries)


@contextmanager
def _audio_writer(output: str) -> "Iterator[Callable[[torch.Tensor, int], None]]":
    """Yield a function that writes [1, S] at a sample rate; the file is made with the first sample."""
    suffix = output[output.rfind(".") :].lower() if "." in output else ""
    if output != "-" and suffix not in (".wav", *RAW_SUFFIXES):
        raise ValueError(f"cannot stream to {output}: expected - for stdout, .wav, {' or '.join(RAW_SUFFIXES)}")
    with ExitStack() as opened:
        file: Any = None

        def write(audio: "torch.Tensor", sample_rate: int) -> None:
            nonlocal file
            if not audio.shape[1]:
                return
            samples = (audio[0].cpu().double() * 32768).round().clamp(-32768, 32767).short().numpy()
            if suffix == ".wav":
                import soundfile

                # Opened with the first sample: without any, no file is left behind.
                file = file or opened.enter_context(soundfile.SoundFile(output, "w", sample_rate, 1, "PCM_16"))
                file.write(samples)
            else:
                file = file or (sys.stdout.buffer if output == "-" else opened.enter_context(open(output, "wb")))
                file.write(samples.astype("<i2").tobytes())
            file.flush()

        yield write
