import dataclasses

import pytest
import torch
import torch.nn.functional as F

from flexicodec.nn.attention import apply_rope, rope_frequencies
from flexicodec.nn.transformer import Transformer, TransformerConfig

TINY = TransformerConfig(num_layers=2, dim=16, num_heads=2, feedforward_dim=24, layer_scale_init=0.5)


def tiny(window=None, input_dim=None, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(dataclasses.replace(TINY, window=window), input_dim)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)


def layer_by_the_book(layer, x):
    """x [steps, dim]; one head at a time, as the figure has it."""
    heads = layer.num_heads
    query, key, value = (layer.norm1(x) @ layer.in_proj.weight.T).chunk(3, dim=-1)
    positions = torch.arange(len(x))
    out = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        q, k = (apply_rope(part.contiguous(), rope_frequencies(positions, part.shape[-1])) for part in (q, k))
        out.append((q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v)
    x = x + layer.scale1 * (torch.cat(out, -1) @ layer.out_proj.weight.T)
    return x + layer.scale2 * (F.gelu(layer.norm2(x) @ layer.linear1.weight.T) @ layer.linear2.weight.T)


@pytest.mark.parametrize("input_dim", [None, 10])
def test_a_layer_is_the_one_in_the_book(input_dim):
    model = tiny(input_dim=input_dim)
    x = noise(1, input_dim or 16, 13)
    expected = model.input_projection(x[0].T)
    for layer in model.layers:
        expected = layer_by_the_book(layer, expected)
    close(model(x)[0].T, model.output_projection(expected))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("input_dim", [None, 10])
def test_a_padded_batch_is_each_clip_alone(window, input_dim):
    model, lengths = tiny(window, input_dim), [60, 1, 37, 0]
    x = noise(4, input_dim or 16, 60)
    padded = x.clone()
    for i, length in enumerate(lengths):
        padded[i, :, length:] = 1e30
    out = model(padded, torch.tensor(lengths))
    assert out.shape == x.shape
    for i, length in enumerate(lengths):
        assert (out[i, :, length:] == 0).all()
        if length:
            close(out[i : i + 1, :, :length], model(x[i : i + 1, :, :length]))


def test_a_windowed_stack_does_not_depend_on_the_end_of_the_clip():
    window, start, length = 3, 111, 150
    model, x = tiny(window), noise(1, 16, 300)
    reach = window * len(model.layers)
    inner = slice(reach, length - reach)
    whole = model(x)[..., start : start + length]
    part = x[..., start : start + length]
    close(model(part)[..., inner], whole[..., inner])  # restarted at position 0
    close(model(part, positions=torch.arange(start, start + length))[..., inner], whole[..., inner])


def test_positions_shift_freely_and_may_differ_by_item():
    model, x = tiny(), noise(2, 16, 20)
    positions = torch.arange(20) + torch.tensor([[7], [4000]])
    close(model(x, positions=positions), model(x))
    close(model(x, positions=2 * torch.arange(20))[:1], model(x[:1], positions=2 * torch.arange(20)[None]))
    assert not torch.allclose(model(x, positions=2 * torch.arange(20)), model(x), atol=1e-3)


def test_ten_minutes_fit_through_a_window():
    out = tiny(window=8)(noise(1, 16, 10_000), torch.tensor([9_999]))
    assert out.shape == (1, 16, 10_000)
    assert out.isfinite().all()


@pytest.mark.parametrize("window", [None, 3])
def test_gradients_reach_every_weight_and_no_padding(window):
    model, x = tiny(window, input_dim=10), noise(2, 10, 50).requires_grad_()
    model(x, torch.tensor([50, 20])).square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in model.parameters())
    assert (x.grad[1, :, 20:] == 0).all()
    assert (x.grad[1, :, :20] != 0).any()


def test_the_call_leaves_its_input_alone():
    model, x = tiny(), noise(1, 16, 1)  # one step: where a transpose is already contiguous and could alias
    before = x.clone()
    model(x, torch.tensor([1]))
    assert torch.equal(x, before)


def test_bfloat16_autocast_runs():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = tiny(window=3)(noise(2, 16, 50), torch.tensor([50, 20]))
    assert out.isfinite().all()


def test_parameters_have_the_released_names_and_sizes():
    config = TransformerConfig(num_layers=1)
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == 3_148_800
    assert not list(model.buffers())
    assert list(dict(Transformer(TINY).named_children())) == ["input_projection", "layers", "output_projection"]
    assert "input_projection.weight" not in Transformer(TINY, input_dim=16).state_dict()
    assert Transformer(TINY, input_dim=48).state_dict()["input_projection.weight"].shape == (16, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "multiple of 6"),
        ({"dim": 10}, "does not split into 2 heads of even size"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"window": -1}, "window must be None .* got -1"),
    ],
)
def test_a_config_that_cannot_be_built_says_so(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
