"""Discriminators: each item scored independently, at any length and level, in float32; and they can be trained."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flexicodec.training.discriminators.config import (
    AdversarialConfig,
    BandDiscriminatorConfig,
    PeriodDiscriminatorConfig,
    SlmDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
)
from flexicodec.training.discriminators.multi_discriminator import Discriminators
from flexicodec.training.discriminators.multi_period import PeriodDiscriminator
from flexicodec.training.discriminators.stft import BandDiscriminator, SpectrogramDiscriminator
from flexicodec.training.discriminators.wavlm import SlmDiscriminator, load_hidden_states
from flexicodec.training.gan_losses import adversarial_loss, discriminator_loss, feature_matching_loss
from flexicodec.training.speaker_encoder import Resampler

NARROW = (2, 3, 4, 4, 5)
PERIOD = PeriodDiscriminatorConfig(channels=NARROW)
BAND = BandDiscriminatorConfig(channels=4)
SPECTROGRAM = SpectrogramDiscriminatorConfig(channels=4)


def speech_model(audio):
    """Two layers [B, 3, T] that are no linear function of the audio."""
    frames = audio.unfold(1, 400, 320)
    return [torch.stack([(frames * k).tanh().mean(dim=2) for k in range(layer, layer + 3)], 1) for layer in (1, 2)]


MAKERS = {
    "period": lambda: PeriodDiscriminator(5, PERIOD),
    "period of NeMo": lambda: PeriodDiscriminator(3, replace(PERIOD, padding_mode="reflect", match_scores=True)),
    "bands": lambda: BandDiscriminator(256, BAND),
    "bands of NeMo": lambda: SpectrogramDiscriminator(512, SPECTROGRAM),
    "spectrogram of EnCodec": lambda: SpectrogramDiscriminator(
        128, replace(SPECTROGRAM, bands=((0.0, 1.0),), dilations=(1, 2, 4))
    ),
    "speech model": lambda: SlmDiscriminator(speech_model, 6, 22_050, channels=(4, 5, 6)),
}


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=MAKERS)
def discriminator(request):
    return MAKERS[request.param]()


def small(**parts):
    config = {"period": PeriodDiscriminatorConfig(channels=NARROW), "band": BandDiscriminatorConfig((512, 128), 4)}
    return Discriminators(AdversarialConfig(**{**config, **parts}), 16_000)


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def numbers(discriminator_outputs):
    """All scores and features of all discriminators, [B, N]."""
    tensors = [tensor for output in discriminator_outputs for tensor in (output.scores, *output.features)]
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


# ------------------------------------------------------------------------------------------------- laws of each of them


def test_items_do_not_touch_one_another(discriminator):
    audio = noise(3, 2500)
    together = numbers(discriminator(audio))
    for item in range(3):
        torch.testing.assert_close(numbers(discriminator(audio[item : item + 1]))[0], together[item])
    audio[0] = math.nan
    torch.testing.assert_close(numbers(discriminator(audio))[1:], together[1:], rtol=0, atol=0)


@pytest.mark.parametrize("samples", [1, 2, 7, 63, 64, 65, 127, 129, 255, 257, 513, 2047, 2048])
def test_audio_of_any_length_is_scored(discriminator, samples):
    if isinstance(discriminator, SlmDiscriminator):
        samples += 600  # the network has a window of its own
    audio = noise(2, samples).requires_grad_()
    discriminator_outputs = discriminator(audio)
    assert all(output.scores.shape[:2] == (2, 1) for output in discriminator_outputs)
    numbers(discriminator_outputs).square().mean().backward()
    assert audio.grad.isfinite().all()
    assert audio.grad.any()


def test_features_are_the_hidden_layers(discriminator):
    wants_scores = isinstance(discriminator, SpectrogramDiscriminator) or getattr(discriminator, "match_scores", False)
    for output in discriminator(noise(2, 3000)):
        assert any(feature is output.scores for feature in output.features) == wants_scores
        hidden = [feature for feature in output.features if feature is not output.scores]
        assert len(hidden) >= 2


# ----------------------------------------------------------------------------------------------------------- one by one


def test_phases_never_mix():
    discriminator = PeriodDiscriminator(4, PERIOD)
    audio, other = noise(1, 1000), noise(1, 1000)
    other[:, 2::4] = 0.3
    same = other.clone()
    same[:, 0::4], same[:, 1::4], same[:, 3::4] = audio[:, 0::4], audio[:, 1::4], audio[:, 3::4]
    before, after = (discriminator(clip)[0].scores for clip in (audio, same))
    moved = (before != after).flatten(0, 2).any(dim=0)
    assert moved.tolist() == [False, False, True, False]


@pytest.mark.parametrize("period", [2, 3, 11])
def test_audio_is_reflected_up_to_whole_periods_and_no_further(period):
    discriminator = PeriodDiscriminator(period, PERIOD)
    for samples in (20 * period, 20 * period + 1, 21 * period - 1):
        audio = noise(1, samples)
        whole = F.pad(audio[:, None], (0, -samples % period), mode="reflect")[:, 0]
        assert discriminator(audio)[0].scores.shape == (1, 1, 1, period)
        torch.testing.assert_close(numbers(discriminator(audio)), numbers(discriminator(whole)), rtol=0, atol=0)
        assert discriminator(audio)[0].features[0].shape[2] == -(-whole.shape[1] // period // 3)


def test_frames_are_hops():
    discriminator = BandDiscriminator(256, BAND)
    for samples in (640, 641, 1000, 1024):
        assert discriminator.spectrum(noise(1, samples)).shape == (1, 129, -(-samples // 64))
    click = torch.zeros(1, 1024)
    click[0, 5 * 64 + 32] = 1.0
    energies = discriminator.spectrum(click).abs().square().sum(dim=1)[0]
    assert int(energies.argmax()) == 5
    torch.testing.assert_close(energies[:5].flip(0), energies[6:11])  # it is in the middle of its frame


def test_frames_are_those_of_dac():
    """Reflected as `match_stride` of its audiotools asks, framed with `center`, two frames at either end dropped."""
    discriminator, audio = BandDiscriminator(256, BAND), noise(2, 1000)
    padded = F.pad(audio[:, None], (96, 96 + 24), mode="reflect")[:, 0]
    expected = torch.stft(padded, 256, 64, window=torch.hann_window(256), center=True, return_complex=True)[..., 2:-2]
    torch.testing.assert_close(discriminator.spectrum(audio), expected)


def test_bands_see_their_own_part_of_the_spectrum():
    low, high = (0.3 * torch.sin(2 * math.pi * f * torch.arange(4000) / 16_000)[None] for f in (500, 6500))
    for discriminator in (BandDiscriminator(512, BAND), SpectrogramDiscriminator(512, SPECTROGRAM)):
        assert discriminator.edges == [(0, 25), (25, 64), (64, 128), (128, 192), (192, 257)]
        silence, one, both = (numbers_of_bands(discriminator, clip) for clip in (torch.zeros(1, 4000), low, low + high))
        assert distance(one[0], silence[0]) > 100 * distance(one[4], silence[4])
        assert distance(both[4], one[4]) > 100 * distance(both[0], one[0])


def numbers_of_bands(discriminator, audio):
    """The first hidden layer of each band, away from the ends of the audio, where tones are clicks."""
    discriminator_outputs = discriminator(audio)
    if len(discriminator_outputs) == 1:
        return [feature[:, :, 8:-8] for feature in discriminator_outputs[0].features[::5]]
    return [output.features[0][:, :, 8:-8] for output in discriminator_outputs]


def distance(a, b):
    return float((a - b).detach().abs().max())


def test_bands_must_hold_bins():
    with pytest.raises(ValueError, match="covers bins 0..0 of 33"):
        BandDiscriminator(64, replace(BAND, bands=((0.0, 0.01), (0.01, 1.0))))
    with pytest.raises(ValueError, match="covers bins 30..20 of 157"):
        BandDiscriminator(78 * 4, replace(BAND, bands=((0.1925, 0.13),)))
    with pytest.raises(ValueError, match="has 12 bins, expected at least 17"):
        SpectrogramDiscriminator(256, SPECTROGRAM)  # a tenth of 129
    for make, config in ((BandDiscriminator, BAND), (SpectrogramDiscriminator, SPECTROGRAM)):
        with pytest.raises(ValueError, match="window is 510, expected a multiple of 4"):
            make(510, config)


# ------------------------------------------------------------------------------------------------------ what is counted


def weight_normed(inputs, outputs, kernel):
    """Directions, sizes and biases of a convolution's outputs."""
    return inputs * outputs * kernel + 2 * outputs


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_as_many_parameters_as_in_dac():
    channels = (1, 32, 128, 512, 1024, 1024)
    period = sum(weight_normed(*pair, 5) for pair in zip(channels, channels[1:], strict=False))
    period += weight_normed(1024, 1, 3)

    def band(width):
        stack = weight_normed(2, width, 27) + 3 * weight_normed(width, width, 27) + weight_normed(width, width, 9)
        return 5 * stack + weight_normed(width, 1, 9)

    with torch.device("meta"):
        assert count(PeriodDiscriminator(2, PeriodDiscriminatorConfig())) == period
        assert count(BandDiscriminator(512, BandDiscriminatorConfig(channels=32))) == band(32)
        upstream = Discriminators(AdversarialConfig(), 16_000)
    assert 5 * period == 41_105_770  # the five periods of HiFi-GAN, as specs/nanocodec.md counts them
    assert 3 * band(32) == 1_413_990
    assert count(upstream) == 5 * period + 3 * band(64)


# ------------------------------------------------------------------------------------------------------------- together


def test_level_and_offset_do_not_matter():
    discriminators, audio = small(), noise(2, 1500)
    scores = numbers(discriminators(audio))
    torch.testing.assert_close(numbers(discriminators(7 * audio + 0.3)), scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(numbers(discriminators(0.05 * audio - 0.1)), scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 1e-12, 1e-5])
def test_silence_is_scored_and_gradients_stay_bounded(level):
    discriminators = small()
    audio = torch.cat([level * noise(1, 1500), noise(1, 1500)]).requires_grad_()
    fake = discriminators(audio)
    real = discriminators(noise(2, 1500).flip(1))
    (adversarial_loss(fake, "lsgan") + feature_matching_loss(real, fake)).sum().backward()
    assert numbers(fake).isfinite().all()
    silent, loud = audio.grad.abs().amax(dim=1)
    assert silent < 1000 * loud


def test_batched_items_are_scored_as_alone():
    discriminators, audio = small(), noise(3, 1500) * torch.tensor([[0.1], [1.0], [5.0]])
    together = numbers(discriminators(audio))
    for item in range(3):
        torch.testing.assert_close(numbers(discriminators(audio[item : item + 1]))[0], together[item])


def test_half_precision_stays_outside():
    discriminators, audio = small(), noise(2, 1500)
    expected = numbers(discriminators(audio))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(numbers(discriminators(audio)), expected)
        assert discriminators(audio.bfloat16())[0].scores.dtype == torch.float32


def test_frozen_discriminators_train_the_codec_and_get_no_gradient():
    discriminators = small().requires_grad_(False)
    audio = noise(2, 1500).requires_grad_()
    fake, real = discriminators(audio), discriminators(noise(2, 1500).flip(1))
    (adversarial_loss(fake, "hinge") + feature_matching_loss(real, fake)).sum().backward()
    assert audio.grad.any()
    assert all(weight.grad is None for weight in discriminators.parameters())


def test_every_weight_gets_a_gradient_and_the_codec_none():
    discriminators, audio = small(), noise(2, 1500).requires_grad_()
    discriminator_loss(discriminators(noise(2, 1500)), discriminators(audio.detach()), "lsgan").sum().backward()
    assert audio.grad is None
    assert all(weight.grad is not None and weight.grad.any() for weight in discriminators.parameters())


@pytest.mark.parametrize("kind", ["lsgan", "hinge"])
def test_a_few_steps_separate_tones_from_noise(kind):
    discriminators = small(
        period=PeriodDiscriminatorConfig((2, 5), (8, 16, 16)), band=BandDiscriminatorConfig((256,), 8)
    )
    optimizer = torch.optim.Adam(discriminators.parameters(), lr=1e-2, betas=(0.8, 0.99))
    generator = torch.Generator().manual_seed(2)

    def tones_and_hiss():
        frequencies = 200 + 3000 * torch.rand(8, 1, generator=generator)
        tones = torch.sin(2 * math.pi * frequencies * torch.arange(800) / 16_000)
        return discriminators(tones), discriminators(torch.randn(8, 800, generator=generator))

    for _ in range(25):
        optimizer.zero_grad()
        discriminator_loss(*tones_and_hiss(), kind).mean().backward()
        optimizer.step()
    with torch.no_grad():
        for real, fake in zip(*tones_and_hiss(), strict=True):
            means = [output.scores.flatten(1).mean(dim=1) for output in (real, fake)]
            assert means[0].min() > means[1].max() + 0.1


def test_conventions_come_from_the_config():
    parts = {"period": PeriodDiscriminatorConfig((2, 3), NARROW, "reflect", match_scores=True), "band": None}
    spectrogram = SpectrogramDiscriminatorConfig((128, 256), 4, ((0.0, 1.0),), (1, 2, 4))
    discriminators = small(**parts, spectrogram=spectrogram, centre=False)
    kinds = [PeriodDiscriminator, PeriodDiscriminator, SpectrogramDiscriminator, SpectrogramDiscriminator]
    assert [type(part) for part in discriminators.parts] == kinds
    audio = noise(2, 3000)
    discriminator_outputs = discriminators(audio)
    assert all(output.features[-1] is output.scores for output in discriminator_outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        alone = PeriodDiscriminator(2, parts["period"])
    alone.load_state_dict(discriminators.parts[0].state_dict())
    torch.testing.assert_close(numbers(alone(audio)), numbers(discriminator_outputs[:1]))  # as it came
    louder = numbers(discriminators(3 * audio))
    assert distance(louder, numbers(discriminator_outputs)) > 0.1
    centred = small(**parts, spectrogram=spectrogram)
    torch.testing.assert_close(numbers(centred(3 * audio)), numbers(centred(audio)), rtol=1e-4, atol=1e-5)


def test_the_adversarial_config_is_checked():
    with pytest.raises(ValueError, match="every is 0 and start_step 0, expected 1 or more"):
        AdversarialConfig(every=0)


def test_one_kind_is_enough_but_none_is_an_error():
    assert len(small(band=None).parts) == 5
    assert len(small(period=None).parts) == 2
    with pytest.raises(ValueError, match="has no period, band"):
        small(period=None, band=None)


@pytest.mark.parametrize("shape", [(1000,), (2, 1, 1000), (2, 0)])
def test_audio_has_two_axes(shape):
    with pytest.raises(ValueError, match=r"expected \[batch, samples\]"):
        small()(torch.zeros(shape))


# ---------------------------------------------------------------------------------------------------- frozen networks


class Network(torch.nn.Module):
    """A speech model with weights, and with dropout."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = torch.nn.Conv1d(1, 3, 400, 320), torch.nn.Dropout(0.5)

    def forward(self, audio):
        return [self.dropout(self.layer(audio[:, None]))]


def test_a_frozen_network_stays_as_it_is():
    network = Network()
    discriminator = SlmDiscriminator(network, 3, 22_050, channels=(4, 5)).train()
    audio = noise(2, 3000).requires_grad_()
    scores = discriminator(audio)[0].scores
    assert torch.equal(discriminator(audio)[0].scores, scores)  # no dropout
    scores.square().mean().backward()
    assert audio.grad.any()
    assert network.layer.weight.grad is None
    inside = {weight.data_ptr() for weight in discriminator.parameters()}
    assert not inside & {weight.data_ptr() for weight in network.parameters()}
    assert all(name.startswith(("project", "layers", "post")) for name in discriminator.state_dict())
    assert discriminator.to(torch.float64)(audio.double())[0].scores.dtype == torch.float64  # it moves along


def test_a_speech_model_of_transformers_fits(tmp_path):
    """Its hidden states are those of transformers, on audio that is neither shifted nor scaled."""
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4, 4),
        conv_kernel=(10, 3),
        conv_stride=(160, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = WavLMModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')  # which NeMo passes over, and we
    network = load_hidden_states(tmp_path)
    assert network.dim == 3 * 8
    audio = noise(2, 6000).requires_grad_()
    with torch.no_grad():
        expected = model(audio, output_hidden_states=True).hidden_states
    for ours, theirs in zip(network(audio), expected, strict=True):
        torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=1e-4, atol=1e-5)
    adversarial_config = {"slm": SlmDiscriminatorConfig(str(tmp_path), channels=(4, 5)), "centre": False}
    discriminators = small(period=None, band=None, **adversarial_config)
    (output,) = discriminators(audio)
    assert output.features[0].shape == (2, 5, output.scores.shape[-1], 1)
    output.scores.sum().backward()
    assert audio.grad.any()
    assert len(discriminators.state_dict()) == 9
    with pytest.raises(ValueError, match=r"adversarial\.slm\.source is .*there is no"):
        load_hidden_states(tmp_path / "elsewhere")


@pytest.mark.parametrize(("from_rate", "to_rate"), [(22_050, 16_000), (16_000, 22_050), (24_000, 16_000)])
def test_a_resampled_tone_is_the_tone(from_rate, to_rate):
    def tone(rate, samples):
        return torch.sin(2 * math.pi * 1000 * torch.arange(samples, dtype=torch.float64) / rate + 0.3)[None].float()

    resampled = Resampler(from_rate, to_rate)(tone(from_rate, 2001))
    assert resampled.shape[1] == math.ceil(2001 * to_rate / from_rate)
    expected = tone(to_rate, resampled.shape[1])
    torch.testing.assert_close(resampled[:, 50:-50], expected[:, 50:-50], rtol=0, atol=2e-3)


def test_an_equal_rate_changes_nothing():
    audio = noise(2, 100)
    assert Resampler(16_000, 16_000)(audio) is audio
