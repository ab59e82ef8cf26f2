"""Pictures of what tokens hold and how long they last."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flexicodec.analysis.content import ALL, MANY, SPEECH, ClassDurations, PerToken
from flexicodec.analysis.figures.style import COLOURS, GREY, MARKS, canvas, tidy, whiskers
from flexicodec.analysis.segments import CLASSES
from flexicodec.analysis.sharing import Merged

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_durations(found: Mapping[str, Sequence[ClassDurations]], frame_seconds: float) -> "Figure":
    """Draw the share of tokens of each duration, in speech and in silence, a panel per setting."""
    figure, panels = canvas(1.7 * len(found) + 0.7, rows=len(found), sharex=True, sharey=True)
    for axes, (name, rows) in zip(panels, found.items(), strict=True):
        for i, (kind, label) in enumerate(((SPEECH, "in speech"), ("silence", "in silence"))):
            row = next((r for r in rows if r.name == kind), None)
            if row is None or not row.tokens:
                continue
            shares = np.array(row.histogram) / row.tokens
            places = np.arange(1, len(shares) + 1) + (i - 0.5) * 0.4
            hatch = ("", "///")[i]
            said = f"{label}: {row.mean.value:.2f} frames on average, {row.tokens} tokens"
            axes.bar(places, shares, 0.4, color=COLOURS[i], edgecolor="white", hatch=hatch, label=said)
        axes.set_title(name, fontsize=10, loc="left")
        axes.legend(frameon=False, fontsize=9)
        axes.grid(axis="x", visible=False)
    longest = max(len(row.histogram) for rows in found.values() for row in rows)
    panels[-1].set_xticks(range(1, longest + 1))
    panels[-1].set_xlabel(f"frames in a token (a frame is {1000 * frame_seconds:g} ms)")
    figure.supylabel("share of tokens", fontsize=10)
    return figure


def draw_class_durations(found: Mapping[str, Sequence[ClassDurations]]) -> "Figure":
    """Draw the mean duration of tokens by the class of phone at their middle, a mark per setting."""
    names = [n for n in CLASSES if any(row.name == n for rows in found.values() for row in rows)]
    figure, (axes,) = canvas(0.42 * len(names) + 1.6)
    for i, (setting, rows) in enumerate(found.items()):
        means = {row.name: row.mean for row in rows}
        present = [name for name in names if name in means]
        places = [names.index(name) + 0.16 * (i - (len(found) - 1) / 2) for name in present]
        values = [means[name] for name in present]
        axes.errorbar(
            [v.value for v in values], places, xerr=whiskers(values), fmt=MARKS[i % 7], color=COLOURS[i % 7],
            markersize=5, capsize=2, linewidth=1, label=setting,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("frames per token")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_segments_per_token(found: Mapping[str, PerToken], unit: str) -> "Figure":
    """Draw the share of tokens that hold 0, 1, 2, ... phones, a group of bars per setting."""
    figure, (axes,) = canvas(3.8)
    width = 0.8 / len(found)
    for i, (name, each) in enumerate(found.items()):
        places = np.arange(MANY + 1) + width * (i - (len(found) - 1) / 2)
        axes.bar(
            places, [s.value for s in each.shares], width, yerr=whiskers(each.shares), color=COLOURS[i % 7],
            hatch=("", "///", "..", "xx")[i % 4], edgecolor="white", error_kw={"linewidth": 1, "ecolor": "black"},
            label=f"{name}: {each.mean.value:.2f} on average",
        )  # fmt: skip
    axes.set_xticks(range(MANY + 1), [*map(str, range(MANY)), f"{MANY} or more"])
    axes.set_xlabel(f"{unit} in a token")
    axes.set_ylabel("share of tokens")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_merge_shares(found: Sequence[Merged], title: str) -> "Figure":
    """Draw how often neighbouring frames share a token, by what sounds at both: inside a phone, and across two."""
    names = [n for n in CLASSES if any(n in (m.first, m.second) for m in found)]
    size = len(names)
    across = np.full((size, size), np.nan)
    inside = np.full((1, size), np.nan)
    for each in found:
        if each.first == ALL or each.first == SPEECH:
            continue
        column = names.index(each.first if each.kind == "inside" else each.second)
        if each.kind == "inside":
            inside[0, column] = each.share.value
        else:
            across[names.index(each.first), column] = each.share.value
    figure, panels = canvas(5.9, rows=2, height_ratios=[1, size])
    for axes, values in zip(panels, (inside, across), strict=True):
        tidy(axes).grid(visible=False)
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 0.55 else "white"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=9)
            else:
                axes.text(column, row, "·", ha="center", va="center", color=GREY)
    panels[0].set_yticks([0], ["same phone"])
    panels[0].set_xticks([])
    panels[1].set_xticks(range(size), names, rotation=40, ha="right")
    panels[1].set_yticks(range(size), names)
    panels[1].set_xlabel("class of the later frame")
    panels[1].set_ylabel("class of the earlier frame,\nwhich is in another phone")
    figure.colorbar(image, ax=panels, label="share of pairs of frames in one token", shrink=0.6)
    figure.suptitle(title, fontsize=10)
    return figure
