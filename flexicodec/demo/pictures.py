"""The picture of a coded clip as SVG: spectrogram, token boundaries, words and phones, and the similarity curve.

`analysis.plots.plot_tokens` shows the same on paper, in a second or so; this takes milliseconds, once the clip's
spectrogram is there. A second never is narrower than text needs, so long clips scroll.
"""

import base64
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from flexicodec.analysis.plots import COLOURS, DYNAMIC_RANGE_DB, LogMel, log_mel
from flexicodec.analysis.token_timeline import boundary_mask, effective_threshold
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.corpus.alignments.phones import is_silence
from flexicodec.tokens import Tokens

WIDTH = 1120  # pixels that a clip fills,
LEAST_SECOND = 140  # unless it is long,
MOST_SECOND = 400  # or short
LEFT = 58  # for the labels of rows
SPECTROGRAM = 130  # heights
ROW = 20
CURVE = 110
AXIS = 22
GAP = 6
CHARACTER = 6.2  # width at 11 pixels
BLUES = ("#eef4f9", "#d9e8f5", "#b7d4ea", "#8fc1e0", "#5ba3cf", "#3182bd", "#1a62a8", "#08407f")  # short to long


def png(grey: UInt8[np.ndarray, "rows columns"]) -> bytes:
    """Return a grey picture as a PNG file."""
    rows, columns = grey.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # Each row starts with the number of its filter, 0 for none.
    lines = np.insert(grey, 0, 0, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")


class Spectrogram:
    """The log-mel spectrogram of a clip, computed once for all its pictures."""

    def __init__(self, audio: Float[Tensor, "1 samples"], sample_rate: int) -> None:
        self.second = min(max(WIDTH * sample_rate / audio.shape[1], LEAST_SECOND), MOST_SECOND)  # pixels
        self.mel: LogMel = log_mel(audio.float().cpu(), sample_rate)
        # The loudest is black, and what is `DYNAMIC_RANGE_DB` below it white; low frequencies are at the bottom.
        below = (self.mel.decibels.max() - self.mel.decibels) / DYNAMIC_RANGE_DB
        grey = (255 * below.clip(0, 1)).astype(np.uint8)[::-1]
        self.uri = f"data:image/png;base64,{base64.b64encode(png(grey)).decode()}"

    def x(self, seconds: float) -> float:
        """Return where a time is, pixels."""
        return LEFT + self.second * seconds

    def svg(self, top: float) -> Iterator[str]:
        """Draw the picture and the labels of its frequencies."""
        start, end, low, high = self.mel.extent
        left, right = self.x(start), self.x(end)
        yield (
            f'<image x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{SPECTROGRAM}" '
            f'preserveAspectRatio="none" href="{self.uri}"/>'
        )
        for label, mel in self.mel.ticks.items():
            y = top + SPECTROGRAM * (high - mel) / (high - low)
            yield f'<text class="label" x="{LEFT - 4}" y="{y + 4:.1f}">{label} kHz</text>'


def draw(
    tokens: Tokens,
    spectrogram: Spectrogram,
    similarities: Float[Tensor, "*one pairs"] | None = None,
    tiers: Mapping[str, Sequence[Segment]] | None = None,
) -> str:
    """Draw the tokens of one clip.

    Args:
        tokens: Of one clip.
        spectrogram: Of its audio.
        similarities: [T - 1] or [1, T - 1] of neighbouring frames; None omits the curve, as for a token file.
        tiers: Words, phones or other segments by the name of their row.

    Returns:
        HTML: an SVG in a box that scrolls sideways.
    """
    seconds = float(tokens.seconds[0])
    x = spectrogram.x
    width = round(x(seconds)) + 12
    parts = list(spectrogram.svg(0))
    height = SPECTROGRAM
    # Boundaries, from the top of the spectrogram to the end of the rows
    times = tokens.times(0).numpy()
    rows = [*_row(x, height + GAP, "frames", _duration_blocks(tokens, times))]
    height += GAP + ROW
    for name, segments in (tiers or {}).items():
        spoken = [(each.start, each.end, each.label, "#f0f0f0", "") for each in segments if not is_silence(each.label)]
        rows += _row(x, height + 2, name, spoken)
        height += 2 + ROW
    lines = "".join(f"M{x(start):.1f} 0V{SPECTROGRAM}" for start in times[1:, 0])
    parts.append(f'<path class="boundary" d="{lines}"/>')
    parts += rows
    if similarities is not None and similarities.numel():
        parts += _curve(x, height + 3 * GAP, tokens, similarities.detach().cpu().float().reshape(-1))
        height += 3 * GAP + CURVE
    # The axis of time
    for second in range(int(seconds) + 1):
        parts.append(f'<text class="tick" x="{x(second):.1f}" y="{height + 15}">{second} s</text>')
    height += AXIS
    return (
        f'<div class="picture" tabindex="0"><svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'role="img" aria-label="{len(times)} tokens in {seconds:.2f} s on a spectrogram">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg></div>'
    )


Position = Callable[[float], float]  # of a time, pixels
Block = tuple[float, float, str, str, str]  # start, end, label, colour, tooltip


def _duration_blocks(tokens: Tokens, times: Float[np.ndarray, "tokens 2"]) -> Iterator[Block]:
    """Yield a block per token, labelled with its frames."""
    semantic = None if tokens.semantic is None else tokens.semantic[0].tolist()
    for i, ((start, end), duration) in enumerate(zip(times, tokens.durations[0].tolist(), strict=True)):
        colour = BLUES[min(duration, len(BLUES)) - 1]
        code = "" if semantic is None else f", semantic code {semantic[i]}"
        yield start, end, str(duration), colour, f"token {i}: {duration} frames, {start:.2f} to {end:.2f} s{code}"


def _row(x: Position, top: float, name: str, blocks: Iterable[Block]) -> Iterator[str]:
    """Draw a row of labelled blocks; labels that do not fit are tooltips only."""
    yield f'<text class="label" x="{LEFT - 4}" y="{top + 14}">{escape(name)}</text>'
    for start, end, label, colour, tip in blocks:
        width = x(end) - x(start)
        # No class "dark": gradio takes it for its theme, and changes the rule.
        inverse = " inverse" if colour in BLUES[4:] else ""
        yield (
            f'<g><title>{_text(tip or label)}</title><rect class="block" x="{x(start):.1f}" y="{top}" '
            f'width="{width:.1f}" height="{ROW}" fill="{colour}"/>'
        )
        if width >= CHARACTER * len(label):
            yield f'<text class="block{inverse}" x="{x((start + end) / 2):.1f}" y="{top + 14}">{_text(label)}</text>'
        yield "</g>"


def _curve(x: Position, top: float, tokens: Tokens, similarities: Float[Tensor, " pairs"]) -> Iterator[str]:
    """Draw the similarity of each two neighbouring frames, filled where a token starts between them."""
    lowest = float(similarities.min())
    threshold = tokens.info.get("threshold")
    if isinstance(threshold, list):
        threshold = threshold[0]
    if threshold is None:
        threshold = effective_threshold(tokens, similarities)
    if threshold is not None:
        lowest = min(lowest, max(threshold, -1.0))
    span = max(1.0 - lowest, 1e-6)

    def y(similarity: float) -> float:
        return top + CURVE * (1.0 - similarity) / span

    for value in (1.0, lowest):
        yield f'<text class="label" x="{LEFT - 4}" y="{y(value) + 4:.1f}">{value:.2f}</text>'
    yield f'<text class="label" x="{LEFT - 4}" y="{top + CURVE / 2:.1f}">similarity</text>'
    frame_seconds = tokens.format.frame_size / tokens.format.sample_rate
    points = [(x(frame_seconds * (i + 1)), y(value)) for i, value in enumerate(similarities.tolist())]
    yield f'<polyline class="curve" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    if threshold is not None and threshold > -1:
        level = y(threshold)
        yield f'<path class="threshold" d="M{LEFT} {level:.1f}H{x(float(tokens.seconds[0])):.1f}"/>'
        yield f'<text class="threshold" x="{LEFT + 4}" y="{level - 4:.1f}">threshold {threshold:.3f}</text>'
    for (a, b), apart in zip(points, boundary_mask(tokens).tolist(), strict=True):
        yield f'<circle class="{"apart" if apart else "merged"}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>'


def _text(text: str) -> str:
    return escape(text, quote=False)


CSS = f"""
.picture {{ overflow-x: auto; max-width: 100%; border: 1px solid #ccc; background: white; }}
.picture svg {{ display: block; max-width: none; font: 11px system-ui, sans-serif; }}
.picture svg text {{ fill: #222; }}
.picture svg .label {{ text-anchor: end; }}
.picture svg .tick, .picture svg text.block {{ text-anchor: middle; }}
.picture svg text.inverse {{ fill: white; }}
.picture svg rect.block {{ stroke: #777; stroke-width: 0.6; }}
.picture svg .boundary {{ stroke: {COLOURS[1]}; fill: none; }}
.picture svg .curve {{ stroke: #999; fill: none; }}
.picture svg path.threshold {{ stroke: {COLOURS[0]}; stroke-dasharray: 6 4; }}
.picture svg text.threshold {{ fill: {COLOURS[0]}; paint-order: stroke; stroke: white; stroke-width: 3px; }}
.picture svg .merged {{ fill: white; stroke: #333; }}
.picture svg .apart {{ fill: {COLOURS[1]}; stroke: {COLOURS[1]}; }}
"""
