"""Compiled activations: the same values, faster, and only if PyTorch's compiler works."""

import pytest
import torch

import flexicodec
from flexicodec.nn import snake
from flexicodec.nn.dac import DACDecoder
from flexicodec.nn.snake import HalfSnake, Snake, compile_activations


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize("interpreted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_one_pass_gives_what_several_do(interpreted, monkeypatch):
    """Interpreted, without a C++ compiler, with the same result."""
    monkeypatch.setattr(snake, "MIN_COMPILED", 64)
    if interpreted:
        ways = {torch.float32: snake._snake_rows, torch.bfloat16: snake._polynomial_rows}
        monkeypatch.setattr(snake, "_compiled_function", ways.__getitem__)
    decoder = DACDecoder(strides=(2, 4), width=32, latent_dim=8)
    half = HalfSnake(9)
    latents, x = torch.randn(2, 8, 20), torch.randn(3, 50, 9).mT * 30
    for module in (*decoder.modules(), half.snake):
        if isinstance(module, Snake):
            module.alpha.uniform_(-2, 2)
    lengths = torch.tensor([20, 13])
    plain = decoder.chunked(latents, lengths), half(x), half(x.bfloat16())
    compile_activations(decoder)
    compile_activations(half)
    calls = []
    whole = snake._compiled_snake
    monkeypatch.setattr(snake, "_compiled_snake", lambda *given: calls.append(given) or whole(*given))
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = decoder.chunked(latents, lengths, chunk_frames=7), half(x), half(x.bfloat16())
        finally:
            torch.set_num_threads(before)
        torch.testing.assert_close(found[:2], plain[:2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[2], plain[2], rtol=2**-7, atol=1e-2)
        assert found[2].dtype == torch.bfloat16
    assert len(calls) > 10
    with torch.enable_grad():  # training is as it was
        count = len(calls)
        decoder(latents).sum().backward()
        assert len(calls) == count


def test_where_the_compiler_fails_nothing_changes(monkeypatch, whole):
    def failing(dtype):
        raise RuntimeError("no g++\nand more")

    monkeypatch.setattr(snake, "_compiled_function", failing)
    with pytest.raises(
        ValueError, match=r"PyTorch's compiler failed, which needs a C\+\+ compiler such as g\+\+: no g"
    ):
        whole.compile()
    assert not any(module.compiled for module in whole.modules() if isinstance(module, Snake))


def test_other_devices_are_refused():
    codec = flexicodec.load("flexicodec-mini").to("meta")
    with pytest.raises(ValueError, match="the model is on meta; compiling makes it faster on the CPU only"):
        codec.compile()
