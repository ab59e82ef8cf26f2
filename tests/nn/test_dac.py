"""Encoder and decoder: lengths, chunks, padded batches, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexicodec.nn.conv import apply_weight_norm
from flexicodec.nn.dac import ConvStack, DACDecoder, DACEncoder
from tests.nn.conv_stacks import assert_stream_equals_whole

STRIDES = (2, 3, 5)
FRAME = 30


def make(kind: str) -> ConvStack:
    """Build a tiny stack whose layers all matter, in float64 so that only true differences show."""
    torch.manual_seed(0)
    if kind == "encoder":
        stack: ConvStack = DACEncoder(STRIDES, width=3, latent_dim=4)
    else:
        stack = DACDecoder(STRIDES[::-1], width=16, latent_dim=4, exact_length=kind == "decoder")
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return stack.double()


STACKS = {kind: make(kind) for kind in ("encoder", "decoder", "released decoder")}
kinds = st.sampled_from(sorted(STACKS))


def clips(stack: ConvStack, frames: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    shape = (batch, stack.in_channels, frames * stack.inputs_per_frame)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("frames", [1, 2, 13])
def test_lengths_of_the_released_strides(frames: int) -> None:
    latents = torch.randn(2, 4, frames)
    audio = DACDecoder(width=32, latent_dim=4)(latents)
    assert audio.shape == (2, 1, 1280 * frames)
    assert audio.abs().max() <= 1
    assert DACDecoder(width=32, latent_dim=4, exact_length=False)(latents).shape == (2, 1, 1280 * frames - 16)
    encoder = DACEncoder(width=2, latent_dim=4)
    assert encoder.frame_size == 1280
    assert encoder(audio).shape == (2, 4, frames)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(kind=kinds, frames=st.integers(1, 12), cuts=st.lists(st.integers(0, 12 * FRAME), max_size=5))
def test_any_stream_of_chunks_equals_the_whole_clip(kind: str, frames: int, cuts: list[int]) -> None:
    stack = STACKS[kind]
    assert_stream_equals_whole(stack, clips(stack, frames), cuts)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(kind=kinds, chunk_frames=st.integers(1, 9), data=st.data())
def test_item_of_a_padded_batch_equals_the_clip_alone(kind: str, chunk_frames: int, data: st.DataObject) -> None:
    stack = STACKS[kind]
    lengths = data.draw(st.lists(st.integers(1, 8 * stack.inputs_per_frame), min_size=2, max_size=3))
    frames = [-(-length // stack.inputs_per_frame) for length in lengths]
    x = clips(stack, 8, len(lengths))
    garbage = torch.tensor([torch.nan, torch.inf, 1e30, -7.0], dtype=x.dtype)
    zeroed = x.clone()
    for item, length in enumerate(lengths):
        x[item, :, length:] = garbage.repeat(x.shape[-1])[: x.shape[-1] - length]
        zeroed[item, :, length:] = 0
    for y in (stack(x, torch.tensor(lengths)), stack.chunked(x, torch.tensor(lengths), chunk_frames)):
        for item, count in enumerate(frames):
            alone = stack(zeroed[item : item + 1, :, : count * stack.inputs_per_frame])
            torch.testing.assert_close(y[item : item + 1, :, : alone.shape[-1]], alone)
            assert not y[item, :, alone.shape[-1] :].any()


@pytest.mark.parametrize("kind", sorted(STACKS))
@pytest.mark.parametrize("chunk_frames", [1, 3, 64])
def test_chunked_equals_forward_and_builds_no_graph(kind: str, chunk_frames: int) -> None:
    stack = STACKS[kind]
    x = clips(stack, 7, 2)
    y = stack.chunked(x, chunk_frames=chunk_frames)
    assert not y.requires_grad
    torch.testing.assert_close(y, stack(x).detach())
    torch.testing.assert_close(stack.chunked(x, torch.tensor([x.shape[-1]] * 2), chunk_frames), y)


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_tiles_inside_a_chunk_change_nothing(kind: str) -> None:
    stack = make(kind)
    x = clips(stack, 6, 2)
    for block in list(stack.layers)[1:-2]:
        block.tile = 7
    torch.testing.assert_close(stack.chunked(x, chunk_frames=5), STACKS[kind](x).detach())


def test_float32_chunks_are_the_whole_clip_to_float_noise() -> None:
    torch.manual_seed(0)
    encoder, decoder = DACEncoder(width=4, latent_dim=8), DACDecoder(width=64, latent_dim=8)
    audio, latents = torch.randn(1, 1, 9 * 1280), torch.randn(1, 8, 9)
    torch.testing.assert_close(encoder.chunked(audio, chunk_frames=2), encoder(audio).detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        decoder.chunked(latents, chunk_frames=2), decoder(latents).detach(), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_an_old_state_may_be_resumed(kind: str) -> None:
    stack = STACKS[kind]
    x = clips(stack, 6)
    half = 3 * stack.inputs_per_frame
    head, state = stack.step(x[..., :half], stack.initial_state(), last=False)
    stack.step(torch.ones_like(x), state, last=True)
    tail, _ = stack.step(x[..., half:], state, last=True)
    torch.testing.assert_close(torch.cat([head, tail], dim=-1), stack(x).detach())


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_gradients_reach_every_parameter_and_no_padding(kind: str) -> None:
    stack = make(kind)
    apply_weight_norm(stack)
    x = clips(stack, 4, 2).requires_grad_()
    cut = 2 * stack.inputs_per_frame
    stack(x, torch.tensor([x.shape[-1], cut])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stack.parameters())
    assert x.grad is not None
    assert x.grad[0].all()
    assert x.grad[1, :, :cut].all()
    assert not x.grad[1, :, cut:].any()


def test_inputs_are_left_alone() -> None:
    for stack in STACKS.values():
        x = clips(stack, 3, 2)
        before = x.clone()
        stack(x, torch.tensor([1, x.shape[-1]]))
        stack.chunked(x, torch.tensor([1, x.shape[-1]]), chunk_frames=1)
        assert torch.equal(x, before)


def test_bad_input_is_refused() -> None:
    encoder, decoder = STACKS["encoder"], STACKS["decoder"]
    x = clips(encoder, 2)
    with pytest.raises(ValueError, match=r"takes \[batch, 1, time\], got \[1, 60\]"):
        encoder(x[0])
    with pytest.raises(ValueError, match="got 59 steps; was the clip padded"):
        encoder(x[..., 1:])
    with pytest.raises(ValueError, match="got 0 steps"):
        decoder.chunked(clips(decoder, 0))
    with pytest.raises(ValueError, match="time and channels swapped"):
        decoder.chunked(clips(decoder, 3).mT)
    with pytest.raises(ValueError, match="at most the 60 steps of the input, got .61.; are they in another unit"):
        encoder(x, torch.tensor([61]))
    with pytest.raises(ValueError, match=r"integers \[1\], got torch.int64 \[2\]"):
        encoder(x, torch.tensor([60, 60]))
    with pytest.raises(ValueError, match="integers"):
        encoder(x, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="chunk_frames must be at least 1, got 0"):
        encoder.chunked(x, chunk_frames=0)
    with pytest.raises(ValueError, match=r"strides must be at least 2 each, got \[4, 1\]"):
        DACEncoder((4, 1))
    with pytest.raises(ValueError, match="divisible by 8, 2 per block, got 12"):
        DACDecoder((5, 3, 2), width=12)
