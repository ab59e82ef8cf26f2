"""FSQ and grouped FSQ: numbering, the two bounds, agreement with vector-quantize-pytorch, order of groups."""

from collections.abc import Iterator
from math import prod

import pytest
import torch
import vector_quantize_pytorch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.quantize import FSQ, FSQConfig, GroupedFSQ, GroupedFSQConfig, fsq_bound, fsq_decode, fsq_encode


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


small_levels = st.lists(st.integers(3, 9), min_size=1, max_size=4).map(tuple)
bounds = st.sampled_from(["tan", "atanh"])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(levels=small_levels, bound=bounds)
def test_every_code_is_reached_and_decodes_to_its_digits(levels: tuple[int, ...], bound: str) -> None:
    codes = torch.arange(prod(levels))
    values = fsq_decode(codes, levels)
    halves = torch.tensor([level // 2 for level in levels])
    digits = (values * halves).round() + halves
    basis = torch.tensor([prod(levels[:j]) for j in range(len(levels))])
    assert torch.equal((digits.long() * basis).sum(-1), codes)
    assert torch.equal(digits.amax(0) + 1, torch.tensor(levels).float())

    # An input whose bounded value is the level itself; the outermost levels lie beyond the tanh's reach.
    offset = torch.tensor([0.5 if level % 2 == 0 else 0.0 for level in levels])
    half = (torch.tensor(levels) - 1) / 2
    z = torch.atanh(((values * halves + offset) / half).clamp(-0.9995, 0.9995)) - offset / half
    encoded, found = fsq_encode(z, levels, bound)
    assert torch.equal(found, codes)
    torch.testing.assert_close(encoded, values)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(levels=small_levels, bound=bounds)
def test_any_input_stays_inside_the_codebook(levels: tuple[int, ...], bound: str) -> None:
    z = torch.tensor([-1e30, -20.0, -1.0, 0.0, 1.0, 20.0, 1e30])[:, None].expand(-1, len(levels))
    codes = fsq_encode(z, levels, bound)[1]
    assert codes[0] == codes[1] == 0
    assert codes[-1] == codes[-2] == prod(levels) - 1
    assert (codes.diff() >= 0).all()


@pytest.mark.parametrize("bound", ["tan", "atanh"])
def test_odd_levels_are_symmetric_and_even_ones_reach_one_further_down(bound: str) -> None:
    z = torch.linspace(-3, 3, 61)[:, None]
    torch.testing.assert_close(fsq_bound(z, (7,), bound), -fsq_bound(-z, (7,), bound))
    assert fsq_encode(z, (7,), bound)[0].unique().tolist() == pytest.approx([i / 3 for i in range(-3, 4)])
    assert fsq_encode(z, (8,), bound)[0].unique().tolist() == [i / 4 for i in range(-4, 4)]


# Computed in numpy float64 from the formula alone; the bounds part at one row of each table.
Z = torch.arange(-3, 3.1, 0.75)[:, None] * torch.tensor([1, 0.8, -0.6, 0.4, -0.2]) + torch.tensor(
    [0, 0.1, 0.2, -0.1, 0.3]
)
FROZEN = [
    ((8,) * 5, "tan", [25536, 25536, 25992, 22418, 22884, 19190, 19135, 15487, 15423]),
    ((8,) * 5, "atanh", [25536, 25536, 25992, 22418, 22884, 23286, 19135, 15487, 15423]),
    ((8, 5, 5, 5), "tan", [160, 160, 360, 330, 500, 510, 679, 639, 839]),
    ((7, 4, 3, 6, 9), "tan", [3668, 3668, 3171, 3256, 2817, 2826, 2379, 1875, 1959]),
    ((7, 4, 3, 6, 9), "atanh", [3584, 3668, 3171, 3256, 2817, 2826, 2379, 1875, 1959]),
]


@pytest.mark.parametrize(("levels", "bound", "codes"), FROZEN)
def test_codes_are_frozen(levels: tuple[int, ...], bound: str, codes: list[int]) -> None:
    assert fsq_encode(Z[:, : len(levels)], levels, bound)[1].tolist() == codes


def test_the_released_bound_is_not_the_librarys() -> None:
    # Top level of 8: reached from z = 1.14173 with tan, from z = 1.13556 with atanh; bottom: -1.42970, -1.42295.
    z = torch.tensor([[1.1387], [-1.4263]])
    assert fsq_encode(z, (8,), "tan")[1].tolist() == [6, 1]
    assert fsq_encode(z, (8,), "atanh")[1].tolist() == [7, 0]
    z = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0))
    differ = fsq_encode(z, (8,) * 5, "tan")[1] != fsq_encode(z, (8,) * 5, "atanh")[1]
    assert 0.005 < differ.float().mean() < 0.03


def test_atanh_is_the_librarys_own() -> None:
    latents = torch.randn(2, 16, 1000, generator=torch.Generator().manual_seed(0))
    for bound in ("tan", "atanh"):
        ours = FSQConfig((8, 7, 5), bound).build(16)
        theirs = vector_quantize_pytorch.FSQ([8, 7, 5], dim=16, channel_first=True)
        assert theirs.load_state_dict(ours.state_dict(), strict=True)
        out = ours(latents)
        expected_latents, expected_codes = theirs(latents)
        assert torch.equal(out.codes[:, 0], expected_codes.long()) == (bound == "atanh")
        if bound == "atanh":
            torch.testing.assert_close(out.latents, expected_latents)
        torch.testing.assert_close(theirs.indices_to_codes(out.codes[:, 0]), out.latents)


def test_state_dict_holds_the_projections_alone() -> None:
    names = {"project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"}
    assert FSQConfig().build(16).state_dict().keys() == names
    assert isinstance(FSQConfig().build(16), FSQ)
    assert not FSQConfig().build(5).state_dict()


def test_bad_configs_are_errors() -> None:
    assert FSQConfig([8, 5]).levels == (8, 5)
    assert FSQConfig().codebook_size == 32768
    for levels in ((), (2, 8), (0,), (1000,) * 4):
        with pytest.raises(ValueError, match="at least 3 with a product"):
            FSQConfig(levels)
    with pytest.raises(ValueError, match="'tanh', expected one of tan, atanh"):
        FSQConfig(bound="tanh")


# Groups

GROUP_LEVELS = (8, 7, 6, 6)


@pytest.fixture
def quantizer() -> GroupedFSQ:
    return GroupedFSQConfig(3, GROUP_LEVELS).build()


def test_every_group_is_an_fsq_on_its_own_channels(quantizer: GroupedFSQ) -> None:
    latents = 2 * torch.randn(2, 12, 50, generator=torch.Generator().manual_seed(0))
    out, alone = quantizer(latents), FSQConfig(GROUP_LEVELS).build(4)
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


def test_there_are_no_parameters_and_no_state(quantizer: GroupedFSQ) -> None:
    assert not quantizer.state_dict()


def test_configs_of_groups() -> None:
    config = GroupedFSQConfig()
    assert (config.num_codebooks, config.codebook_size, config.dim) == (13, 2016, 52)
    assert GroupedFSQConfig(4, [9, 8, 8, 7]).codebook_size == 4032  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_groups is 0"):
        GroupedFSQConfig(0)
    with pytest.raises(ValueError, match="at least 3 with a product"):
        GroupedFSQConfig(4, ())
    with pytest.raises(ValueError, match=r"latents of 50 channels, but 13 groups of levels \(8, 7, 6, 6\) need 52"):
        config.build(50)
