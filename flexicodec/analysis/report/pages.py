"""A document as files: one HTML page that needs nothing beside it, Markdown with its pictures, and JSON of its numbers.

The page carries its pictures and its style within itself, loads nothing, fits a phone, and follows the reader's choice
of light or dark.
"""

import base64
import html
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from flexicodec.analysis.report.document import Block, Cell, Document, Figure, List, Number, Prose, Section, Table
from flexicodec.io_utils import replacing

DPI = 150
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --faint: #5c5c5c; --line: #d5d5d5; --band: #f5f5f5;
  --link: #005a9c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e8e8e8; --faint: #a8a8a8; --line: #3a3d42;
  --band: #1f2226; --link: #8cc4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 52rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
a { color: var(--link); }
.lead { font-size: 1.1rem; }
nav ul { padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; color: var(--faint); padding-bottom: .4rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: .4rem; padding: .4rem; }
figure.wide img { min-width: 46rem; }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .4rem; }
"""


def write(document: Document, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html`, `report.md` with `figures/`, and `numbers.json` into a folder, which is made if missing.

    Returns:
        The files.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pictures = {figure.name: png(figure) for figure in document.figures()}
    files: dict[str, bytes] = {
        "report.html": to_html(document, pictures).encode(),
        "report.md": to_markdown(document).encode(),
        "numbers.json": to_json(document).encode(),
        **{f"figures/{name}.png": picture for name, picture in pictures.items()},
    }
    for name, content in files.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in files]


def to_json(document: Document) -> str:
    """Write what a document is about, and its numbers, a line each."""
    numbers = ",\n".join(json.dumps(each, ensure_ascii=False, allow_nan=False) for each in document.numbers())
    about = json.dumps(document.about, ensure_ascii=False, allow_nan=False)
    return f'{{"about": {about},\n"numbers": [\n{numbers}\n]}}\n'


def png(figure: Figure) -> bytes:
    """Draw a picture."""
    buffer = io.BytesIO()
    figure.drawing.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------- HTML


def to_html(document: Document, pictures: dict[str, bytes]) -> str:
    """Write a document as one page."""
    contents = "".join(f'<li><a href="#{s.anchor}">{html.escape(s.title)}</a></li>' for s in document.sections)
    body = "\n".join(_html_section(section, pictures) for section in document.sections)
    title = html.escape(document.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f'<p class="lead">{html.escape(document.lead)}</p>\n<nav><ul>{contents}</ul></nav>\n{body}\n</body>\n</html>\n'
    )


def _html_section(section: Section, pictures: dict[str, bytes]) -> str:
    blocks = "\n".join(_html_block(block, pictures) for block in section.blocks)
    return f'<section id="{section.anchor}">\n<h2>{html.escape(section.title)}</h2>\n{blocks}\n</section>'


def _html_block(block: Block, pictures: dict[str, bytes]) -> str:
    if isinstance(block, Prose):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, List):
        return "<ul>" + "".join(f"<li>{html.escape(point)}</li>" for point in block.points) + "</ul>"
    if isinstance(block, Table):
        heads = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in block.columns)
        rows = "".join("<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>\n" for row in block.rows)
        return (
            f'<div class="scroll"><table><caption>{html.escape(block.caption)}</caption>\n'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>"
        )
    data = base64.b64encode(pictures[block.name]).decode()
    wide = ' class="wide"' if block.wide else ""
    return (
        f'<figure{wide}><div class="scroll"><img alt="{html.escape(block.alt)}" '
        f'src="data:image/png;base64,{data}"></div>\n<figcaption>{html.escape(block.caption)}</figcaption></figure>'
    )


def _html_cell(cell: Cell) -> str:
    """Write a cell; a number says in its tooltip what it is."""
    if not isinstance(cell, Number):
        return f"<td>{html.escape(str(cell))}</td>"
    return f'<td title="{html.escape(_explain(cell))}">{html.escape(str(cell))}</td>'


def _explain(number: Number) -> str:
    """Say a number's unit, what its brackets are, and what it rests on."""
    parts = [] if number.unit == "1" else [number.unit]
    if number.low is not None:
        parts.append(f"{100 * number.level:g} % interval")
    if number.items is not None:
        parts.append(f"{number.items} items")
    if number.clusters is not None and number.clusters != number.items:
        parts.append(f"{number.clusters} clusters")
    return ", ".join(parts + [number.how] * bool(number.how))


# --------------------------------------------------------------------------------------------------------- Markdown


def to_markdown(document: Document) -> str:
    """Write a document as Markdown, whose pictures lie in `figures/`."""
    parts = [f"# {document.title}", document.lead]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [text for block in section.blocks for text in _markdown_block(block)]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> Iterator[str]:
    if isinstance(block, Prose):
        yield block.text
    elif isinstance(block, List):
        yield "\n".join(f"- {point}" for point in block.points)
    elif isinstance(block, Table):
        yield block.caption
        rows = [block.columns, ("---",) * len(block.columns), *block.rows]
        yield "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
    else:
        yield f"![{block.alt}](figures/{block.name}.png)"
        yield block.caption
