"""What the site has beside the pages of this folder; mkdocs.yml names this file under `hooks`.

- README.md, CONTRIBUTING.md, CHANGELOG.md and the model cards are pages as they are, and findings are made from the
  headers of findings/*.sh, so that no text stands twice.
- A link to another file of the repository (a script, a config, an experiment) leads to a page with that file.
- Pictures are put into the page itself, where they take its colour of text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CARDS = sorted((ROOT / "flexicodec" / "assets").glob("*/README.md"))
# Files of the repository that are pages of the site.
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "reading.md",
    ROOT / "CHANGELOG.md": "versions.md",
    **{card: f"cards/{card.parent.name}.md" for card in CARDS},
}
COPIED = {".png", ".svg", ".ipynb", ".flac"}  # as they are; all others are text
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+\.svg)\)")
MODULE = re.compile(r"`((?:\w+/)*\w+\.py)`")
BANNER = (
    "!!! note\n    `{path}`, a file of the repository. Its commands may take hours, and the tests of the documentation "
    "do not run them.\n\n"
)


# ------------------------------------------------------------------------------------------ where a file is on the site


def is_page(path: Path) -> bool:
    """Return whether mkdocs puts this file of docs/ on the site itself."""
    return path.is_relative_to(DOCS) and not path.is_relative_to(DOCS / "tools")


def uri_of(path: Path) -> str:
    """Return the page, or the copy, that a file or folder of the repository has on the site."""
    if path in PAGES:
        return PAGES[path]
    if is_page(path):
        return path.relative_to(DOCS).as_posix()
    inside = path.relative_to(ROOT).as_posix().lstrip(".")  # mkdocs leaves out what begins with a dot
    if path.is_dir():
        return f"repository/{inside}/README.md"
    if path.suffix in COPIED or path.suffix == ".md":
        return f"repository/{inside}"
    return f"repository/{inside}.md"


def linked(markdown: str, origin: Path, uri: str) -> tuple[str, list[Path]]:
    """Make links to files, relative to `origin`, links between pages of the site; returns those files, too."""
    found = []

    def replace(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        path = Path(posixpath.normpath(origin.parent / target))
        if "://" in target or not path.exists() or not path.is_relative_to(ROOT):
            return match.group()
        if path.is_dir() and (path / "README.md") in PAGES:
            path = path / "README.md"
        found.append(path)
        relative = posixpath.relpath(uri_of(path), posixpath.dirname(uri) or ".")
        return f"{before}{relative}{anchor or ''}{after}"

    return LINK.sub(replace, markdown), found


def with_module_links(markdown: str) -> str:
    """Link the modules that a table of CONTRIBUTING.md names, by their path in the package or beside the one before."""
    lines = []
    for line in markdown.splitlines():
        folder = ROOT / "flexicodec"

        def replace(match: re.Match[str]) -> str:
            nonlocal folder
            for candidate in (ROOT / "flexicodec" / match[1], folder / match[1], ROOT / match[1]):
                if candidate.is_file():
                    folder = candidate.parent
                    return f"[{match.group()}]({candidate.relative_to(ROOT).as_posix()})"
            return match.group()

        lines.append(MODULE.sub(replace, line) if line.startswith("|") else line)
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------ generated pages


def findings() -> str:
    """Return the page of findings: the header of every script, and a link to it."""
    parts = [
        "# Findings\n",
        "Behaviour of other libraries, tools and formats that surprised us. Each has a script that installs the "
        "pinned packages, shows the behaviour without this package, and fails if it changes; the text is its header.\n",
    ]
    for script in sorted((ROOT / "findings").glob("*.sh")):
        header = []
        for line in script.read_text().splitlines()[1:]:
            if not line.startswith("#"):
                break
            header.append(line[1:].strip())
        name = script.stem.replace("-", " ")
        parts.append(f"## {name[0].upper()}{name[1:]}\n")
        parts.append(" ".join(header) + "\n")
        parts.append(f"[`findings/{script.name}`](../findings/{script.name})\n")
    return "\n".join(parts)


def page_of(path: Path) -> str:
    """Return a file of the repository as Markdown, or the list of a folder's files."""
    if path in PAGES:
        text = path.read_text()
        return with_module_links(text) if path.name == "CONTRIBUTING.md" else text
    inside = path.relative_to(ROOT).as_posix()
    hidden = "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir() and not (path / "README.md").exists():
        names = sorted(each.name for each in path.iterdir() if each.name[0] not in "._")
        return "\n".join([f"{hidden}# {inside}\n", *(f"- [{name}]({name})" for name in names)]) + "\n"
    if path.is_dir() or path.suffix == ".md":
        readme = path / "README.md" if path.is_dir() else path
        return BANNER.format(path=readme.relative_to(ROOT).as_posix()) + readme.read_text()
    language = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".json": "json"}.get(path.suffix, "text")
    return f"{hidden}# {path.name}\n\n`{inside}`\n\n~~~~{language}\n{path.read_text()}\n~~~~\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file that a page links to, however many links away."""
    pending = list(PAGES)
    for file in list(files):
        if file.src_uri.endswith(".md"):
            origin = DOCS / file.src_uri
            pending += linked(origin.read_text(), origin, file.src_uri)[1]
    text, targets = linked(findings(), DOCS / "findings.md", "findings.md")
    files.append(File.generated(config, "findings.md", content=text))
    pending += targets

    while pending:
        path = pending.pop()
        uri = uri_of(path)
        if files.get_file_from_path(uri) is not None or is_page(path):
            continue
        if path.suffix in COPIED:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
            continue
        origin = path / "README.md" if path.is_dir() else path
        text, targets = page_of(path), []
        if origin.suffix == ".md":
            text, targets = linked(text, origin, uri)
        files.append(File.generated(config, uri, content=text))
        pending += targets
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links to the repository links of the site, and put pictures into the page."""
    if page.file.generated_by is not None:
        return markdown
    text, _ = linked(markdown, DOCS / page.file.src_uri, page.file.src_uri)

    def inline(match: re.Match[str]) -> str:
        drawing = (DOCS / posixpath.dirname(page.file.src_uri) / match[1]).read_text()
        return '<div class="picture">\n' + re.sub(r"<style>.*</style>\n", "", drawing) + "</div>\n"

    return PICTURE.sub(inline, text)
