"""The fast paths equal PyTorch's, and notice changed weights."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexicodec.nn import onednn, snake
from flexicodec.nn.conv import Conv, ConvTranspose
from flexicodec.nn.snake import HalfSnake, Snake

LAYOUTS = pytest.mark.parametrize("layout", ["channels first", "channels last", "a slice"])


def clips(layout, batch, channels, time):
    if layout == "channels first":
        return torch.randn(batch, channels, time)
    if layout == "channels last":
        return torch.randn(batch, time, channels).mT
    return torch.randn(batch, time + 5, channels).mT[..., 2:-3]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@LAYOUTS
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [(1, 1, 1, 1), (7, 1, 1, 1), (7, 1, 9, 1), (4, 2, 1, 1), (3, 1, 1, 4), (1, 2, 1, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(layout, batch, kernel, stride, dilation, groups, bias):
    x = clips(layout, batch, 8, 70)
    weight = nn.Parameter(torch.randn(12, 8 // groups, kernel))
    values = nn.Parameter(torch.randn(12)) if bias else None
    found = onednn.conv1d(x, weight, values, stride, dilation, groups)
    torch.testing.assert_close(found, F.conv1d(x, weight, values, stride, 0, dilation, groups), rtol=1e-5, atol=1e-4)


@LAYOUTS
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("stride", [2, 3, 8])
@pytest.mark.parametrize("time", [2, 30])
def test_transposed_convolutions(layout, batch, stride, time):
    x = clips(layout, batch, 8, time)
    weight, bias = nn.Parameter(torch.randn(8, 6, 2 * stride)), nn.Parameter(torch.randn(6))
    found = onednn.conv_transpose1d(x, weight, bias, stride)
    expected = F.conv_transpose1d(x, weight, bias, stride, padding=stride)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@LAYOUTS
@pytest.mark.parametrize("make", [Snake, HalfSnake])
def test_activations(layout, make, monkeypatch):
    module = make(9)
    for parameter in module.parameters():
        parameter.uniform_(-2, 2)
    x = clips(layout, 2, 9, 40) * 30
    with torch.enable_grad():
        expected = module(x).detach()
    torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-5)
    half = module(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), module(x.bfloat16().float()), rtol=2**-7, atol=1e-2)
    monkeypatch.setattr(snake, "PIECE_VALUES", 64)
    assert torch.equal(module(x.bfloat16()), half)


def test_activations_leave_their_input_alone():
    for x in (torch.randn(2, 8, 10), torch.randn(2, 8, 10, dtype=torch.bfloat16)):
        before = x.clone()
        Snake(8)(x)
        HalfSnake(8)(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "moved", "trained"])
@pytest.mark.parametrize("make", [lambda: Conv(4, 4, 1), lambda: Conv(4, 4, 7), lambda: ConvTranspose(4, 4, 2)])
def test_a_change_of_weights_is_noticed(change, make):
    layer, x = make(), torch.randn(1, 4, 40)

    def output():
        return layer.step(x, layer.initial_state(None), True)[0]

    before = output()
    if change == "in place":
        layer.weight.add_(1)
    elif change == "loaded":
        layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    elif change == "replaced":
        layer.weight = nn.Parameter(layer.weight + 1)
    elif change == "moved":  # there and back: rounded on the way
        layer.weight.normal_(std=1)
        before = output()
        layer.bfloat16().float()
    else:
        with torch.enable_grad():
            layer(x).square().sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert not torch.equal(output(), before)
    torch.testing.assert_close(output(), layer(x), rtol=1e-5, atol=1e-5)


def test_what_is_made_is_made_once_and_goes_with_its_parameter():
    made = []
    parameter = nn.Parameter(torch.randn(3))
    for _ in range(3):
        onednn.cached(parameter, "doubled", lambda values: made.append(values) or 2 * values)
    assert len(made) == 1
    known = len(onednn._cache)
    del parameter
    gc.collect()
    assert len(onednn._cache) == known - 1


def test_weights_that_are_computed_each_time_are_not_kept():
    layer = nn.utils.parametrizations.weight_norm(Conv(4, 4, 7))
    known, x = len(onednn._cache), torch.randn(1, 4, 40)
    first = onednn.conv1d(x, layer.weight, None)
    layer.parametrizations.weight.original0.mul_(2)
    torch.testing.assert_close(onednn.conv1d(x, layer.weight, None), 2 * first)
    assert len(onednn._cache) == known


def test_half_precision_is_worked_in_under_autocast():
    x, layer = torch.randn(1, 8, 40), Conv(8, 8, 7)
    layer.weight.normal_()
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = layer.step(x, layer.initial_state(None), True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=0.05, atol=0.2)
    assert layer.step(x, layer.initial_state(None), True)[0].dtype == torch.float32


@pytest.mark.parametrize("first", ["channels first", "channels last"])
@pytest.mark.parametrize("second", ["channels first", "channels last", "a slice"])
def test_pieces_are_joined_whatever_their_layout(first, second):
    pieces = [clips(first, 2, 4, 6), clips(second, 2, 4, 9), torch.zeros(2, 4, 0)]
    assert torch.equal(onednn.cat_time(pieces), torch.cat(pieces, dim=-1))


def test_what_does_not_suit():
    x = torch.randn(1, 4, 8)
    assert onednn.onednn_dtype(x) == (torch.float32 if torch.float32 in onednn._supported_dtypes() else None)
    assert onednn.onednn_dtype(x.double()) is None
    assert onednn.onednn_dtype(x.to("meta")) is None
    with torch.enable_grad():
        assert onednn.onednn_dtype(x) is None


def test_a_fused_optimiser_is_noticed():
    layer, x = Conv(4, 4, 7), torch.randn(1, 4, 40)
    layer.step(x, layer.initial_state(None), True)
    with torch.enable_grad():
        layer(x).square().sum().backward()
        torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True).step()
    torch.testing.assert_close(layer.step(x, layer.initial_state(None), True)[0], layer(x), rtol=1e-5, atol=1e-5)


def test_another_place_in_the_same_memory_is_noticed():
    layer, x = Conv(4, 4, 7), torch.randn(1, 4, 40)
    both = torch.randn(2, 4, 4, 7)
    for weight in both:
        layer.weight.data = weight
        torch.testing.assert_close(layer.step(x, layer.initial_state(None), True)[0], layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_snake_can_be_traced_and_vmapped():
    snake, x, other = Snake(4), torch.randn(1, 4, 9), torch.randn(1, 4, 9)
    traced = torch.jit.trace(snake, x)
    torch.testing.assert_close(traced(other), snake(other))
    torch.testing.assert_close(torch.vmap(snake)(x[None]), snake(x)[None])


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of PyTorch's own, whatever is asked for
def test_onednn_can_be_turned_off():
    with torch.backends.mkldnn.flags(enabled=False):
        assert onednn.onednn_dtype(torch.randn(2, 3)) is None


def test_infinity_has_no_sine_and_no_warning():
    assert Snake(1)(torch.full((1, 1, 2), torch.inf)).isnan().all()
