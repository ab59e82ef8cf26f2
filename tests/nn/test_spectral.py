"""Encoder and decoder on spectra: lengths, chunks, padded batches, gradients, and what they compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.nn.conv import apply_weight_norm
from flexicodec.nn.mel_filters import htk_mel_filters
from flexicodec.nn.spectral import InverseSpectrum, LogMel, OverlapAdd, SpectralConfig, TwoRateConfig, fit_head
from flexicodec.nn.windowed import PerFrame
from tests.nn.conv_stacks import assert_stream_equals_whole

TINY = SpectralConfig(
    num_mels=7,
    latent_dim=4,
    mel_window=50,
    hop=20,
    hops_per_frame=3,
    encoder=TwoRateConfig(6, 1, 5, 1),
    decoder=TwoRateConfig(5, 1, 6, 1),
    istft_window=20,
    istft_hop=5,
    expansion=2,
)
# More look-ahead in the inverse STFT than in a fast frame, and none at the lower rate.
LONG = replace(
    TINY, istft_window=80, istft_hop=10, encoder=TwoRateConfig(6, 0, 5, 0), decoder=TwoRateConfig(5, 0, 6, 0)
)
HIGHER = replace(TINY, output_sample_rate=24_000, istft_window=40, istft_hop=10)  # 30 samples a fast frame
FRAME = 60


def make(kind):
    """Build a tiny stack whose layers all matter, in float64 so that only true differences show."""
    config = {"long": LONG, "24 kHz": HIGHER}.get(kind.rsplit(" ", 1)[0], TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stack = config.build_encoder(16_000) if kind.endswith("encoder") else config.build_decoder()
        with torch.no_grad():
            for parameter in stack.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return stack.double()


STACKS = {kind: make(kind) for kind in ("encoder", "decoder", "long encoder", "long decoder", "24 kHz decoder")}
kinds = st.sampled_from(sorted(STACKS))


def clips(stack, frames, batch=1):
    generator = torch.Generator().manual_seed(frames)
    shape = (batch, stack.in_channels, frames * stack.inputs_per_frame)
    return 0.3 * torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("frames", [1, 2, 13])
def test_lengths_of_the_default_sizes(frames):
    config = SpectralConfig(encoder=TwoRateConfig(8, 1, 8, 1), decoder=TwoRateConfig(8, 1, 8, 1))
    encoder, decoder = config.build_encoder(16_000), config.build_decoder()
    assert encoder.frame_size == decoder.frame_size == config.frame_size == 1280
    assert encoder.min_frames == decoder.min_frames == 1
    features = encoder(0.1 * torch.randn(2, 1, 1280 * frames))
    assert features.shape == (2, 192, frames)
    torch.testing.assert_close(features.var(dim=1, unbiased=False), torch.ones(2, frames), rtol=1e-3, atol=0)
    audio = decoder(features)
    assert audio.shape == (2, 1, 1280 * frames)
    assert audio.abs().max() <= 1
    assert decoder.output_length(frames) == 1280 * frames


@settings(derandomize=True, deadline=None, max_examples=60)
@given(kind=kinds, frames=st.integers(1, 12), cuts=st.lists(st.integers(0, 12 * FRAME), max_size=5))
def test_any_stream_of_chunks_equals_the_whole_clip(kind, frames, cuts):
    stack = STACKS[kind]
    assert_stream_equals_whole(stack, clips(stack, frames), cuts)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(kind=kinds, chunk_frames=st.integers(1, 9), data=st.data())
def test_item_of_a_padded_batch_equals_the_clip_alone(kind, chunk_frames, data):
    stack = STACKS[kind]
    lengths = data.draw(st.lists(st.integers(1, 8 * stack.inputs_per_frame), min_size=2, max_size=3))
    frames = [-(-length // stack.inputs_per_frame) for length in lengths]
    x = clips(stack, 8, len(lengths))
    zeroed = x.clone()
    for item, length in enumerate(lengths):
        x[item, :, length:] = torch.nan
        zeroed[item, :, length:] = 0
    for y in (stack(x, torch.tensor(lengths)), stack.chunked(x, torch.tensor(lengths), chunk_frames=chunk_frames)):
        for item, count in enumerate(frames):
            alone = stack(zeroed[item : item + 1, :, : count * stack.inputs_per_frame])
            torch.testing.assert_close(y[item : item + 1, :, : alone.shape[-1]], alone)
            assert not y[item, :, alone.shape[-1] :].any()


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_an_output_comes_with_its_look_ahead_and_no_earlier(kind):
    stack = STACKS[kind]
    x = clips(stack, 20)
    per = stack.inputs_per_frame
    needed = per + stack.lookahead  # inputs of the first frame
    before, state = stack.step(x[..., : needed - 1], stack.initial_state(), last=False)
    now, _ = stack.step(x[..., needed - 1 : needed], state, last=False)
    assert before.shape[-1] < stack.outputs_per_frame <= before.shape[-1] + now.shape[-1]
    # What comes later than that changes nothing.
    other = x.clone()
    other[..., needed:] += 1
    first = slice(0, stack.outputs_per_frame)
    torch.testing.assert_close(stack(other)[..., first], stack(x)[..., first])
    assert not torch.equal(stack(other), stack(x))


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_gradients_reach_every_parameter_and_no_padding(kind):
    stack = make(kind)
    apply_weight_norm(stack)  # of no effect: these layers have none
    x = clips(stack, 6, 2).requires_grad_()
    cut = 4 * stack.inputs_per_frame
    generator = torch.Generator().manual_seed(1)
    y = stack(x, torch.tensor([x.shape[-1], cut]))
    (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stack.parameters())
    assert x.grad[1, :, :cut].any()
    assert not x.grad[1, :, cut:].any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_fast_path_is_the_plain_one(precision):
    """Inference by oneDNN against products with gradients, in the same precision."""
    config = replace(TINY, encoder=TwoRateConfig(32, 2, 48, 1), decoder=TwoRateConfig(32, 2, 48, 1), latent_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = config.build_encoder(16_000), config.build_decoder()
    audio = clips(encoder, 40).float()
    tolerance = 2e-5 if precision == torch.float32 else 0.05
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        features = encoder(audio).detach()
        torch.testing.assert_close(encoder.chunked(audio).float(), features.float(), rtol=0, atol=tolerance)
        decoded = decoder(features)
        error = (decoder.chunked(features) - decoded).abs().max()
        assert decoded.dtype == torch.float32
        assert error < tolerance * decoded.abs().max()
    torch.testing.assert_close(features.float(), encoder(audio), rtol=0, atol=3 * tolerance)


def test_log_mel_energies_are_those_of_centred_windows():
    layer = LogMel(16_000, 12, 256, 80)
    audio = clips(STACKS["encoder"], 20).float()
    padded = F.pad(audio[:, 0], (88, 88))
    spectrum = torch.stft(padded, 256, 80, window=torch.hann_window(256), center=False, return_complex=True)
    power = spectrum.abs().square() / torch.hann_window(256).square().sum()
    energies = torch.from_numpy(htk_mel_filters(16_000, 256, 12)) @ power
    expected = ((energies + 1e-5).log() + 5) / 3
    torch.testing.assert_close(
        layer(audio), expected[..., : layer.output_length(audio.shape[-1])], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("window", "hop", "frames"), [(20, 5, 4), (640, 160, 2), (16, 8, 1), (80, 10, 2), (30, 10, 2)])
def test_the_spectra_of_a_sine_give_the_sine(window, hop, frames):
    steps = 12
    step = frames * hop
    time = np.arange(-4 * window, steps * step + 4 * window)
    wave = 0.5 * np.sin(2 * np.pi * 2.3 * time / window + 0.4)
    # Frames around each hop's middle, without a window: that of the synthesis adds up to 1.
    pieces = []
    for frame in range(steps * frames):
        start = 4 * window + frame * hop - (window - hop) // 2
        pieces.append(np.fft.rfft(wave[start : start + window]))
    spectra = torch.tensor(np.array(pieces)).reshape(1, steps, frames, -1)
    parts = torch.cat([(spectra.abs() + 1e-30).log(), spectra.angle()], dim=-1).flatten(2).float()
    head = PerFrame(InverseSpectrum(window, hop), in_channels=frames * (window + 2), out_channels=frames * window)
    audio = OverlapAdd(window, hop, frames)(head(parts.mT))[0, 0].double().numpy()
    inner = slice(window, steps * step - window)  # a window from the ends, all frames that overlap exist
    np.testing.assert_allclose(audio[inner], wave[4 * window : 4 * window + steps * step][inner], atol=1e-4)


def test_names_of_weights_are_those_of_saved_models():
    names = [name for name, _ in TINY.build_encoder(16_000).state_dict().items()]
    block = ["scale", "depthwise.weight", "depthwise.bias", "norm.weight", "norm.bias"]
    block += [f"linear{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")]
    expected = ["layers.1.body.0.weight", "layers.1.body.0.bias", *(f"layers.2.block.{leaf}" for leaf in block)]
    expected += ["layers.3.body.0.weight", "layers.3.body.0.bias", *(f"layers.4.block.{leaf}" for leaf in block)]
    expected += [f"layers.5.body.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")]
    assert names == expected
    assert not any("window" in name or "filters" in name for name in TINY.build_decoder().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop must be at least 1, got 0"),
        ({"mel_window": 18}, "mel_window must be even and at least hop, 20 samples"),
        ({"istft_hop": 6}, "got 20, 6 and 20"),
        ({"istft_window": 15}, "istft_window must be even and twice istft_hop"),
        ({"istft_window": 5}, "got 5, 5 and 20"),
        ({"output_sample_rate": 24}, "output_sample_rate is 24 Hz, at which hop, 20 samples at 16000 Hz, is not"),
        ({"output_sample_rate": 22_050}, "output_sample_rate is 22050 Hz"),
        ({"output_sample_rate": 0}, "output_sample_rate is 0 Hz"),
        ({"output_sample_rate": -16_000}, r"output_sample_rate is -16000 Hz.*\(not kHz\)"),
        ({"output_sample_rate": 24_000, "istft_hop": 20}, "hop at 24000 Hz a multiple too; got 20, 20 and 30"),
        ({"output_sample_rate": 24_000, "istft_hop": 20, "istft_window": 40}, "got 40, 20 and 30"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="widths must be at least 1"):
        TwoRateConfig(0, 1, 1, 1)


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_a_fitted_head_gives_the_same_sound_at_another_rate(rate):
    """Sample by sample where both rates have one, but for the bins that only one of them has."""
    old = replace(TINY, istft_window=40, istft_hop=20)
    new = replace(old, output_sample_rate=rate, istft_window=rate // 400, istft_hop=rate // 800)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder, other = old.build_decoder(), new.build_decoder()
    head, fresh = (each.get_submodule(each.head_name) for each in (decoder, other))
    bins = new.istft_window // 2 + 1
    before = fresh.weight.detach().clone()
    with torch.no_grad():
        head.bias.normal_(generator=torch.Generator().manual_seed(1))
        if rate < 16_000:
            head.bias.view(-1, 2, 21)[:, 0, bins:] -= 40
        weight, bias = fit_head(head.weight, head.bias, fresh.weight, old, new)
        state = decoder.state_dict() | {f"{other.head_name}.weight": weight, f"{other.head_name}.bias": bias}
        other.load_state_dict(state)
        if rate > 16_000:
            assert torch.equal(fresh.weight.view(-1, 2, bins, 5)[:, 1, 21:], before.view(-1, 2, bins, 5)[:, 1, 21:])
            fresh.bias.view(-1, 2, bins)[:, 0, 21:] -= 40
        x = clips(decoder, 9).float()
        given = other(x)[..., :: rate // 8_000]
        torch.testing.assert_close(given, decoder(x)[..., ::2], atol=1e-5, rtol=0)
        assert given.std() > 0.01


def test_a_head_of_other_windows_is_not_fitted():
    other = replace(TINY, output_sample_rate=24_000, istft_window=60, istft_hop=15)
    with torch.no_grad():
        weight = torch.zeros(2, 5)
        assert fit_head(weight, weight[:, 0], weight, TINY, other) is None
