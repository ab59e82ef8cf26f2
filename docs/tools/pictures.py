"""Draw the pictures of docs/concepts.md: python docs/tools/pictures.py

Durations come from this package's merging policies, applied to 16 made-up frames; nothing here needs a model. Letters
and lines have the colour of the page's text, so that the pictures can be read on light and on dark pages.
"""

from pathlib import Path

import torch

from flexicodec.merging import cosine_similarities, make_policy

FOLDER = Path(__file__).parents[1] / "pictures"
FRAME_SECONDS = 0.08
WIDTH, LEFT, STEP = 820, 110, 40  # of a picture, of the column with names, of a frame
COLOURS = ("#3b82f6", "#e8710a", "#0f9d8a")  # semantic, acoustic, durations: readable on white and on black
# The angle of each frame's feature: steady stretches, slow movement and jumps.
ANGLES = (0.0, 0.05, 0.1, 0.9, 1.3, 1.35, 1.4, 1.45, 2.4, 2.9, 3.0, 4.1, 4.2, 4.25, 4.3, 5.0)

STYLE = """<style>svg { color: #24292f } @media (prefers-color-scheme: dark) { svg { color: #e6e6e6 } }</style>"""


def features() -> torch.Tensor:
    """Return the frames' features, [1, 2, frames]."""
    angles = torch.tensor(ANGLES)
    return torch.stack([angles.cos(), angles.sin()])[None]


def durations(policy: str, **control: float) -> list[int]:
    """Return what a policy makes of the frames."""
    chosen = make_policy(policy, **control)
    frames = features()
    lengths = torch.tensor([len(ANGLES)])
    seconds = lengths.double() * FRAME_SECONDS
    found = chosen(cosine_similarities(frames, lengths), lengths, seconds=seconds, features=frames, max_duration=8)
    return [int(each) for each in found[0] if each > 0]


# ---------------------------------------------------------------------------------------------------------- elements


def text(x: float, y: float, words: str, size: int = 14, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="currentColor">{words}</text>'


def box(x: float, y: float, width: float, height: float, colour: str, words: str = "") -> str:
    shape = (
        f'<rect x="{x + 1.5:g}" y="{y:g}" width="{width - 3:g}" height="{height:g}" rx="4" fill="{colour}" '
        f'fill-opacity="0.22" stroke="{colour}" stroke-width="1.5"/>'
    )
    if not words:
        return shape
    return shape + text(x + width / 2, y + height / 2 + 5, words, anchor="middle")


def line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="currentColor" {style}/>'


def row_of_tokens(y: float, counts: list[int], colour: str, height: float = 26) -> list[str]:
    """Draw one box per token, as wide as its frames, with their number inside."""
    drawn = []
    frame = 0
    for count in counts:
        drawn.append(box(LEFT + frame * STEP, y, count * STEP, height, colour, str(count)))
        frame += count
    return drawn


def picture(height: int, title: str, elements: list[str]) -> str:
    """Return the SVG of these elements."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif"><title>{title}</title>'
    )
    return "\n".join([head, STYLE, *elements, "</svg>"]) + "\n"


# ---------------------------------------------------------------------------------------------------------- pictures


def grid() -> str:
    """Frames, similarities, tokens with durations, and the codes of a token."""
    semantic, acoustic, lengths = COLOURS
    similar = cosine_similarities(features(), torch.tensor([len(ANGLES)]))[0].tolist()
    threshold = 0.9
    counts = durations("threshold", threshold=threshold)
    end = LEFT + len(ANGLES) * STEP

    drawn = [text(0, 36, "frames"), text(LEFT, 12, "16 frames of 80 ms: a grid of 12.5 Hz", 12)]
    for frame in range(len(ANGLES)):
        drawn.append(box(LEFT + frame * STEP, 20, STEP, 24, "currentColor"))

    # A dot between two frames: their similarity, from 0 at the bottom to 1 at the top.
    low, high = 150, 66
    level = low - threshold * (low - high)
    drawn += [text(0, 100, "similarity"), text(0, 117, "of neighbours", 12)]
    drawn += [line(LEFT, level, end, level, 'stroke-dasharray="5 4"'), text(end + 4, level + 4, "threshold", 12)]
    for frame, value in enumerate(similar, start=1):
        x, y = LEFT + frame * STEP, low - max(value, 0) * (low - high)
        cut = value <= threshold
        drawn.append(f'<circle cx="{x}" cy="{y:.1f}" r="5" fill="{acoustic if cut else semantic}"/>')
        if cut:
            drawn.append(line(x, y, x, 182, 'stroke-dasharray="1 4"'))

    drawn += [text(0, 200, "tokens"), *row_of_tokens(182, counts, lengths), text(0, 217, "with durations", 12)]
    drawn += [text(0, 258, "semantic code"), text(0, 300, "acoustic codes")]
    frame = 0
    for count in counts:
        x = LEFT + frame * STEP
        drawn.append(box(x, 240, count * STEP, 26, semantic))
        for book in range(3):
            drawn.append(box(x, 274 + 15 * book, count * STEP, 12, acoustic))
        frame += count
    return picture(326, "16 frames, their similarities, and the tokens with durations and codes made of them", drawn)


def rates() -> str:
    """The same frames at three rates."""
    drawn = []
    for place, rate in enumerate((12.5, 6.25, 4.0)):
        counts = durations("rate", frame_rate=rate)
        y = 10 + 44 * place
        drawn += [text(0, y + 18, f"{rate:g} Hz"), *row_of_tokens(y, counts, COLOURS[2])]
        drawn.append(text(60, y + 18, f"N = {len(counts)}", 12))
    return picture(134, "The same frames as tokens at three frame rates", drawn)


def policies() -> str:
    """The same frames under four rules that meet one rate, and under a threshold."""
    rows = [
        ("rate", durations("rate", frame_rate=6.25)),
        ("variance", durations("variance", frame_rate=6.25)),
        ("ple", durations("ple", frame_rate=6.25)),
        ("uniform", durations("uniform", frame_rate=6.25)),
        ("threshold", durations("threshold", threshold=0.9)),
    ]
    drawn = []
    for place, (name, counts) in enumerate(rows):
        y = 10 + 40 * place + (14 if name == "threshold" else 0)
        drawn += [text(0, y + 18, name), text(76, y + 18, f"{len(counts)}", 12)]
        drawn += row_of_tokens(y, counts, COLOURS[2])
    return picture(226, "The same frames under five policies: four at 6.25 Hz, and a threshold", drawn)


def path() -> str:
    """From audio to tokens and back."""
    semantic, acoustic, lengths = COLOURS
    gap = '<path d="M{} {} h16 m-5 -4 l5 4 l-5 4" fill="none" stroke="currentColor"/>'
    drawn = [
        text(0, 78, "audio"),
        box(70, 20, 140, 30, semantic, "semantic encoder"),
        box(70, 96, 140, 30, acoustic, "acoustic encoder"),
        box(246, 20, 96, 30, lengths, "merge"),
        box(246, 58, 96, 30, lengths, "policy"),
        box(246, 96, 96, 30, lengths, "merge"),
        box(376, 20, 96, 30, semantic, "FSQ"),
        box(376, 96, 96, 30, acoustic, "RVQ"),
        box(508, 20, 150, 30, semantic, "semantic codes"),
        box(508, 58, 150, 30, lengths, "durations"),
        box(508, 96, 150, 30, acoustic, "acoustic codes"),
        text(672, 78, "Tokens"),
        line(344, 73, 490, 73),
    ]
    for x, y in ((46, 73), (220, 35), (220, 111), (350, 35), (350, 111), (482, 35), (482, 73), (482, 111)):
        drawn.append(gap.format(x, y))
    # The policy reads the semantic features, and its durations say what is merged in both streams.
    drawn += [line(210, 50, 246, 66, 'stroke-dasharray="2 3"')]
    drawn += [line(294, 50, 294, 58, 'stroke-dasharray="2 3"'), line(294, 88, 294, 96, 'stroke-dasharray="2 3"')]
    back = (("Tokens", 46, 84, "currentColor"), ("dequantize", 158, 104, semantic), ("unmerge", 290, 94, lengths))
    for words, x, width, colour in (*back, ("smooth, decode", 412, 134, acoustic)):
        drawn.append(box(x + 24, 160, width, 34, colour, words))
        drawn.append(gap.format(x + 27 + width, 177))
    drawn.append(text(594, 182, "audio, as long as before"))
    return picture(206, "From audio to tokens, and from tokens to audio", drawn)


PICTURES = {"grid": grid, "rates": rates, "policies": policies, "path": path}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())
