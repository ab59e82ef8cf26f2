"""A margin is the distance to the nearest code change."""

import pytest
import torch

from flexicodec.quantize import FSQConfig, GroupedFSQConfig, QuantizerConfig, ResidualFSQConfig, RVQConfig, VQConfig

DIM = 12
CONFIGS: dict[str, QuantizerConfig] = {
    "fsq": FSQConfig((8, 5, 4)),
    "fsq, the other bound": FSQConfig((8, 5, 4), bound="atanh"),
    "rvq": RVQConfig(num_codebooks=4, codebook_size=32, codebook_dim=4),
    "vq": VQConfig(codebook_size=50, codebook_dim=4),
    "residual_fsq": ResidualFSQConfig((4, 3, 5), num_codebooks=3),
    "grouped_fsq": GroupedFSQConfig(3, (8, 7, 6, 6)),
}


@pytest.fixture(params=CONFIGS)
def quantizer(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return CONFIGS[request.param].build(DIM).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def margins_of(quantizer, latents, lengths=None, num_codebooks=None):
    return quantizer.margins(latents, quantizer(latents, lengths, num_codebooks).codes, lengths)


def first_change(ours, theirs):
    """The first codebook in which codes [B, K, N] of one token each differ, K where none does."""
    differ = (ours != theirs).any(-1)
    return torch.where(differ.any(1), differ.long().argmax(1), ours.shape[1])


@torch.no_grad()
def test_half_way_to_other_codes_lies_a_margin_of_nothing(quantizer):
    near, far = noise(40, DIM, 1), noise(40, DIM, 1, seed=1)
    codes = quantizer(near).codes
    for _ in range(40):  # bisect to where codes change for the first time
        middle = (near + far) / 2
        same = (quantizer(middle).codes == codes).all(1).all(1)[:, None, None]
        near, far = torch.where(same, middle, near), torch.where(same, far, middle)
    margins = margins_of(quantizer, near)
    changed = first_change(quantizer(near).codes, quantizer(far).codes)
    rows = (changed < codes.shape[1]).nonzero()[:, 0]
    assert len(rows) > 30
    assert margins[rows, changed[rows], 0].max() < 3e-5
    assert margins[rows, changed[rows], 0].min() >= 0


@torch.no_grad()
def test_little_noise_flips_little_margins_alone(quantizer):
    latents = noise(1, DIM, 400)
    coded = quantizer(latents)
    margins = margins_of(quantizer, latents)
    changed = 0
    for seed in range(5):
        other = quantizer(latents + 1e-3 * noise(1, DIM, 400, seed=seed + 1))
        differ = coded.codes != other.codes
        first = differ & (differ.long().cumsum(1) == 1)
        if not hasattr(quantizer, "stages") and not hasattr(quantizer, "rfsq"):
            first = differ  # each decides by itself
        changed += int(first.sum())
        assert (margins[first] < 0.05).all()
    assert changed > 0


@torch.no_grad()
def test_padding_has_nothing_to_flip(quantizer):
    latents, lengths = noise(3, DIM, 6), torch.tensor([6, 1, 4])
    together = margins_of(quantizer, latents, lengths)
    assert together.shape == quantizer(latents, lengths).codes.shape
    for i, length in enumerate(lengths.tolist()):
        alone = margins_of(quantizer, latents[i : i + 1, :, :length])
        torch.testing.assert_close(together[i : i + 1, :, :length], alone, atol=1e-5, rtol=0)
        assert torch.isinf(together[i, :, length:]).all()


@torch.no_grad()
def test_fewer_codebooks_have_the_same_margins(quantizer):
    latents = noise(1, DIM, 5)
    every = margins_of(quantizer, latents)
    for count in range(quantizer.num_codebooks + 1):
        some = margins_of(quantizer, latents, num_codebooks=count)
        torch.testing.assert_close(some, every[:, :count], atol=1e-6, rtol=0)


def test_values_at_the_ends_of_the_range_cannot_round_beyond_it():
    quantizer = FSQConfig((8, 8), bound="tan").build(2)
    far = torch.full((1, 2, 1), 50.0)
    assert 0.4 < float(margins_of(quantizer, far)) < 0.6  # to the level below; none lies above
    assert 0.4 < float(margins_of(quantizer, -far)) < 0.6


def test_a_single_row_has_no_rival():
    quantizer = RVQConfig(num_codebooks=1, codebook_size=1, codebook_dim=2).build(3)
    assert torch.isinf(margins_of(quantizer, noise(1, 3, 4))).all()
