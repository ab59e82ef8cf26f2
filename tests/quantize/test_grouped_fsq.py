"""Groups of channels, each an FSQ of its own: order of channels and digits, thresholds, and what configs refuse.

What every quantizer keeps is in test_result.
"""

import pytest
import torch

from flexicodec.quantize import FSQConfig, GroupedFSQ, GroupedFSQConfig

LEVELS = (8, 7, 6, 6)


@pytest.fixture
def quantizer() -> GroupedFSQ:
    return GroupedFSQConfig(3, LEVELS).build()


def test_every_group_is_an_fsq_on_its_own_channels(quantizer: GroupedFSQ) -> None:
    latents = 2 * torch.randn(2, 12, 50, generator=torch.Generator().manual_seed(0))
    out, alone = quantizer(latents), FSQConfig(LEVELS).build(4)
    for group in range(3):
        theirs = alone(latents[:, 4 * group : 4 * (group + 1)])
        assert torch.equal(out.codes[:, group], theirs.codes[:, 0])
        assert torch.equal(out.latents[:, 4 * group : 4 * (group + 1)], theirs.latents)


def test_the_first_digit_is_the_fastest(quantizer: GroupedFSQ) -> None:
    codes = torch.tensor([0, 1, 8, 56, 336, 2015]).expand(1, 3, -1)
    values = quantizer.dequantize(codes)[0, 4:8].T
    expected = torch.tensor(
        [
            [-1, -1, -1, -1],
            [-0.75, -1, -1, -1],
            [-1, -2 / 3, -1, -1],
            [-1, -1, -2 / 3, -1],
            [-1, -1, -1, -2 / 3],
            [0.75, 1, 2 / 3, 2 / 3],
        ]
    )
    torch.testing.assert_close(values, expected)


# Where the value of a channel changes (specs/nanocodec.md, measured on NeMo's quantizer).
THRESHOLDS = {
    8: [-1.429, -0.794, -0.438, -0.143, 0.150, 0.507, 1.142],
    7: [-1.201, -0.549, -0.168, 0.168, 0.549, 1.201],
    6: [-1.303, -0.627, -0.202, 0.221, 0.898],
}


@pytest.mark.parametrize("level", THRESHOLDS)
def test_thresholds_of_a_level(level: int) -> None:
    quantizer = GroupedFSQConfig(1, (level, 3)).build()
    x = torch.arange(-2, 2, 0.001)
    digits = quantizer(torch.stack([x, torch.zeros_like(x)])[None]).codes[0, 0] % level
    found = x[1:][digits.diff() != 0].tolist()
    assert found == pytest.approx(THRESHOLDS[level], abs=1.5e-3)


def test_zero_is_a_value_of_every_level(quantizer: GroupedFSQ) -> None:
    assert not quantizer(torch.zeros(1, 12, 3)).latents.any()


def test_there_is_nothing_to_learn_or_to_save(quantizer: GroupedFSQ) -> None:
    assert not quantizer.state_dict()


def test_configs() -> None:
    config = GroupedFSQConfig()
    assert (config.num_codebooks, config.codebook_size, config.dim) == (13, 2016, 52)
    assert GroupedFSQConfig(4, [9, 8, 8, 7]).codebook_size == 4032  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_groups is 0"):
        GroupedFSQConfig(0)
    with pytest.raises(ValueError, match="at least 3 with a product"):
        GroupedFSQConfig(4, ())
    with pytest.raises(ValueError, match=r"latents of 50 channels, but 13 groups of levels \(8, 7, 6, 6\) need 52"):
        config.build(50)
