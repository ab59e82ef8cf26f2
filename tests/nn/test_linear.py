"""The linear layer equals torch's on all paths."""

import pytest
import torch
import torch.nn.functional as F

from flexicodec.nn import onednn
from flexicodec.nn.onednn import Linear


@pytest.mark.parametrize("rows", [1, 7, 8, 200])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_it_computes_what_torch_computes(rows, bias, transposed):
    layer = Linear(48, 96, bias=bias)
    x = torch.randn(2, 48, rows).transpose(1, 2) if transposed else torch.randn(2, rows, 48)
    with torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
    assert found.shape == (2, rows, 96)


def test_fast_and_plain_ways_are_both_taken(monkeypatch):
    calls = []
    fast = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: calls.append(args) or fast(*args))
    x, layer = torch.randn(20, 8), Linear(8, 4)
    with torch.no_grad():
        layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert len(calls) == (2 if torch.bfloat16 in onednn._supported_dtypes() else 0)
        layer(x[:2])
        Linear(8, 4, dtype=torch.float64)(x.double())
    layer(x)
    assert len(calls) == (2 if torch.bfloat16 in onednn._supported_dtypes() else 0)


@pytest.mark.parametrize("rows", [0, 1, 7, 20])
def test_weights_in_half_precision(rows):
    layer = Linear(48, 96, dtype=torch.bfloat16)
    x = torch.randn(rows, 48).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0.02, atol=0.02)
        layer.weight.mul_(2)  # a packed copy is no longer good
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0.02, atol=0.02)


def test_gradients_flow():
    layer = Linear(8, 4)
    layer(torch.randn(32, 8)).sum().backward()
    assert layer.weight.grad is not None


def test_without_the_operator_torch_does_it(monkeypatch):
    monkeypatch.setattr(onednn, "_supported_dtypes", lambda: ())
    x, layer = torch.randn(20, 8), Linear(8, 4)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_no_items_give_no_items():
    with torch.no_grad():
        assert Linear(4, 3)(torch.zeros(0, 4)).shape == (0, 3)
