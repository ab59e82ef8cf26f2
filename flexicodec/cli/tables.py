"""Names and values in two columns, and the rows on a model that several verbs print."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from flexicodec import Codec

Row = tuple[str, object]


def print_rows(rows: Iterable[Row]) -> None:
    """Print names and values in two columns."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def describe_model(name: str, codec: "Codec") -> list[Row]:
    """List a codec's identity, rates and size."""
    return [
        ("model", name),
        ("fingerprint", codec.fingerprint),
        ("sample rate", f"{codec.sample_rate} Hz"),
        ("frame grid", f"{codec.base_frame_rate:g} Hz"),
        ("codebooks", codec.num_codebooks),
        ("parameters", f"{count_parameters(codec):,}"),
    ]


def count_parameters(module: "nn.Module") -> int:
    """Count the weights of a model or a part of it."""
    return sum(parameter.numel() for parameter in module.parameters())
