import pytest
import torch
import torch.nn.functional as F

from flexicodec.nn.convnext import ConvNeXtBlock, ConvNeXtStack
from flexicodec.nn.masking import valid_steps


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(**dims):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConvNeXtStack(dim=12, num_layers=2, hidden_dim=20, **dims)


def test_a_block_is_the_one_in_the_book():
    block, x = ConvNeXtBlock(12, hidden_dim=20), noise(1, 12, 9)
    rows = []
    padded = F.pad(x[0], (3, 3))
    for t in range(9):
        y = (padded[:, t : t + 7] * block.depthwise.weight[:, 0]).sum(-1) + block.depthwise.bias
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-6).sqrt() * block.norm.weight + block.norm.bias
        rows.append(x[0, :, t] + block.linear2(F.gelu(block.linear1(y))))
    torch.testing.assert_close(block(x)[0], torch.stack(rows, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [{}, {"input_dim": 5}, {"output_dim": 7}, {"input_dim": 12, "output_dim": 12}])
def test_a_padded_batch_is_each_clip_alone(dims):
    model, lengths = tiny(**dims), [15, 1, 8, 0]
    x = noise(4, dims.get("input_dim", 12), 15)
    padded = x.clone()
    for i, length in enumerate(lengths):
        padded[i, :, length:] = 1e30
    out = model(padded, torch.tensor(lengths))
    assert out.shape == (4, dims.get("output_dim", 12), 15)
    for i, length in enumerate(lengths):
        assert (out[i, :, length:] == 0).all()
        if length:
            alone = model(x[i : i + 1, :, :length])
            torch.testing.assert_close(out[i : i + 1, :, :length], alone, atol=2e-6, rtol=1e-5)


def test_a_lone_block_masks_too():
    block, x = ConvNeXtBlock(12, hidden_dim=20), noise(2, 12, 15)
    out = block(x, valid_steps(torch.tensor([15, 6]), 15))
    assert (out[1, :, 6:] == 0).all()
    torch.testing.assert_close(out[1:, :, :6], block(x[1:, :, :6]), atol=2e-6, rtol=1e-5)


def test_steps_with_their_neighbours_are_refined_as_in_the_whole():
    block, x = ConvNeXtBlock(12, hidden_dim=20, layer_scale=0.3), noise(2, 12, 15)
    padded = F.pad(x, (3, 3)).mT
    torch.testing.assert_close(block.refine(padded).mT, block(x), atol=2e-6, rtol=1e-5)
    plain = ConvNeXtBlock(12, hidden_dim=20)
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if name != "scale"})
    torch.testing.assert_close(block(x) - x, 0.3 * (plain(x) - x), atol=2e-6, rtol=1e-5)
    assert block.to("meta").refine(padded.to("meta")).shape == (2, 15, 12)  # convolutions of other devices


def test_a_stack_reaches_three_steps_per_block():
    model, x = tiny(), noise(1, 12, 40)
    other = x.clone()
    other[..., 20] += 1
    changed = (model(x) != model(other)).any(dim=1)[0].nonzero()[:, 0]
    assert (changed.min(), changed.max()) == (20 - 6, 20 + 6)


def test_the_equal_width_stack_still_has_the_convolution_it_asked_for():
    assert not any(name.startswith("conv") for name, _ in tiny().named_parameters())
    assert tiny(input_dim=12).conv_in.weight.shape == (12, 12, 1)
    with torch.device("meta"):
        encoder, decoder = ConvNeXtStack(input_dim=512), ConvNeXtStack(output_dim=512)
    # The released checkpoint counts a gain of weight norm per output channel besides.
    assert sum(p.numel() for p in encoder.parameters()) == 13_019_648 - 768
    assert sum(p.numel() for p in decoder.parameters()) == 13_019_136 - 512


def test_gradients_reach_every_weight_and_no_padding():
    model, x = tiny(input_dim=5, output_dim=7), noise(2, 5, 15).requires_grad_()
    model(x, torch.tensor([15, 6])).square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in model.parameters())
    assert (x.grad[1, :, 6:] == 0).all()


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd.* got 6"):
        ConvNeXtBlock(4, kernel_size=6)
