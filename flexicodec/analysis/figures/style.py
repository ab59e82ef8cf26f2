"""How the pictures look: sizes, colours, marks, and axes without clutter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexicodec.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.0  # inches; at 10 points, letters are legible when it fills a phone
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
GREY = "0.45"


@dataclass(frozen=True)
class Series:
    """Values with intervals under one name, at places along an axis.

    Attributes:
        name: In the legend.
        places: Numbers, or names of places, in order.
        values: With their intervals.
    """

    name: str
    places: tuple[float | str, ...]
    values: tuple[Interval, ...]

    def __post_init__(self) -> None:
        if len(self.places) != len(self.values):
            raise ValueError(f"series {self.name!r} has {len(self.places)} places for {len(self.values)} values")


def canvas(height: float = 3.8, rows: int = 1, columns: int = 1, **choices: Any) -> tuple["Figure", list["Axes"]]:
    """Make a figure and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **choices)
    return figure, [tidy(axes) for axes in grid.flat]


def tidy(axes: "Axes") -> "Axes":
    """Leave out the frame's upper and right side, and put a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def legend_below(axes: "Axes", columns: int = 2, drop: float = -0.17) -> None:
    """Put the legend under the axis label, where it covers nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, drop), ncols=columns, frameon=False, fontsize=9)


def whiskers(values: Sequence[Interval]) -> list[list[float]]:
    """Lay intervals out as matplotlib takes them: distances below and above each value; NaN ends draw nothing."""
    return [[max(0.0, v.value - v.low) for v in values], [max(0.0, v.high - v.value) for v in values]]
