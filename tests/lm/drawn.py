"""Random tokens for hypothesis: any valid clip of any kind of codec."""

import json
from dataclasses import asdict

import numpy as np
from hypothesis import strategies as st

from flexicodec import TokenFormat, Tokens
from flexicodec.corpus import token_dataset, token_tables
from flexicodec.corpus.token_dataset import Choice

FLEXI = TokenFormat(fingerprint="abc", semantic_codebook_size=40, acoustic_codebook_size=16)
FORMATS = {
    "flexicodec": FLEXI,
    "semantic only, fixed rate": TokenFormat(max_duration=1, semantic_codebook_size=7),
    "nanocodec": TokenFormat(semantic_codebook_size=None, acoustic_codebook_size=9, max_duration=1),
    "dynamic without semantic codes": TokenFormat(semantic_codebook_size=None, acoustic_codebook_size=9),
    "no cap": TokenFormat(semantic_codebook_size=40, max_duration=None),
}


def random_tokens(seed, num_tokens, format=FLEXI, num_codebooks=0, *, equal=False, longest=None):
    """One clip; `equal`: all codes are the same."""
    random = np.random.default_rng(seed)
    limit = longest or format.max_duration or 30
    semantic = None
    if format.semantic_codebook_size is not None:
        semantic = random.integers(0, format.semantic_codebook_size, num_tokens)
        semantic = semantic * 0 + 1 if equal else semantic
    acoustic = random.integers(0, format.acoustic_codebook_size, (num_codebooks, num_tokens))
    durations = random.integers(1, limit + 1, num_tokens)
    return Tokens(semantic, acoustic, durations, None, format)


@st.composite
def tokens(draw, format=FLEXI, num_codebooks=0):
    """One clip of 0 to 39 tokens, with equal neighbours, all durations 1, or all the longest, at times."""
    seed = draw(st.integers(0, 2**32 - 1))
    longest = draw(st.sampled_from([None, 1, 2]))
    if format.max_duration == 1:
        longest = None
    return random_tokens(
        seed, draw(st.integers(0, 39)), format, num_codebooks, equal=draw(st.booleans()), longest=longest
    )


def make_folder(folder, units, *, frame_rate=6.25, num_codebooks=2, format=FLEXI, **changed):
    """A folder as `tokenize` makes it, with the clips of each unit; `changed` replaces fields of dataset.json."""
    choices = [Choice("made", num_codebooks, frame_rate=frame_rate)]
    record = {
        **{"version": token_tables.FORMAT_VERSION, "package": "0", "format": asdict(format), "precision": "float32"},
        **{"choices": [asdict(each) for each in choices], "units": {"count": len(units)}, **changed},
    }
    dataset = token_dataset.write_dataset(folder, record)
    (folder / "made").mkdir(exist_ok=True)
    (folder / token_dataset.REPORTS).mkdir(exist_ok=True)
    for unit, clips in enumerate(units):
        rows = []
        for number, clip in enumerate(clips):
            text = None if number % 5 == 4 else "ab" * (number % 4)
            rows.append(token_tables.ClipRow(f"{unit}-{number}", clip, text=text, speaker=f"s{number}"))
        path = dataset.table_path(choices[0], unit)
        token_tables.write_table(path, rows, dataset.header(choices[0], unit))
        said = {"bytes": path.stat().st_size, "sha256": token_dataset.file_hash(path)}
        dataset.report_path(unit).write_text(json.dumps({"files": {"made": said}}))
    return folder


def random_clips(seed, count, format=FLEXI, num_codebooks=2, longest=40):
    """Clips of 1 to `longest` tokens, with their samples."""
    random = np.random.default_rng(seed)
    clips = []
    for number in range(count):
        clip = random_tokens(seed * 1000 + number, int(random.integers(1, longest + 1)), format, num_codebooks)
        samples = int(clip.frame_lengths) * format.frame_size - int(random.integers(0, format.frame_size))
        clips.append(Tokens(clip.semantic, clip.acoustic, clip.durations, [samples], format))
    return clips


def characters(texts):
    """A tokenizer of letters: a is 0."""
    return [[ord(letter) - 97 for letter in text if "a" <= letter <= "z"] for text in texts]
