"""HTML of the page: numbers, texts, and a row of cards with the same clip at several rates; the page without a server.

Sounds, pictures and token files are inside the HTML, so a page is one file that can be sent and opened anywhere.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Int16

from flexicodec.demo import pictures
from flexicodec.demo.comparison import Clip, Coded, Comparer, Setting, played
from flexicodec.io_utils import replacing
from flexicodec.models.codec import Codec

CSS = (
    pictures.CSS
    + """
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.card { flex: 1 1 200px; min-width: 0; border: 1px solid #8886; border-radius: 8px; padding: 10px; }
.card h3 { margin: 0 0 6px; font-size: 1.05rem; }
.card audio { width: 100%; }
.numbers { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 8px 0; }
.card .numbers { display: block; }
.numbers div { display: flex; justify-content: space-between; gap: 8px; }
.numbers dt { opacity: 0.75; }
.numbers dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.transcript { margin: 6px 0; overflow-wrap: anywhere; }
.message { border-left: 4px solid #d55e00; padding: 6px 10px; margin: 0; overflow-wrap: anywhere; }
"""
)
STATIC_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 1220px; margin: 0 auto; padding: 16px; }
h2 { overflow-wrap: anywhere; }
"""


def text(value: str) -> str:
    """Escape text for HTML, braces too: gradio fills in templates of {{ }} and ${ }."""
    return escape(value).replace("{", "&#123;").replace("}", "&#125;")


def message_html(message: str) -> str:
    """Show a sentence, or nothing."""
    return f'<p class="message" role="alert">{text(message)}</p>' if message else ""


def numbers_html(coded: Coded) -> str:
    """Show the numbers of a result."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in coded.numbers.items())
    return f'<dl class="numbers">{rows}</dl>'


def heard_html(label: str, transcript: str | None) -> str:
    """Show what a recogniser understands."""
    if transcript is None:
        return ""
    return f'<p class="transcript"><b>{text(label)}:</b> {text(transcript) or "(nothing)"}</p>'


def picture_html(clip: Clip, coded: Coded, spectrogram: pictures.Spectrogram) -> str:
    """Draw a result over the spectrogram of its clip."""
    return pictures.draw(coded.tokens, spectrogram, clip.features.similarities, clip.tiers)


def row_html(clip: Clip, coded: Sequence[Coded], codec: Codec) -> str:
    """Show the clip and its results side by side, each with its sound."""
    cards = [_card("original", played(clip.audio), codec.sample_rate, heard_html("understood", clip.transcript))]
    for each in coded:
        body = numbers_html(each) + heard_html("understood", each.transcript)
        data = _data_uri(each.tokens.to_bytes(), "application/octet-stream")
        name = f"{Path(clip.name).stem}-{float(each.tokens.frame_rates[0]):.2f}hz.flxc"
        body += f'<a download="{text(name)}" href="{data}">tokens (.flxc)</a>'
        cards.append(_card(_title(each), played(each.audio, clip.audio), codec.output_sample_rate, body))
    return f'<div class="cards">{"".join(cards)}</div>'


def compare_rates(comparer: Comparer, clip: Clip, setting: Setting | None = None) -> list[Coded]:
    """Encode a clip at the four rates, with what a recogniser understands of each.

    Args:
        comparer: Of the codec.
        clip: Whose features are there.
        setting: Codebooks and policy; None takes the model's own.
    """
    results = []
    for rate in comparer.four_rates:
        chosen = Setting(rate, setting.num_codebooks, setting.policy) if setting else Setting(rate)
        coded = comparer.encode(clip, chosen)
        coded.transcript = comparer.transcribe(coded.audio, comparer.codec.output_sample_rate)
        results.append(coded)
    return results


def write_static(comparer: Comparer, inputs: Iterable[Path], output: Path) -> Path:
    """Write a page without a server: each recording as it is, and at four rates.

    Args:
        comparer: Of the codec.
        inputs: Recordings.
        output: A file that ends in .html, or a folder that gets an `index.html`.

    Returns:
        The file.

    Raises:
        ValueError: A recording cannot be used; nothing is written then.
    """
    target = output if output.suffix.lower() in (".html", ".htm") and not output.is_dir() else output / "index.html"
    sections = []
    for path in inputs:
        clip = comparer.open(path)
        comparer.describe(clip)
        results = compare_rates(comparer, clip)
        spectrogram = pictures.Spectrogram(clip.audio, comparer.codec.sample_rate)
        section = [f"<h2>{text(clip.name)}</h2>", row_html(clip, results, comparer.codec)]
        section.append(message_html(clip.note))
        for coded in results:
            section += [f"<h3>{text(_title(coded))}</h3>", picture_html(clip, coded, spectrogram)]
        sections.append("".join(section))
    format = comparer.codec.format
    title = f"{format.model or type(comparer.codec).__name__} at four frame rates"
    intro = (
        f"The same recording at four frame rates (tokens per second). Model fingerprint {format.fingerprint}; policy "
        f"{comparer.own_policy}; everything is played at one loudness. The bitrate counts all codes and "
        "durations. Lines mark where tokens start; numbers below count the frames of each token; a filled point is a "
        "boundary."
    )
    html = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STATIC_CSS}{CSS}</style></head>"
        f"<body><h1>{text(title)}</h1><p>{text(intro)}</p>{''.join(sections)}</body></html>\n"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        part.write_text(html, encoding="utf-8")
    return target


def _title(coded: Coded) -> str:
    asked = coded.tokens.info.get("frame_rate")
    return f"{asked:g} Hz asked for"


def _card(title: str, samples: Int16[np.ndarray, " samples"], sample_rate: int, body: str) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    sound = _data_uri(buffer.getvalue(), "audio/flac")
    player = f'<audio controls preload="auto" src="{sound}"></audio>'
    return f'<section class="card"><h3>{text(title)}</h3>{player}{body}</section>'


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
