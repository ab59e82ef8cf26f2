"""Each flip is counted once: its consequences are not counted as decisions."""

import pytest
import torch

from flexicodec.code_margins import Margins
from flexicodec.models.margins import compare_codes
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FORM = TokenFormat(semantic_codebook_size=10, acoustic_codebook_size=10)


def tokens(durations, semantic, acoustic, with_margins=True):
    durations = torch.tensor([durations])
    frames, count = int(durations.sum()), durations.shape[1]
    margins = Margins(
        torch.arange(frames)[None] / 100, torch.arange(2.0 * count).view(1, 2, count), torch.arange(1.0 * count)[None]
    )
    return Tokens([semantic], [acoustic], durations, None, FORM, margins=margins if with_margins else None)


def test_the_same_tokens_have_no_flips():
    one = tokens([2, 1, 3], [1, 2, 3], [[1, 2, 3], [4, 5, 6]])
    found = compare_codes(one, one)
    assert (len(found.boundaries), len(found.semantic), len(found.acoustic)) == (5, 3, 6)
    assert [each.flips() for each in (found.boundaries, found.semantic, found.acoustic)] == [0, 0, 0]
    assert found.boundaries.margins.tolist() == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])


def test_a_boundary_that_moved_is_one_flip_and_counts_again_from_the_next_common_one():
    one = tokens([2, 2, 2], [1, 2, 3], [[1, 2, 3], [4, 5, 6]])
    other = tokens([1, 3, 2], [1, 2, 3], [[1, 2, 3], [4, 5, 6]])
    found = compare_codes(one, other)
    # pairs 0 (flipped), then out of step until both have the boundary behind pair 3
    assert found.boundaries.flipped.tolist() == [True, False]
    assert found.boundaries.margins.tolist() == pytest.approx([0.0, 0.04])
    assert len(found.semantic) == len(found.acoustic) == 0


@pytest.mark.parametrize(("reach", "left_out"), [(None, {0, 1, 2, 3}), (1, {0, 1, 2}), (0, {1})])
def test_acoustic_codes_are_compared_where_no_semantic_one_near_them_flipped(reach, left_out):
    one = tokens([1] * 4, [1, 2, 3, 4], [[1] * 4, [2] * 4])
    other = tokens([1] * 4, [1, 9, 3, 4], [[7] * 4, [8] * 4])
    found = compare_codes(one, other, reach)
    assert found.semantic.flipped.tolist() == [False, True, False, False]
    assert found.acoustic.margins.tolist() == [n for n in range(4) if n not in left_out]  # of the first codebook alone
    assert found.acoustic.flips() == 4 - len(left_out)
    assert found.acoustic.flips(above=2.5) == (3 not in left_out)


def test_parallel_codebooks_are_decisions_of_their_own():
    form = TokenFormat(semantic_codebook_size=None, max_duration=1, parallel_codebooks=True)
    margins = Margins(torch.full((1, 2), torch.inf), torch.arange(4.0).view(1, 2, 2))
    one = Tokens(None, [[[1, 2], [3, 4]]], None, None, form, margins=margins)
    other = Tokens(None, [[[5, 2], [6, 4]]], None, None, form)
    assert compare_codes(one, other).acoustic.flipped.tolist() == [True, False, True, False]


def test_what_cannot_be_compared():
    one = tokens([2, 1], [1, 2], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="margins=True"):
        compare_codes(tokens([2, 1], [1, 2], [[1, 2], [3, 4]], with_margins=False), one)
    with pytest.raises(ValueError, match="the same ones"):
        compare_codes(one, tokens([2, 2], [1, 2], [[1, 2], [3, 4]]))
