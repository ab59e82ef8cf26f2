"""Margins follow their tokens through every selection, and mark the same fragile ones as a direct search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.code_margins import Margins
from flexicodec.tokens import TokenFormat, Tokens

FORM = TokenFormat(semantic_codebook_size=50, acoustic_codebook_size=20, max_duration=4)


def random_tokens(counts, codebooks=3, seed=0, sure=0.0):
    """A batch with padding; margins are such that about a quarter lies below 0.25."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(counts)
    valid = torch.arange(longest) < torch.tensor(counts)[:, None]
    durations = torch.randint(1, 5, valid.shape, generator=generator) * valid
    frames = int(durations.sum(-1).max())

    def margin(*shape):
        return torch.rand(shape, generator=generator) + sure

    boundaries = margin(len(counts), frames)
    boundaries[torch.arange(frames) >= durations.sum(-1, keepdim=True) - 1] = torch.inf
    padding = ~valid[:, None]
    acoustic = margin(len(counts), codebooks, longest).masked_fill(padding, torch.inf)
    margins = Margins(boundaries, acoustic, margin(len(counts), longest).masked_fill(~valid, torch.inf))
    codes = torch.randint(20, (len(counts), codebooks + 1, longest), generator=generator)
    lengths = durations.sum(-1) * FORM.frame_size
    return Tokens(codes[:, 0], codes[:, 1:], durations, lengths, FORM, margins=margins)


def same(ours, theirs):
    names = ("boundaries", "acoustic", "semantic")
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)


def test_every_clip_keeps_its_own():
    tokens = random_tokens([5, 1, 7])
    for i in range(3):
        clip = tokens[i]
        count, frames = int(tokens.token_lengths[i]), int(tokens.frame_lengths[i])
        assert clip.margins.semantic.tolist() == [tokens.margins.semantic[i, :count].tolist()]
        assert clip.margins.acoustic.tolist() == [tokens.margins.acoustic[i, :, :count].tolist()]
        assert clip.margins.boundaries.tolist() == [tokens.margins.boundaries[i, :frames].tolist()]
    again = Tokens.cat([tokens[0], tokens[1:]])
    assert again == tokens
    assert all(same(again[i].margins, tokens[i].margins) for i in range(3))
    assert torch.isinf(again.margins.acoustic[1, :, 1:]).all()


def test_fewer_codebooks_keep_theirs():
    tokens = random_tokens([4, 2])
    kept = tokens.keep(acoustic=1)
    assert torch.equal(kept.margins.acoustic, tokens.margins.acoustic[:, :1])
    assert torch.equal(kept.margins.boundaries, tokens.margins.boundaries)
    assert kept.keep(acoustic=0).margins.fragile(kept.durations).shape == (2, 4)


def test_pieces_in_time():
    first, second = random_tokens([5], seed=1), random_tokens([3], seed=2)
    whole = Tokens.concat([first, second])
    assert whole.durations.tolist() == [first.durations[0].tolist() + second.durations[0].tolist()]
    assert int(whole.audio_lengths) == int(first.audio_lengths) + int(second.audio_lengths)
    assert torch.equal(whole.margins.acoustic, torch.cat([first.margins.acoustic, second.margins.acoustic], dim=-1))
    assert whole.margins.boundaries.shape[1] == int(whole.frame_lengths)
    assert Tokens.concat([whole]) == whole


def test_pieces_that_make_no_clip():
    one, unknown = random_tokens([5]), random_tokens([3])
    unknown = Tokens(unknown.semantic, unknown.acoustic, unknown.durations, None, FORM)
    with pytest.raises(ValueError, match="no tokens"):
        Tokens.concat([])
    with pytest.raises(ValueError, match="a piece of 2 clips"):
        Tokens.concat([random_tokens([5, 3])])
    with pytest.raises(ValueError, match="codebooks"):
        Tokens.concat([one, one.keep(acoustic=1)])
    with pytest.raises(ValueError, match="audio_lengths"):
        Tokens.concat([one, unknown])


def test_margins_unknown_in_one_part_are_unknown_in_the_whole():
    one, other = random_tokens([4]), random_tokens([2])
    blind = Tokens(other.semantic, other.acoustic, other.durations, other.audio_lengths, FORM)
    assert Tokens.cat([one, blind]).margins is None
    assert Tokens.concat([one, blind]).margins is None


def test_they_are_neither_saved_nor_compared(tmp_path):
    tokens = random_tokens([4])
    tokens.save(tmp_path / "clip.flxc")
    loaded = Tokens.load(tmp_path / "clip.flxc")
    assert loaded.margins is None
    assert loaded == tokens


def test_they_move_with_their_tokens():
    moved = random_tokens([4]).margins.to("meta")
    assert {moved.boundaries.device.type, moved.acoustic.device.type, moved.semantic.device.type} == {"meta"}
    tokens = random_tokens([4])
    assert same(tokens.to("cpu").margins, tokens.margins)


@pytest.mark.parametrize("name", ["boundaries", "acoustic", "semantic"])
def test_margins_of_other_tokens_are_refused(name):
    tokens, other = random_tokens([4]), random_tokens([9])
    parts = {each: getattr(tokens.margins, each) for each in ("boundaries", "acoustic", "semantic")}
    parts[name] = getattr(other.margins, name)
    with pytest.raises(ValueError, match=f"margins of {name} have shape"):
        Tokens(tokens.semantic, tokens.acoustic, tokens.durations, None, FORM, margins=Margins(**parts))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 30), st.booleans())
def test_fragile_tokens_are_those_that_a_search_finds(counts, seed, unknown):
    tokens = random_tokens(counts, seed=seed, sure=0.15)
    margins = tokens.margins
    if unknown:
        margins.boundaries[0, 0] = torch.nan
    found = margins.fragile(tokens.durations, below=0.2)
    for i, durations in enumerate(tokens.durations.tolist()):
        start = 0
        for n, duration in enumerate(durations):
            end = start + duration
            touching = margins.boundaries[i, max(0, start - 1) : end].tolist()  # the pairs at its ends and inside it
            values = [*touching, float(margins.semantic[i, n]), *margins.acoustic[i, :, n].tolist()]
            assert bool(found[i, n]) == (duration > 0 and any(not value >= 0.2 for value in values))
            start = end
