"""Plots of the tokens of one clip (`plot_tokens`) and of the results of a study.

matplotlib is imported on first use, and without pyplot: no window, no backend, no global state. Colours are Okabe and
Ito's, which colour-blind readers can tell apart; markers, dashes and hatches say the same in grey.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from flexicodec.analysis.token_contents import ALL, MANY, SPEECH, MergeProbability
from flexicodec.analysis.token_timeline import boundary_mask, effective_threshold
from flexicodec.audio import resample
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.corpus.alignments.phones import CLASSES, is_silence
from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.statistics import Interval
from flexicodec.token_format import RELEASED
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flexicodec.analysis.run_study import SettingResults, StudyResults

TOKENS_WIDTH = 10.0  # inches
TOKENS_DPI = 130  # hence 1300 pixels
RESULTS_WIDTH = 6.0  # inches; at 10 points the text is legible when the figure fills a phone
SECONDS_SHOWN = 12.0  # of a longer clip
DYNAMIC_RANGE_DB = 60.0  # of the spectrogram

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
HATCHES = ("", "///", "..", "xx")
GREY = "0.45"

LINE_NAMES = {"ols": "least squares", "rma": "reduced major axis"}
PAPER_R = 0.775  # arXiv 2510.00981, utterances of TIMIT


# ----------------------------------------------------------------------------------------------------------- one clip


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
    """Plot one clip: log-mel spectrogram with token boundaries, token durations, tiers, and the similarity curve.

    Args:
        audio: [S] or [1, S], the clip at the codec's sample rate.
        tokens: Its tokens; of a batch take one, `tokens[i]`.
        similarities: [T - 1] or [1, T - 1], cosine of each frame with the next, as in `codec.features(audio)`; None
            omits the curve.
        tiers: Phones, words or other segments by the name of their row, in seconds.
        path: File to save to (.png, .pdf, .svg, ...).
        title: Text above; by default number of tokens, rate and bitrate.
        span: Start and end of the part shown, seconds; None shows the clip, or the first 12 s of a longer one.

    Returns:
        A matplotlib figure, which a notebook shows after `%matplotlib inline`.
    """
    from matplotlib.figure import Figure

    _check(audio, tokens, similarities)
    start, end = span or (0.0, min(float(tokens.seconds[0]), SECONDS_SHOWN))
    if not 0 <= start < end:
        raise ValueError(f"span is {start:g} to {end:g}; expected seconds from 0 up, the end after the start")
    rows = dict(tiers or {})
    heights = [2.4, 0.33] + [0.33] * len(rows)
    if similarities is not None:
        heights.append(1.9)

    # One row for each thing to show, all with the same time axis.
    figure = Figure(figsize=(TOKENS_WIDTH, 1.2 + sum(heights)), dpi=TOKENS_DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    figure.suptitle(title or _default_title(tokens))
    axes[-1].set_xlim(start, end)
    axes[-1].set_xlabel(f"time (s); a frame is {1000 / tokens.format.base_frame_rate:g} ms")

    _plot_spectrogram(axes[0], audio.detach().cpu().float().reshape(1, -1), tokens)
    _plot_frames_per_token(axes[1], tokens)
    for row, (name, segments) in zip(axes[2:], rows.items(), strict=False):
        _plot_segments(row, name, segments)
    if similarities is not None:
        _plot_similarities(axes[-1], tokens, similarities.detach().cpu().float().reshape(-1))
    if path is not None:
        figure.savefig(path)
    return figure


def _default_title(tokens: Tokens) -> str:
    text = (
        f"{int(tokens.token_lengths[0])} tokens in {float(tokens.seconds[0]):.2f} s "
        f"({float(tokens.frame_rates[0]):.2f} Hz)"
    )
    if tokens.format is not RELEASED:  # without a format the bitrate is not known
        text += f", {float(tokens.bitrates_kbps[0]):.2f} kbps"
    requested = tokens.info.get("frame_rate")
    if requested is not None:
        text = f"{requested:g} Hz requested: {text}"
    return text


def _check(
    audio: Float[Tensor, "*one samples"], tokens: Tokens, similarities: Float[Tensor, "*one pairs"] | None
) -> None:
    """Check audio and similarities against the tokens."""
    if len(tokens) != 1 or audio.numel() != audio.shape[-1]:
        raise ValueError(
            f"audio {list(audio.shape)} and tokens of {len(tokens)} clips; expected one clip: audio[i], tokens[i]"
        )
    samples = audio.shape[-1]
    if tokens.audio_lengths is not None and samples != int(tokens.audio_lengths[0]):
        raise ValueError(
            f"audio has {samples} samples, but the tokens encode {int(tokens.audio_lengths[0])} at "
            f"{tokens.format.sample_rate} Hz; is it at another rate, or padded?"
        )
    pairs = int(tokens.frame_lengths[0]) - 1
    if similarities is not None and similarities.numel() != pairs:
        raise ValueError(
            f"similarities have shape {list(similarities.shape)}, but {pairs + 1} frames have {pairs} neighbours; of a "
            "batch pass those of one clip, without padding"
        )


class LogMel(NamedTuple):
    """A log-mel spectrogram, and where it lies in a picture."""

    decibels: Float[np.ndarray, "mels windows"]
    extent: tuple[float, float, float, float]  # start and end, seconds; lowest and highest band, mel
    ticks: dict[str, float]  # frequencies to label, kHz, by their place in mel


def log_mel(audio: Float[Tensor, "1 samples"], sample_rate: int) -> LogMel:
    """Compute the input of the semantic encoder: 80 Kaldi mels every 10 ms, no dither."""
    fbank = KaldiFbank(FrontEndConfig(dither=0.0))
    audio = resample(audio, sample_rate, fbank.sample_rate)
    audio = pad(audio, (0, max(0, fbank.frame_length - audio.shape[1])))
    decibels = fbank.fbank(audio)[0].T.numpy() * (10 / math.log(10))

    # A window of 25 ms is shown over its middle 10 ms; rows lie at the centres of the mel bands.
    hop = fbank.frame_shift / fbank.sample_rate
    first = (fbank.frame_length - fbank.frame_shift) / 2 / fbank.sample_rate
    low = _mel(20.0)
    high = _mel(fbank.sample_rate / 2)
    half_band = (high - low) / (len(decibels) + 1) / 2
    extent = (first, first + hop * decibels.shape[1], low + half_band, high - half_band)
    return LogMel(decibels, extent, {f"{hertz / 1000:g}": _mel(hertz) for hertz in (250, 500, 1000, 2000, 4000)})


def _plot_spectrogram(axes: "Axes", audio: Float[Tensor, "1 samples"], tokens: Tokens) -> None:
    """Plot the log-mel spectrogram and a line per token boundary."""
    spectrogram = log_mel(audio, tokens.format.sample_rate)
    loudest = spectrogram.decibels.max()
    axes.imshow(
        spectrogram.decibels,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="gray_r",
        vmin=loudest - DYNAMIC_RANGE_DB,
        vmax=loudest,
        extent=spectrogram.extent,
    )
    axes.set_yticks(list(spectrogram.ticks.values()), list(spectrogram.ticks))
    axes.set_ylabel("log-mel spectrogram\nfrequency (kHz)")
    axes.vlines(tokens.times(0)[1:, 0].numpy(), *axes.get_ylim(), colors=COLOURS[1], linewidth=0.8)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def _plot_frames_per_token(axes: "Axes", tokens: Tokens) -> None:
    """Plot a block per token, coloured by and labelled with its duration in frames."""
    # Neighbouring blocks share an edge: a token ends where the next one starts.
    durations = tokens.durations[0].cpu().numpy()
    times = tokens.times(0).numpy()
    longest = max(8, int(durations.max()))
    edges = np.append(times[:, 0], times[-1, 1])
    axes.pcolormesh(
        edges, [0, 1], durations[None], cmap="YlGnBu", vmin=0, vmax=longest, edgecolors="white", linewidth=0.8
    )
    first, last = axes.get_xlim()
    narrow = 0.6 / tokens.format.base_frame_rate  # a last frame with few samples is too narrow for its number
    for (start, end), duration in zip(times, durations, strict=True):
        middle = (start + end) / 2
        if first <= middle <= last and end - start > narrow:
            colour = "white" if duration > 0.55 * longest else "black"
            axes.text(middle, 0.47, str(duration), color=colour, fontsize=6.5, ha="center", va="center")
    axes.set_yticks([])
    axes.set_ylabel("frames\nper token", rotation=0, ha="right", va="center")


def _plot_segments(axes: "Axes", name: str, segments: Sequence[Segment]) -> None:
    """Plot a row of labelled segments; silence stays blank. A label too wide for its segment is rotated and shrunk."""
    first, last = axes.get_xlim()
    character = (last - first) / 150  # width of a character at 6.5 points, seconds
    for segment in segments:
        if is_silence(segment.label) or segment.end <= first or segment.start >= last:
            continue
        axes.axvspan(segment.start, segment.end, facecolor="0.93", edgecolor="0.35", linewidth=0.6)
        if not first <= segment.middle <= last:
            continue
        size = 6.5
        rotation = 0
        fitting = segment.duration / character
        if fitting < len(segment.label):
            # The row is about four characters high, and a line of text 1.3 characters wide.
            size *= min(1.0, max(fitting / 1.3, 0.5), 4 / len(segment.label))
            rotation = 90
        text = axes.text(segment.middle, 0.47, segment.label, fontsize=size, ha="center", va="center", clip_on=True)
        text.set_rotation(rotation)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")


def _plot_similarities(axes: "Axes", tokens: Tokens, similarities: Float[Tensor, " pairs"]) -> None:
    """Plot the similarity of each two neighbouring frames, whether they were merged, and the threshold."""
    frame_seconds = tokens.format.frame_size / tokens.format.sample_rate
    times = frame_seconds * torch.arange(1, len(similarities) + 1)
    axes.plot(times, similarities, color="0.6", linewidth=1, zorder=1)

    threshold = tokens.info.get("threshold")
    name = "threshold"
    if threshold is None:
        threshold = effective_threshold(tokens, similarities)
        name = "effective threshold"

    # Boundaries above the threshold come from the cap on durations.
    apart = boundary_mask(tokens)
    forced = torch.zeros_like(apart)
    if threshold is not None:
        forced = apart & (similarities > threshold)
    full = f"boundary: token full at {tokens.format.max_duration} frames"
    styles: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "merged": (~apart, {"color": "white", "edgecolor": "black"}),
        "token boundary": (apart & ~forced, {"color": COLOURS[1]}),
        full: (forced, {"color": COLOURS[1], "marker": "x"}),
    }
    for label, (which, style) in styles.items():
        if which.any():
            axes.scatter(times[which], similarities[which], s=13, linewidth=0.9, label=label, zorder=3, **style)
    if threshold is not None and threshold > -1:
        label = f"{name} {threshold:.3f}"
        axes.axhline(threshold, color=COLOURS[0], linestyle="--", linewidth=1.3, zorder=2, label=label)
    axes.set_ylabel("similarity of\nneighbouring frames")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=4, frameon=False, handletextpad=0.3)


# ------------------------------------------------------------------------------------------------- results of a study


def plot_rate_curve(study: "StudyResults") -> "Figure":
    """Plot tokens per second against the threshold: all clips together, the middle 90 % of them, and the settings."""
    figure, (axes,) = _subplots(3.9)
    curve = study.curve
    clip_rates = curve.clips[:, study.long_enough]
    if clip_rates.shape[1]:
        low, high = np.quantile(clip_rates, [0.05, 0.95], axis=1)
        axes.fill_between(curve.thresholds, low, high, color=COLOURS[0], alpha=0.2, lw=0, label="90 % of the clips")
    axes.plot(curve.thresholds, curve.corpus, color=COLOURS[0], marker=".", markersize=4, label="all clips together")
    for i, each in enumerate(study.fixed, start=1):
        assert each.setting.threshold is not None
        label = f"{each.setting.name}: threshold {each.setting.threshold:.3f}"
        axes.plot(each.setting.threshold, each.frame_rate.value, label=label, **_markers(i))
    cap = study.data.format.max_duration
    if cap is not None:
        lowest = study.data.format.base_frame_rate / cap
        axes.axhline(lowest, color=GREY, linestyle=":", label=f"lowest rate under the cap, {lowest:.2f} Hz")
    axes.set(xlabel="threshold (neighbours more similar than this are merged)", ylabel="tokens per second (Hz)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_distortion(study: "StudyResults") -> "Figure":
    """Plot the loss of merging before quantisation against tokens per second and nominal kbit/s, a line per policy."""
    figure, (axes,) = _subplots(4.4)
    distortion = study.data.distortion
    rates = distortion.tokens.sum(2) / distortion.seconds.sum()
    lost = distortion.lost.sum(2) / max(float(distortion.whole.sum()), 1e-8)
    for i, name in enumerate(distortion.policies):
        axes.plot(rates[i], lost[i], label=name, **_markers(i) | {"linestyle": DASHES[i % len(DASHES)]})
    axes.set(xlabel="tokens per second (Hz)", ylabel="share of the features' energy lost (NMSE)")
    axes.set_ylim(bottom=0)

    # The second axis: bits of all fields of a token, times tokens per second.
    form = study.data.format
    codebooks = study.data.clips[0].tokens[study.main.setting.name].num_codebooks
    kilobits = (form.semantic_bits + (form.duration_bits or 0) + codebooks * form.acoustic_bits) / 1000
    scale = (lambda hertz: np.asarray(hertz) * kilobits, lambda kbps: np.asarray(kbps) / kilobits)
    axes.secondary_xaxis("top", functions=scale).set_xlabel("nominal kbit/s with all codebooks")
    _legend_below(axes, drop=-0.16)
    return figure


def plot_durations(settings: Sequence["SettingResults"], frame_seconds: float) -> "Figure":
    """Plot histograms of token durations in speech and in silence, a panel per setting."""
    # Speech and silence have bars side by side, half a bar left and right of their number of frames.
    figure, panels = _subplots(1.7 * len(settings) + 0.7, rows=len(settings), sharex=True, sharey=True)
    for axes, each in zip(panels, settings, strict=True):
        by_class = {row.name: row for row in each.durations}
        for i, kind in enumerate((SPEECH, "silence")):
            row = by_class.get(kind)
            if row is None or not row.tokens:
                continue
            frames = np.arange(1, len(row.histogram) + 1)
            label = f"in {kind}: {row.mean.value:.2f} frames on average, {row.tokens} tokens"
            axes.bar(frames + (i - 0.5) * 0.4, np.array(row.histogram) / row.tokens, 0.4, label=label, **_bars(i))
            axes.set_xticks(frames)
        axes.set_title(each.setting.name, fontsize=10, loc="left")
        axes.legend(frameon=False, fontsize=9)
        axes.grid(axis="x", visible=False)
    panels[-1].set_xlabel(f"frames in a token (a frame is {1000 * frame_seconds:g} ms)")
    figure.supylabel("share of tokens", fontsize=10)
    return figure


def plot_segments_per_token(settings: Sequence["SettingResults"], unit: str) -> "Figure":
    """Plot the share of tokens with 0, 1, 2, ... phones (or another unit), a group of bars per setting."""
    figure, (axes,) = _subplots(3.8)
    width = 0.8 / len(settings)
    for i, each in enumerate(settings):
        counts = each.per_token[unit]
        places = np.arange(MANY + 1) + width * (i - (len(settings) - 1) / 2)
        values, ends = _values_and_ends(counts.shares)
        label = f"{each.setting.name}: {counts.mean.value:.2f} on average"
        axes.bar(places, values, width, yerr=ends, error_kw={"linewidth": 1}, label=label, **_bars(i))
    axes.set_xticks(range(MANY + 1), [*map(str, range(MANY)), f"{MANY} or more"])
    axes.set(xlabel=f"{unit} in a token", ylabel="share of tokens")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_merge_probabilities(pairs: Sequence[MergeProbability], title: str) -> "Figure":
    """Plot heat maps of how often neighbouring frames share a token: within a phone, and across two, by phone class."""
    by_class = [each for each in pairs if each.first not in (ALL, SPEECH)]
    present = {each.first for each in by_class} | {each.second for each in by_class}
    names = [name for name in CLASSES if name in present]
    # NaN where pairs are too few
    across = np.full((len(names), len(names)), np.nan)
    inside = np.full((1, len(names)), np.nan)
    for each in by_class:
        if each.kind == "inside":
            inside[0, names.index(each.first)] = each.share.value
        else:
            across[names.index(each.first), names.index(each.second)] = each.share.value

    # Cells carry their percentage, in white on dark colours.
    figure, (top, bottom) = _subplots(5.9, rows=2, height_ratios=[1, len(names)])
    for axes, shares in ((top, inside), (bottom, across)):
        axes.grid(visible=False)
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            text = "·"
            colour = GREY
            if np.isfinite(share):
                text = f"{100 * share:.0f}"
                colour = "black" if share > 0.55 else "white"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    top.set_xticks([])
    top.set_yticks([0], ["same phone"])
    bottom.set_xticks(range(len(names)), names, rotation=40, ha="right")
    bottom.set_yticks(range(len(names)), names)
    bottom.set(xlabel="class of the later frame", ylabel="class of the earlier frame,\nwhich is in another phone")
    figure.colorbar(image, ax=[top, bottom], label="share of pairs of frames in one token", shrink=0.6)
    figure.suptitle(title, fontsize=10)
    return figure


def plot_scatter(results: "SettingResults", unit: str) -> "Figure":
    """Plot tokens against phones (or another unit) per second of speech: a point per clip, lines and their bands."""
    figure, (axes,) = _subplots(4.8)
    found = results.phone_rate["speech"]
    assert results.rates is not None
    x = results.rates.x
    y = results.rates.y
    axes.plot(x, y, "o", color=GREY, markersize=3.5, alpha=0.55, markeredgewidth=0)
    ends = np.array([x.min(), x.max()])
    for i, (kind, name) in enumerate(LINE_NAMES.items()):
        band = found.bands[kind]
        axes.fill_between(band.x, band.low, band.high, color=COLOURS[i], alpha=0.2, linewidth=0, zorder=1)
        slope = found.lines[kind].slope.value
        intercept = found.lines[kind].intercept.value
        label = f"{name}: {slope:.2f} x {intercept:+.2f}"
        axes.plot(ends, intercept + slope * ends, color=COLOURS[i], linestyle=DASHES[i], linewidth=2, label=label)
    axes.plot(np.mean(x), np.mean(y), "+", color="black", markersize=12, markeredgewidth=2, label="mean")
    # The axis follows the clips: bands and steep lines may leave it.
    margin = 0.08 * float(np.ptp(y)) or 0.5
    axes.set_ylim(float(y.min()) - margin, float(y.max()) + margin)
    axes.set(xlabel=f"{unit} per second of speech", ylabel="tokens per second of speech")
    axes.set_title(f"{results.setting.name}: r = {found.pearson.bca}, {found.clips} clips", fontsize=10)
    _legend_below(axes, drop=-0.14)
    return figure


def plot_intervals(
    series: Mapping[str, Mapping[str, Interval]], label: str, *, reference: float | None = None, log: bool = False
) -> "Figure":
    """Plot values with intervals in named rows, one marker per series.

    Args:
        series: Values by the name of their row, by the name of their series.
        label: Of the axis.
        reference: Value of a thin vertical line; None for none.
        log: Use a logarithmic axis.
    """
    # Rows in the order of first appearance; the series of a row are spread over 0.7 of its height.
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    figure, (axes,) = _subplots((0.26 + 0.08 * len(series)) * len(names) + 1.3)
    for i, (name, rows) in enumerate(series.items()):
        shift = 0.7 / len(series) * (i - (len(series) - 1) / 2)
        places = [names.index(row) + shift for row in rows]
        values, ends = _values_and_ends(list(rows.values()))
        axes.errorbar(values, places, xerr=ends, capsize=2, elinewidth=1.2, label=name, **_markers(i))
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    if log:
        axes.set_xscale("log", subs=(2, 5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    if len(series) > 1:
        _legend_below(axes, drop=-0.55 / figure.get_figheight())
    return figure


def plot_sweep(study: "StudyResults") -> "Figure":
    """Plot correlations with their interval band against tokens per second, with the thresholds on a second axis."""
    figure, (axes,) = _subplots(4.4)
    rates = np.array([point.frame_rate for point in study.sweep])
    values, ends = _values_and_ends([point.r for point in study.sweep])
    axes.fill_between(rates, values - ends[0], values + ends[1], color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(rates, values, label="these clips", **_markers(0) | {"linestyle": "-"})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(PAPER_R, color=COLOURS[1], linestyle=":", linewidth=1.6, label=f"paper, TIMIT: {PAPER_R}")
    top = axes.secondary_xaxis("top")
    top.set_ticks(rates, [f"{point.threshold:.3f}" for point in study.sweep], fontsize=8, rotation=45)
    top.set_xlabel("threshold")
    axes.set(xlabel="tokens per second of speech (Hz)", ylabel="correlation r")
    _legend_below(axes, drop=-0.16)
    return figure


def _subplots(height: float, rows: int = 1, **options: Any) -> tuple["Figure", list["Axes"]]:
    """Make a figure with panels above each other, without upper and right frame lines, with a light grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(RESULTS_WIDTH, height), layout="constrained")
    panels = list(figure.subplots(rows, 1, squeeze=False, **options).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, panels


def _markers(i: int) -> dict[str, Any]:
    """Return the look of the points of the i-th series."""
    return {"color": COLOURS[i % 7], "marker": MARKERS[i % 7], "linestyle": "", "markersize": 5}


def _bars(i: int) -> dict[str, Any]:
    """Return the look of the bars of the i-th series."""
    return {"color": COLOURS[i % 7], "hatch": HATCHES[i % 4], "edgecolor": "white"}


def _legend_below(axes: "Axes", drop: float) -> None:
    """Put the legend below the axis label, where it covers no data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, drop), ncols=2, frameon=False, fontsize=9)


def _values_and_ends(
    intervals: Sequence[Interval],
) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, "2 values"]]:
    """Return values, and the distances of their interval ends below and above; 0 where there is no interval."""
    values, low, high = np.array([(each.value, each.low, each.high) for each in intervals]).T
    return values, np.fmax(np.stack([values - low, high - values]), 0.0)
