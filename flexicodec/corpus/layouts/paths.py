"""Clips of layouts that paths tell: the rules of `rules.py` applied to audio files, and lists of texts."""

import re
from collections.abc import Iterable
from pathlib import Path

from flexicodec.corpus.layouts.folder import Entry, Listing, Siblings, read_lines, read_text, text_beside
from flexicodec.corpus.layouts.rules import LANGUAGES, RULES, PathRule
from flexicodec.corpus.lists.fields import SYNONYMS
from flexicodec.io_utils import AUDIO_SUFFIXES

HEADERS = (*SYNONYMS["path"], *SYNONYMS["id"])  # first cells of a line that is no clip


class RuleReader:
    """Applies rules to audio files; every list is read once."""

    def __init__(self, root: Path, rules: Iterable[PathRule] = RULES):
        self.root = root
        self.rules = tuple(rules)
        self._siblings = Siblings()
        self._lists: dict[tuple[Path, int], dict[str, str]] = {}
        self._found_lists: dict[str, list[Path]] = {}
        self._used: set[tuple[Path, str]] = set()

    def read(self, audio: Iterable[Path]) -> tuple[dict[str, Listing], list[Path], Listing]:
        """Return the listing of each layout by its name, the files that no rule explains, and texts without audio."""
        groups: dict[tuple[PathRule, str], list[tuple[Path, dict[str, str]]]] = {}
        rest = []
        for path in audio:
            found = self._rule(path)
            if found is None:
                rest.append(path)
                continue
            rule, values = found
            # Copies of an utterance lie in one folder.
            key = f"{values['folder']}/{rule.id.format(**values)}".lower()
            groups.setdefault((rule, key), []).append((path, values))

        listings: dict[str, Listing] = {}
        for (rule, _), files in groups.items():
            listing = listings.setdefault(rule.name, Listing())
            path, values = max(files, key=lambda file: _preference(file[0], rule.prefer))
            listing.entries.append(self._entry(rule, path, values))
            if len(files) > 1:
                listing.left_out[f"{rule.name}: {rule.copies}"] += len(files) - 1
        return listings, rest, self._without_audio()

    def _rule(self, path: Path) -> tuple[PathRule, dict[str, str]] | None:
        for rule in self.rules:
            values = rule.match(path.absolute())
            if values is None:
                continue
            if not rule.needs_list or self._listed_text(rule, values) is not None:
                return rule, values
        return None

    def _entry(self, rule: PathRule, path: Path, values: dict[str, str]) -> Entry:
        problem = text = None
        try:
            text = self._text(rule, path, values)
        except ValueError as error:
            problem = str(error)
        language = rule.language
        if rule.language_in is not None:
            named = re.search(rule.language_in, path.absolute().as_posix())
            language = None if named is None else LANGUAGES.get(named[1], named[1][:2])
        sentence = values.get("sentence")
        alignment = None
        if rule.alignment is not None:
            alignment = self._siblings.find(Path(rule.alignment.format(**values)))
        return Entry(
            str(path),
            path,
            text=text,
            speaker=values.get("speaker") or rule.speaker,
            id=rule.id.format(**values),
            language=language,
            alignment=alignment,
            sentence=None if sentence is None else rule.prompt(sentence),
            speaker_guessed=rule.guessed and bool(values.get("speaker")),
            problem=problem,
        )

    def _text(self, rule: PathRule, path: Path, values: dict[str, str]) -> str | None:
        """Return the text where the layout has it, else that of the same name beside the audio (for MFA, say)."""
        for template in rule.beside:
            file = self._siblings.find(Path(template.format(**values)))
            if file is not None:
                return rule.clean(read_text(file)) or None
        text = self._listed_text(rule, values)
        if text is None:
            text = text_beside(path, self._siblings)
        return None if text is None else rule.clean(text) or None

    def _listed_text(self, rule: PathRule, values: dict[str, str]) -> str | None:
        """Return the text that a list has for a clip, "" too; None where no list names it."""
        for path in self._lists_of(rule, values):
            texts = self._list(path, rule.column)
            key = values["id"] if "id" in values else values["sentence"]
            if key in texts:
                self._used.add((path, key))
                return texts[key]
        return None

    def _lists_of(self, rule: PathRule, values: dict[str, str]) -> list[Path]:
        """Return the lists of a clip that exist."""
        paths = []
        for template in rule.lists:
            name = template.format(**values)
            if name not in self._found_lists:
                path = Path(name)
                matching = path.parent.glob(path.name) if "*" in template else [path]
                self._found_lists[name] = sorted(each for each in matching if each.is_file())
            paths += self._found_lists[name]
        return paths

    def _list(self, path: Path, column: int) -> dict[str, str]:
        if (path, column) not in self._lists:
            self._lists[path, column] = read_texts(path, column)
        return self._lists[path, column]

    def _without_audio(self) -> Listing:
        """List the clips that have a text but no audio; of a list that names no audio at all, the lines are counted."""
        listing = Listing()
        root = self.root.absolute()
        for path, texts in {path: texts for (path, _), texts in self._lists.items()}.items():
            if not path.is_relative_to(root):  # a part of the corpus was asked for
                continue
            unused = [key for key in texts if (path, key) not in self._used]
            if texts and len(unused) == len(texts):
                listing.left_out[f"lines of {path}, none of which names audio here"] += len(unused)
                continue
            for key in unused:
                problem = f"{path} lists it, but there is no audio of this name"
                listing.entries.append(Entry(f"{path.parent / key}.*", path.parent / key, problem=problem))
        return listing


def _preference(path: Path, wanted: str) -> tuple[bool, int, str]:
    """Order the files of one utterance: the wanted name, then formats without loss."""
    return wanted in path.stem.lower(), -AUDIO_SUFFIXES.index(path.suffix.lower()), path.name


def read_texts(path: Path, column: int = 1) -> dict[str, str]:
    """Read a list of clips: the text of each by its name.

    Lines are `( name "text" )` (Festival), or columns between `|` or tabs, or a name, a colon or space, and the text.

    Args:
        path: The list.
        column: Column of the text; where it is missing or empty, the one before.
    """
    texts: dict[str, str] = {}
    lines = read_lines(path)
    if path.suffix.lower() == ".csv" and lines and "|" not in lines[0][1]:  # another kind of table
        return texts
    for number, line in lines:
        festival = re.fullmatch(r'\(\s*(\S+)\s+"(.*)"\s*\)', line)
        delimiter = next((each for each in ("|", "\t") if each in line), None)
        if festival is not None:
            name, text = festival.groups()
        elif delimiter is not None:
            name, *columns = [cell.strip() for cell in line.split(delimiter)]
            chosen = [cell for cell in columns[:column] if cell]
            text = chosen[-1] if chosen else ""
        else:
            name, _, text = re.sub(r"^(\S+?)[:\s]\s*", r"\1 ", line, count=1).partition(" ")
        if Path(name).suffix.lower() in AUDIO_SUFFIXES:
            name = Path(name).stem
        if not texts and name.lower() in HEADERS:
            continue
        if name in texts and texts[name] != text:
            raise ValueError(f"{path}:{number}: {name} is there twice, with different texts; expected a line per clip")
        texts[name] = text
    return texts
