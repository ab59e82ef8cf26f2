"""Pages, links, pictures, model cards and the tables of names: whatever can be checked without running a block."""

import re
import runpy
import shlex

import pytest
from huggingface_hub import ModelCard

import flexicodec
from flexicodec.cli import VERBS, build_parser
from tests.docs.pages import CARDS, NOT_RUN, PAGES, ROOT, RUN, SHOWN, blocks, commands, name

MOST_NOT_RUN = 12
BLOCKS = [block for page in PAGES for block in blocks(page)]


def prose(page):
    """The text of a page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The ids of a page's headings, as GitHub and mkdocs make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target, _, anchor in re.findall(r"\]\(([^)\s#]*)(#([^)\s]*))?\)", prose(page)):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_every_block_has_a_language():
    for block in BLOCKS:
        assert block.language in RUN | SHOWN, f"{block.place}: {block.language!r}"


def test_blocks_that_are_not_run_are_few_and_say_why():
    marked = [block for block in BLOCKS if NOT_RUN in block.code]
    assert len(marked) <= MOST_NOT_RUN
    for block in marked:
        first = block.code.splitlines()[0]
        assert first.startswith(NOT_RUN), block.place
        assert len(first) > len(NOT_RUN) + 5, block.place


def test_every_command_is_one():
    """Those that are not run, too, have verbs and options that exist."""
    parser = build_parser()
    seen = 0
    for block in BLOCKS:
        for line in commands(block) if block.language == "bash" else []:
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if words[0] == "flexicodec":
                    parser.parse_args(words[1:])  # raises SystemExit
                    seen += 1
    assert seen > 30


def test_every_verb_and_extra_is_in_a_table():
    table = (ROOT / "docs/command-line.md").read_text()
    for verb in VERBS:
        assert re.search(rf"^\|.*`{verb}`.*\|", table, re.MULTILINE), verb
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    install = (ROOT / "docs/install.md").read_text()
    for extra in re.findall(r"^([\w-]+) = \[", section, re.MULTILINE):
        assert f"`{extra}`" in install, extra


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    for public in set(flexicodec.__all__) - {"EXAMPLE", "__version__"}:
        assert re.search(rf"^::: flexicodec\.{public}$", text, re.MULTILINE), public


def test_pictures_are_what_the_script_draws():
    script = runpy.run_path(str(ROOT / "docs/tools/pictures.py"))
    drawn = {f"{key}.svg": draw() for key, draw in script["PICTURES"].items()}
    assert drawn == {path.name: path.read_text() for path in (ROOT / "docs/pictures").iterdir()}


@pytest.mark.parametrize("card", CARDS, ids=name)
def test_a_card_has_the_front_matter_of_the_hub(card):
    data = ModelCard(card.read_text()).data
    assert data.license in ("mit", "apache-2.0")
    assert data.library_name == "flexicodec-lab"
    assert data.pipeline_tag
    assert len(data.tags) >= 2


def test_every_asset_has_a_card():
    folders = {path.parent for path in (ROOT / "flexicodec/assets").glob("*/*") if path.is_file()}
    assert folders == {card.parent for card in CARDS}
    assert CARDS
