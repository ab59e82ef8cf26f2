"""`flexicodec verify`: a check of released weights.

It loads them strictly and prints what was left out, compares parameter counts with the released model's, and
reconstructs an example beside the quality that others have reported for those weights.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flexicodec
from flexicodec.cli import options
from flexicodec.cli.printing import describe_load, describe_model, print_rows

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
COLUMNS = f"{'Hz':>8}{'PESQ':>7}{'STOI':>7}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    audio_help = "recordings to reconstruct (default: the example that ships with the package)"
    parser.add_argument("--audio", nargs="+", type=Path, metavar="FILE", help=audio_help)
    options.add_placement(parser)


def run(args: argparse.Namespace) -> int:
    """Print every check and return 1 if there is a problem with the weights."""
    from flexicodec.hub import parameter_counts

    codec = options.load_codec(args)
    recordings = args.audio or [flexicodec.EXAMPLE]
    report: LoadReport | None = getattr(codec, "load_report", None)  # models in the original layout have one
    print_rows([*describe_model(args.model, codec), *describe_load(report)])

    # FlexiCodec is compared with the released model; sizes of the others follow from their configs.
    differing = []
    if codec.format.parallel_codebooks:  # LFSC and NanoCodec, without reported scores
        print("\nparameters")
        print_rows((part, f"{count:>14,}") for part, count in parameter_counts(codec).items())
        print(f"\nreconstruction, {codec.num_codebooks} codebooks\n{COLUMNS}")
        print_quality(codec, recordings, {"": {}})
    else:
        differing = print_parameters(codec) + print_buffers(codec)
        print_reconstruction(codec, recordings)
    problems = find_problems(codec, report, differing)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


def find_problems(codec: "Codec", report: "LoadReport | None", differing: list[str]) -> list[str]:
    """List what is wrong with the weights; only those in the original layout should be the released ones."""
    problems = []
    if report is not None:
        problems += [f"{name} is not that of the released model" for name in differing]
        if report.unexpected_extras:
            problems.append("the file holds unknown weights")
    elif codec.fingerprint != codec.compute_fingerprint():
        problems.append("the weights are not those that the fingerprint in config.json names")
    return problems


def print_parameters(codec: "Codec") -> list[str]:
    """Print the size of each part beside the released one, and return the parts that differ."""
    from flexicodec.hub import parameter_counts

    counts = parameter_counts(codec)
    print(f"\n{'parameters':<24}{'here':>14}{'released':>14}")
    for part, released in {**RELEASED_PARAMETERS, "total": sum(RELEASED_PARAMETERS.values())}.items():
        here = counts.get(part, 0)
        remark = ""
        if here != released:
            remark = "  differs" if here else "  absent"
        print(f"{part:<24}{here:>14,}{released:>14,}{remark}")
    return [part for part, released in RELEASED_PARAMETERS.items() if counts.get(part, 0) not in (0, released)]


def print_buffers(codec: "Codec") -> list[str]:
    """Print the buffers that the weights include, and return those that do not begin like the released ones."""
    differing = []
    print("\nbuffers")
    stored = codec.state_dict()
    for name, buffer in codec.named_buffers():
        if name not in stored:
            continue
        first = float(buffer.flatten()[0])
        remark = ""
        if name in RELEASED_BUFFERS and abs(first - RELEASED_BUFFERS[name]) > 1e-4:
            remark = f", released {RELEASED_BUFFERS[name]:g}"
            differing.append(name)
        print(f"{name} {list(buffer.shape)} from {first:g}{remark}")
    return differing


def print_reconstruction(codec: "Codec", paths: Iterable[Path]) -> None:
    """Print the quality of each recording at the reported thresholds, and then what others have reported."""
    codebooks = min(REPORTED_CODEBOOKS, codec.num_codebooks)
    # Arguments of `encode` by the label of their row.
    settings: dict[str, dict[str, Any]] = {}
    if codec.format.max_duration == 1:
        settings[f"{'fixed':>9}"] = {"num_codebooks": codebooks}
    else:
        for threshold in REPORTED:
            settings[f"{threshold:>9}"] = {"threshold": threshold, "num_codebooks": codebooks}
    print(f"\nreconstruction, {codebooks} acoustic codebooks\n{'threshold':>9}{COLUMNS}")
    print_quality(codec, paths, settings)
    print("reported by a third party for the released weights, mean of 1237 utterances of LibriSpeech test-clean")
    for threshold, (rate, pesq) in REPORTED.items():
        print(f"{threshold:>9}{_columns(rate, pesq, None)}")


def print_quality(codec: "Codec", paths: Iterable[Path], settings: dict[str, dict[str, Any]]) -> None:
    """Print rate and quality of each recording for arguments of `encode`, by the label of their rows."""
    from flexicodec.audio import resample

    for path in paths:
        print(path.name)
        audio = flexicodec.read_audio(path, sample_rate=codec.sample_rate, channels="mix")
        for label, setting in settings.items():
            tokens = codec.encode(audio, **setting)
            decoded = resample(codec.decode(tokens), codec.output_sample_rate, codec.sample_rate)
            pesq, stoi = quality(audio, decoded[:, : audio.shape[1]], codec.sample_rate)
            print(label + _columns(float(tokens.frame_rates[0]), pesq, stoi))


def quality(reference: "Tensor", estimate: "Tensor", sample_rate: int) -> tuple[float | None, float | None]:
    """Measure wide-band PESQ (at 16 kHz only) and STOI; None where the library is not installed or does not apply."""
    clean = reference[0].cpu().numpy()
    coded = estimate[0].cpu().numpy()
    pesq_score = None
    stoi_score = None
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


def _columns(frame_rate: float, pesq: float | None, stoi: float | None) -> str:
    columns = f"{frame_rate:>8.2f}"
    for score in (pesq, stoi):
        columns += f"{'-':>7}" if score is None else f"{score:>7.3f}"  # - where it could not be measured
    return columns
