"""A-ToMe, greedy prediction and density peaks: against plain versions, and where their counts are out of reach."""

import math

import pytest
import torch
from clips_for_policies import clips, fewest, noise, rows

from flexicodec.merging import DensityPeaks, GreedyPrediction, LeastCost, Pairs, Uniform, cosine_similarities
from flexicodec.merging.selectors.clustering import best_pairs


def matchings(num_tokens, count):
    """Every choice of so many disjoint pairs of neighbours: their second tokens."""
    if not count:
        yield ()
    for last in range(2 * count - 1, num_tokens):
        for rest in matchings(last - 1, count - 1) if count else ():
            yield (*rest, last)


@pytest.mark.parametrize("num_tokens", [2, 3, 6, 9])
def test_the_best_pairs_equal_brute_force(num_tokens):
    for seed in range(5):
        similarities = noise(num_tokens - 1, seed=seed).tanh().numpy()
        for count in range(num_tokens // 2 + 1):
            best = max(sum(similarities[i - 1] for i in chosen) for chosen in matchings(num_tokens, count))
            found = best_pairs(similarities, count).nonzero()[0]
            assert len(found) == count
            assert (found[1:] - found[:-1] > 1).all()
            assert sum(similarities[i - 1] for i in found) == pytest.approx(best)


@pytest.mark.parametrize("cap", [None, 1, 2, 3, 4, 6, 8])
def test_pairs_reach_every_count_down_to_whole_rounds(cap):
    rounds = 9 if cap is None else int(math.log2(cap))
    for num_frames in range(1, 18):
        x, similarities, lengths, seconds = clips([num_frames], seed=num_frames)
        for count in range(fewest(num_frames, cap), num_frames + 1):
            (row,) = rows(
                Pairs(count / num_frames)(similarities, lengths, seconds=seconds, features=x, max_duration=cap)
            )
            assert sum(row) == num_frames
            assert len(row) == max(count, -(-num_frames // 2**rounds))
            assert cap is None or max(row) <= cap


def test_a_cap_that_is_no_power_of_two_keeps_counts_out_of_reach():
    x, similarities, lengths, seconds = clips([12])
    found = Pairs(2 / 12)(similarities, lengths, seconds=seconds, features=x, max_duration=6)
    assert rows(found) == [[4, 4, 4]]


def test_half_of_an_even_clip_in_pairs_is_uniform():
    x, similarities, lengths, seconds = clips([26, 8], seed=4)
    asked = {"seconds": seconds, "features": x, "max_duration": 8}
    assert torch.equal(Pairs(0.5)(similarities, lengths, **asked), Uniform(0.5)(similarities, lengths, **asked))


def plain_greedy(x, count, cap, predict):
    """Elastic-Time's greedy rule on one clip: [[frames of a token], ...] until `count` are left or it is stuck."""
    tokens = [[t] for t in range(x.shape[1])]
    while len(tokens) > count:
        options = []
        for left, right in zip(tokens, tokens[1:], strict=False):
            if len(right) == 1 and (cap is None or len(left) < cap):
                first, frame = left[0], right[0]
                options.append((float((predict(x, first, frame) - x[:, frame]).square().sum()), frame, left, right))
        if not options:
            break
        *_, left, right = min(options, key=lambda option: option[:2])
        left += right
        tokens.remove(right)
    return [len(token) for token in tokens]


def hold(x, first, frame):
    return x[:, first]


def drift(x, first, frame):
    return x[:, first] * 0.5 ** (frame - first)


def drift_all(features, steps):
    return (
        torch.stack([features * 0.5**k for k in range(1, steps + 1)])
        if steps
        else features.new_zeros(0, *features.shape)
    )


@pytest.mark.parametrize("cap", [None, 2, 5])
@pytest.mark.parametrize(("predict", "predictor"), [(hold, None), (drift, drift_all)])
def test_greedy_prediction_equals_a_plain_version(cap, predict, predictor):
    for num_frames in (1, 2, 9, 14):
        x, similarities, lengths, seconds = clips([num_frames], seed=num_frames)
        x = x.double()
        for count in range(fewest(num_frames, cap), num_frames + 1):
            found = GreedyPrediction(count / num_frames, predictor)(
                similarities, lengths, seconds=seconds, features=x, max_duration=cap
            )
            assert rows(found) == [plain_greedy(x[0], count, cap, predict)]


def test_greedy_prediction_gets_stuck_where_the_programme_does_not():
    x = torch.tensor([0.0, 4.0, 4.1, 9.0])[None, None]
    similarities, lengths, asked = torch.zeros(1, 3), torch.tensor([4]), {"seconds": [4.0], "max_duration": 2}
    assert rows(GreedyPrediction(0.5)(similarities, lengths, features=x, **asked)) == [[1, 2, 1]]
    assert rows(LeastCost(0.5, cost="prediction")(similarities, lengths, features=x, **asked)) == [[2, 2]]
    without_cap = GreedyPrediction(0.25)(similarities, lengths, features=x, seconds=[4.0])
    assert rows(without_cap) == [[1, 3]]


def test_any_predictor_serves_both_forms():
    x, similarities, lengths, seconds = clips([12, 7], seed=2)
    asked = {"seconds": seconds, "features": x, "max_duration": 4}
    halves = torch.tensor([0.5**t for t in range(12)]).expand(2, 3, -1) * noise(2, 3, 1, seed=1)
    drifting = {**asked, "features": halves}  # each frame is what `drift_all` predicts from any before it
    exact = LeastCost(0.5, cost="prediction", predictor=drift_all)(similarities, lengths, **drifting)
    held = LeastCost(0.5, cost="prediction")(similarities, lengths, **drifting)
    assert rows(exact)[0][-1] == 4  # nothing costs anything: the longest last tokens win
    assert rows(held)[0] != rows(exact)[0]
    with pytest.raises(ValueError, match=r"predictor returned \(2, 4, 12\); expected \[steps, B, D, T\]"):
        LeastCost(0.5, cost="prediction", predictor=lambda features, steps: features)(similarities, lengths, **asked)
    with pytest.raises(ValueError, match="a predictor was given, but the cost is 'squared'"):
        LeastCost(0.5, predictor=drift_all)


def plain_density(x, threshold, cap, released, neighbours=10, penalty=0.2):
    """VARSTok's rule with loops."""
    n = x.shape[1]
    x = x.double() / x.double().norm(dim=0)
    similar = [[(1 + float(x[:, i] @ x[:, j])) / 2 for j in range(n)] for i in range(n)]
    density = []
    for i in range(n):
        most = sorted((similar[i][j] for j in range(n) if j != i), reverse=True)[:neighbours]
        density.append(math.exp((-1 if released else 1) * sum(most) / max(len(most), 1)))
    peaks = []
    for i in range(n):
        far = [similar[i][j] if released else 1 - similar[i][j] for j in range(n)]
        denser = [far[j] for j in range(n) if density[j] > density[i]]
        peaks.append(density[i] * (min(denser) if denser else max(far)))
    token = [None] * n
    for seed in sorted(range(n), key=lambda i: -peaks[i]):
        if token[seed] is None:
            token[seed] = seed
            for step in (1, -1):
                t = seed + step
                while (
                    0 <= t < n
                    and token[t] is None
                    and token.count(seed) < (cap or n)
                    and similar[seed][t] - penalty * peaks[t] > threshold
                ):
                    token[t] = seed
                    t += step
    starts = [t for t in range(n) if not t or token[t] != token[t - 1]]
    return [b - a for a, b in zip(starts, [*starts[1:], n], strict=True)]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("cap", [None, 4])
def test_density_peaks_equal_a_plain_version(cap, released):
    for seed, threshold in enumerate((0.2, 0.45, 0.6, 0.7)):
        x, similarities, lengths, _ = clips([18, 7, 2], held=0.4, seed=seed)
        x = x + 0.05 * noise(*x.shape, seed=seed + 9)  # no two seeds alike
        found = rows(DensityPeaks(threshold, released=released)(similarities, lengths, features=x, max_duration=cap))
        assert found == [plain_density(x[i, :, :n], threshold, cap, released) for i, n in enumerate(lengths.tolist())]


def test_the_released_density_peaks_are_another_rule():
    differ = 0
    for seed in range(40):
        x, similarities, lengths, _ = clips([20], held=0.5, seed=seed)
        asked = {"features": x + 0.1 * noise(*x.shape, seed=seed), "max_duration": 4}
        ours = DensityPeaks(0.6)(similarities, lengths, **asked)
        differ += rows(ours) != rows(DensityPeaks(0.6, released=True)(similarities, lengths, **asked))
    assert differ > 20


def test_counts_of_density_peaks_cannot_be_calibrated():
    falls = skips = above_least = 0
    thresholds = [-1.0, *torch.linspace(0, 1, 60).tolist(), 1.01]
    for seed in range(40):
        x, similarities, lengths, _ = clips([16], held=0.3, seed=seed)
        n = len(thresholds)
        found = DensityPeaks(thresholds)(
            similarities.expand(n, -1), lengths.expand(n), features=x.expand(n, -1, -1), max_duration=4
        )
        counts = (found > 0).sum(1)
        assert counts[-1] == 16
        falls += int((counts.diff() < 0).any())
        skips += len(set(range(int(counts.min()), 17)) - set(counts.tolist())) > 0
        above_least += int(counts.min()) > 4  # at -1 everything may merge
    assert falls > 0  # not monotone
    assert skips > 0  # not every count
    assert above_least > 20  # gaps between tokens stay


def test_a_frame_alone_and_cosines():
    one = noise(1, 4, 1)
    for policy in (Pairs(1.0), GreedyPrediction(1.0), DensityPeaks(0.5)):
        found = policy(cosine_similarities(one), torch.tensor([1]), seconds=[1.0], features=one)
        assert rows(found) == [[1]]
