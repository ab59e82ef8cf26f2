"""Printing in two columns, and the rows about a model that several verbs print."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexicodec import Codec
    from flexicodec.weights import LoadReport

Row = tuple[str, object]


def print_rows(rows: Iterable[Row]) -> None:
    """Print names and values in two columns."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def describe_model(name: str, codec: "Codec") -> list[Row]:
    """List a codec's identity, rates and size."""
    from flexicodec.hub import parameter_counts

    rate = f"{codec.sample_rate} Hz"
    if codec.output_sample_rate != codec.sample_rate:
        rate += f", decoded to {codec.output_sample_rate} Hz"
    return [
        ("model", name),
        ("fingerprint", codec.fingerprint),
        ("sample rate", rate),
        ("frame grid", f"{codec.base_frame_rate:g} Hz"),
        ("codebooks", codec.num_codebooks),
        ("parameters", f"{parameter_counts(codec)['total']:,}"),
    ]


def describe_load(report: "LoadReport | None") -> list[Row]:
    """List weights and settings of the file that were not used; a missing or misshapen weight is an error earlier."""
    if report is None:
        return [("weights", "all there, none left over")]
    source = report.semantic_source
    return [
        ("weights", f"all there; the recogniser's from {source}" if source else "all there"),
        ("not needed", _summary(report.expected_extras)),
        ("unknown", _summary(report.unexpected_extras)),
        ("unused settings", ", ".join(report.ignored_settings) or "none"),
    ]


def _summary(names: Iterable[str]) -> str:
    """Count names, and list the modules they belong to."""
    names = list(names)
    modules = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    return f"{len(names)} ({', '.join(modules)})" if names else "none"
