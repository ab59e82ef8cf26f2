"""The threshold behind tokens made by rate gives the same tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.thresholds import boundaries, effective_threshold
from flexicodec.merging import ExactRate, Threshold, Uniform
from flexicodec.tokens import TokenFormat, Tokens


def tokens_of(durations, max_duration=8):
    return Tokens(torch.zeros_like(durations), None, durations, format=TokenFormat(max_duration=max_duration))


@st.composite
def clips(draw):
    """Similarities of a clip without ties [1, T - 1], and a cap."""
    frames = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    similarities = (torch.randperm(frames - 1, generator=generator) + 1.0)[None] / frames
    return similarities, draw(st.sampled_from([1, 3, 8, None]))


@settings(derandomize=True, deadline=None)
@given(clips(), st.floats(0.1, 12.5))
def test_it_reproduces_tokens_made_by_rate(clip, frame_rate):
    similarities, cap = clip
    lengths = torch.tensor([similarities.shape[1] + 1])
    durations = ExactRate(frame_rate)(similarities, lengths, seconds=lengths / 12.5, max_duration=cap)
    threshold = effective_threshold(tokens_of(durations, cap), similarities[0])
    assert threshold is not None
    assert torch.equal(Threshold(threshold)(similarities, lengths, max_duration=cap), durations)


def test_a_lower_rate_never_has_a_higher_threshold():
    similarities, lengths = torch.rand(1, 99, generator=torch.Generator().manual_seed(0)), torch.tensor([100])
    made = [ExactRate(rate)(similarities, lengths, seconds=[8.0], max_duration=8) for rate in (12.5, 9, 6, 4, 2)]
    thresholds = [effective_threshold(tokens_of(durations), similarities[0]) for durations in made]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == similarities.max()


def test_only_full_tokens_have_no_cut_by_similarity():
    assert effective_threshold(tokens_of(torch.tensor([[8, 8, 4]])), torch.full((19,), 0.9)) == -1


def test_even_durations_have_none():
    similarities = torch.rand(1, 49, generator=torch.Generator().manual_seed(0))
    durations = Uniform(6.25)(similarities, torch.tensor([50]), seconds=[4.0], max_duration=8)
    assert effective_threshold(tokens_of(durations), similarities[0]) is None


def test_boundaries_lie_between_tokens():
    assert boundaries(tokens_of(torch.tensor([[2, 3, 1]]))).tolist() == [False, True, False, False, True]
    assert boundaries(tokens_of(torch.tensor([[1]]))).tolist() == []


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_it_is_at_most_the_threshold_that_was_chosen(threshold):
    similarities = torch.rand(1, 99, generator=torch.Generator().manual_seed(1))
    durations = Threshold(threshold)(similarities, torch.tensor([100]), max_duration=8)
    assert threshold - 0.1 < effective_threshold(tokens_of(durations), similarities[0]) <= threshold
