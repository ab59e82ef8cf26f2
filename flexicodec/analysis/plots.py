"""Pictures of tokens: where they start and end in a clip, how long they last, and what the codec went by.

matplotlib (the extra `demo`) is imported on first use, and without pyplot: no window, no backend, no global state.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from flexicodec.analysis.segments import Segment, is_silence
from flexicodec.analysis.thresholds import boundaries, effective_threshold
from flexicodec.audio import resample
from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 10.0, 130  # inches, hence 1300 pixels
SECONDS_SHOWN = 12.0  # of a longer clip; more would not be legible
DYNAMIC_RANGE_DB = 60.0  # shown below the loudest point
# From Okabe and Ito's palette, which colour-blind readers can tell apart; shapes and dashes say the same in grey.
BOUNDARY, THRESHOLD = "#D55E00", "#0072B2"


def plot_tokens(
    audio: Float[Tensor, "*one samples"],
    tokens: Tokens,
    similarities: Float[Tensor, "*one pairs"] | None = None,
    *,
    tiers: Mapping[str, Sequence[Segment]] | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
    span: tuple[float, float] | None = None,
) -> "Figure":
    """Draw one clip: log-mel spectrogram with the tokens' boundaries, their durations, and the similarity curve.

    Phones, words or other segments that are given stand in rows below the tokens.

    Args:
        audio: [S] or [1, S], the clip at the codec's rate.
        tokens: Its tokens; of a batch take one, `tokens[i]`.
        similarities: [T - 1] or [1, T - 1], cosine of each frame with the next, as in `codec.features(audio)`; None
            leaves the curve out.
        tiers: Segments by the name of their row, seconds from the clip's start.
        path: Where to save it (.png, .pdf, .svg, ...); None does not.
        title: Text above; by default what the tokens amount to.
        span: Seconds from and to; None shows the clip, or the first 12 s of a longer one.

    Returns:
        A matplotlib figure, which a notebook shows after `%matplotlib inline`.

    Raises:
        ValueError: More than one clip, or audio or similarities that do not belong to the tokens.
    """
    from matplotlib.figure import Figure

    wave, curve = _check(audio, tokens, similarities)
    seconds = float(tokens.seconds[0])
    start, end = span or (0.0, min(seconds, SECONDS_SHOWN))
    if not 0 <= start < end:
        raise ValueError(f"span is {start:g} to {end:g}; expected seconds from 0 up, the end after the start")
    rows = dict(tiers or {})
    heights = [2.4, 0.33] + [0.33] * len(rows) + [1.9] * (curve is not None)
    figure = Figure(figsize=(WIDTH, 1.2 + sum(heights)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    figure.suptitle(title or describe(tokens))
    axes[-1].set_xlim(start, end)
    axes[-1].set_xlabel(f"time (s); a frame is {1000 / tokens.format.base_frame_rate:g} ms")
    _draw_spectrogram(axes[0], wave, tokens)
    _draw_durations(axes[1], tokens)
    for row, (name, segments) in zip(axes[2:], rows.items(), strict=False):
        _draw_segments(row, name, segments)
    if curve is not None:
        _draw_similarities(axes[-1], tokens, curve)
    if path is not None:
        figure.savefig(path)
    return figure


def describe(tokens: Tokens) -> str:
    """Say in a line what the tokens of one clip amount to."""
    asked = tokens.info.get("frame_rate")
    return (
        f"{'' if asked is None else f'{asked:g} Hz asked: '}{int(tokens.token_lengths[0])} tokens in "
        f"{float(tokens.seconds[0]):.2f} s ({float(tokens.frame_rates[0]):.2f} Hz), "
        f"{float(tokens.bitrates_kbps[0]):.2f} kbps"
    )


def _check(
    audio: Float[Tensor, "*one samples"], tokens: Tokens, similarities: Float[Tensor, "*one pairs"] | None
) -> tuple[Float[Tensor, "1 samples"], Float[Tensor, " pairs"] | None]:
    """Hold audio and similarities against the tokens; returns them without and with their batch axis."""
    if len(tokens) != 1 or audio.numel() != audio.shape[-1]:
        raise ValueError(
            f"audio {list(audio.shape)} and tokens of {len(tokens)} clips; a picture shows one: audio[i], tokens[i]"
        )
    samples = audio.shape[-1]
    if tokens.audio_lengths is not None and samples != int(tokens.audio_lengths[0]):
        raise ValueError(
            f"audio has {samples} samples, but the tokens stand for {int(tokens.audio_lengths[0])} at "
            f"{tokens.format.sample_rate} Hz; is it at another rate, or padded?"
        )
    wave = audio.detach().cpu().float().reshape(1, -1)
    if similarities is None:
        return wave, None
    pairs = int(tokens.frame_lengths[0]) - 1
    if similarities.numel() != pairs:
        raise ValueError(
            f"similarities have shape {list(similarities.shape)}, but {pairs + 1} frames have {pairs} neighbours; of a "
            "batch pass those of one clip, without padding"
        )
    return wave, similarities.detach().cpu().float().reshape(-1)


def _draw_spectrogram(axes: "Axes", audio: Float[Tensor, "1 samples"], tokens: Tokens) -> None:
    """Draw what the recogniser hears (80 Kaldi mels every 10 ms, without dither), and a line where a token starts."""
    front_end = KaldiFbank(FrontEndConfig(dither=0.0))
    audio = resample(audio, tokens.format.sample_rate, front_end.sample_rate)
    audio = pad(audio, (0, max(0, front_end.frame_length - audio.shape[1])))
    decibels = front_end.fbank(audio)[0].T.numpy() * (10 / math.log(10))

    hop = front_end.frame_shift / front_end.sample_rate
    first = (front_end.frame_length - front_end.frame_shift) / 2 / front_end.sample_rate
    low, high = _mel(20.0), _mel(front_end.sample_rate / 2)
    half_band = (high - low) / (len(decibels) + 1) / 2
    axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="gray_r",
        vmin=decibels.max() - DYNAMIC_RANGE_DB,
        vmax=decibels.max(),
        extent=(first, first + hop * decibels.shape[1], low + half_band, high - half_band),
    )
    kilohertz = (0.25, 0.5, 1, 2, 4)
    axes.set_yticks([_mel(1000 * each) for each in kilohertz], [f"{each:g}" for each in kilohertz])
    axes.set_ylabel("log-mel spectrogram\nfrequency (kHz)")
    axes.vlines(tokens.times(0)[1:, 0].numpy(), *axes.get_ylim(), colors=BOUNDARY, linewidth=0.8)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def _draw_durations(axes: "Axes", tokens: Tokens) -> None:
    """Draw a block for every token, darker and numbered by the frames it lasts."""
    durations, times = tokens.durations[0].cpu().numpy(), tokens.times(0).numpy()
    longest = max(8, int(durations.max()))
    first, last = axes.get_xlim()
    narrow = 0.6 / tokens.format.base_frame_rate  # a last frame that the audio hardly fills has no room for its number
    edges = np.append(times[:, 0], times[-1, 1])
    axes.pcolormesh(
        edges, [0, 1], durations[None], cmap="YlGnBu", vmin=0, vmax=longest, edgecolors="white", linewidth=0.8
    )
    for (start, end), duration in zip(times, durations, strict=True):
        if first <= (middle := (start + end) / 2) <= last and end - start > narrow:
            colour = "white" if duration > 0.55 * longest else "black"
            axes.text(middle, 0.47, str(duration), color=colour, fontsize=6.5, ha="center", va="center")
    axes.set_yticks([])
    axes.set_ylabel("frames\nper token", rotation=0, ha="right", va="center")


def _draw_segments(axes: "Axes", name: str, segments: Sequence[Segment]) -> None:
    """Draw a row of phones, words or the like with their labels; silence stays blank.

    A label that its segment has no room for stands upright; one too long for that, or in a segment too narrow, shrinks.
    """
    first, last = axes.get_xlim()
    character = (last - first) / 150  # seconds that one takes at 6.5 points
    for segment in segments:
        if is_silence(segment.label) or segment.end <= first or segment.start >= last:
            continue
        axes.axvspan(segment.start, segment.end, facecolor="0.93", edgecolor="0.35", linewidth=0.6)
        if not first <= segment.middle <= last:
            continue
        room, size = segment.duration / character, 6.5
        upright = room < len(segment.label)
        if upright:  # a row is as high as about four characters, and a line of text as wide as 1.3
            size *= min(1.0, max(room / 1.3, 0.5), 4 / len(segment.label))
        axes.text(
            segment.middle, 0.47, segment.label, fontsize=size, rotation=90 if upright else 0, ha="center", va="center",
            clip_on=True,
        )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")


def _draw_similarities(axes: "Axes", tokens: Tokens, similarities: Float[Tensor, " pairs"]) -> None:
    """Draw the curve at the instants between two frames, what became of each, and the threshold."""
    frame_seconds = tokens.format.frame_size / tokens.format.sample_rate
    instants = frame_seconds * torch.arange(1, len(similarities) + 1)
    apart = boundaries(tokens)
    chosen = tokens.info.get("threshold")
    threshold = effective_threshold(tokens, similarities) if chosen is None else chosen
    forced = apart & (similarities > (2.0 if threshold is None else threshold))

    axes.plot(instants, similarities, color="0.6", linewidth=1, zorder=1)
    looks: tuple[tuple[Tensor, str, dict[str, Any]], ...] = (
        (~apart, "merged", {"color": "white", "edgecolor": "black"}),
        (apart & ~forced, "token boundary", {"color": BOUNDARY}),
        (forced, f"boundary: token full at {tokens.format.max_duration} frames", {"color": BOUNDARY, "marker": "x"}),
    )
    for which, label, look in looks:
        if which.any():
            axes.scatter(instants[which], similarities[which], s=13, linewidth=0.9, label=label, zorder=3, **look)
    if threshold is not None and threshold > -1:
        label = f"{'effective ' if chosen is None else ''}threshold {threshold:.3f}"
        axes.axhline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.3, zorder=2, label=label)
    axes.set_ylabel("similarity of\nneighbouring frames")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=4, frameon=False, handletextpad=0.3)
