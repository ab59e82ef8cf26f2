"""Causal policies against a plain walk along the frames, in batches and in pieces."""

import numpy as np
import pytest
import torch
from clips_for_policies import clips, noise, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging import Centroid, RunningCost, cosine_similarities
from flexicodec.merging.selectors.running import SteeredCost
from flexicodec.models.margins import boundary_margins

CAPS = [None, 1, 3, 8]
POLICIES = [
    Centroid(0.2),
    Centroid(-0.3, cap=4),
    RunningCost(0.7),
    RunningCost(1.2, acoustic=0.4, length_power=1.0),
    RunningCost(0.5, acoustic=1.0, length_power=0.5),
]
STEERED = [SteeredCost(5.0), SteeredCost(7.0, acoustic=0.4, length_power=1.0, cap=6)]


def walk(x, joins, cap):
    """Durations where a frame joins iff `joins(token so far, frames of the clip up to it)` and the cap allows."""
    durations = [1]
    for t in range(1, x.shape[1]):
        run = durations[-1]
        if run != cap and joins(t - run, t):
            durations[-1] += 1
        else:
            durations.append(1)
    return durations


def cosine(x, first, t):
    mean, new = x[:, first:t].double().mean(1), x[:, t].double()
    return float(mean @ new / (mean.norm() * new.norm()))


def added_cost(policy, x, acoustic, first, t):
    """What frame t adds to the cost of a token that begins at frame `first`."""
    added = 0.0
    for each, share in ((x, 1 - policy.acoustic), (acoustic, policy.acoustic)):
        errors = []
        for last in (t, t + 1):
            part = each[:, first:last].double()
            error = (part - part.mean(1, keepdim=True)).square().sum()
            errors.append(float(error) * (last - first) ** policy.length_power)
        added += share * (errors[1] - errors[0]) / float(each[:, : t + 1].double().square().sum(0).mean())
    return added


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_running_policies_equal_a_walk(policy, cap):
    x, similarities, lengths, _ = clips([24, 9, 1, 17], held=0.4, extra=2)
    acoustic = noise(4, 3, 26, seed=5)
    if isinstance(policy, Centroid):
        rules = [lambda first, t, i=i: cosine(x[i], first, t) > policy.threshold for i in range(4)]
    else:
        rules = [
            lambda first, t, i=i: added_cost(policy, x[i], acoustic[i], first, t) < policy.threshold for i in range(4)
        ]
    limit = min((c for c in (cap, policy.cap) if c is not None), default=None)
    expected = [walk(x[i, :, :n], rules[i], limit) for i, n in enumerate(lengths.tolist())]
    found = policy(similarities, lengths, features=x, acoustic=acoustic, max_duration=cap)
    assert rows(found) == expected
    if cap is None:
        assert 24 > len(expected[0]) > 3


def test_a_threshold_of_one_never_merges_and_zeros_are_like_nothing():
    held = noise(1, 4, 1).expand(1, 4, 6)
    ones = torch.ones(1, 5)
    assert rows(Centroid(1.0)(ones, torch.tensor([6]), features=held)) == [[1] * 6]
    assert rows(Centroid(0.999)(ones, torch.tensor([6]), features=held)) == [[6]]
    assert rows(RunningCost(0.0)(ones, torch.tensor([6]), features=held)) == [[1] * 6]
    silence = torch.zeros(1, 4, 6)
    assert rows(Centroid(0.0)(ones, torch.tensor([6]), features=silence)) == [[1] * 6]
    assert rows(RunningCost(0.1)(ones, torch.tensor([6]), features=silence)) == [[6]]


def test_a_slow_change_does_not_chain():
    # Neighbours are 10 degrees apart: adjacent cosines merge a full turn, the mean stops after some.
    angle = torch.arange(36) * torch.pi / 18
    x = torch.stack([angle.cos(), angle.sin()])[None]
    (row,) = rows(Centroid(0.9)(cosine_similarities(x), torch.tensor([36]), features=x))
    assert max(row) == 5  # the mean of 5 frames is 30 degrees from the next one, of 4 it is 25; cos 30 < 0.9 < cos 25


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 7), max_size=12), st.sampled_from([*POLICIES, *STEERED]), st.sampled_from(CAPS))
def test_pieces_equal_the_whole(sizes, policy, cap):
    x, similarities, lengths, _ = clips([40], held=0.4, seed=3)
    acoustic = noise(1, 3, 40, seed=5)
    whole = policy(similarities, lengths, features=x, acoustic=acoustic, max_duration=cap)
    edges = [*np.minimum(np.cumsum([0, *sizes]), 39).tolist(), 39]
    state = policy.initial_state()
    starts = [torch.tensor([True])]
    distances = []
    for first, last in zip(edges, edges[1:], strict=False):
        if first == last:
            continue  # no pair: no step
        given_features = {"features": x[:, :, first : last + 1]}
        if policy.uses_acoustic:
            given_features["acoustic"] = acoustic[:, :, first : last + 1]
        found, margins, state = policy.step(similarities[0, first:last], state, cap, **given_features)
        assert found.shape == margins.shape == (last - first,)
        starts.append(found)
        distances += margins.tolist()
    expected = boundary_margins(policy, similarities, lengths, features=x, acoustic=acoustic, max_duration=cap)[0]
    assert distances == pytest.approx(expected.tolist())
    begins = [*torch.cat(starts).nonzero()[:, 0].tolist(), 40]
    assert np.diff(begins).tolist() == rows(whole)[0]


def test_more_threshold_of_cost_is_rarely_more_tokens_and_ends_at_the_extremes():
    x, similarities, lengths, _ = clips([80], seed=6)
    for length_power in (0.0, 1.0):
        least, most = RunningCost(0.0, length_power=length_power), RunningCost(1e9, length_power=length_power)
        assert rows(least(similarities, lengths, features=x, max_duration=8)) == [[1] * 80]
        assert rows(most(similarities, lengths, features=x, max_duration=8)) == [[8] * 10]


def test_features_have_to_come():
    x, similarities, lengths, _ = clips([5])
    for policy in (Centroid(0.5), RunningCost(0.5)):
        with pytest.raises(ValueError, match=f"{type(policy).__name__} compares frames: pass the semantic features="):
            policy(similarities, lengths)
    with pytest.raises(ValueError, match="threshold is -1; expected a cost"):
        RunningCost(-1.0)
    with pytest.raises(ValueError, match=r"threshold is 2, but similarities lie in \[-1, 1\]"):
        Centroid(2.0)


@pytest.mark.parametrize("policy", [SteeredCost([3.0, 6.25]), SteeredCost([3.0, 6.25], length_power=1.0)], ids=repr)
def test_a_steered_cost_holds_each_clips_rate(policy):
    x, similarities, lengths, _ = clips([1500, 1500], held=0.3, seed=7)
    found = policy(similarities, lengths, features=x, max_duration=8)
    for row, rate in zip(rows(found), policy.frame_rate, strict=True):
        assert len(row) / 120 == pytest.approx(rate, abs=0.1)
    # and within what a controller can hold
    with pytest.raises(ValueError, match="a grid of 12.5 Hz allows rates above 0"):
        SteeredCost(13.0)
