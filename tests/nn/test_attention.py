import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from flexicodec.nn import attention as attention_module
from flexicodec.nn import onednn
from flexicodec.nn.attention import MIN_BLOCK, apply_rope, rope_frequencies, window_sides
from flexicodec.nn.masking import valid_steps, zero_padding


def rotary(x, positions):
    return apply_rope(x.contiguous(), rope_frequencies(positions, x.shape[-1]).unsqueeze(-3))


def attention(query, key, value, lengths=None, window=None):
    return attention_module.attention(query, key, value, valid_steps(lengths, query.shape[2]), window)


def query_key_value(steps, batch=1, heads=2, head_dim=4, seed=0):
    return torch.randn(3, batch, heads, steps, head_dim, generator=torch.Generator().manual_seed(seed)).unbind(0)


def attend_manually(query, key, value, lengths, window):
    """Softmax row by row over exactly the steps a row may see."""
    out = torch.zeros_like(value)
    for b, length in enumerate(lengths):
        for i in range(length):
            left, right = (length, length) if window is None else window_sides(window)
            low, high = max(0, i - left), min(length, i + right + 1)
            scores = query[b, :, i : i + 1] @ key[b, :, low:high].mT / query.shape[-1] ** 0.5
            out[b, :, i] = (scores.softmax(-1) @ value[b, :, low:high])[:, 0]
    return out


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    steps=st.integers(1, 150),
    window=st.none() | st.integers(0, 40) | st.tuples(st.integers(0, 40), st.integers(0, 40)),
    fractions=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_every_step_attends_to_the_valid_steps_within_the_window(steps, window, fractions):
    qkv = query_key_value(steps, batch=3)
    lengths = [round(fraction * steps) for fraction in fractions]
    expected = attend_manually(*qkv, lengths, window)
    torch.testing.assert_close(attention(*qkv, torch.tensor(lengths), window), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 0, 5, 20])
@pytest.mark.parametrize("most", [0, attention_module.MAX_EXPLICIT_STEPS])
def test_half_precision_differs_by_its_rounding_alone(window, most, monkeypatch):
    monkeypatch.setattr(attention_module, "MAX_EXPLICIT_STEPS", most)
    written_out = []
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, dim, way=torch.Tensor.softmax: written_out.append(x.dtype) or way(x, dim)
    )
    qkv, lengths = query_key_value(150, batch=3), torch.tensor([150, 0, 61])
    with torch.no_grad():
        found = attention(*(x.bfloat16() for x in qkv), lengths, window)
    assert bool(written_out) is (most > 0 and torch.bfloat16 in onednn._supported_dtypes())
    expected = attend_manually(*qkv, lengths.tolist(), window)
    torch.testing.assert_close(found.float(), expected, atol=4e-2, rtol=0)
    assert (found.float() - expected).square().mean() < 1e-4 * expected.square().mean()
    assert not found[1].any()
    assert not found[2, :, 61:].any()


@pytest.mark.parametrize("window", [1, 8, 16, 20])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_nothing_happens_at_block_boundaries(window, extra):
    block = max(window, MIN_BLOCK)
    for steps in (block + extra, block + 2 * window + extra, 4 * block + extra):
        qkv = query_key_value(steps)
        torch.testing.assert_close(
            attention(*qkv, window=window), attend_manually(*qkv, [steps], window), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("window", [0, 3, 16, 30])
def test_what_lies_outside_the_window_does_not_matter(window):
    steps, start = 400, 123
    qkv = query_key_value(steps)
    whole = attention(*qkv, window=window)
    for length in (2 * window + 1, 2 * window + 40, 200):  # one dense mask, or blocks cut at other places
        part = attention(*(x[:, :, start : start + length] for x in qkv), window=window)
        inner = slice(window, length - window)
        torch.testing.assert_close(part[:, :, inner], whole[:, :, start:][:, :, inner], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5, 50])
def test_padding_is_not_seen_and_comes_out_as_zeros(window):
    lengths = [200, 1, 0, 77]
    qkv = query_key_value(200, batch=4)
    valid = valid_steps(torch.tensor(lengths), 200)[:, None, :, None]
    garbage = [torch.where(valid, x, 1e9) for x in qkv]
    out = attention(*garbage, torch.tensor(lengths), window)
    for i, length in enumerate(lengths):
        assert torch.equal(out[i, :, length:], torch.zeros_like(out[i, :, length:]))
        if length:
            alone = attention(*(x[i : i + 1, :, :length] for x in qkv), window=window)
            torch.testing.assert_close(out[i : i + 1, :, :length], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5, 50])
def test_gradients_are_finite_and_stop_at_the_padding(window):
    lengths = torch.tensor([130, 60, 0])
    qkv = [x.clone().requires_grad_() for x in query_key_value(130, batch=3)]
    attention(*qkv, lengths, window).square().sum().backward()
    for x in qkv:
        assert x.grad.isfinite().all()
        assert torch.equal(x.grad[1, :, 60:], torch.zeros_like(x.grad[1, :, 60:]))
        assert (x.grad[1, :, :60] != 0).any()


def test_full_lengths_are_no_lengths():
    assert valid_steps(None, 9) is None
    assert valid_steps(torch.tensor([9, 9]), 9) is None
    assert valid_steps(torch.tensor([9, 2]), 9).sum(dim=1).tolist() == [9, 2]
    assert zero_padding(torch.full((1, 1, 3), torch.nan), valid_steps(torch.tensor([0]), 3)).tolist() == [[[0, 0, 0]]]


class LargestTensor(TorchDispatchMode):
    """Record the size of the largest tensor of any operation (for a view, its storage)."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_memory_of_a_band_grows_linearly():
    sizes = []
    for steps in (2_500, 10_000):
        qkv = query_key_value(steps, heads=1)
        with LargestTensor() as largest:
            attention(*qkv, torch.tensor([steps - 1]), window=8)
        sizes.append(largest.numel)
    assert sizes[1] <= 4.1 * sizes[0]
    assert sizes[1] < 10_000 * 100


@pytest.mark.parametrize("shift", [1, 1000, 100_000])
def test_rotary_products_depend_on_the_distance_only(shift):
    query, key, _ = query_key_value(30, head_dim=8)
    positions = torch.arange(30)
    near = rotary(query, positions) @ rotary(key, positions).mT
    far = rotary(query, positions + shift) @ rotary(key, positions + shift).mT
    torch.testing.assert_close(far, near, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(near, query @ key.mT, atol=1e-2)


def test_rotary_turns_adjacent_pairs():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
    slow, fast = torch.tensor(3 / 100), torch.tensor(3.0)  # 10000 ** (-2 / 4) = 1 / 100
    expected = torch.stack([fast.cos(), fast.sin(), -slow.sin(), slow.cos()])
    torch.testing.assert_close(rotary(x, torch.tensor([3])).flatten(), expected)


def test_rotary_takes_positions_per_item_and_any_float_type():
    x = query_key_value(6, batch=2)[0]
    positions = torch.stack([torch.arange(6), torch.arange(6) + 50])
    both = rotary(x, positions)
    for i in range(2):
        assert torch.equal(both[i : i + 1], rotary(x[i : i + 1], positions[i]))
    half = rotary(x.bfloat16(), positions)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, rotary(x.bfloat16().float(), positions).bfloat16())


def test_global_attention_is_torch_s_own():
    qkv = query_key_value(50, batch=2)
    assert torch.equal(attention(*qkv), F.scaled_dot_product_attention(*qkv))
    assert torch.equal(attention(*qkv, torch.tensor([50, 50]), window=49), F.scaled_dot_product_attention(*qkv))


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize("window", [None, 0, 3, 20])
def test_no_query_is_without_a_key(monkeypatch, window, exporting):
    """Rows without a valid key are zeros in PyTorch and means in ONNX at opset 18: no mask may have one."""
    masks = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None):
        masks.append(attn_mask)
        return real(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    for steps in (1, 5, 90):
        lengths = torch.tensor([steps, 1, 0, max(1, steps // 9)])
        valid = torch.arange(steps) < lengths[:, None]
        x = torch.randn(4, 2, steps, 4, generator=torch.Generator().manual_seed(0))
        out = attention(x, x, x, lengths, window)
        assert not out.masked_select(~valid[:, None, :, None]).any()
    assert len(masks) == 3
    assert all(bool(mask.any(dim=-1).all()) for mask in masks)
