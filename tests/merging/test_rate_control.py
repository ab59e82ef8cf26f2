"""Online policies, and the margins of boundaries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging import ExactRate, MinimumVariance, RateController, Threshold, Uniform
from flexicodec.models.margins import boundary_margins

law = settings(derandomize=True, deadline=None, max_examples=15)
CAUSAL = [Threshold(0.3), Threshold(1.0), RateController(6.0, 0.3), RateController(9.0, 0.9, memory_seconds=0.5)]


def similarities(count, seed=0, repeat=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, generator=generator) * 2 - 1
    return torch.where(torch.rand(count, generator=generator) < repeat, 1.0, values)


def stepwise(policy, values, sizes, cap):
    """Durations and margins of a stream that comes in chunks of these sizes."""
    state, starts, margins, at = policy.initial_state(), [True], [], 0
    for size in [*sizes, len(values)]:
        some, margin, state = policy.step(values[at : at + size], state, cap)
        starts += some.tolist()
        margins += margin.tolist()
        at += size
    edges = [t for t, start in enumerate(starts) if start] + [len(starts)]
    return [b - a for a, b in zip(edges, edges[1:], strict=False)], margins


@pytest.mark.parametrize("policy", CAUSAL, ids=str)
@pytest.mark.parametrize("cap", [None, 1, 3, 8])
@law
@given(count=st.integers(0, 60), sizes=st.lists(st.integers(0, 9), max_size=6), seed=st.integers(0, 9))
def test_streams_decide_as_the_whole_does(policy, cap, count, sizes, seed):
    values = similarities(count, seed, repeat=0.4)
    lengths = torch.tensor([count + 1])
    durations, margins = stepwise(policy, values, sizes, cap)
    assert policy(values[None], lengths, max_duration=cap)[0].tolist() == durations
    wanted = boundary_margins(policy, values[None], lengths, max_duration=cap)[0]
    assert margins == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("rate", [3.0, 6.25, 10.0, 12.5])
def test_the_rate_is_met_over_minutes_and_followed_over_seconds(rate):
    values = torch.cat([similarities(3000, 1) * 0.3 + 0.6, similarities(3000, 2) * 0.5])  # another speaker half way
    policy = RateController(rate, threshold=0.0)
    lengths = torch.tensor([len(values) + 1])
    durations = policy(values[None], lengths, max_duration=8)[0]
    ends = durations.cumsum(0)
    for start, end in ((500, 3000), (3500, 6000)):  # settled in 40 s
        inside = int(((ends > start) & (ends <= end)).sum()) / (end - start) * 12.5
        assert inside == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("threshold", [-0.5, 0.3, 0.95])
@pytest.mark.parametrize("rate", [3.0, 6.25, 10.0])
def test_the_mean_rate_is_held_from_the_first_frame(rate, threshold):
    """However far the first threshold is from the right one: what it costs is made up for."""
    values = similarities(500, 3) * 0.3 + 0.6  # 40 s
    durations = RateController(rate, threshold)(values[None], torch.tensor([501]), max_duration=8)[0]
    tokens = int((durations > 0).sum())
    assert tokens / (501 / 12.5) == pytest.approx(rate, rel=0.02)


def test_a_long_silence_is_not_made_up_for():
    policy = RateController(6.0, threshold=0.5)
    _, _, silence = policy.step(torch.full((5000,), 1.0), policy.initial_state(), 8)
    assert 175 < silence.owed <= 30 * 6.0


def test_the_threshold_follows_the_error():
    policy = RateController(6.0, threshold=0.5)
    _, _, dense = policy.step(torch.full((50,), -1.0), policy.initial_state(), None)
    _, _, sparse = policy.step(torch.full((50,), 1.0), policy.initial_state(), None)
    assert dense.centre < 0.5 < sparse.centre
    assert dense.rate > 6 > sparse.rate
    assert sparse.run == 51
    _, _, held = policy.step(torch.full((5000,), 1.0), policy.initial_state(), None)
    assert held.centre == policy.highest  # silence merges, however long it lasts


def test_every_clip_may_have_its_own_rate():
    values = similarities(200)
    both = RateController((4.0, 10.0), 0.2)(values.expand(2, -1), torch.tensor([201, 201]))
    for row, rate in zip(both, (4.0, 10.0), strict=True):
        alone = RateController(rate, 0.2)(values[None], torch.tensor([201]))[0]
        assert row[row > 0].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({"frame_rate": 0.0}, "frame_rate is 0 Hz"),
        ({"frame_rate": 25.0}, "grid of 12.5 Hz"),
        ({"frame_rate": 6.0, "threshold": 1.5}, "in this order"),
        ({"frame_rate": 6.0, "lowest": 0.95}, "in this order"),
        ({"frame_rate": 6.0, "memory_seconds": 0.0}, "memory_seconds"),
        ({"frame_rate": 6.0, "payback_seconds": 0.0}, "payback_seconds"),
        ({"frame_rate": 6.0, "integral": -1.0}, "integral"),
    ],
)
def test_bad_controllers_are_named(choices, match):
    with pytest.raises(ValueError, match=match):
        RateController(**choices)


# ------------------------------------------------------------------------------------------------------------- margins


@pytest.mark.parametrize("cap", [None, 3])
@law
@given(count=st.integers(1, 40), seed=st.integers(0, 50))
def test_a_threshold_flips_a_pair_at_its_margin_and_not_before(cap, count, seed):
    values, policy, lengths = similarities(count, seed), Threshold(0.2), torch.tensor([count + 1])
    durations = policy(values[None], lengths, max_duration=cap)
    margins = boundary_margins(policy, values[None], lengths, max_duration=cap)[0]
    for noise in (0.5, -0.5):
        moved = policy((values + noise * margins)[None], lengths, max_duration=cap)
        assert torch.equal(moved, durations)
    pair = seed % count
    values[pair] += 1.001 * margins[pair] * (1 if values[pair] <= 0.2 else -1)
    if cap is None:
        assert not torch.equal(policy(values[None], lengths), durations)


@pytest.mark.parametrize("cap", [None, 3])
@law
@given(count=st.integers(1, 40), rate=st.floats(0.35, 1.0), seed=st.integers(0, 50))
def test_a_rate_flips_no_pair_before_half_its_margin(cap, count, rate, seed):
    values, lengths = similarities(count, seed), torch.tensor([count + 1])
    asked = {"seconds": lengths.double(), "max_duration": cap}
    policy = ExactRate(rate)
    durations = policy(values[None], lengths, **asked)
    margins = boundary_margins(policy, values[None], lengths, **asked)[0]
    assert (margins >= 0).all()
    for noise in range(5):
        size = (
            0.499 * float(margins.min()) * (2 * torch.rand(count, generator=torch.Generator().manual_seed(noise)) - 1)
        )
        assert torch.equal(policy((values + size)[None], lengths, **asked), durations)


def test_pairs_that_change_places_change_the_cut():
    values = torch.tensor([[0.9, 0.1, 0.5, 0.52, 0.8]])
    lengths = torch.tensor([6])
    margins = boundary_margins(ExactRate(0.5), values, lengths, seconds=lengths.double())  # 3 tokens: two cuts
    assert margins[0].tolist() == pytest.approx([0.38, 0.42, 0.02, 0.02, 0.28])
    values[0, 2], values[0, 3] = 0.52, 0.5
    assert ExactRate(0.5)(values, lengths, seconds=lengths.double()).tolist() == [[2, 2, 2]]


def test_infinite_and_unknown_margins():
    values, lengths = similarities(10).expand(2, -1), torch.tensor([11, 4])
    for policy in (Threshold(1.0), Uniform(0.5)):
        assert torch.isinf(boundary_margins(policy, values, lengths, seconds=lengths.double())).all()
    unknown = boundary_margins(MinimumVariance(0.5), values, lengths, seconds=lengths.double())
    assert torch.isnan(unknown[0]).all()
    assert torch.isnan(unknown[1]).tolist() == [True] * 3 + [False] * 7
    for policy in (Threshold((0.1, 0.5)), RateController(6.0), ExactRate(0.5)):
        known = boundary_margins(policy, values, lengths, seconds=lengths.double())
        assert torch.isinf(known[1, 3:]).all()
        assert not torch.isinf(known[1, :3]).any()
