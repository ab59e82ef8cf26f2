"""Layouts that the path of an audio file tells: published corpora with their own places of speaker and text.

`RULES` is the table. A pattern is matched with the absolute path without its suffix, so that parts of a corpus are
known too; what its groups are called goes to the utterance, and into the names of the files with the text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = {  # of folder names of MLS; those of M-AILABS begin with the code
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}
ANOTHER_FILE = "further files of an utterance (other formats, copies)"


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _without_numbers(text: str) -> str:
    """Drop the first and last sample that precede a sentence of TIMIT."""
    return _squeeze(re.sub(r"^\s*\d+\s+\d+\s+", "", text))


def _unspaced(text: str) -> str:
    """Close the spaces between Chinese words, which are not part of the script."""
    return re.sub(r"(?<=[^\x00-\x7f])\s+(?=[^\x00-\x7f])", "", text.strip())


def _every_second(text: str) -> str:
    """Take the characters of `character pinyin character pinyin ...` (AISHELL-3)."""
    return "".join(text.split()[::2])


@dataclass(frozen=True)
class PathRule:
    """A layout told by paths.

    Attributes:
        name: Name of the layout.
        told: What such a corpus looks like, for messages.
        pattern: Regular expression of the end of a path without suffix; the group `speaker` is the speaker, `id` and
            `sentence` likewise.
        id: Template of the id.
        beside: Templates of files that hold the text of one clip, the first that exists is read.
        lists: Templates (`*` matches anything) of files with a line per clip: its name and its text.
        column: Column of the text, where lists have more; the one before where it is empty or missing.
        language: ISO 639 code of the text.
        language_in: Regular expression of the folder that names the language.
        speaker: Speaker of all clips, where the path does not name it.
        guessed: The speaker is a guess.
        clean: Makes the text of what the file has.
        prompt: Makes the name of the sentence of its group.
        alignment: Template of the alignment, where it does not lie beside the audio.
        prefer: Part of the name of the file to take where an utterance has several.
        copies: What the others are, for the count of what is left out.
        needs_list: The path alone says too little: one of `lists` has to name the clip.
    """

    name: str
    told: str
    pattern: str
    id: str = "{id}"
    beside: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    column: int = 1
    language: str | None = None
    language_in: str | None = None
    speaker: str | None = None
    guessed: bool = False
    clean: Callable[[str], str] = _squeeze
    prompt: Callable[[str], str] = str
    alignment: str | None = None
    prefer: str = ""
    copies: str = ANOTHER_FILE
    needs_list: bool = False

    def match(self, path: Path) -> dict[str, str] | None:
        """Return the groups of an audio file's path, with `folder` and `stem`; None if it is not of this layout."""
        before = "" if "(?P<base>" in self.pattern else "(?:.*/)?"  # the group base is all that comes before
        matched = re.fullmatch(before + self.pattern, path.with_suffix("").as_posix(), re.IGNORECASE)
        if matched is None:
            return None
        groups = {name: value or "" for name, value in matched.groupdict().items()}
        return {"folder": str(path.parent), "stem": path.stem, **groups}


_ARCTIC = r"(?P<sentence>arctic_[ab]\d{4})"
_EMOTION = r"(?:angry|happy|neutral|sad|surprise)"

# In this order: the first whose pattern matches. Those that need a list come last.
RULES = (
    PathRule(
        "libritts",
        "84/121123/84_121123_000007_000001.wav with .normalized.txt or .original.txt beside",
        r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P<id>(?P=speaker)_(?P=chapter)_\d+_\d+)",
        beside=("{folder}/{id}.normalized.txt", "{folder}/{id}.original.txt"),
        lists=("{folder}/{speaker}_{chapter}.trans.tsv",),
        column=2,
        language="en",
    ),
    PathRule(
        "librispeech",
        "84/121123/84-121123-0000.flac with 84-121123.trans.txt beside",
        r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P<id>(?P=speaker)-(?P=chapter)-\d+)",
        lists=("{folder}/*.trans.txt", "{folder}/*.trans.txt.gz"),
        language="en",
    ),
    *(
        PathRule(
            "mls",
            f"mls_polish/train/{folder}SPEAKER/BOOK/SPEAKER_BOOK_000000.flac with train/transcripts.txt",
            rf"(?P<base>(?:.*/)?){folder}(?P<speaker>\d+)/(?P<book>\d+)/(?P<id>(?P=speaker)_(?P=book)_\d+)",
            lists=("{base}transcripts.txt",),
            language_in=f".*/mls_({'|'.join(LANGUAGES)})",
        )
        for folder in ("audio/", "")
    ),
    PathRule(
        "libri-light",
        "small/SPEAKER/BOOK_librivox.../NAME_64kb.flac with .json beside",
        r"(?P<speaker>\d+)/(?P<book>[^/]*librivox[^/]*)/(?P<name>[^/]+)",
        id="{speaker}/{book}/{name}",
        language="en",
    ),
    PathRule(
        "libri-light",
        "small/SPEAKER/BOOK/NAME.flac",
        r"(?:small|medium|large|duplicate)/(?P<speaker>\d+)/(?P<book>[^/]+)/(?P<name>[^/]+)",
        id="{speaker}/{book}/{name}",
        language="en",
    ),
    PathRule(
        "vctk",
        "wav48_silence_trimmed/p225/p225_001_mic1.flac with txt/p225/p225_001.txt",
        r"(?P<base>.*)/[^/]*wav[^/]*/(?P<speaker>p\d{3}|s5)/(?P<id>(?P=speaker)_\d{3})(?:_mic\d)?",
        beside=("{base}/txt/{speaker}/{id}.txt",),
        language="en",
        prefer="_mic1",  # all speakers have it; p280 and p315 lack mic2
        copies="recordings of a sentence by the second microphone (mic1 is read)",
    ),
    PathRule(
        "ljspeech",
        "wavs/LJ001-0001.wav with metadata.csv",
        r"(?P<base>.*)/[^/]+/(?P<id>LJ\d{3}-\d{4})",
        lists=("{base}/metadata.csv", "{folder}/metadata.csv"),
        column=2,
        language="en",
        speaker="LJ",
    ),
    PathRule(
        "m-ailabs",
        "en_US/by_book/female/SPEAKER/BOOK/wavs/NAME.wav with BOOK/metadata.csv",
        r"(?P<base>.*/by_book/(?:female|male)/(?P<speaker>[^/]+)/[^/]+)/wavs/(?P<id>[^/]+)",
        lists=("{base}/metadata.csv",),
        column=2,
        language_in=r".*/([a-z]{2})_[A-Z]{2}/by_book/",
    ),
    PathRule(
        "m-ailabs",
        "en_US/by_book/mix/BOOK/wavs/NAME.wav, of several speakers",
        r"(?P<base>.*/by_book/mix/[^/]+)/wavs/(?P<id>[^/]+)",
        lists=("{base}/metadata.csv",),
        column=2,
        language_in=r".*/([a-z]{2})_[A-Z]{2}/by_book/",
    ),
    PathRule(
        "hui",
        "HUI.../SPEAKER/BOOK/wavs/NAME.wav with BOOK/metadata.csv",
        r"(?P<base>.*/hui(?:[-_ ][^/]*)?/(?:.*/)?(?P<speaker>[^/]+)/[^/]+)/wavs/(?P<id>[^/]+)",
        lists=("{base}/metadata.csv",),
        language="de",
    ),
    PathRule(
        "aishell",
        "wav/train/S0002/BAC009S0002W0122.wav with transcript/aishell_transcript_v0.8.txt",
        r"(?P<base>.*)/wav/(?:[^/]+/)?(?P<speaker>S\d{4})/(?P<id>BAC009(?P=speaker)W\d{4})",
        lists=("{base}/transcript/aishell_transcript*.txt",),
        language="zh",
        clean=_unspaced,
    ),
    PathRule(
        "aishell-2",
        "wav/C0001/IC0001W0001.wav with trans.txt",
        r"(?P<base>.*)/wav/(?P<speaker>[A-Z]\d{4})/(?P<id>[A-Z](?P=speaker)W\d{4})",
        lists=("{base}/trans.txt",),
        language="zh",
        clean=_unspaced,
    ),
    PathRule(
        "aishell-3",
        "train/wav/SSB0005/SSB00050001.wav with train/content.txt",
        r"(?P<base>.*)/wav/(?P<speaker>SSB\d{4})/(?P<id>(?P=speaker)\d{4})",
        lists=("{base}/content.txt",),
        language="zh",
        clean=_every_second,
    ),
    PathRule(
        "timit",
        "TRAIN/DR1/FCJF0/SA1.WAV with SA1.PHN, SA1.WRD and SA1.TXT, in either case",
        r"(?:dr\d/)?(?P<speaker>[fm][a-z]{2}[a-z0-9]\d)/(?P<sentence>(?:sa|si|sx)\d+)(?:\.wav)?",
        id="{speaker}_{sentence}",
        beside=("{folder}/{sentence}.txt",),
        language="en",
        clean=_without_numbers,
        prompt=str.upper,
        alignment="{folder}/{sentence}.phn",
        prefer=".wav",  # SA1.WAV.wav is a RIFF copy of the SPHERE file SA1.WAV
    ),
    PathRule(
        "l2-arctic",
        "ABA/wav/arctic_a0001.wav with ABA/transcript/arctic_a0001.txt and ABA/textgrid",
        rf"(?P<base>(?:.*/)?(?P<speaker>[A-Z]{{2,6}}))/wav/{_ARCTIC}",
        id="{speaker}_{sentence}",
        beside=("{base}/transcript/{sentence}.txt",),
        language="en",
        alignment="{base}/textgrid/{sentence}.TextGrid",  # `annotation` has some of the sentences, corrected by hand
    ),
    PathRule(
        "cmu-arctic",
        "cmu_us_slt_arctic/wav/arctic_a0001.wav with etc/txt.done.data",
        rf"(?P<base>(?:.*/)?cmu_us_(?P<speaker>[a-z0-9]+)_arctic[^/]*)/wav/{_ARCTIC}",
        id="{speaker}_{sentence}",
        lists=("{base}/etc/txt.done.data",),
        language="en",
        alignment="{base}/lab/{sentence}.lab",
    ),
    *(
        PathRule(
            "esd",
            "0011/Angry/0011_000351.wav with 0011/0011.txt",
            rf"(?P<base>(?:.*/)?(?P<speaker>{speakers}))/{_EMOTION}/(?:[^/]+/)?(?P<id>(?P=speaker)_\d{{6}})",
            lists=("{base}/{speaker}.txt",),
            language=language,
        )
        for language, speakers in (("zh", r"00(?:0[1-9]|10)"), ("en", r"00(?:1[1-9]|20)"))
    ),
    PathRule(
        "emov-db",
        "bea_Amused/amused_1-15_0001.wav",
        r"(?P<speaker>bea|jenie|josh|sam)[_/](?:amused|anger|angry|disgusted?|neutral|sleepiness|sleepy)/(?P<id>[^/]+)",
        id="{speaker}_{id}",
        language="en",
    ),
    PathRule(
        "voxceleb",
        "id10001/VIDEO/00001.wav",
        r"(?P<speaker>id\d{5})/(?P<video>[\w-]{11})/(?P<clip>\d{5})",
        id="{speaker}/{video}/{clip}",
    ),
    PathRule(
        "jvs",
        "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav with transcripts_utf8.txt",
        r"(?P<base>(?:.*/)?(?P<speaker>jvs\d{3})/[^/]+)/wav[^/]*/(?P<sentence>[^/]+)",
        id="{speaker}_{sentence}",
        lists=("{base}/transcripts_utf8.txt",),
        language="ja",
    ),
    PathRule(
        "jsut",
        "basic5000/wav/BASIC5000_0001.wav with transcript_utf8.txt",
        r"(?P<base>.*)/wav/(?P<id>[A-Z0-9-]+_\d+)",
        lists=("{base}/transcript_utf8.txt",),
        language="ja",
        speaker="JSUT",
        needs_list=True,
    ),
    PathRule(
        "librispeech",
        "SPEAKER-CHAPTER-NAME.flac, or with underscores (Zeroth), with SPEAKER-CHAPTER.trans.txt beside",
        r"(?P<id>(?P<chapter>(?P<speaker>[^/_-]+)[_-][^/_-]+)[_-][^/]+)",
        lists=("{folder}/{chapter}.trans.txt", "{folder}/{chapter}.trans.txt.gz"),
        needs_list=True,
    ),
    PathRule(
        "trans-txt",
        "NAME.flac with any .trans.txt beside; the name up to a dash or underscore is taken for the speaker",
        r"(?P<id>(?:(?P<speaker>[^/_-]+)[_-])?[^/]+)",
        lists=("{folder}/*.trans.txt", "{folder}/*.trans.txt.gz"),
        guessed=True,
        needs_list=True,
    ),
    *(
        PathRule(
            "metadata-csv",
            f"{folder}NAME.wav with metadata.csv, as in LJSpeech; the folder is taken for the speaker",
            rf"(?P<base>(?:.*/)?(?P<speaker>[^/]+))/{folder}(?P<id>[^/]+)",
            lists=("{base}/metadata.csv",),
            column=2,
            guessed=True,
            needs_list=True,
        )
        for folder in ("wavs/", "wav/", "")
    ),
)
