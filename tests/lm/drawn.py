"""Random tokens for hypothesis: any valid clip of any kind of codec."""

import numpy as np
from hypothesis import strategies as st

from flexicodec import TokenFormat, Tokens

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
