"""Nested and parallel containers: chunks equal the whole, items of a padded batch equal the item alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexicodec.nn.conv import Conv, ConvTranspose, PaddedLengths, PaddingMode
from flexicodec.nn.sequential import ParallelMean, Residual, Sequential


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def make(mode: PaddingMode, causal: bool) -> Sequential:
    """Build branches that look ahead by different amounts, between a change of rate down and one up."""

    def conv(kernel: int, dilation: int = 1) -> Conv:
        return Conv(4, 4, kernel, dilation=dilation, causal=causal, padding_mode=mode)

    branches = ParallelMean(
        [
            Sequential([Residual([nn.Tanh(), conv(3)])]),
            Sequential([Residual([nn.Tanh(), conv(7, 2), nn.Tanh(), conv(5)]), Residual([conv(3)])]),
        ]
    )
    down = Conv(2, 4, 6, 3, padding=None if causal else 2, causal=causal, padding_mode=mode)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chain = Sequential([down, branches, ConvTranspose(4, 2, 2, causal=causal)], tile=11)
        for weight in chain.parameters():
            nn.init.normal_(weight, std=0.3)
    return chain.double()


CHAINS = {
    "zeros": make("zeros", False),
    "reflect": make("reflect", False),
    "replicate": make("replicate", False),
    "causal": make("zeros", True),
}
chains = st.sampled_from(sorted(CHAINS))


def streamed(chain: Sequential, x: Tensor, sizes: list[int], lengths: PaddedLengths | None = None) -> list[Tensor]:
    state, outputs = chain.initial_state(lengths), []
    sizes = [*sizes, x.shape[-1] - sum(sizes)]
    for index, chunk in enumerate(x.split(sizes, dim=-1)):
        y, state = chain.step(chunk, state, last=index == len(sizes) - 1)
        outputs.append(y)
    return outputs


@settings(derandomize=True, deadline=None, max_examples=60)
@given(kind=chains, sizes=st.lists(st.integers(0, 30), max_size=6), rest=st.integers(24, 40))
def test_any_chunks_equal_the_whole_clip(kind: str, sizes: list[int], rest: int) -> None:
    chain, frames = CHAINS[kind], sum(sizes) + rest
    x = random(2, 2, 3 * frames)
    whole = chain(x)
    assert whole.shape[-1] == chain.output_length(x.shape[-1]) == 2 * frames
    outputs = streamed(chain, x, [3 * size for size in sizes])
    torch.testing.assert_close(torch.cat(outputs, dim=-1), whole)
    if kind == "causal":
        assert [y.shape[-1] for y in outputs[:-1]] == [2 * size for size in sizes]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(kind=chains, values=st.lists(st.integers(8, 40), min_size=2, max_size=4), cut=st.integers(0, 24))
def test_items_of_a_padded_batch_equal_the_items_alone(kind: str, values: list[int], cut: int) -> None:
    chain = CHAINS[kind]
    lengths = PaddedLengths(3 * torch.tensor(values), 3 * min(values))
    x = random(len(values), 2, 3 * max(values))
    x = x * (torch.arange(x.shape[-1]) < lengths.values[:, None])[:, None]
    together = chain(x, lengths)
    torch.testing.assert_close(torch.cat(streamed(chain, x, [cut], lengths), dim=-1), together)
    for item, length in enumerate(lengths.values.tolist()):
        alone = chain(x[item : item + 1, :, :length])
        torch.testing.assert_close(together[item : item + 1, :, : alone.shape[-1]], alone)
        assert not together[item, :, alone.shape[-1] :].any()


def test_an_average_is_the_mean_of_its_chains() -> None:
    average, x = CHAINS["zeros"][1], random(1, 4, 20)
    torch.testing.assert_close(average(x), torch.stack([chain(x) for chain in average]).mean(dim=0))


def test_a_residual_adds_its_input() -> None:
    unit, x = CHAINS["reflect"][1][0][0], random(1, 4, 20)
    torch.testing.assert_close(unit(x), x + unit[1](x.tanh()))


@pytest.mark.parametrize(("kind", "least"), [("zeros", 1), ("replicate", 1), ("causal", 1), ("reflect", 7)])
def test_only_reflections_need_clips_of_a_certain_length(kind: str, least: int) -> None:
    chain = CHAINS[kind]
    assert [frames for frames in range(1, 10) if chain.is_long_enough(3 * frames)] == list(range(least, 10))
    assert chain(random(1, 2, 3 * least)).shape[-1] == 2 * least
