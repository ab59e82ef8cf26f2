"""Every policy against brute force on short clips, and their common laws."""

import itertools
import math
import time
from fractions import Fraction

import pytest
import torch
from clips_for_policies import clips, noise, rate_for, rows, segmentations
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging import (
    POLICIES,
    ExactRate,
    MinimumVariance,
    Threshold,
    Uniform,
    check_frame_rate,
    cosine_similarities,
    target_tokens,
)

CAPS = [None, 1, 2, 3, 8]
RATED = [ExactRate, Uniform, MinimumVariance]
law = settings(derandomize=True, deadline=None, max_examples=40)


def scan(cuts, cap):
    """Walk along the frames: a new token at every cut, and wherever the current one is full."""
    durations = [1]
    for cut in cuts:
        if cut or durations[-1] == cap:
            durations.append(1)
        else:
            durations[-1] += 1
    return durations


# -- Threshold --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("threshold", [-1.0, -0.2, 0.0, 0.3, 0.91, 1.0])
def test_threshold_equals_a_walk_along_the_frames(threshold, cap):
    _, similarities, lengths, _ = clips([10, 7, 1, 2, 9], held=0.3, extra=2)
    expected = [
        scan([s <= threshold or threshold >= 1 for s in row[: n - 1]], cap)
        for row, n in zip(similarities.tolist(), lengths.tolist(), strict=True)
    ]
    assert rows(Threshold(threshold)(similarities, lengths, max_duration=cap)) == expected


def test_runs_are_chopped_eight_eight_rest():
    held = torch.full((1, 20), 0.99)
    held[0, 19] = 0.1
    assert rows(Threshold(0.91)(held, torch.tensor([21]), max_duration=8)) == [[8, 8, 4, 1]]
    assert rows(Threshold(0.91)(held, torch.tensor([21]))) == [[20, 1]]


def test_a_similarity_at_the_threshold_is_a_boundary():
    similarities = torch.tensor([[0.9, 0.91, 0.92]])
    assert rows(Threshold(0.91)(similarities, torch.tensor([4]))) == [[1, 1, 2]]
    assert rows(Threshold([0.91])(similarities, torch.tensor([4]))) == [[1, 1, 2]]


def test_threshold_one_never_merges():
    similarities = torch.tensor([[1.0, 1.0000002, 1.0]])
    assert rows(Threshold(1)(similarities, torch.tensor([4]), max_duration=8)) == [[1, 1, 1, 1]]


@pytest.mark.parametrize("cap", CAPS)
def test_more_threshold_never_fewer_tokens(cap):
    _, similarities, lengths, _ = clips([60] * 20, dim=3, held=0.2)
    counts = [(Threshold(t / 20)(similarities, lengths, max_duration=cap) > 0).sum(-1) for t in range(-20, 21)]
    assert (torch.stack(counts).diff(dim=0) >= 0).all()


# -- The count a rate asks for ----------------------------------------------------------------------------------------


@law
@given(
    st.integers(1, 40_000),
    st.fractions(Fraction(25, 16), Fraction(25, 2), max_denominator=16),
    st.sampled_from([None, 1, 2, 3, 8]),
)
def test_the_count_is_the_nearest_feasible_one(samples, rate, cap):
    frames = math.ceil(samples / 1280)
    feasible = range(1 if cap is None else math.ceil(frames / cap), frames + 1)
    exact = rate * Fraction(samples, 16_000)
    best = min(feasible, key=lambda n: (abs(n - exact), n))
    found = target_tokens(float(rate), torch.tensor([samples]).double() / 16_000, torch.tensor([frames]), cap)
    assert found.tolist() == [best]


def test_ties_take_the_fewer_however_float64_rounds():
    # tenths of seconds have no exact float64: 6.25 Hz over 0.08 s, 0.24 s, ... is 0.5, 1.5, ...
    seconds = [0.08 * (2 * n + 1) for n in range(500)]
    found = target_tokens(6.25, seconds, torch.full((500,), 10_000), None)
    assert found.tolist() == [max(n, 1) for n in range(500)]
    assert target_tokens(6.25, [1.6], torch.tensor([20]), 8).tolist() == [10]
    assert target_tokens([4.5, 4.5, 12.5], [1.0, 1.01, 0.0001], torch.tensor([13, 13, 1]), 8).tolist() == [4, 5, 1]


def test_empty_clips_get_no_tokens():
    for policy in (ExactRate(6.25), Uniform(6.25), MinimumVariance(6.25), Threshold(0.5)):
        x, similarities, _, _ = clips([5, 5])
        durations = policy(similarities, torch.tensor([0, 5]), seconds=[0.0, 0.4], features=x, max_duration=8)
        assert durations.sum(-1).tolist() == [0, 5]


# -- Policies with a rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("policy", RATED)
@pytest.mark.parametrize("held", [0.0, 0.5, 1.0])
def test_every_feasible_count_is_reached(policy, held, cap):
    for num_frames in range(1, 20):
        counts = range(1 if cap is None else math.ceil(num_frames / cap), num_frames + 1)
        x, similarities, lengths, seconds = clips([num_frames] * len(counts), held=held, seed=num_frames)
        rate = rate_for(counts, lengths.tolist())
        durations = policy(rate)(similarities, lengths, seconds=seconds, features=x, max_duration=cap)
        assert (durations > 0).sum(-1).tolist() == list(counts)
        assert torch.equal(durations.sum(-1), lengths)
        assert cap is None or durations.max() <= cap


@pytest.mark.parametrize("policy", RATED)
def test_rates_out_of_reach_give_the_nearest_count(policy):
    x, similarities, lengths, seconds = clips([20, 20])
    durations = policy([0.01, 9.0])(similarities, lengths, seconds=seconds, features=x, max_duration=8)
    assert (durations > 0).sum(-1).tolist() == [3, 20]


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("held", [0.0, 0.5])
def test_exact_rate_equals_brute_force_over_the_number_of_boundaries(held, cap):
    for num_frames in (1, 2, 5, 10):
        x, similarities, lengths, seconds = clips([num_frames], held=held, seed=num_frames)
        order = sorted(range(num_frames - 1), key=lambda t: (similarities[0, t].item(), t))
        by_cuts = [scan([t in order[:m] for t in range(num_frames - 1)], cap) for m in range(num_frames)]
        # the claim behind the bisection
        assert all(0 <= len(b) - len(a) <= 1 for a, b in itertools.pairwise(by_cuts))
        for count in {len(durations) for durations in segmentations(num_frames, cap)}:
            found = ExactRate(count / num_frames)(similarities, lengths, seconds=seconds, max_duration=cap)
            assert rows(found)[0] == [durations for durations in by_cuts if len(durations) == count][-1]


@pytest.mark.parametrize("cap", CAPS)
def test_exact_rate_is_a_threshold_where_similarities_differ(cap):
    _, similarities, lengths, seconds = clips([50], dim=8)
    thresholds = [-1.0, *similarities[0].tolist()]
    assert len(set(thresholds)) == 50
    by_threshold = rows(Threshold(thresholds)(similarities.expand(50, -1), lengths.expand(50), max_duration=cap))
    counts = range(math.ceil(50 / cap) if cap else 1, 51)
    similarities, lengths, seconds = (v.repeat_interleave(len(counts), 0) for v in (similarities, lengths, seconds))
    rates = rate_for(counts, lengths.tolist())
    for row in rows(ExactRate(rates)(similarities, lengths, seconds=seconds, max_duration=cap)):
        assert row in by_threshold


@pytest.mark.parametrize("cap", CAPS)
def test_uniform_is_as_even_as_brute_force_allows(cap):
    for num_frames in (1, 2, 7, 10):
        by_count = {}
        for durations in segmentations(num_frames, cap):
            by_count.setdefault(len(durations), []).append(max(durations) - min(durations))
        _, similarities, lengths, seconds = clips([num_frames] * len(by_count))
        found = rows(
            Uniform(rate_for(by_count, lengths.tolist()))(similarities, lengths, seconds=seconds, max_duration=cap)
        )
        assert [(len(row), max(row) - min(row)) for row in found] == [
            (n, min(spread)) for n, spread in by_count.items()
        ]


def deviation(features, durations):
    parts = features.double().split(durations, dim=-1)
    return sum(float((part - part.mean(-1, keepdim=True)).square().sum()) for part in parts)


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("held", [0.0, 0.6])
def test_minimum_variance_equals_brute_force(held, cap):
    for num_frames in (1, 2, 6, 9):
        x, similarities, lengths, seconds = clips([num_frames], dim=2, held=held, seed=num_frames)
        least = {}
        for durations in segmentations(num_frames, cap):
            least[len(durations)] = min(least.get(len(durations), math.inf), deviation(x[0], durations))
        n = len(least)
        found = MinimumVariance(rate_for(least, [num_frames] * n))(
            similarities.expand(n, -1),
            lengths.expand(n),
            seconds=seconds.expand(n),
            features=x.expand(n, -1, -1),
            max_duration=cap,
        )
        for row, (count, cost) in zip(rows(found), least.items(), strict=True):
            assert len(row) == count
            assert deviation(x[0], row) == pytest.approx(cost, abs=1e-12)


def test_minimum_variance_finds_the_steps_of_a_staircase():
    stairs = torch.repeat_interleave(noise(1, 16, 6), torch.tensor([3, 8, 1, 5, 2, 7]), dim=-1) + 1e4
    similarities = cosine_similarities(stairs)
    policy = MinimumVariance(6 / 26)
    found = policy(similarities, torch.tensor([26]), seconds=[26.0], features=stairs, max_duration=8)
    assert rows(found) == [[3, 8, 1, 5, 2, 7]]


def test_shuffled_durations_are_those_of_the_rate_policy_in_another_order():
    _, similarities, lengths, seconds = clips([64, 31])
    ordered = rows(POLICIES["rate"](0.5)(similarities, lengths, seconds=seconds, max_duration=8))
    shuffled = [
        rows(POLICIES["shuffled"](0.5, seed=seed)(similarities, lengths, seconds=seconds, max_duration=8))
        for seed in (0, 0, 1)
    ]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    for found in shuffled:
        assert [sorted(row) for row in found] == [sorted(row) for row in ordered]
        assert all(row != other for row, other in zip(found, ordered, strict=True))


# -- All of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("cap", [None, 3, 8])
def test_a_padded_batch_equals_each_clip_alone(name, cap):
    sizes = [31, 5, 1, 18, 64, 2]
    x, similarities, lengths, seconds = clips(sizes, held=0.3, extra=3)
    values = torch.tensor([0.5, 0.9, 0.4, 0.7, 0.45, 0.6])
    padding = torch.arange(x.shape[-1]) >= lengths[:, None]
    acoustic = noise(6, 3, x.shape[-1], seed=2)
    dirty = x.masked_fill(padding[:, None], float("nan"))
    dirty_acoustic = acoustic.masked_fill(padding[:, None], float("nan"))
    dirty_similarities = torch.where(padding[:, 1:], noise(*similarities.shape, seed=1).tanh(), similarities)
    asked = {"seconds": seconds, "features": dirty, "acoustic": dirty_acoustic, "max_duration": cap}
    together = POLICIES[name](values)(dirty_similarities, lengths, **asked)
    assert cap is None or together.max() <= cap
    assert torch.equal(together.sum(-1), lengths)
    for i, n in enumerate(sizes):
        alone = POLICIES[name](values[i])(
            similarities[i : i + 1, : n - 1],
            lengths[i : i + 1],
            seconds=seconds[i : i + 1],
            features=x[i : i + 1, :, :n],
            acoustic=acoustic[i : i + 1, :, :n],
            max_duration=cap,
        )
        assert rows(together)[i] == rows(alone)[0]


@pytest.mark.parametrize("name", POLICIES)
def test_four_minutes_take_moments(name):
    x, similarities, lengths, seconds = clips([3000, 2500], dim=64)
    start = time.process_time()
    durations = POLICIES[name](0.5)(similarities, lengths, seconds=seconds, features=x, max_duration=8)
    assert time.process_time() - start < 5
    assert torch.equal(durations.sum(-1), lengths)


def test_policies_are_plain_values():
    assert Threshold(torch.tensor([0.5, 0.75])) == Threshold([0.5, 0.75])
    assert hash(ExactRate(6.25)) == hash(ExactRate(torch.tensor(6.25)))
    assert ExactRate(6.25) != Uniform(6.25)


def test_nothing_is_tracked_by_autograd():
    x, _, lengths, seconds = clips([12])
    x.requires_grad_()
    similarities = cosine_similarities(x, lengths)
    for name in POLICIES:
        durations = POLICIES[name](0.5)(similarities, lengths, seconds=seconds, features=x, max_duration=8)
        assert not durations.requires_grad


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "value", "message"),
    [
        (Threshold, 1.5, r"threshold is 1.5, .* \[-1, 1\]; a rate in Hz goes to frame_rate="),
        (Threshold, [0.5, -1.01], r"threshold is -1.01, .* never below -1"),
        (Threshold, float("nan"), "threshold is nan; expected a finite"),
        (Threshold, "0.9", "threshold is '0.9'; expected a number"),
        (Threshold, [], "expected a number"),
        (Threshold, [[0.9]], "expected a number"),
        (Threshold, True, "expected a number"),
        (ExactRate, 0, "frame_rate is 0 Hz, but a rate is positive"),
        (Uniform, [1.0, -2.0], "frame_rate is -2 Hz"),
        (MinimumVariance, float("inf"), "frame_rate is inf; expected a finite"),
    ],
)
def test_valuesout_of_range_are_refused(policy, value, message):
    with pytest.raises(ValueError, match=message):
        policy(value)


def test_a_batch_needs_one_setting_or_one_each():
    x, similarities, lengths, seconds = clips([5, 5, 5])
    for name in POLICIES:
        with pytest.raises(ValueError, match="2 values for a batch of 3"):
            POLICIES[name]([0.5, 0.6])(similarities, lengths, seconds=seconds, features=x)


def test_what_a_policy_needs_has_to_come():
    x, similarities, lengths, seconds = clips([5, 5])
    for policy in RATED:
        with pytest.raises(ValueError, match="seconds="):
            policy(0.5)(similarities, lengths, features=x)
        with pytest.raises(ValueError, match=r"seconds have shape \(1,\), but 2 items"):
            policy(0.5)(similarities, lengths, seconds=seconds[:1], features=x)
        with pytest.raises(ValueError, match="max_duration is 0"):
            policy(0.5)(similarities, lengths, seconds=seconds, features=x, max_duration=0)
    with pytest.raises(ValueError, match="features="):
        MinimumVariance(0.5)(similarities, lengths, seconds=seconds)
    with pytest.raises(ValueError, match="max_duration is -1"):
        Threshold(0.5)(similarities, lengths, max_duration=-1)


@pytest.mark.parametrize("good", [12.5, 12.5 / 8, 6, torch.tensor([4.0, 5.0]), [3.125]])
def test_rates_the_grid_can_make(good):
    assert check_frame_rate(good, 12.5, 8) == ExactRate(good).frame_rate


@pytest.mark.parametrize(
    ("bad", "cap", "message"),
    [
        (16_000, 8, "frame_rate is 16000 Hz, .* allows 1.5625 to 12.5 Hz; it counts tokens per second"),
        (0.91, 8, "at most 8 frames per token allows 1.5625 .* goes to threshold="),
        ([6.25, 1.5], 8, "frame_rate is 1.5 Hz.* larger max_duration"),
        (6.25, 1, "allows 12.5 to 12.5 Hz"),
        (-3, None, "no cap on a token's frames allows 0 to 12.5 Hz"),
        (float("nan"), 8, "expected a finite number"),
    ],
)
def test_rates_the_grid_cannot_make_are_refused(bad, cap, message):
    with pytest.raises(ValueError, match=message):
        check_frame_rate(bad, 12.5, cap)
