"""`flexicodec verify`: the first-contact check for whoever holds released weights.

It loads strictly and says what was left out, counts parameters against the released model's, and reconstructs an
example beside the quality others have reported for those weights.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import flexicodec
from flexicodec.cli import options
from flexicodec.cli.tables import describe_load, describe_model, print_rows

if TYPE_CHECKING:
    from torch import Tensor

    from flexicodec import Codec
    from flexicodec.weights import LoadReport

HELP = "check a model's weights: strict load report, parameter counts, a reconstruction with its quality"

# Parameters of the released 12hz_v1 model, once its weight norms are folded: the codec's 214,943,223 in the file, less
# 35,681 norms, and of SenseVoice's 233,999,167 those of the first 50 blocks.
RELEASED_PARAMETERS = {
    "semantic_encoder": 157_984_608,
    "encoder": 14_573_856,
    "semantic_aggregator": 18_893_312,
    "acoustic_aggregator": 18_893_312,
    "semantic_encoder_stack": 13_018_880,
    "semantic_decoder_stack": 13_018_624,
    "semantic_quantizer": 8_453,
    "acoustic_quantizer": 995_520,
    "bottleneck": 100_761_600,
    "decoder": 34_743_985,
}
# Where SenseVoiceSmall's feature normalisation begins (its am.mvn).
RELEASED_BUFFERS = {"semantic_encoder.front_end.shift": -8.311879, "semantic_encoder.front_end.scale": 0.155775}

# Third-party measurements of the released weights, rate in Hz and PESQ by threshold: AmphionTeam/FlexiCodec on GitHub,
# thread 4 (2026-04-28), 1237 utterances of 4-10 s of LibriSpeech test-clean, 8 codebooks of which one is semantic.
REPORTED = {1.0: (12.5, 3.42), 0.91: (8.39, 3.13), 0.867: (6.36, 2.88)}
REPORTED_CODEBOOKS = 7

EXAMPLE = Path(flexicodec.__file__).parent / "assets" / "example.flac"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="name, folder, .nemo file or hub id of the model")
    parser.add_argument(
        "--audio",
        nargs="+",
        type=Path,
        metavar="FILE",
        default=[EXAMPLE],
        help="recordings to reconstruct (default: the example that ships with the package)",
    )
    options.add_placement(parser)


def run(args: argparse.Namespace) -> int:
    """Print every check and return 1 if a model in the original layout is not the released one."""
    codec = options.load_codec(args)
    report: LoadReport | None = getattr(codec, "load_report", None)  # only models in the original layout have one
    print_rows([*describe_model(args.model, codec), *describe_load(report)])
    if codec.format.parallel_codebooks:  # LFSC and NanoCodec: sizes follow from the config, and no scores were reported
        return verify_parallel(codec, report, args.audio)
    differing = print_parameters(codec) + print_buffers(codec)
    print_reconstruction(codec, args.audio)
    if report is None:
        if codec.fingerprint == codec.compute_fingerprint():
            return 0
        print("PROBLEM: the weights are not those that the fingerprint in config.json names")
        return 1
    for name in differing:
        print(f"PROBLEM: {name} is not that of the released model")
    if report.unexpected_extras:
        print("PROBLEM: the file holds weights that nobody knows")
    return 1 if differing or report.unexpected_extras else 0


def verify_parallel(codec: "Codec", report: "LoadReport | None", paths: Iterable[Path]) -> int:
    """Print the size of each part and the quality of each recording at the model's one rate."""
    from flexicodec.hub import parameter_counts

    print("\nparameters")
    print_rows((part, f"{count:>14,}") for part, count in parameter_counts(codec).items())
    print(f"\nreconstruction, {codec.num_codebooks} codebooks\n{'Hz':>8}{'PESQ':>7}{'STOI':>7}")
    for path in paths:
        print(path.name)
        audio = flexicodec.read_audio(path, sample_rate=codec.sample_rate, channels="mix")
        tokens = codec.encode(audio)
        pesq, stoi = quality(audio, codec.decode(tokens), codec.sample_rate)
        print(f"{float(tokens.frame_rates[0]):>8.2f}{_score(pesq)}{_score(stoi)}")
    if report is not None and report.unexpected_extras:
        print("PROBLEM: the file holds weights that nobody knows")
        return 1
    if report is None and codec.fingerprint != codec.compute_fingerprint():
        print("PROBLEM: the weights are not those that the fingerprint in config.json names")
        return 1
    return 0


def print_parameters(codec: "Codec") -> list[str]:
    """Print the size of each part beside the released one, and return the parts that are there and differ."""
    from flexicodec.hub import parameter_counts

    counts = parameter_counts(codec)
    print(f"\n{'parameters':<24}{'here':>14}{'released':>14}")
    for part, released in {**RELEASED_PARAMETERS, "total": sum(RELEASED_PARAMETERS.values())}.items():
        here = counts.get(part, 0)
        print(f"{part:<24}{here:>14,}{released:>14,}{'' if here == released else '  differs' if here else '  absent'}")
    return [part for part, released in RELEASED_PARAMETERS.items() if counts.get(part, 0) not in (0, released)]


def print_buffers(codec: "Codec") -> list[str]:
    """Print the buffers that come with the weights, and return those that do not begin as the released ones do."""
    buffers = {name: buffer for name, buffer in codec.named_buffers() if name in codec.state_dict()}
    differing = []
    print("\nbuffers")
    for name, buffer in buffers.items():
        first = float(buffer.flatten()[0])
        released = RELEASED_BUFFERS.get(name)
        differs = released is not None and abs(first - released) > 1e-4
        differing += [name] * differs
        print(f"{name} {list(buffer.shape)} from {first:g}{f', released {released:g}' if differs else ''}")
    return differing


def print_reconstruction(codec: "Codec", paths: Iterable[Path]) -> None:
    """Print the quality of each recording at the reported thresholds, and below it what others have reported."""
    codebooks = min(REPORTED_CODEBOOKS, codec.num_codebooks)
    fixed_rate = codec.format.max_duration == 1
    print(f"\nreconstruction, {codebooks} acoustic codebooks\n{'threshold':>9}{'Hz':>8}{'PESQ':>7}{'STOI':>7}")
    for path in paths:
        print(path.name)
        audio = flexicodec.read_audio(path, sample_rate=codec.sample_rate, channels="mix")
        for threshold in [None] if fixed_rate else REPORTED:
            tokens = codec.encode(audio, threshold=threshold, num_codebooks=codebooks)
            pesq, stoi = quality(audio, codec.decode(tokens), codec.sample_rate)
            print(f"{threshold or 'fixed':>9}{float(tokens.frame_rates[0]):>8.2f}{_score(pesq)}{_score(stoi)}")
    print("reported by a third party for the released weights, mean of 1237 utterances of LibriSpeech test-clean")
    for threshold, (rate, reported_pesq) in REPORTED.items():
        print(f"{threshold:>9}{rate:>8.2f}{_score(reported_pesq)}{_score(None)}")


def quality(reference: "Tensor", estimate: "Tensor", sample_rate: int) -> tuple[float | None, float | None]:
    """Measure wide-band PESQ (at 16 kHz only) and STOI; None where the library is not installed or does not apply."""
    clean, coded = reference[0].cpu().numpy(), estimate[0].cpu().numpy()
    pesq_score = stoi_score = None
    try:
        from pesq import PesqError, pesq

        if sample_rate == 16000:
            pesq_score = float(pesq(sample_rate, clean, coded, "wb", on_error=PesqError.RETURN_VALUES))
    except ImportError:
        pass
    try:
        from pystoi import stoi

        stoi_score = float(stoi(clean, coded, sample_rate))
    except ImportError:
        pass
    return pesq_score, stoi_score


def _score(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:>7.3f}"
