"""Basis of streaming: any chunks equal the whole clip, and causal parts output each frame immediately."""

from dataclasses import fields, is_dataclass

import pytest
import torch

FRAME = 30


def signal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def run(stack, x, sizes):
    state, outputs = stack.initial_state(), []
    for index, chunk in enumerate(x.split(sizes, dim=-1)):
        y, state = stack.step(chunk, state, last=index == len(sizes) - 1)
        outputs.append(y)
    return outputs, state


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 1, 7, 9], [19, 1], [0, 20]])
def test_any_chunks_of_frames_decode_to_the_whole(nanocodec, sizes):
    latents = signal(2, nanocodec.quantizer.dim, 20)
    with torch.no_grad():
        whole = nanocodec.decoder(latents)
        outputs, _ = run(nanocodec.decoder, latents, sizes)
    torch.testing.assert_close(torch.cat(outputs, dim=-1), whole, atol=5e-6, rtol=0)
    if nanocodec.config.decoder.causal:
        assert [y.shape[-1] for y in outputs] == [size * FRAME for size in sizes]  # nothing waits


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 1, 7, 9]])
def test_any_chunks_of_audio_encode_to_the_whole(nanocodec, sizes):
    audio = signal(2, 1, 20 * FRAME)
    with torch.no_grad():
        whole = nanocodec.encoder(audio)
        outputs, _ = run(nanocodec.encoder, audio, [size * FRAME for size in sizes])
        odd, _ = run(nanocodec.encoder, audio, [1, 28, 2, 33, 20 * FRAME - 64])
    torch.testing.assert_close(torch.cat(outputs, dim=-1), whole, atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(torch.cat(odd, dim=-1), whole, atol=2e-5, rtol=1e-6)
    if nanocodec.config.encoder.causal:
        assert [y.shape[-1] for y in outputs] == sizes


def test_what_comes_later_changes_nothing_before_it(nanocodecs):
    codec, latents = nanocodecs["causal"], signal(1, nanocodecs["causal"].quantizer.dim, 20)
    other = latents.clone()
    other[..., 12:] = 5.0
    with torch.no_grad():
        assert torch.equal(codec.decoder(other)[..., : 12 * FRAME], codec.decoder(latents)[..., : 12 * FRAME])
        audio = signal(1, 1, 20 * FRAME)
        changed = audio.clone()
        changed[..., 12 * FRAME :] = 5.0
        assert torch.equal(codec.encoder(changed)[..., :12], codec.encoder(audio)[..., :12])


def tensors(state):
    """List the tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        return [state]
    if is_dataclass(state):
        return [tensor for field in fields(state) for tensor in tensors(getattr(state, field.name))]
    return [tensor for part in state for tensor in tensors(part)] if isinstance(state, tuple) else []


def test_the_state_of_a_causal_decoder_does_not_grow(nanocodecs):
    codec = nanocodecs["nano"]
    latents = signal(1, codec.quantizer.dim, 20)
    _, early = run(codec.decoder, latents[..., :5], [1] * 5)
    _, late = run(codec.decoder, latents, [1] * 20)
    assert sum(map(torch.numel, tensors(late))) == sum(map(torch.numel, tensors(early)))
    # (k - 1) d inputs of every convolution, one of every transposed one
    widths, residuals = [24, 12, 6, 3], sum((kernel - 1) * (d + 1) for kernel in (3, 7, 11) for d in (1, 3, 5))
    expected = 6 * codec.quantizer.dim + sum(widths[:3]) + residuals * sum(widths[1:]) + 2 * widths[3]
    assert sum(map(torch.numel, tensors(late))) == expected
