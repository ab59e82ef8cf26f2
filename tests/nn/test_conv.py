"""Convolutions in chunks equal those of the whole clip, and weight norm folds to the effective weight."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexicodec.nn.conv import (
    Conv,
    ConvTranspose,
    PaddedLengths,
    PaddingMode,
    apply_weight_norm,
    fold_weight_norm,
    remove_weight_norm,
)

chunk_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def streamed(layer: Conv | ConvTranspose, x: Tensor, sizes: list[int], lengths: PaddedLengths | None = None) -> Tensor:
    """Run `x` in chunks of these sizes and one for the rest."""
    state, outputs = layer.initial_state(lengths), []
    sizes = [*sizes, x.shape[-1] - sum(sizes)]
    for index, chunk in enumerate(x.split(sizes, dim=-1)):
        y, state = layer.step(chunk, state, last=index == len(sizes) - 1)
        outputs.append(y)
    return torch.cat(outputs, dim=-1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=chunk_sizes, rest=st.integers(1, 9), kernel=st.sampled_from([1, 3, 7]), dilation=st.sampled_from([1, 2, 9])
)
def test_any_chunks_equal_the_whole_clip(sizes: list[int], rest: int, kernel: int, dilation: int) -> None:
    layer, x = Conv(2, 3, kernel, dilation=dilation).double(), random(1, 2, sum(sizes) + rest)
    whole = layer(x)
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == x.shape[-1]
    torch.testing.assert_close(streamed(layer, x, sizes), whole)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=chunk_sizes, rest=st.integers(1, 9), stride=st.sampled_from([2, 3, 5, 8]))
def test_strided_chunks_equal_the_whole_clip(sizes: list[int], rest: int, stride: int) -> None:
    layer = Conv(2, 3, 2 * stride, stride, padding=(stride + 1) // 2).double()
    x = random(1, 2, sum(sizes) + rest)
    x = F.pad(x, (0, -x.shape[-1] % stride))
    whole = layer(x)
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == x.shape[-1] // stride
    torch.testing.assert_close(streamed(layer, x, sizes), whole)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=chunk_sizes, rest=st.integers(1, 9), stride=st.sampled_from([2, 3, 5, 8]), exact=st.booleans())
def test_transposed_chunks_equal_the_whole_clip(sizes: list[int], rest: int, stride: int, exact: bool) -> None:
    layer, x = ConvTranspose(3, 2, stride, exact).double(), random(1, 3, sum(sizes) + rest)
    whole = layer(x)
    lost = 0 if exact else stride % 2
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == stride * x.shape[-1] - lost
    torch.testing.assert_close(streamed(layer, x, sizes), whole)


MODES = ["zeros", "reflect", "replicate"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=chunk_sizes,
    rest=st.integers(14, 20),  # a reflection needs more inputs than it pads
    mode=st.sampled_from(MODES[1:]),
    shape=st.sampled_from([(3, 1, 2), (7, 1, 1), (7, 1, 4), (4, 2, 1), (10, 5, 1), (1, 1, 1)]),
)
def test_chunks_are_padded_as_the_whole_clip_is(
    sizes: list[int], rest: int, mode: PaddingMode, shape: tuple[int, int, int]
) -> None:
    kernel, stride, dilation = shape
    padding = (stride + 1) // 2 if stride > 1 else None
    layer = Conv(2, 3, kernel, stride, dilation, padding, padding_mode=mode).double()
    x = random(1, 2, sum(sizes) + rest)
    x = F.pad(x, (0, -x.shape[-1] % stride))
    whole = layer(x)
    theirs = nn.Conv1d(2, 3, kernel, stride, layer.padding, dilation, padding_mode=mode).double()
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(whole, theirs(x))
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == x.shape[-1] // stride
    torch.testing.assert_close(streamed(layer, x, sizes), whole)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=chunk_sizes,
    rest=st.integers(1, 9),
    shape=st.sampled_from([(3, 1, 2), (7, 1, 1), (7, 1, 4), (4, 2, 1), (10, 5, 1)]),
)
def test_a_causal_convolution_gives_an_output_as_soon_as_its_inputs_are_there(
    sizes: list[int], rest: int, shape: tuple[int, int, int]
) -> None:
    kernel, stride, dilation = shape
    layer = Conv(2, 3, kernel, stride, dilation, causal=True).double()
    x = random(1, 2, stride * (sum(sizes) + rest))
    whole = layer(x)
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == sum(sizes) + rest
    seen = 0
    state = layer.initial_state(None)
    for size in sizes:
        y, state = layer.step(x[..., stride * seen : stride * (seen + size)], state, last=False)
        torch.testing.assert_close(y, whole[..., seen : seen + size])
        later = x.clone()
        later[..., stride * (seen + size) :] = 9.0
        torch.testing.assert_close(layer(later)[..., : seen + size], whole[..., : seen + size])
        seen += size


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=chunk_sizes, rest=st.integers(1, 9), stride=st.sampled_from([2, 3, 8]), groups=st.sampled_from([1, 3]))
def test_a_causal_transposed_convolution_is_the_plain_one_without_its_last_block(
    sizes: list[int], rest: int, stride: int, groups: int
) -> None:
    layer = ConvTranspose(6, 3, stride, causal=True, groups=groups).double()
    plain = nn.ConvTranspose1d(6, 3, 2 * stride, stride, groups=groups).double()
    plain.load_state_dict(layer.state_dict())
    x = random(1, 6, sum(sizes) + rest)
    whole = layer(x)
    assert whole.shape[-1] == layer.output_length(x.shape[-1]) == stride * x.shape[-1]
    torch.testing.assert_close(whole, plain(x)[..., :-stride])
    torch.testing.assert_close(streamed(layer, x, sizes), whole)
    first, _ = layer.step(x[..., :1], layer.initial_state(None), last=False)
    torch.testing.assert_close(first, whole[..., :stride])


def test_items_that_end_early_see_the_zeros_of_the_batch_where_asked() -> None:
    values = torch.tensor([10, 40])
    x = random(2, 2, 40) * (torch.arange(40) < values[:, None])[:, None]
    for mode in MODES[1:]:
        layer = Conv(2, 3, 7, padding_mode=mode).double()
        own, batch = (layer(x, PaddedLengths(values, 10, pad_at_item_ends)) for pad_at_item_ends in (True, False))
        plain = layer(x)
        torch.testing.assert_close(batch[0, :, :10], plain[0, :, :10])
        torch.testing.assert_close(own[1], plain[1])
        assert torch.equal(own[0, :, :7], batch[0, :, :7])
        assert not torch.isclose(own[0, :, 7:10], batch[0, :, 7:10]).any()
        streams = streamed(layer, x, [7, 11, 0, 1], PaddedLengths(values, 10, pad_at_item_ends=False))
        torch.testing.assert_close(streams, batch)


def test_a_causal_convolution_has_no_padding_of_its_own() -> None:
    for choice in ({"padding": 1}, {"padding_mode": "reflect"}):
        with pytest.raises(ValueError, match="pads with zeros at the start alone"):
            Conv(1, 1, 3, causal=True, **choice)
    with pytest.raises(ValueError, match="exactly `stride` outputs"):
        ConvTranspose(1, 1, 3, exact_length=False, causal=True)


@pytest.mark.parametrize(
    "layer",
    [
        Conv(2, 3, 7, dilation=3),
        Conv(2, 3, 10, 5, padding=3),
        Conv(2, 3, 1),
        ConvTranspose(2, 3, 5, False),
        Conv(2, 3, 7, dilation=3, causal=True),
        Conv(2, 3, 10, 5, causal=True),
        ConvTranspose(2, 1, 5, causal=True, groups=1),
        *(Conv(2, 3, 7, dilation=dilation, padding_mode=mode) for mode in MODES for dilation in (1, 3)),
        *(Conv(2, 3, 10, 5, padding=3, padding_mode=mode) for mode in MODES),
    ],
)
def test_item_of_a_padded_batch_equals_the_item_alone(layer: Conv | ConvTranspose) -> None:
    layer = layer.double()
    lengths = PaddedLengths(torch.tensor([10, 25, 40]), 10)
    x = random(3, 2, 40) * (torch.arange(40) < lengths.values[:, None])[:, None]
    whole = layer(x, lengths)
    torch.testing.assert_close(streamed(layer, x, [7, 11, 0, 1], lengths), whole)
    for item, length in enumerate(lengths.values.tolist()):
        alone = layer(x[item : item + 1, :, :length])
        torch.testing.assert_close(whole[item : item + 1, :, : alone.shape[-1]], alone)
        assert not whole[item, :, alone.shape[-1] :].any()


def test_state_is_a_value_that_can_be_resumed_twice() -> None:
    layer, x = Conv(2, 2, 7).double(), random(1, 2, 30)
    _, state = layer.step(x[..., :13], layer.initial_state(None), last=False)
    first, _ = layer.step(x[..., 13:], state, last=True)
    again, _ = layer.step(x[..., 13:], state, last=True)
    assert torch.equal(first, again)


def test_width_one_is_a_matrix_product() -> None:
    layer, x = Conv(5, 4, 1), torch.randn(1, 5, 6000)  # long enough for oneDNN
    torch.testing.assert_close(layer(x), layer.weight[..., 0] @ x + layer.bias[:, None])


def test_starts_as_dac_does() -> None:
    layer = Conv(64, 64, 7)
    assert 0.019 < layer.weight.std() < 0.021
    assert not layer.bias.any()


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 6, 5), nn.ConvTranspose1d(4, 6, 8, 4)])
def test_folded_weight_is_the_one_torch_uses(layer: nn.Conv1d | nn.ConvTranspose1d) -> None:
    nn.utils.parametrizations.weight_norm(layer, "weight", dim=0)
    g, v = (parameter.data for parameter in layer.parametrizations.weight.parameters())
    g.mul_(torch.rand_like(g) + 0.5)
    assert torch.equal(fold_weight_norm(g, v), layer.weight)
    norm = v.flatten(1).norm(dim=1).view(-1, 1, 1)
    torch.testing.assert_close(fold_weight_norm(g, v), g * v / norm)


def test_half_precision_weights_fold_in_float32() -> None:
    g, v = torch.rand(3, 1, 1).half(), torch.randn(3, 4, 5).half()
    assert torch.equal(fold_weight_norm(g, v), fold_weight_norm(g.float(), v.float()))


def test_weight_norm_changes_what_is_trained_and_not_what_is_computed() -> None:
    stack, x = nn.Sequential(Conv(1, 4, 7), ConvTranspose(4, 2, 3)), torch.randn(1, 1, 20)
    plain, keys = stack(x), list(stack.state_dict())
    apply_weight_norm(stack)
    apply_weight_norm(stack)
    torch.testing.assert_close(stack(x), plain)
    stack(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stack.parameters())
    remove_weight_norm(stack)
    assert sorted(stack.state_dict()) == sorted(keys)
    torch.testing.assert_close(stack(x), plain)
