"""Path-length equalisation, centroids at a rate, top-k, equal mass, and durations from wished boundaries."""

import itertools
import math

import numpy as np
import pytest
import torch
from clips_for_policies import clips, fewest, noise, rate_for, rows, segmentations

from flexicodec.merging import (
    Centroid,
    CentroidRate,
    ExactRate,
    LeastCost,
    PathLength,
    PathThreshold,
    TopCuts,
    Uniform,
    cosine_similarities,
    equal_mass,
    fit_durations,
    snap,
)

CAPS = [None, 1, 2, 3, 8]


def path_of(steps):
    """Similarities whose changes are these, and the lengths of that clip."""
    return 1 - torch.tensor([steps], dtype=torch.float64), torch.tensor([len(steps) + 1])


# -- Path length ------------------------------------------------------------------------------------------------------


def test_path_length_is_the_threshold_form_where_nothing_binds():
    for seed in range(20):
        _, similarities, lengths, seconds = clips([30], seed=seed, dim=8)
        similarities = similarities.double()
        length = float((1 - similarities).sum())
        for count in (2, 5, 9):
            exact = rows(PathLength(count / 30)(similarities, lengths, seconds=seconds))[0]
            causal = rows(PathThreshold(length / count)(similarities, lengths))[0]
            assert len(exact) == count
            assert exact[: count - 1] == causal[: count - 1]


def test_equal_steps_give_even_durations_whatever_float64_does():
    for num_frames in (2, 7, 30):
        similarities, lengths = path_of([0.1] * (num_frames - 1))
        for count in range(1, num_frames + 1):
            found = PathLength(count / num_frames)(similarities, lengths, seconds=[float(num_frames)])
            durations = found[found > 0]
            assert len(durations) == count
            assert durations.max() - durations.min() <= 1


def test_a_clip_without_change_is_split_evenly_and_silence_gets_no_cut():
    still, lengths = path_of([0.0] * 11)
    assert torch.equal(PathLength(0.3)(still, lengths, seconds=[12.0]), Uniform(0.3)(still, lengths, seconds=[12.0]))
    moving, lengths = path_of([0.4, 0.4, 0.4, *[0.0] * 8])
    assert rows(PathLength(4 / 12)(moving, lengths, seconds=[12.0])) == [[1, 1, 1, 9]]


def test_the_path_threshold_pays_for_jumps_with_the_next_frames():
    similarities, lengths = path_of([0.1, 1.0, 0.0, 0.0, 0.0, 0.4])
    # debts: .1; 1.1 - .5; .6 - .5; .1; .1; .5 - .5
    assert rows(PathThreshold(0.5)(similarities, lengths)) == [[2, 1, 3, 1]]


@pytest.mark.parametrize("threshold", [0.2, 0.7, 1.5])
def test_path_threshold_in_pieces(threshold):
    _, similarities, lengths, _ = clips([40], seed=3)
    policy = PathThreshold(threshold)
    whole = rows(policy(similarities, lengths, max_duration=6))[0]
    state, starts = policy.initial_state(), [True]
    for piece in similarities[0].split([1, 0, 7, 2, 29]):
        found, margins, state = policy.step(piece, state, 6)
        assert len(margins) == len(piece)
        starts += found.tolist()
    assert np.diff([*np.flatnonzero(starts), 40]).tolist() == whole


def test_without_a_cap_every_count_occurs_and_more_threshold_never_gives_more():
    for seed in range(5):
        _, similarities, lengths, _ = clips([12], seed=seed)
        path = (1 - similarities.double()).cumsum(1)[0]
        levels = torch.cat([path / k for k in range(1, 13)]).sort().values
        thresholds = torch.cat([levels * (1 - 1e-9), levels * (1 + 1e-9)]).sort().values.tolist()
        n = len(thresholds)
        counts = (PathThreshold(thresholds)(similarities.expand(n, -1), lengths.expand(n)) > 0).sum(1)
        assert (counts.diff() <= 0).all()
        assert set(counts.tolist()) == set(range(1, 13))


def test_with_a_cap_the_path_threshold_is_not_monotone():
    similarities, lengths = path_of([0.07, 0.97, 2.08, 0.3])
    counts = [len(rows(PathThreshold(t)(similarities, lengths, max_duration=3))[0]) for t in (3.109, 3.126)]
    assert counts == [2, 3]


# -- Centroids at a rate ----------------------------------------------------------------------------------------------


def test_the_count_of_the_centroid_rule_is_not_monotone():
    degrees = torch.tensor([280.0, 130.0, 10.0, 190.0]).deg2rad()
    x = torch.stack([degrees.cos(), degrees.sin()])[None]
    similarities, lengths = cosine_similarities(x), torch.tensor([4])
    counts = [len(rows(Centroid(tau)(similarities, lengths, features=x))[0]) for tau in (-0.87, -0.81)]
    assert counts == [3, 2]  # a higher threshold, and fewer tokens
    for count in (1, 2, 3, 4):
        found = CentroidRate(count / 4)(similarities, lengths, seconds=[4.0], features=x)
        assert len(rows(found)[0]) == count


@pytest.mark.parametrize("cap", [None, 3, 8])
def test_centroids_at_a_rate_are_those_of_a_threshold_where_one_gives_the_count(cap):
    same = other = 0
    for seed in range(4):
        x, similarities, lengths, seconds = clips([20], seed=seed, dim=6)
        by_count = {}
        for tau in torch.linspace(-1, 1, 120).tolist():
            (row,) = rows(Centroid(tau)(similarities, lengths, features=x, max_duration=cap))
            by_count.setdefault(len(row), []).append(row)
        for count in range(fewest(20, cap), 21):
            found = CentroidRate(count / 20)(similarities, lengths, seconds=seconds, features=x, max_duration=cap)
            (row,) = rows(found)
            assert len(row) == count
            same += row in by_count.get(count, [])
            other += count in by_count and row not in by_count[count]
    assert same > 10 * other  # bisection need not find a threshold that exists


# -- Top-k ------------------------------------------------------------------------------------------------------------


def test_top_k_overshoots_under_a_cap_and_cheapest_cuts_do_not():
    similarities = torch.tensor([[0.9] * 20 + [0.1, 0.2, 0.3]])
    lengths, asked = torch.tensor([24]), {"seconds": [24.0], "max_duration": 8}
    assert rows(TopCuts(4 / 24)(similarities, lengths, **asked)) == [[8, 8, 5, 1, 1, 1]]
    assert len(rows(ExactRate(4 / 24)(similarities, lengths, **asked))[0]) == 4
    cheapest = rows(LeastCost(4 / 24, cost="cuts")(similarities, lengths, **asked))[0]
    assert len(cheapest) == 4
    uncapped = {"seconds": [24.0]}
    assert torch.equal(
        TopCuts(0.3)(similarities, lengths, **uncapped), ExactRate(0.3)(similarities, lengths, **uncapped)
    )


def test_cheapest_cuts_are_exact_rate_where_the_cap_is_kept_anyway():
    kept = 0
    for seed in range(60):
        _, similarities, lengths, seconds = clips([15], seed=seed)
        asked = {"seconds": seconds, "max_duration": 5}
        uncapped = rows(ExactRate(0.4)(similarities, lengths, seconds=seconds))[0]
        if max(uncapped) <= 5:
            kept += 1
            assert rows(LeastCost(0.4, cost="cuts")(similarities, lengths, **asked)) == [uncapped]
    assert 5 < kept < 60


# -- Equal mass -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [None, 4])
def test_equal_mass_equals_brute_force(cap):
    masses = noise(1, 9, seed=2).abs()
    for count in range(fewest(9, cap), 10):
        mean = float(masses.sum()) / count

        def cost(durations, mean=mean):
            parts = masses[0].double().split(durations)
            return sum((float(part.sum()) - mean) ** 2 for part in parts)

        (row,) = rows(equal_mass(masses, torch.tensor([count]), torch.tensor([9]), cap))
        assert len(row) == count
        assert cost(row) == pytest.approx(min(cost(d) for d in segmentations(9, cap) if len(d) == count))
        assert rows(equal_mass(3 * masses, torch.tensor([count]), torch.tensor([9]), cap)) == [row]
        (even,) = rows(equal_mass(torch.ones(1, 9), torch.tensor([count]), torch.tensor([9]), cap))
        assert max(even) - min(even) <= 1


# -- Wished boundaries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", CAPS)
def test_fitted_durations_are_exact_and_keep_wishes_that_can_be_kept(cap):
    generator = np.random.default_rng(0)
    for _ in range(300):
        num_frames = int(generator.integers(1, 15))
        count = int(generator.integers(fewest(num_frames, cap), num_frames + 1))
        wished = sorted(generator.integers(-3, num_frames + 4, count - 1).tolist())
        durations = fit_durations(wished, count, num_frames, cap)
        assert len(durations) == count
        assert sum(durations) == num_frames
        assert min(durations) >= 1
        assert cap is None or max(durations) <= cap
        starts = list(itertools.accumulate(durations))[:-1]
        assert fit_durations(starts, count, num_frames, cap) == durations
        if count > 1:  # fewer wishes, or none, are enough
            assert len(fit_durations(wished[:-1], count, num_frames, cap)) == count


def test_counts_that_no_split_has():
    for count in (0, 2, 11):
        with pytest.raises(ValueError, match=f"10 frames cannot be split into {count} tokens of 1 to 4"):
            fit_durations([], count, 10, 4)
    assert fit_durations([], 0, 0) == []


def test_snapped_times():
    assert snap([0.0, 0.31, 0.39, 1.0, 0.95, 7.0], 10, 1.0) == ([3, 1, 5, 1], 0)  # .95 lies between 9 and 10
    assert snap([0.45, 0.4500001], 10, 1.0) == ([4, 1, 5], 0)  # the middle goes to the earlier boundary
    assert snap([0.45], 10, 1.0, 4) == ([4, 4, 2], 1)
    assert snap([], 10, 1.0, 4) == ([4, 4, 2], 2)
    assert snap([0.02, 0.99], 10, 1.0) == ([1, 8, 1], 0)  # inner boundaries only
    assert snap([0.5], 1, 1.0) == ([1], 0)


def test_snapping_edges_gives_the_durations_back():
    for num_frames in (1, 5, 37):
        for durations in ([num_frames], [1] * num_frames, fit_durations([2, 3], min(3, num_frames), num_frames)):
            edges = np.cumsum(durations) * 2.96 / num_frames
            found, added = snap(edges.tolist(), num_frames, 2.96)
            assert (found, added) == (durations, 0)


def test_times_that_make_no_sense():
    with pytest.raises(ValueError, match="times hold nan"):
        snap([math.nan], 4, 1.0)
    with pytest.raises(ValueError, match=r"seconds is 0\.0"):
        snap([0.5], 4, 0.0)


# -- Exact counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("policy", [PathLength, CentroidRate])
@pytest.mark.parametrize("held", [0.0, 0.5, 1.0])
def test_every_feasible_count_is_reached(policy, held, cap):
    for num_frames in (1, 2, 5, 11, 16):
        counts = range(fewest(num_frames, cap), num_frames + 1)
        x, similarities, lengths, seconds = clips([num_frames] * len(counts), held=held, seed=num_frames)
        rate = rate_for(counts, lengths.tolist())
        durations = policy(rate)(similarities, lengths, seconds=seconds, features=x, max_duration=cap)
        assert (durations > 0).sum(-1).tolist() == list(counts)
        assert torch.equal(durations.sum(-1), lengths)
        assert cap is None or durations.max() <= cap
