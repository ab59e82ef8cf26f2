"""Text and speech in one sequence: TEXT, ids, END_TEXT, then some tokens, then the next piece of text, and so on.

How many tokens follow each piece is decided by the times of words (as SpiritLM does) or by chunks of a fixed number of
frames (as GLM-4-Voice does; chunks of a fixed number of *tokens* would last 2 to 16 s at a dynamic rate).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from flexicodec.lm.codes import Codes
from flexicodec.lm.layout import Layout
from flexicodec.lm.vocabulary import Ids, read_ids
from flexicodec.token_format import Integers
from flexicodec.tokens import Tokens


def interleave(
    layout: Layout,
    tokens: Tokens,
    texts: Sequence[Ids],
    counts: Sequence[int],
    spoken: Sequence[bool] | None = None,
) -> Int[Tensor, " ids"]:
    """Write pieces of text, and behind each its tokens, as one sequence.

    Args:
        layout: Of one sequence.
        tokens: One clip.
        texts: Ids of each piece, below `layout.vocabulary.base`; a piece may be empty.
        counts: Tokens behind each piece, 0 or more; all of the clip's together.
        spoken: Whether a piece is written as its tokens, or else as its text; None writes both, which alone can be
            read back. Pieces of text side by side share TEXT and END_TEXT.
    """
    _check_layout(layout)
    vocabulary = layout.vocabulary
    num_tokens = int(tokens.token_lengths.sum())
    if len(texts) != len(counts) or sum(counts) != num_tokens or min(counts, default=0) < 0:
        raise ValueError(
            f"{len(texts)} pieces of text and {len(counts)} counts that sum to {sum(counts)} for {num_tokens} tokens; "
            "expected a count for each piece, 0 or more, and all tokens"
        )
    if spoken is not None and len(spoken) != len(texts):
        raise ValueError(f"spoken says {len(spoken)} times how a piece is written, expected {len(texts)}")
    speech = layout.encode(tokens).numpy()
    # Ids of the tokens before each piece: widths differ between tokens.
    widths = np.append(0, np.cumsum(layout.widths(Codes.of(tokens).durations)))
    bounds = widths[np.append(0, np.cumsum(counts)).astype(int)]
    begin = np.array([vocabulary.special("TEXT")])
    end = np.array([vocabulary.special("END_TEXT")])
    parts: list[np.ndarray] = []
    for number, text in enumerate(texts):
        piece = read_ids(text, axes=1)
        if piece.size and not 0 <= piece.min() <= piece.max() < vocabulary.base:
            raise ValueError(
                f"piece {number} of the text has ids {piece.min()} to {piece.max()}, expected 0 to "
                f"{vocabulary.base - 1}; is base the size of the tokenizer?"
            )
        its_speech = speech[bounds[number] : bounds[number + 1]]
        if spoken is None:
            parts += [begin, piece, end, its_speech]
        elif spoken[number]:
            parts.append(its_speech)
        else:
            opens = number == 0 or spoken[number - 1]
            closes = number == len(texts) - 1 or spoken[number + 1]
            parts += [begin] * opens + [piece] + [end] * closes
    return torch.from_numpy(np.concatenate([*parts, speech[bounds[-1] :]]))


def deinterleave(
    layout: Layout, ids: Ids, audio_lengths: Integers | int | None = None
) -> tuple[list[list[int]], list[int], Tokens]:
    """Read pieces of text, counts and tokens from a sequence that `interleave` wrote.

    Raises:
        ValueError: A piece that does not end, speech before the first piece, a token with text inside, or ids that
            the layout does not write.
    """
    _check_layout(layout)
    vocabulary = layout.vocabulary
    array = read_ids(ids, axes=1)
    vocabulary.check_ids(array)
    begins = np.flatnonzero(array == vocabulary.special("TEXT"))
    ends = np.flatnonzero(array == vocabulary.special("END_TEXT"))
    if len(array) and (not len(begins) or begins[0] != 0):
        raise ValueError(f"position 0 holds {vocabulary.describe(int(array[0]))}; expected TEXT before any token")
    # TEXT and END_TEXT take turns.
    if len(begins) != len(ends) or (begins > ends).any() or (ends[:-1] > begins[1:]).any():
        raise ValueError(f"TEXT at positions {begins.tolist()}, END_TEXT at {ends.tolist()}; expected them in turns")
    texts = []
    is_speech = np.ones(len(array), bool)
    for begin, end in zip(begins, ends, strict=True):
        piece = array[begin + 1 : end]
        if (piece >= vocabulary.base).any():
            at = begin + 1 + int((piece >= vocabulary.base).argmax())
            raise ValueError(f"position {at} holds {vocabulary.describe(int(array[at]))}; expected text or END_TEXT")
        texts.append(piece.tolist())
        is_speech[begin : end + 1] = False
    tokens = layout.decode(array[is_speech], audio_lengths)
    # Tokens end where their ids do.
    widths = np.append(0, np.cumsum(layout.widths(Codes.of(tokens).durations)))
    bounds = np.append(np.cumsum(is_speech)[begins], is_speech.sum())
    cut = ~np.isin(bounds, widths)
    if cut.any():
        at = begins[int(cut.argmax())]
        raise ValueError(f"position {at} holds TEXT inside a token; expected it before or behind one")
    counts = np.diff(np.searchsorted(widths, bounds)).tolist()
    return texts, counts, tokens


def word_counts(tokens: Tokens, word_ends: Sequence[float]) -> list[int]:
    """Count the tokens of each word: a token belongs to the word in which its middle lies.

    Silence goes to the word after it, that at the end to the last word; a word may have none.

    Args:
        tokens: One clip.
        word_ends: Seconds from the clip's start.
    """
    ends = np.asarray(word_ends, dtype=np.float64)
    if ends.ndim != 1 or not len(ends) or not np.isfinite(ends).all() or (np.diff(ends) < 0).any():
        raise ValueError(f"word_ends are {word_ends}; expected seconds of one word or more, in the order of time")
    middles = tokens.times(0).mean(-1).numpy()
    word = np.searchsorted(ends, middles, side="left").clip(max=len(ends) - 1)
    return np.bincount(word, minlength=len(ends)).tolist()


def draw_spoken(num_words: int, clip_id: str, epoch: int = 0, *, seed: int = 0, mean_words: float = 8.0) -> list[bool]:
    """Draw which words are written as speech: spans of speech and text in turns, the same for a clip, epoch and seed.

    Args:
        mean_words: Average length of a span; lengths are geometric.
    """
    if mean_words < 1:
        raise ValueError(f"mean_words is {mean_words}, expected 1 or more")
    digest = int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big")
    random = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, digest]))
    changes = random.random(num_words) < 1 / mean_words
    changes[:1] = random.random() < 0.5  # the first word is text or speech
    return (np.cumsum(changes) % 2 == 1).tolist()


def chunk_counts(tokens: Tokens, num_frames: int = 26) -> list[int]:
    """Count the tokens of each chunk of a clip: a chunk ends with the token with which `num_frames` are reached."""
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, expected 1 or more")
    counts = []
    frames = num_frames  # the first token begins a chunk
    for duration in Codes.of(tokens).durations:
        if frames >= num_frames:
            counts.append(0)
            frames = 0
        counts[-1] += 1
        frames += int(duration)
    return counts


def _check_layout(layout: Layout) -> None:
    if layout.is_delayed:
        raise ValueError("text is interleaved with one sequence; delayed rows have no ids for it")
