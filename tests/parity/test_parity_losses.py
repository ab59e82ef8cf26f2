"""Losses and discriminators of LFSC and NanoCodec against NeMo's own numbers, wherever a losses.json lies.

Weights of discriminators are not stored: a formula on NeMo's names fills them (see the README of the goldens).
"""

import json
import re
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from flexicodec.training.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
from flexicodec.training.discriminators import PeriodDiscriminator, SlmDiscriminator, SpectrogramDiscriminator
from flexicodec.training.discriminators.stft import WHOLE_BAND
from flexicodec.training.reconstruction import LogMelLoss, LogStftLoss, si_sdr_loss, waveform_loss

SAMPLE_RATE = 22_050
LOSS_TOLERANCE, SCORE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 5e-4, 1e-2  # as the README of the goldens says
NANO, LFSC = ("mpd", "mb_mstft", "slm_head_stub_ssl"), ("encodec_mrstft", "mpd", "slm_head_stub_ssl")


@pytest.fixture(scope="module")
def cases(goldens):
    """Pairs of recorded tensors and recorded numbers."""
    folders = [path.parent for path in sorted(goldens.rglob("losses.json"))]
    if not folders:
        pytest.skip(f"no losses.json below {goldens}")
    return [
        (load_file(folder / "losses_io.safetensors"), json.loads((folder / "losses.json").read_text()))
        for folder in folders
    ]


# ------------------------------------------------------------------------------------------------------ discriminators


def stub_speech_model(audio):
    """Stand in for WavLM: h_l[b, c, t] = sin((c+1)(l+1)/100 + 10 mean_t), mean_t over 400 samples at hop 320."""
    means = audio.unfold(1, 400, 320).mean(dim=2)
    channels = torch.arange(1, 769)[:, None]
    return [torch.sin(channels * (layer + 1) * 0.01 + 10 * means[:, None]) for layer in range(13)]


def inner(ours):
    """NeMo's name of a convolution among those of one period, one band or one window."""
    return re.sub(r"^layers\.(\d)", r"conv_layers.\1.conv", re.sub(r"^post\.", "conv_post.conv.", ours))


def banded(ours, rest):
    """The same in a discriminator of bands; `rest` is what NeMo puts before what belongs to band %s."""
    band, name = re.match(r"(?:stacks|posts)\.(\d)\.(.*)", ours).groups()
    return rest.replace("%s", band) + inner(f"layers.{name}" if ours.startswith("stacks") else f"post.{name}")


def parts_and_names(kind):
    """The discriminators of one of NeMo's classes, with a function from the names of our weights to NeMo's."""
    if kind == "mpd":
        parts = [PeriodDiscriminator(p, padding_mode="reflect", match_scores=True) for p in (2, 3, 5, 7, 11)]
        return parts, inner
    if kind == "mb_mstft":
        parts = [SpectrogramDiscriminator(window) for window in (512, 1024)]
        return parts, lambda ours: banded(ours, "discriminators.%s.")
    if kind == "encodec_mrstft":
        windows = (128, 256, 512, 1024, 2048)
        parts = [SpectrogramDiscriminator(window, bands=WHOLE_BAND, dilations=(1, 2, 4)) for window in windows]
        return parts, lambda ours: banded(ours, "")
    assert kind == "slm_head_stub_ssl"
    names = {"project": "pre", "layers": "convs", "post": "conv_post"}
    return [SlmDiscriminator(stub_speech_model, 13 * 768, SAMPLE_RATE)], (
        lambda ours: re.sub(r"^\w+", lambda match: names[match[0]], ours)
    )


@torch.no_grad()
def fill(weight, name):
    """Give a weight the values that belong to its name in NeMo."""
    phase = sum(name.encode()) % 97
    wave = torch.sin(12.9898 * torch.arange(1, weight.numel() + 1, dtype=torch.float64) + phase).view_as(weight)
    if name.endswith("original0"):
        weight.copy_(3 + 0.5 * wave)
    else:
        weight.copy_(0.02 * wave if name.endswith("bias") else wave)


@cache
def build(kind):
    """One of NeMo's discriminators, its weights filled."""
    parts, nemo_name = parts_and_names(kind)
    for index, part in enumerate(parts):
        prefix = "" if kind.startswith("slm") else f"discriminators.{index}."
        for ours, weight in part.named_parameters():
            fill(weight, prefix + nemo_name(ours))
    # What the stub hears of real and decoded audio is so alike that their distance in float32 is 2e-4 off at times.
    return torch.nn.ModuleList(parts).to(torch.float64 if kind.startswith("slm") else torch.float32)


@torch.no_grad()
def judge(kinds, audio):
    parts = [part for kind in kinds for part in build(kind)]
    return [judgement for part in parts for judgement in part(audio.to(next(part.parameters()).dtype))]


def as_nemo(kind, scores):
    """NeMo's layout of scores: [B, period, T], [B, F, T], or [B, 1, T] as it is."""
    return scores if kind.startswith("slm") else scores[:, 0].transpose(1, 2)


@pytest.mark.parametrize("kind", ["mpd", "mb_mstft", "encodec_mrstft", "slm_head_stub_ssl"])
def test_discriminator(cases, kind):
    for tensors, numbers in cases:
        expected = numbers[kind]
        assert sum(weight.numel() for weight in build(kind).parameters()) == expected["params"]
        real, fake = judge([kind], tensors["disc_real"]), judge([kind], tensors["disc_gen"])
        assert len(real) == expected["n_scores"]
        for index, judgement in enumerate(real):
            recorded = tensors[f"{kind}.score_real.{index}"]
            error = (as_nemo(kind, judgement.scores) - recorded).abs().max() / recorded.abs().max()
            assert error < SCORE_TOLERANCE
        assert [[list(f.shape) for f in j.features] for j in real] == expected["fmap_shapes"]
        sizes = [[float(f.abs().mean()) for f in j.features] for j in real]
        assert sizes == [pytest.approx(row, rel=1e-3) for row in expected["fmap_absmean_real"]]
        assert_losses(real, fake, expected)
        relative = feature_matching_loss(real, fake, relative=True, average=True).mean()
        assert float(relative) == pytest.approx(expected["fm_relative"], rel=RELATIVE_TOLERANCE)


@pytest.mark.parametrize(("name", "kinds"), [("nano_combined", NANO), ("lfsc_combined", LFSC)])
def test_discriminators_together(cases, name, kinds):
    # NeMo also keeps windows and the resampler's filters among its tensors.
    constants = {"mpd": 0, "mb_mstft": 2, "encodec_mrstft": 5, "slm_head_stub_ssl": 1}
    tensors_kept = sum(len(build(kind).state_dict()) + constants[kind] for kind in kinds)
    for tensors, numbers in cases:
        if f"{name}_state_tensors" in numbers:
            assert tensors_kept == numbers[f"{name}_state_tensors"]
            continue
        expected = numbers[name]
        assert tensors_kept == expected["state_tensors"]
        real, fake = judge(kinds, tensors["disc_real"]), judge(kinds, tensors["disc_gen"])
        assert len(real) == expected["n_scores"]
        assert_losses(real, fake, expected)


def assert_losses(real, fake, expected):
    losses = {"fm_absolute": feature_matching_loss(real, fake, average=True)}
    for kind, game in (("squared", "lsgan"), ("hinge", "hinge")):
        losses[f"gen_{kind}"] = adversarial_loss(fake, game, average=True)
        losses[f"disc_{kind}"] = discriminator_loss(real, fake, game, average=True)
    ours = {name: float(loss.mean()) for name, loss in losses.items() if name in expected}
    assert ours == pytest.approx({name: expected[name] for name in ours}, rel=LOSS_TOLERANCE)
    assert {"fm_absolute", "gen_squared", "disc_squared"} <= ours.keys()


# ------------------------------------------------------------------------------------------------------ reconstruction


def test_reconstruction(cases):
    for tensors, numbers in cases:
        real, fake, lengths = (tensors[f"loss_{name}"] for name in ("real", "gen", "len"))
        mel, stft = LogMelLoss(SAMPLE_RATE, compatible=True), LogStftLoss(compatible=True)
        losses = {
            "mel_l1": mel(fake, real, lengths),
            "mel_l2": LogMelLoss(SAMPLE_RATE, squared=True, compatible=True)(fake, real, lengths),
            "stft": stft(fake, real, lengths),
            "time_l1": waveform_loss(fake, real, lengths, compatible=True),
            "si_sdr": si_sdr_loss(fake, real, lengths),
        }
        ours = {name: float(loss.mean()) for name, loss in losses.items()}
        assert ours == pytest.approx({name: numbers[name] for name in ours}, rel=LOSS_TOLERANCE)
        for name, loss in (("mel_l1_each", mel), ("stft_each", stft)):
            each = [float(part.mean()) for part in loss.each(fake, real, lengths)]
            assert each == pytest.approx(numbers[name], rel=LOSS_TOLERANCE)
