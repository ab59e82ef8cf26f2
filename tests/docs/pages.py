"""The pages of the documentation and their blocks of code."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "flexicodec" / "assets").glob("*/README.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *CARDS]
NOT_RUN = "# not run in tests: "
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = {"python", "bash", "yaml", "sql"}
SHOWN = {"text", "json", "bibtex"}  # output, a file, a citation


class Block(NamedTuple):
    """A block of code; `line` is that of its fence."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def place(self):
        return f"{name(self.page)}:{self.line}"

    @property
    def is_run(self):
        return self.language in RUN and not self.code.startswith(NOT_RUN)


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """Return all blocks of a page in their order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2]))
    return found


def commands(block):
    """Return the command lines of a block: continued lines joined, empty ones and comments left out."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
