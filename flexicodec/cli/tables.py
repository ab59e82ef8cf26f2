"""Names and values in two columns, and the rows on a model that several verbs print."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from flexicodec.pretrained import parameter_counts

    return [
        ("model", name),
        ("fingerprint", codec.fingerprint),
        ("sample rate", f"{codec.sample_rate} Hz"),
        ("frame grid", f"{codec.base_frame_rate:g} Hz"),
        ("codebooks", codec.num_codebooks),
        ("parameters", f"{parameter_counts(codec)['total']:,}"),
    ]
