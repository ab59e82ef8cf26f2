"""Streaming layers: any chunks equal the whole, with exactly the stated look-ahead."""

import pytest
import torch

from flexicodec.nn.convnext import ConvNeXtStack
from flexicodec.nn.streaming import SlidingWindow
from flexicodec.nn.transformer import Transformer, TransformerConfig

SIZES = [[150], [1] * 150, [0, 3, 1, 70, 0, 76], [149, 1]]


def signal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def run(stage, x, sizes):
    state, outputs = stage.initial_state(), []
    for chunk in x.split(sizes, dim=-1):
        y, state = stage.step(chunk, state, last=False)
        outputs.append(y)
    before = sum(y.shape[-1] for y in outputs)
    outputs.append(stage.step(x[..., :0], state, last=True)[0])
    return torch.cat(outputs, dim=-1), before


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("window", "width"), [(5, 16), (0, 16), (40, 12)])
def test_a_transformer_with_a_window_streams(sizes, window, width):
    torch.manual_seed(0)
    config = TransformerConfig(3, 16, 2, 32, window=window, layer_scale_init=0.7)
    transformer = Transformer(config, width).eval()
    x = signal(2, width, 150)
    y, before = run(transformer, x, sizes)
    assert before == max(0, 150 - transformer.lookahead)
    torch.testing.assert_close(y, transformer(x), atol=5e-6, rtol=0)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_stack_of_convnext_blocks_streams(sizes):
    torch.manual_seed(0)
    stack = ConvNeXtStack(8, 3, input_dim=5, output_dim=6, hidden_dim=16).eval()
    x = signal(2, 5, 150)
    y, before = run(stack, x, sizes)
    assert before == 150 - stack.reach
    torch.testing.assert_close(y, stack(x), atol=5e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 40])
def test_windows_lie_where_they_lie_whatever_the_chunks(steps):
    def soften(x):
        return x + x.mean(dim=-1, keepdim=True)  # every output sees all of its window

    x = signal(1, 3, steps)
    outputs = [
        run(SlidingWindow(soften, 3, context=6, ahead=2, stride=3), x, sizes)[0]
        for sizes in ([steps], [1] * steps, [0, *[1] * (steps // 2), steps - steps // 2])
    ]
    assert outputs[0].shape == x.shape
    for other in outputs[1:]:
        assert torch.equal(outputs[0], other)
    first = soften(x[..., :5])[..., :3]
    assert torch.equal(outputs[0][..., :3], first)


def test_windows_that_see_everything_are_exact_all_the_same():
    x = signal(1, 3, 20)
    stage = SlidingWindow(lambda x: x + x.mean(dim=-1, keepdim=True), 3, context=0, ahead=20, stride=20)
    torch.testing.assert_close(run(stage, x, [20])[0], stage.function(x))
    assert not stage.exact  # for a clip that is longer they are not
