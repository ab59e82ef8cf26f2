"""Sampled rates of items: ranges, shares, and dependence on seed, step and item only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexicodec.merging import POLICIES, Centroid, ExactRate, MinimumVariance, Threshold, Uniform, cosine_similarities
from flexicodec.merging.registry import policy_text
from flexicodec.models.flexicodec.network import Features
from flexicodec.training.config import CalibratedRange, DropoutConfig, RateConfig
from flexicodec.training.rate_sampling import calibrate_threshold_range, merge_items, sample_rates

MIX = {"threshold": 0.4, "rate": 0.3, "uniform": 0.2, "variance": 0.1}


def sample(items, rates=None, dropout=None, *, seed=0, step=3, tau=(0.3, 0.6)):
    return sample_rates(rates or RateConfig(), dropout or DropoutConfig(), tau, 8, items, seed=seed, step=step)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(0, 7))
def test_the_samples_of_an_item_do_not_depend_on_others(items, split):
    rates, dropout = RateConfig(policies=MIX), DropoutConfig(semantic_dropout=0.5)
    together = sample(items, rates, dropout)
    np.random.seed(len(items))  # global random state has no effect
    parts = [sample(part, rates, dropout) for part in (items[:split], items[split:]) if part]
    assert together.policies == [policy for part in parts for policy in part.policies]
    assert torch.equal(together.num_codebooks, torch.cat([part.num_codebooks for part in parts]))
    assert torch.equal(together.keeps_semantic, torch.cat([part.keeps_semantic for part in parts]))


def test_seed_and_step_change_the_samples():
    taus = [
        [policy.threshold for policy in sample(range(8), seed=s, step=k).policies] for s, k in ((0, 3), (1, 3), (0, 4))
    ]
    assert len({tuple(row) for row in taus}) == 3


def test_thresholds_fill_their_range_and_shares_are_kept():
    found = sample(range(2000), RateConfig(policies=MIX, unmerged_share=0.25, frame_rate_range=(4.0, 9.0)))
    kinds = [type(policy) for policy in found.policies]
    unmerged = [policy for policy in found.policies if policy == Threshold(1.0)]
    assert len(unmerged) / 2000 == pytest.approx(0.25, abs=0.04)
    for kind, share in ((ExactRate, 0.3), (Uniform, 0.2), (MinimumVariance, 0.1)):
        assert kinds.count(kind) / 2000 == pytest.approx(0.75 * share, abs=0.03)
    taus = [p.threshold for p in found.policies if isinstance(p, Threshold) and p.threshold != 1.0]
    rates = [p.frame_rate for p in found.policies if not isinstance(p, Threshold)]
    for values, low, high in ((taus, 0.3, 0.6), (rates, 4.0, 9.0)):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_depths_follow_their_shares():
    found = sample(range(3000), dropout=DropoutConfig(0.2, 0.3, semantic_dropout=0.1))
    counts = torch.bincount(found.num_codebooks, minlength=9) / 3000
    some = 0.5 / 8
    torch.testing.assert_close(counts, torch.tensor([0.2, *[some] * 7, 0.3 + some]), atol=0.025, rtol=0)
    assert float((~found.keeps_semantic).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert sample(range(50)).keeps_semantic.all()  # off by default


def test_items_are_merged_by_their_own_policies():
    generator = torch.Generator().manual_seed(0)
    semantic, lengths = torch.randn(4, 5, 20, generator=generator), torch.tensor([20, 13, 17, 9])
    semantic = semantic.masked_fill(torch.arange(20) >= lengths[:, None, None], 0.0)
    features = Features(semantic, semantic, cosine_similarities(semantic, lengths), lengths, lengths * 1280)
    policies = [Threshold(0.1), ExactRate(6.0), Threshold(-0.4), Uniform(4.0)]
    together = merge_items(policies, features, 16_000, 8)
    assert torch.equal(together.sum(1), lengths)
    for i, policy in enumerate(policies):
        alone = policy(
            features.similarities[i : i + 1],
            lengths[i : i + 1],
            seconds=lengths[i : i + 1].double() * 0.08,
            features=semantic[i : i + 1],
            max_duration=8,
        )[0]
        row = together[i]
        assert torch.equal(row[row > 0], alone[alone > 0])


EVERY = {name: 1.0 for name in POLICIES} | {"joint:acoustic=0.3,cap=4": 1.0, "centroid:threshold=0.5": 1.0}


def test_all_policies_can_be_mixed_and_a_batch_equals_each_item():
    found = sample(range(400), RateConfig(policies=EVERY), tau=(0.3, 0.6)).policies
    texts = {policy_text(policy) for policy in found}
    assert texts == set(POLICIES) | {"joint:cap=4,acoustic=0.3"}  # the fixed centroid is a centroid
    assert sum(policy == Centroid(0.5) for policy in found) > 5
    policies = list({policy_text(policy): policy for policy in found}.values())
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 25, (len(policies),), generator=generator)
    lengths[0] = 24
    semantic = torch.randn(len(policies), 5, 24, generator=generator)
    acoustic = torch.randn(len(policies), 3, 24, generator=generator, requires_grad=True)
    features = Features(semantic, acoustic, cosine_similarities(semantic, lengths), lengths, lengths * 1280)
    together = merge_items(policies, features, 16_000, 8)
    assert torch.equal(together.sum(1), lengths)
    assert not together.requires_grad
    for i, policy in enumerate(policies):
        alone = merge_items([policy], features[i], 16_000, 8)[0]
        assert together[i][together[i] > 0].tolist() == alone[alone > 0].tolist()


def test_a_range_of_rates_becomes_a_range_of_tau(whole):
    generator = torch.Generator().manual_seed(0)
    clips = [(0.1 * torch.randn(3, 32_000, generator=generator), torch.tensor([32_000, 20_000, 9_000]))]
    low, high = calibrate_threshold_range(whole, clips, CalibratedRange((5.0, 11.0)))
    assert -1 <= low < high <= 1
    audio, lengths = clips[0]
    seconds = float(lengths.sum()) / 16_000
    for tau, rate in ((low, 5.0), (high, 11.0)):
        tokens = whole.encode(audio, lengths, threshold=tau)
        assert float(tokens.token_lengths.sum()) / seconds == pytest.approx(rate, abs=1 / seconds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policies": {"speed": 1.0}}, "policy is 'speed'; expected one of rate, "),
        ({"policies": {"joint:share=0.3": 1.0}}, "setting 'share'"),
        ({"policies": {"variance:acoustic=2": 1.0}}, "acoustic is 2; expected a number from 0 to 1"),
        ({"policies": {}}, "shares"),
        ({"policies": {"rate": 0.0}}, "not all 0"),
    ],
)
def test_policies_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        RateConfig(**settings)


@pytest.mark.parametrize(("shares", "message"), [((0.7, 0.7), "more than 1"), ((-0.1, 0.0), "probability")])
def test_shares_that_make_no_sense(shares, message):
    with pytest.raises(ValueError, match=message):
        DropoutConfig(*shares)
