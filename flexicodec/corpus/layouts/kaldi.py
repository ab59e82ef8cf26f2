"""Kaldi data directories (https://kaldi-asr.org/doc/data_prep.html).

`wav.scp` names the file of each recording, `segments` the utterances in it (else each recording is one); `text`,
`utt2spk`, `utt2lang`, `utt2dur` and `reco2file_and_channel` are read where they are there. Paths are resolved against
the directory, then the current folder.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flexicodec.corpus.layouts.folder import AudioHeaders, Entry, Listing, channel_number, read_lines
from flexicodec.corpus.lists.fields import language_code
from flexicodec.corpus.manifest import resolve_path

FILE_END = -1.0  # an end time in segments


@dataclass(frozen=True)
class _Program:
    """A program that can hand a file on as it is: its options with a value, and those without."""

    values: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


# Only options that change neither times nor levels: formats, the sample rate, the choice of a channel.
PROGRAMS = {
    "cat": _Program(),
    "sph2pipe": _Program(("-f", "-c"), ("-p", "-u", "-a")),
    "flac": _Program((), ("-c", "-d", "-s", "-F", "--decode", "--stdout", "--silent", "-cd", "-dc", "-cds", "-dcs")),
    "sox": _Program(
        ("-t", "-r", "-b", "-e", "-c"), ("-R", "-D", "-G", "-q", "-s", "-2", "-V0", "-V1", "-V2", "--no-dither")
    ),
    "ffmpeg": _Program(
        ("-i", "-f", "-ar", "-ac", "-acodec", "-c:a", "-ab", "-b:a", "-v", "-loglevel", "-sample_fmt"),
        ("-nostdin", "-hide_banner", "-y", "-vn", "-nostats"),
    ),
}
STANDARD_OUTPUT = ("-", "pipe:1", "/dev/stdout")


@dataclass(frozen=True)
class _Recording:
    path: Path
    channel: int | None = None  # from 0; None where wav.scp does not say
    command: bool = False  # wav.scp has a command that outputs the file


def is_kaldi(folder: Path) -> bool:
    """Tell a data directory by its wav.scp; AISHELL-2 has one too, with texts and speakers elsewhere."""
    return (folder / "wav.scp").is_file() and not (folder / "trans.txt").is_file()


def read_kaldi(folder: Path, headers: AudioHeaders) -> Listing:
    """List the utterances of a data directory; `headers` is asked, and remembers, how many channels files have.

    Raises:
        ValueError: A list cannot be followed, or names audio in archives, or of commands that change it.
    """
    if not (folder / "wav.scp").is_file() and (folder / "feats.scp").is_file():
        raise ValueError(f"{folder} holds features (feats.scp) and no audio; expected wav.scp with a file each")
    listing = Listing()
    recordings = {name: _recording(folder, name, file) for name, file in _read_table(folder / "wav.scp").items()}
    commands = sum(recording.command for recording in recordings.values())
    if commands:
        listing.remarks.append(f"wav.scp names {commands} recordings by commands; the files in them are read directly")
    _add_sides(folder / "reco2file_and_channel", recordings, headers, listing)

    names = _Utterances(folder)
    for entry in _entries(folder, recordings, headers, listing):
        listing.entries.append(names.complete(entry))
    for name, table in names.tables.items():
        extra = len(table.keys() - {entry.name for entry in listing.entries})
        if extra:
            listing.left_out[f"lines of {name} for utterances that are not listed"] = extra
    return listing


class _Utterances:
    """The lists with a row per utterance."""

    def __init__(self, folder: Path):
        self.tables = {
            name: _read_table(folder / name, optional=True) for name in ("text", "utt2spk", "utt2lang", "utt2dur")
        }
        if not self.tables["utt2spk"]:
            for speaker, names in _read_table(folder / "spk2utt", optional=True).items():
                self.tables["utt2spk"].update(dict.fromkeys(names.split(), speaker))

    def complete(self, entry: Entry) -> Entry:
        """Add text, speaker, language and the duration that utt2dur states."""
        seconds = self.tables["utt2dur"].get(entry.name)
        if seconds is not None and not re.fullmatch(r"\d+(\.\d*)?(e-?\d+)?", seconds):
            raise ValueError(f"utt2dur: {entry.name} has {seconds!r}; expected seconds")
        return replace(
            entry,
            text=self.tables["text"].get(entry.name),
            speaker=self.tables["utt2spk"].get(entry.name) or None,
            language=language_code(self.tables["utt2lang"].get(entry.name)),
            seconds=None if seconds is None else float(seconds),
        )


def _entries(
    folder: Path, recordings: dict[str, _Recording], headers: AudioHeaders, listing: Listing
) -> Iterator[Entry]:
    """Yield the segments; without a list of them, the recordings."""
    segments = _read_table(folder / "segments", optional=True)
    if not segments:
        for name, recording in recordings.items():
            yield Entry(name, recording.path, id=name, channel=recording.channel)
        return
    rows = {name: _segment(f"{folder / 'segments'}: {name}", row, recordings) for name, row in segments.items()}
    unused = len(recordings) - len({recording for recording, *_ in rows.values()})
    if unused:
        listing.left_out["recordings without a segment"] = unused

    # Kaldi counts channels from 0 here. Numbers that only fit if they count from 1 are taken so.
    numbers = [(int(row[3]), row[0]) for row in rows.values() if row[3].isdigit()]
    first = 0
    if numbers and min(numbers)[0] == 1:
        first = int(any(number == headers.channels(recordings[recording].path) for number, recording in numbers))
    if first:
        listing.remarks.append("the channels in segments were taken to count from 1, as they do not fit from 0")
    for name, (source, start, end, channel) in rows.items():
        side = recordings[source].channel if not channel else channel_number(channel, first)
        yield Entry(name, recordings[source].path, start, end, id=name, channel=side)


def _segment(where: str, row: str, recordings: dict[str, _Recording]) -> tuple[str, float, float | None, str]:
    """Parse recording, start, end and the channel's name, which is "" where there is none."""
    try:
        recording, start, end, *channel = row.split()
        seconds = float(end)
        if len(channel) > 1 or (channel and not re.fullmatch(r"\d+|[A-Za-z]|-1", channel[0])):
            raise ValueError("a fifth column that is no channel")
        times = float(start), None if seconds == FILE_END else seconds
    except ValueError as error:
        raise ValueError(
            f"{where} has {row!r}; expected recording, start and end in seconds, and perhaps a channel ({error})"
        ) from error
    if recording not in recordings:
        raise ValueError(f"{where} is from {recording!r}, which wav.scp does not list")
    return recording, *times, "" if channel in ([], ["-1"]) else channel[0]


def _add_sides(path: Path, recordings: dict[str, _Recording], headers: AudioHeaders, listing: Listing) -> None:
    """Take the channels of reco2file_and_channel, where wav.scp does not choose one.

    The list names the side of a call for scoring. Where the file of a recording has one channel, it is that side.
    """
    mono = 0
    for name, row in _read_table(path, optional=True).items():
        recording = recordings.get(name)
        if recording is None or recording.channel is not None:
            continue
        try:
            _, side = row.split()
            channel = channel_number(side, first=1)
        except ValueError as error:
            raise ValueError(f"{path}: {name} has {row!r}; expected a file and a channel (A, B, 1, 2)") from error
        if headers.channels(recording.path) == 1:
            mono += channel > 0
            continue
        recordings[name] = replace(recording, channel=channel)
    if mono:
        listing.remarks.append(f"{mono} recordings are side B, ... of a call by {path.name}, in files of one channel")


def _read_table(path: Path, optional: bool = False) -> dict[str, str]:
    """Read lines of a key and the rest."""
    if optional and not path.exists():
        return {}
    rows: dict[str, str] = {}
    for number, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        if key in rows:
            raise ValueError(f"{path}:{number}: {key} is there twice")
        rows[key] = "".join(rest).strip()
    return rows


# --------------------------------------------------------------------------------------------------------- wav.scp


def _recording(folder: Path, name: str, file: str) -> _Recording:
    where = f"{folder / 'wav.scp'}: {name}"
    if file.endswith("|"):
        try:
            source, channel = parse_command(file)
        except ValueError as error:
            raise ValueError(
                f"{where} is the output of a command ({file}): {error}; run it once and name the file it makes "
                "(`wav-copy scp:wav.scp` does so for all)"
            ) from error
        return _Recording(resolve_path(source, folder), channel, command=True)
    path = resolve_path(file, folder)
    if not path.exists() and re.search(r":\d+(\[.*\])?$", file):
        raise ValueError(f"{where} lies in an archive ({file}); expected a file each")
    return _Recording(path)


def parse_command(command: str) -> tuple[str, int | None]:
    """Return the file that a command of wav.scp hands on, and the channel it chooses, from 0; None for all.

    A `ValueError` says why a command does more than that.
    """
    source = ""
    channel: int | None = None
    for number, stage in enumerate(command.rstrip("| ").split("|")):
        program, *arguments = shlex.split(stage)
        name = Path(program).name
        if name not in PROGRAMS:
            raise ValueError(f"{name} is none of {', '.join(PROGRAMS)}")
        file, side = _parse_stage(name, arguments)
        if number > 0 and file not in ("-", "/dev/stdin", "pipe:0"):
            raise ValueError(f"{name} reads {file}, and not what comes before")
        if number > 0 and channel is not None and side:
            raise ValueError("it chooses channels twice")
        source = source or file
        channel = side if channel is None else channel
    if source in ("", "-"):
        raise ValueError("it names no file")
    return source, channel


def _parse_stage(program: str, arguments: list[str]) -> tuple[str, int | None]:
    """Return the input file of one program and the channel it chooses; `ValueError` where it does more."""
    known = PROGRAMS[program]
    files: list[str] = []
    options: dict[str, str] = {}
    effects: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word in known.values and left:
            options[word] = left.pop(0)
            if (word, options[word]) == ("-t", "raw"):
                raise ValueError("raw samples have no header to read")
        elif word in known.flags:
            continue
        elif word.startswith("-") and word != "-":
            raise ValueError(f"{program} has the option {word}, which may change more than the format")
        elif program == "sox" and len(files) == 2:  # what follows the output are effects
            effects = [word, *left]
            break
        else:
            files.append(word)

    # The input, and perhaps the output.
    if program == "ffmpeg":
        files.insert(0, options.get("-i", ""))
    output = files[1:]
    if not files or len(output) > 1 or (output and output[0] not in STANDARD_OUTPUT):
        raise ValueError(f"{program} is given {' '.join(files) or 'no file'}; expected one file, sent to the output")
    if program == "sph2pipe" and "-c" in options:
        return files[0], channel_number(options["-c"], first=1)
    return files[0], _sox_channel(effects)


def _sox_channel(effects: list[str]) -> int | None:
    """Return the channel that SoX's effects, if any, choose; those that change times or levels are a `ValueError`."""
    channel = None
    while effects:
        name = effects.pop(0)
        values = []
        while effects and (effects[0].startswith("-") or effects[0][0].isdigit()):
            values.append(effects.pop(0))
        if name == "remix" and len(values) == 1 and values[0].isdigit():
            channel = channel_number(values[0], first=1)
        elif name not in ("rate", "dither", "channels") and (name, values) != ("remix", ["-"]):
            raise ValueError(f"sox has the effect {name}, which changes the audio")
    return channel
