"""What a report is made of: sections of prose, tables and figures, in which every number says what it is.

Nothing here knows what is reported on, nor how it is written down: `pages` turns a document into HTML and Markdown, and
`numbers` lists what stands in its tables for the JSON file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from flexicodec.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Number:
    """A measurement with what is needed to read it.

    Attributes:
        value: The number; NaN where there is none.
        unit: Of the value: "Hz", "bits/token", "phones/token", "1" for a share or a correlation.
        low: Lower end of its interval; None where no interval was made.
        high: Upper end.
        level: Of confidence.
        items: How many were measured.
        clusters: Independent units among them that the interval rests on.
        how: How value and interval came about, in a few words.
        digits: After the point, in tables.
    """

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    items: int | None = None
    clusters: int | None = None
    how: str = ""
    digits: int = 3

    @classmethod
    def of(cls, interval: Interval, unit: str, how: str = "", digits: int = 3) -> "Number":
        """Take a value with its interval."""
        return cls(
            interval.value,
            unit,
            interval.low,
            interval.high,
            interval.level,
            interval.items,
            interval.clusters,
            how,
            digits,
        )

    def __str__(self) -> str:
        """Write the value, and its interval in brackets."""
        if not math.isfinite(self.value):
            return "–"
        text = f"{self.value:.{self.digits}f}"
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return text
        return f"{text} [{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]"

    def as_dict(self) -> dict[str, Any]:
        """List the fields that are known, for JSON; a number that is not finite becomes null."""
        known: dict[str, Any] = {"value": _finite(self.value), "unit": self.unit}
        if self.low is not None and self.high is not None:
            known |= {"low": _finite(self.low), "high": _finite(self.high), "level": self.level}
        known |= {name: value for name in ("items", "clusters") if (value := getattr(self, name)) is not None}
        return known | ({"how": self.how} if self.how else {})


Cell: TypeAlias = str | int | Number


@dataclass(frozen=True)
class Table:
    """Rows under a heading; the first cell of a row names it.

    Attributes:
        name: Identifies it in the JSON file.
        caption: What it shows, and how to read it.
        columns: Heading of every column, units included.
        rows: As many cells each.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if odd := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"table {self.name!r} has {len(self.columns)} columns, but a row of {len(odd[0])} cells")


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture.

    Attributes:
        name: Of its file, without suffix.
        caption: What it shows.
        alt: The same for who cannot see it: what there is to see.
        drawing: A matplotlib figure.
        wide: Not to be shrunk to a narrow screen, where it scrolls.
    """

    name: str
    caption: str
    alt: str
    drawing: "Drawing"
    wide: bool = False


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class List:
    """Points of plain text."""

    points: tuple[str, ...]


Block: TypeAlias = Prose | List | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """What links to it."""
        words = "".join(c if c.isalnum() else " " for c in self.title.lower()).split()
        return "-".join(words)


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its heading.
        lead: What was looked at, in a sentence or two.
        sections: In order.
        about: Where the numbers come from: model, manifest, settings; JSON-able values.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> Iterator[Figure]:
        """Yield all pictures in order."""
        yield from (block for section in self.sections for block in section.blocks if isinstance(block, Figure))

    def numbers(self) -> Iterator[dict[str, Any]]:
        """Yield every number of every table: where it stands, what it is, its unit and its interval."""
        for section in self.sections:
            for table in (block for block in section.blocks if isinstance(block, Table)):
                for row in table.rows:
                    for column, cell in zip(table.columns, row, strict=True):
                        if isinstance(cell, Number):
                            where = {"table": table.name, "row": str(row[0]), "column": column}
                            yield where | cell.as_dict()


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None  # six digits are more than any of these has
