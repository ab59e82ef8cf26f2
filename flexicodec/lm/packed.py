"""`PackedTokens`: the tokens of a corpus at one rate as a few flat arrays that are mapped into memory.

    semantic.npy   [tokens] codes                    durations.npy  [tokens] frames, where they are not all 1
    acoustic.npy   [tokens, codebooks]               offsets.npy    [clips + 1] first token of each clip
    text.npy       [ids], text_offsets.npy           where a tokenizer was given
    ids.parquet    id, num_samples, speaker, language, corpus of each clip, in this order
    vocabulary.json, packed.json                     what codes mean; how it was made, and of which units

Codes are stored as they are: the layout is chosen when they are loaded. `packing` writes such folders.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from flexicodec.corpus.token_dataset import read_json
from flexicodec.corpus.token_tables import parquet
from flexicodec.io_utils import describe_missing
from flexicodec.lm.codes import Codes, spans
from flexicodec.lm.vocabulary import Vocabulary
from flexicodec.tokens import Tokens

VERSION = 1
RECORD_FILE = "packed.json"
VOCABULARY_FILE = "vocabulary.json"
IDS_FILE = "ids.parquet"


@dataclass(frozen=True, eq=False)
class PackedTokens:
    """The tokens of a corpus at one rate, mapped into memory. Copies and other processes open the files again.

    Attributes:
        semantic: None for codecs without.
        durations: None where every token is one frame.
        acoustic: None without codebooks.
        offsets: First token of each clip, and the number of tokens at the end.
        text: Ids of all texts, and offsets of each clip's; None where no tokenizer was given.
    """

    folder: Path
    record: dict[str, Any]
    vocabulary: Vocabulary
    semantic: Int[np.ndarray, " tokens"] | None
    durations: Int[np.ndarray, " tokens"] | None
    acoustic: Int[np.ndarray, "tokens codebooks"] | None
    offsets: Int[np.ndarray, " bounds"]
    text: Int[np.ndarray, " ids"] | None
    text_offsets: Int[np.ndarray, " bounds"] | None

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> "PackedTokens":
        """Map the arrays of a folder that `pack` wrote.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is cut off, or the arrays do not agree.
        """
        path = Path(folder)
        if not (path / RECORD_FILE).is_file():
            raise FileNotFoundError(f"{describe_missing(path / RECORD_FILE)}; did `flexicodec pack` write {path}?")
        record = read_json(path / RECORD_FILE)
        if record.get("version") != VERSION:
            raise ValueError(f"{path / RECORD_FILE} is of version {record.get('version')!r}, expected {VERSION}")
        # The vocabulary says which arrays there are.
        vocabulary = Vocabulary.load(path / VOCABULARY_FILE)
        form = vocabulary.format
        wanted = {
            "semantic": form.semantic_codebook_size is not None,
            "durations": form.max_duration != 1,
            "acoustic": vocabulary.num_codebooks > 0,
            "offsets": True,
            "text": record["tokenizer"] is not None,
            "text_offsets": record["tokenizer"] is not None,
        }
        arrays: dict[str, Any] = {name: _map(path / f"{name}.npy") if there else None for name, there in wanted.items()}
        packed = PackedTokens(path, record, vocabulary, **arrays)
        for name in ("semantic", "durations", "acoustic"):
            array = arrays[name]
            if array is not None and len(array) != packed.offsets[-1]:
                raise ValueError(
                    f"{path / name}.npy has {len(array)} tokens, offsets.npy {packed.offsets[-1]}; were "
                    "files of two packings mixed?"
                )
        return packed

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedTokens.open, (self.folder,)  # mapped arrays would be pickled with their content

    @property
    def num_clips(self) -> int:
        """Clips of the corpus."""
        return len(self.offsets) - 1

    @property
    def rate_id(self) -> int:
        """Id of the rate that was asked when the corpus was tokenised."""
        choice = self.record["choice"]
        return self.vocabulary.rate_id(choice["frame_rate"], choice["threshold"])

    @cached_property
    def clips(self) -> Any:
        """A `pyarrow.Table` of id, num_samples, speaker, language and corpus of each clip."""
        return parquet().read_table(self.folder / IDS_FILE)

    def codes(self, clips: Int[np.ndarray, " clips"], num_codebooks: int = 0) -> Codes:
        """Gather the codes of some clips, with the first `num_codebooks` codebooks."""
        starts = self.offsets[clips]
        counts = self.offsets[clips + 1] - starts
        tokens = spans(starts, counts)
        semantic = None if self.semantic is None else self.semantic[tokens]
        # Clips are gathered by one index for all of them, which is faster than a slice for each.
        durations = np.ones(len(tokens), np.uint8) if self.durations is None else self.durations[tokens]
        acoustic = np.zeros((len(tokens), 0), np.uint16)
        if num_codebooks:
            assert self.acoustic is not None
            acoustic = self.acoustic[tokens, :num_codebooks]
        return Codes(semantic, durations, acoustic, counts)

    def tokens(self, clip: int) -> Tokens:
        """Return one clip, by its number."""
        if not 0 <= clip < self.num_clips:
            raise IndexError(f"clip {clip} of {self.num_clips}")
        codes = self.codes(np.array([clip]), self.vocabulary.num_codebooks)
        samples = self.clips.column("num_samples")[clip].as_py()
        info = {"id": self.clips.column("id")[clip].as_py()}
        form = self.vocabulary.format
        return Tokens(codes.semantic, codes.acoustic.T, codes.durations, [samples], form, info)


def _map(path: Path) -> Any:
    """Map an array into memory as a plain `ndarray`, whose slices are cheaper than those of a memmap."""
    if not path.is_file():
        raise FileNotFoundError(describe_missing(path))
    try:
        array = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); was it cut off while copying?") from error
    return array.view(np.ndarray)
