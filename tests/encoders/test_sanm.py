"""SAN-M in streaming: any chunks give the features of the whole clip, and so do windows as long as the clip."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.encoders.sanm import SanmEncoder, StreamingSanm
from flexicodec.nn import streaming

laws = settings(max_examples=12, deadline=None, derandomize=True)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def encoder(window, prompt=(), positions=False, kernel_size=5):
    config = SanmConfig(3, 16, 2, 32, kernel_size, prompt, positions, window, FrontEndConfig(num_mels=4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SanmEncoder(config).eval()


def run(stage, x, sizes):
    """Send x through a stage in chunks of these sizes, and the rest at the end."""
    state, outputs, at = stage.initial_state(), [], 0
    for size in sizes:
        y, state = stage.step(x[..., at : at + size], state, False)
        outputs.append(y)
        at += size
    return torch.cat([*outputs, stage.step(x[..., at:], state, True)[0]], dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("config", [FrontEndConfig(num_mels=8), FrontEndConfig(num_mels=8, stack=3, stride=2)])
@laws
@given(sizes=st.lists(st.integers(0, 5000), max_size=8), extra=st.integers(400, 4000))
def test_the_front_end_on_chunks_equals_the_whole(config, sizes, extra):
    front_end = KaldiFbank(config)
    audio = 0.1 * torch.randn(2, sum(sizes) + extra, generator=torch.Generator().manual_seed(0))
    wanted, _ = front_end(audio)
    got = run(front_end, audio[:, None], sizes)
    torch.testing.assert_close(got, wanted.transpose(1, 2), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_dither_goes_on_past_its_period():
    front_end = KaldiFbank(FrontEndConfig(num_mels=8))
    silence = torch.zeros(1, 160 * 1100 + 400)
    wanted, _ = front_end(silence)
    got = run(front_end, silence[:, None], [160 * 1000 + 7, 160 * 50, 31])
    torch.testing.assert_close(got, wanted.transpose(1, 2), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_stated_look_ahead_of_the_front_end_is_exact():
    stage = KaldiFbank(FrontEndConfig(num_mels=4))
    for frames in (1, 2, 7):
        needed = stage.inputs_needed(frames)
        for samples, ready in ((needed, frames), (needed - 1, frames - 1)):
            y, _ = stage.step(torch.zeros(1, 1, samples), stage.initial_state(), False)
            assert y.shape[-1] == ready
    assert stage.lookahead == stage.inputs_needed(1) - 1


@torch.no_grad()
@pytest.mark.parametrize(
    "settings_",
    [
        {"window": 4},
        {"window": 0},
        {"window": 1, "kernel_size": 9},  # the memory reaches farther than attention
        {"window": 4, "kernel_size": 4},  # and not evenly
        {"window": 3, "positions": True},
        {"window": 3, "positions": True, "prompt": (0, 1, 2, 15)},
        {"window": 9, "prompt": (3,)},
    ],
)
@laws
@given(sizes=SIZES, extra=st.integers(1, 100))
def test_any_chunks_give_the_whole(settings_, sizes, extra):
    sanm = encoder(**settings_)
    stage = StreamingSanm(sanm, 0, 0, 1)
    assert stage.exact
    x = torch.randn(2, 28, sum(sizes) + extra, generator=torch.Generator().manual_seed(1))
    wanted = sanm.encode(x.transpose(1, 2), torch.full((2,), x.shape[-1])).transpose(1, 2)
    torch.testing.assert_close(run(stage, x, sizes), wanted, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 4])
def test_look_ahead_is_as_stated(window):
    stage = StreamingSanm(encoder(window), 0, 0, 1)
    assert stage.lookahead == 3 * max(window, 2)
    state, ready = stage.initial_state(), 0
    for step in range(1, 30):
        y, state = stage.step(torch.zeros(1, 28, 1), state, False)
        ready += y.shape[-1]
        assert ready == max(0, step - stage.lookahead)


@torch.no_grad()
def test_a_state_does_not_grow():
    stage = StreamingSanm(encoder(4), 0, 0, 1)
    state, sizes = stage.initial_state(), []
    for _ in range(12):
        _, state = stage.step(torch.randn(1, 28, 8), state, False)
        sizes.append(streaming.num_bytes(state))
    assert len(set(sizes[4:])) == 1


@torch.no_grad()
@laws
@given(sizes=SIZES, extra=st.integers(1, 40))
def test_global_attention_in_windows(sizes, extra):
    sanm = encoder(None, (0, 1, 2, 15), positions=True)
    x = torch.randn(1, 28, sum(sizes) + extra, generator=torch.Generator().manual_seed(1))
    whole = sanm.encode(x.transpose(1, 2), torch.tensor([x.shape[-1]])).transpose(1, 2)
    everything = StreamingSanm(sanm, 200, 200, 1)
    assert not everything.exact
    torch.testing.assert_close(run(everything, x, []), whole, atol=2e-5, rtol=1e-4)
    windows = StreamingSanm(sanm, 4, 3, 5)
    got = run(windows, x, sizes)
    assert got.shape == whole.shape
    torch.testing.assert_close(got, run(windows, x, []), atol=2e-5, rtol=1e-4)  # windows lie where they lie
