"""Policies of least cost against brute force, and their laws: counts, prices, several rates at once, both streams."""

import itertools
import math

import pytest
import torch
from clips_for_policies import clips, fewest, noise, rate_for, rows, segmentations

from flexicodec.merging import LeastCost, MinimumVariance
from flexicodec.merging.policies import Clips

CAPS = [None, 2, 4]


def squared(x, first, last):
    part = x[:, first:last].double()
    return float((part - part.mean(-1, keepdim=True)).square().sum())


def norm(x, first, last):
    part = x[:, first:last].double()
    return float((part - part.mean(-1, keepdim=True)).norm(dim=0).sum())


def hold(x, first, last):
    part = x[:, first:last].double()
    return float((part - part[:, :1]).square().sum())


def relative(x, first, last):
    return squared(x, first, last) / float(x.double().square().sum(0).mean())


def joint(both, first, last, share=0.25):
    semantic, acoustic = both
    return (1 - share) * relative(semantic, first, last) + share * relative(acoustic, first, last)


def change(similarities, first, last):
    return sum(1 - s for s in similarities[max(first - 1, 0) : last - 1].tolist())


# Settings, and the cost of a token of frames first ... last - 1 of (semantic, acoustic, similarities)
CASES = {
    "squared": ({}, lambda x, a, s, i, j: squared(x, i, j)),
    "squared x length": ({"length_power": 1.0}, lambda x, a, s, i, j: squared(x, i, j) * (j - i)),
    "norm": ({"cost": "norm"}, lambda x, a, s, i, j: norm(x, i, j)),
    "prediction": ({"cost": "prediction"}, lambda x, a, s, i, j: hold(x, i, j)),
    "joint": (
        {"cost": "joint", "acoustic": 0.25, "length_power": 1.0},
        lambda x, a, s, i, j: joint((x, a), i, j) * (j - i),
    ),
    "joint of semantic": ({"cost": "joint"}, lambda x, a, s, i, j: relative(x, i, j)),
    "cuts": ({"cost": "cuts"}, lambda x, a, s, i, j: float(s[i - 1]) if i else 0.0),
    "path": ({"cost": "path"}, lambda x, a, s, i, j: change(s.double(), i, j) ** 2),
}


def total(cost, x, acoustic, similarities, durations):
    edges = list(itertools.accumulate(durations, initial=0))
    return sum(cost(x, acoustic, similarities, i, j) for i, j in itertools.pairwise(edges))


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("held", [0.0, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_least_cost_equals_brute_force_at_every_count(case, held, cap):
    settings, cost = CASES[case]
    for num_frames in (1, 2, 5, 8):
        x, similarities, lengths, seconds = clips([num_frames], dim=3, held=held, seed=num_frames)
        acoustic = 5 * noise(1, 2, num_frames, seed=num_frames + 50)
        least = {}
        for durations in segmentations(num_frames, cap):
            found = total(cost, x[0], acoustic[0], similarities[0], durations)
            least[len(durations)] = min(least.get(len(durations), math.inf), found)
        n = len(least)
        found = LeastCost(rate_for(least, [num_frames] * n), **settings)(
            similarities.expand(n, -1),
            lengths.expand(n),
            seconds=seconds.expand(n),
            features=x.expand(n, -1, -1),
            acoustic=acoustic.expand(n, -1, -1),
            max_duration=cap,
        )
        for row, (count, best) in zip(rows(found), least.items(), strict=True):
            assert len(row) == count
            assert total(cost, x[0], acoustic[0], similarities[0], row) == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("case", CASES)
def test_a_price_per_token_equals_brute_force(case, cap):
    settings, cost = CASES[case]
    x, similarities, lengths, seconds = clips([8], dim=3, seed=4)
    acoustic = noise(1, 2, 8, seed=9)
    every = [
        (durations, total(cost, x[0], acoustic[0], similarities[0], durations)) for durations in segmentations(8, cap)
    ]
    for price in (0.0, 0.3, 2.0, 100.0):
        found = LeastCost(price=price, **settings)(
            similarities, lengths, features=x, acoustic=acoustic, max_duration=cap
        )
        (row,) = rows(found)
        paid = total(cost, x[0], acoustic[0], similarities[0], row) + price * len(row)
        assert paid == pytest.approx(min(value + price * len(each) for each, value in every), abs=1e-8)


def test_more_price_never_more_tokens_and_its_ends():
    x, similarities, lengths, _ = clips([60] * 9, seed=1)
    prices = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1e9]
    found = LeastCost(price=prices)(
        similarities[:1].expand(9, -1), lengths, features=x[:1].expand(9, -1, -1), max_duration=8
    )
    counts = (found > 0).sum(1)
    assert (counts.diff() <= 0).all()
    assert counts[0] == 60
    assert counts[-1] == 8  # ceil(60 / 8)
    assert len(counts.unique()) > 5


def test_a_price_equals_the_rate_at_its_own_count():
    x, similarities, lengths, seconds = clips([40, 25], seed=2)
    bought = LeastCost(price=3.0)(similarities, lengths, features=x, max_duration=8)
    rates = [n / t for n, t in zip((bought > 0).sum(1).tolist(), [40, 25], strict=True)]
    asked = LeastCost(rates)(similarities, lengths, seconds=seconds, features=x, max_duration=8)
    assert rows(asked) == rows(bought)


def test_some_counts_are_best_at_no_price():
    x = torch.tensor([-0.4, -0.3, -1.6, 0.3, -2.4, 1.7, -0.1])[None, None]
    similarities, lengths = torch.zeros(1, 6), torch.tensor([7])
    prices = torch.linspace(0, 12, 2000)
    found = LeastCost(price=prices)(
        similarities.expand(2000, -1), lengths.expand(2000), features=x.expand(2000, -1, -1)
    )
    assert set((found > 0).sum(1).tolist()) == {1, 2, 3, 4, 6, 7}


def test_one_price_splits_the_tokens_of_a_corpus_best():
    # Two clips; with as many tokens in all, no other split has less error.
    x, similarities, lengths, seconds = clips([10, 10], dim=2, seed=3)
    x[1] *= 0.3
    bought = LeastCost(price=1.0)(similarities, lengths, features=x)
    split = (bought > 0).sum(1).tolist()
    assert split[0] > split[1] + 1

    def error(counts):
        durations = LeastCost([n / 10 for n in counts])(similarities, lengths, seconds=seconds, features=x)
        return sum(total(CASES["squared"][1], x[i], None, None, row) for i, row in enumerate(rows(durations)))

    splits = [(n, sum(split) - n) for n in range(1, sum(split)) if n <= 10 and sum(split) - n <= 10]
    assert error(split) == pytest.approx(min(map(error, splits)))


def test_several_rates_share_one_table():
    x, similarities, lengths, seconds = clips([50, 31, 1, 7], seed=5)
    settings = {"cost": "joint", "acoustic": 0.3, "length_power": 1.0}
    acoustic = noise(4, 3, 50, seed=6)
    rates = [1.0, 0.7, [0.4, 0.9, 1.0, 0.5], 0.2]
    together = LeastCost(1.0, **settings).at_rates(Clips(similarities, lengths, seconds, x, acoustic, 8), rates)
    for rate, found in zip(rates, together, strict=True):
        alone = LeastCost(rate, **settings)(
            similarities, lengths, seconds=seconds, features=x, acoustic=acoustic, max_duration=8
        )
        assert torch.equal(found, alone)


@pytest.mark.parametrize("case", CASES)
def test_equal_frames_tie_and_the_longest_last_token_wins(case):
    settings, cost = CASES[case]
    x = noise(1, 3, 1).expand(1, 3, 9)
    similarities, lengths = torch.ones(1, 8), torch.tensor([9])
    found = LeastCost(4 / 9, **settings)(similarities, lengths, seconds=[9.0], features=x, acoustic=x, max_duration=4)
    assert rows(found) == [[1, 1, 3, 4]]


def test_neither_scale_nor_a_common_mean_moves_the_joint_cuts():
    x, similarities, lengths, seconds = clips([40], seed=7)
    acoustic = noise(1, 6, 40, seed=8)
    policy = LeastCost(0.4, cost="joint", acoustic=0.4, length_power=1.0)
    found = policy(similarities, lengths, seconds=seconds, features=x, acoustic=acoustic, max_duration=8)
    scaled = policy(similarities, lengths, seconds=seconds, features=8 * x, acoustic=acoustic / 64, max_duration=8)
    assert torch.equal(found, scaled)
    alone = LeastCost(0.4, cost="joint", length_power=1.0)
    shifted = alone(similarities, lengths, seconds=seconds, features=x + 1e4, max_duration=8)
    assert torch.equal(shifted, alone(similarities, lengths, seconds=seconds, features=x, max_duration=8))


def test_the_share_goes_from_one_stream_to_the_other():
    x, similarities, lengths, seconds = clips([40], seed=7)
    acoustic = noise(1, 6, 40, seed=8)

    def cut(share, first, second):
        policy = LeastCost(0.4, cost="joint", acoustic=share)
        return policy(similarities, lengths, seconds=seconds, features=first, acoustic=second, max_duration=8)

    assert torch.equal(cut(1.0, x, acoustic), cut(0.0, acoustic, x))
    assert torch.equal(cut(0.5, x, acoustic), cut(0.5, acoustic, x))
    assert torch.equal(cut(0.5, x, None), cut(0.0, x, acoustic))
    assert not torch.equal(cut(0.5, x, acoustic), cut(0.0, x, acoustic))


@pytest.mark.parametrize("cap", [None, 5, 9])
def test_a_least_duration_equals_brute_force(cap):
    for num_frames in (1, 2, 3, 7, 11):
        x, similarities, lengths, seconds = clips([num_frames], dim=2, seed=num_frames)
        shortest = min(3, num_frames)
        allowed = [d for d in segmentations(num_frames, cap) if min(d) >= shortest]
        for count in range(fewest(num_frames, cap), num_frames + 1):
            found = LeastCost(count / num_frames, min_duration=3)(
                similarities, lengths, seconds=seconds, features=x, max_duration=cap
            )
            (row,) = rows(found)
            reached = [d for d in allowed if len(d) == min(count, max(1, num_frames // 3))]
            cost = CASES["squared"][1]
            assert total(cost, x[0], None, None, row) == pytest.approx(
                min(total(cost, x[0], None, None, d) for d in reached), abs=1e-9
            )
    with pytest.raises(ValueError, match="min_duration is 3 and max_duration 4, .* from a max_duration of 5 on"):
        LeastCost(0.5, min_duration=3)(similarities, lengths, seconds=seconds, features=x, max_duration=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "frame_rate is None and price None; expected one"),
        ({"frame_rate": 5.0, "price": 1.0}, "frame_rate is 5.0 and price 1.0; expected one"),
        ({"price": -1.0}, "price is -1; expected 0 or more"),
        ({"frame_rate": 5.0, "cost": "cube"}, "cost is 'cube'; expected one of squared"),
        ({"frame_rate": 5.0, "cost": "joint", "acoustic": 1.5}, "acoustic is 1.5; expected a number from 0 to 1"),
        ({"frame_rate": 5.0, "length_power": -1.0}, "length_power is -1.0"),
        ({"frame_rate": 5.0, "min_duration": 0}, "min_duration is 0"),
        ({"frame_rate": 5.0, "cap": 0}, "max_duration is 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        LeastCost(**settings)


def test_a_policy_has_a_cap_of_its_own():
    x, similarities, lengths, seconds = clips([30], held=0.8)
    asked = {"seconds": seconds, "features": x}
    capped = MinimumVariance(0.4, cap=3)(similarities, lengths, **asked, max_duration=8)
    assert torch.equal(capped, MinimumVariance(0.4)(similarities, lengths, **asked, max_duration=3))
    assert torch.equal(
        MinimumVariance(0.4, cap=30)(similarities, lengths, **asked, max_duration=8),
        MinimumVariance(0.4)(similarities, lengths, **asked, max_duration=8),
    )
