"""Losses and discriminators of LFSC and NanoCodec against NeMo's own numbers, for every losses.json.

All of them are built from the recipes that ship, as the trainer builds them. Weights of discriminators are not stored:
a formula on NeMo's names fills them (see the README of the goldens).
"""

import json
import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.training.config import LossWeights, TrainingConfig
from flexicodec.training.discriminators import multi_discriminator
from flexicodec.training.discriminators.multi_discriminator import Discriminators
from flexicodec.training.discriminators.multi_period import PeriodDiscriminator
from flexicodec.training.discriminators.stft import SpectrogramDiscriminator
from flexicodec.training.discriminators.wavlm import SlmDiscriminator
from flexicodec.training.gan_losses import DiscriminatorLoss, feature_matching_loss, generator_losses
from flexicodec.training.generator import Generated
from flexicodec.training.losses import AudioLosses, weighted_sum

RECIPES = Path(__file__).parents[2] / "configs" / "nanocodec" / "training"
LOSS_TOLERANCE, SCORE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 5e-4, 1e-2  # as the README of the goldens says
# NeMo's discriminators: the recipe and the part of its adversary that each is.
KINDS = {
    "mpd": ("nano", "period"),
    "mb_mstft": ("nano", "spectrogram"),
    "encodec_mrstft": ("lfsc", "spectrogram"),
    "slm_head_stub_ssl": ("nano", "slm"),
}
NANO, LFSC = ("mpd", "mb_mstft", "slm_head_stub_ssl"), ("encodec_mrstft", "mpd", "slm_head_stub_ssl")
NAMES = {"log_mel": "mel_l1", "log_mel_squared": "mel_l2", "stft": "stft", "waveform": "time_l1", "si_sdr": "si_sdr"}


def read(recipe, *overrides):
    """A recipe as the command line reads it."""
    return from_dict(TrainingConfig, apply_overrides(load_yaml(RECIPES / f"{recipe}.yaml"), overrides))


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


def holding(cases, *names):
    """Those of the cases in which all of these were recorded; where there are none, the test is skipped."""
    held = [(tensors, numbers) for tensors, numbers in cases if set(names) <= set(numbers)]
    if not held:
        pytest.skip(f"no losses.json that was found has {', '.join(names)}")
    return held


# ------------------------------------------------------------------------------------------------------ discriminators


class StubSpeechModel:
    """Stands in for WavLM: h_l[b, c, t] = sin((c+1)(l+1)/100 + 10 mean_t), mean_t over 400 samples at hop 320."""

    dim = 13 * 768

    def __call__(self, audio):
        means = audio.unfold(1, 400, 320).mean(dim=2)
        channels = torch.arange(1, 769)[:, None]
        return [torch.sin(channels * (layer + 1) * 0.01 + 10 * means[:, None]) for layer in range(13)]


def inner(ours):
    """NeMo's name of a convolution among those of one period, one band or one window."""
    return re.sub(r"^layers\.(\d)", r"conv_layers.\1.conv", re.sub(r"^post\.", "conv_post.conv.", ours))


def banded(ours, rest):
    """The same in a discriminator of bands; `rest` is NeMo's prefix for band %s."""
    band, name = re.match(r"(?:stacks|posts)\.(\d)\.(.*)", ours).groups()
    return rest.replace("%s", band) + inner(f"layers.{name}" if ours.startswith("stacks") else f"post.{name}")


def nemo_name(part, ours):
    """Return NeMo's name of a weight of one of our discriminators."""
    if isinstance(part, PeriodDiscriminator):
        return inner(ours)
    if isinstance(part, SpectrogramDiscriminator):
        return banded(ours, "discriminators.%s." if len(part.edges) > 1 else "")
    assert isinstance(part, SlmDiscriminator)
    names = {"project": "pre", "layers": "convs", "post": "conv_post"}
    return re.sub(r"^\w+", lambda match: names[match[0]], ours)


@torch.no_grad()
def fill(weight, name):
    """Give a weight the values that belong to its name in NeMo."""
    phase = sum(name.encode()) % 97
    wave = torch.sin(12.9898 * torch.arange(1, weight.numel() + 1, dtype=torch.float64) + phase).view_as(weight)
    if name.endswith("original0"):
        weight.copy_(3 + 0.5 * wave)
    else:
        weight.copy_(0.02 * wave if name.endswith("bias") else wave)


def fill_all(discriminators):
    """Fill the weights of discriminators, each kind counted from 0."""
    counts = {}
    for part in discriminators.parts:
        index = counts[type(part)] = counts.get(type(part), -1) + 1
        prefix = "" if isinstance(part, SlmDiscriminator) else f"discriminators.{index}."
        for ours, weight in part.named_parameters():
            fill(weight, prefix + nemo_name(part, ours))
        if isinstance(part, SlmDiscriminator):
            # The stub's features of real and decoded audio are so similar that their distance in float32 is 2e-4 off.
            part.double()
    return discriminators


@cache
def build(recipe, *parts):
    """The adversary of a recipe, or some parts of it, with its config."""
    config = read(recipe)
    left_out = {name: None for name in ("period", "spectrogram", "slm") if parts and name not in parts}
    adversarial_config = replace(config.adversarial, **left_out)
    with patch.object(multi_discriminator, "load_hidden_states", lambda source: StubSpeechModel()):
        return fill_all(Discriminators(adversarial_config, config.model.sample_rate)), adversarial_config


@torch.no_grad()
def losses_of(discriminators, adversarial_config, real, fake):
    """Return the trainer's losses for a batch, by NeMo's names."""
    made = generator_losses(Generated(fake, real, {}, None, None, None), discriminators, adversarial_config)
    loss, _ = DiscriminatorLoss(discriminators, adversarial_config)(real, fake)
    kind = {"lsgan": "squared", "hinge": "hinge"}[adversarial_config.loss]
    found = {f"gen_{kind}": made["adversarial"], f"disc_{kind}": loss, "fm_absolute": made["feature_matching"]}
    return {name: float(value.mean()) for name, value in found.items()}


def as_nemo(kind, scores):
    """NeMo's layout of scores: [B, period, T], [B, F, T], or [B, 1, T] as it is."""
    return scores if kind.startswith("slm") else scores[:, 0].transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_discriminator(cases, kind):
    held = holding(cases, kind)
    discriminators, adversarial_config = build(*KINDS[kind])
    for tensors, numbers in held:
        expected = numbers[kind]
        assert sum(weight.numel() for weight in discriminators.parameters()) == expected["params"]
        with torch.no_grad():
            real, fake = (discriminators(tensors[name]) for name in ("disc_real", "disc_gen"))
        assert len(real) == expected["n_scores"]
        for index, output in enumerate(real):
            recorded = tensors[f"{kind}.score_real.{index}"]
            error = (as_nemo(kind, output.scores) - recorded).abs().max() / recorded.abs().max()
            assert error < SCORE_TOLERANCE
        assert [[list(f.shape) for f in j.features] for j in real] == expected["fmap_shapes"]
        sizes = [[float(f.abs().mean()) for f in j.features] for j in real]
        assert sizes == [pytest.approx(row, rel=1e-3) for row in expected["fmap_absmean_real"]]
        for loss in ("lsgan", "hinge"):
            ours = losses_of(
                discriminators, replace(adversarial_config, loss=loss), tensors["disc_real"], tensors["disc_gen"]
            )
            assert ours == pytest.approx({name: expected[name] for name in ours}, rel=LOSS_TOLERANCE)
        relative = feature_matching_loss(real, fake, relative=True, average=True).mean()
        assert float(relative) == pytest.approx(expected["fm_relative"], rel=RELATIVE_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "recipe", "kinds"), [("nano_combined", "nano", NANO), ("lfsc_combined", "lfsc", LFSC)]
)
def test_discriminators_together(cases, name, recipe, kinds):
    held = holding(cases, *kinds)
    discriminators, adversarial_config = build(recipe)
    # NeMo also keeps windows and the resampler's filters among its tensors.
    constants = {"mpd": 0, "mb_mstft": 2, "encodec_mrstft": 5, "slm_head_stub_ssl": 1}
    tensors_kept = len(discriminators.state_dict()) + sum(constants[kind] for kind in kinds)
    for tensors, numbers in held:
        if f"{name}_state_tensors" in numbers:
            assert tensors_kept == numbers[f"{name}_state_tensors"]
            expected = together(numbers, kinds)
        else:
            expected = numbers[name]
            assert tensors_kept == expected["state_tensors"]
            assert len(discriminators(tensors["disc_real"])) == expected["n_scores"]
        ours = losses_of(discriminators, adversarial_config, tensors["disc_real"], tensors["disc_gen"])
        assert ours == pytest.approx({loss: expected[loss] for loss in ours}, rel=LOSS_TOLERANCE)


def together(numbers, kinds):
    """The losses of several discriminators from those of each: means over all that give a score."""
    counts = [numbers[kind]["n_scores"] for kind in kinds]
    return {
        loss: sum(count * numbers[kind][loss] for count, kind in zip(counts, kinds, strict=True)) / sum(counts)
        for loss in ("gen_squared", "disc_squared", "fm_absolute")
    }


# ------------------------------------------------------------------------------------------------------ reconstruction


def test_reconstruction(cases):
    every = {field.name: float(field.name in NAMES) for field in fields(LossWeights)}
    config = read("lfsc", "reconstruction.compatible=true", f"losses={json.dumps(every)}")
    compare = AudioLosses(config.losses, config.reconstruction, config.model.sample_rate)
    for tensors, numbers in holding(cases, *NAMES.values(), "mel_l1_each", "stft_each"):
        real, fake, lengths = (tensors[f"loss_{name}"] for name in ("real", "gen", "len"))
        ours = {NAMES[name]: float(loss.mean()) for name, loss in compare(fake, real, lengths).items()}
        assert ours == pytest.approx({name: numbers[name] for name in NAMES.values()}, rel=LOSS_TOLERANCE)
        for name, loss in (("mel_l1_each", "log_mel"), ("stft_each", "stft")):
            each = [float(part.mean()) for part in compare.losses[loss].per_window(fake, real, lengths)]
            assert each == pytest.approx(numbers[name], rel=LOSS_TOLERANCE)


@pytest.mark.parametrize(("recipe", "kinds"), [("nano", NANO), ("lfsc", LFSC)])
def test_a_recipe_weighs_its_losses_as_nemo_does(cases, recipe, kinds):
    """1 mel, 20 STFT, 1 adversarial, 1 feature matching; the speaker loss has no recorded number."""
    held = holding(cases, "mel_l1", "stft", *kinds)
    config = read(recipe, "reconstruction.compatible=true", "losses.speaker=0")
    compare = AudioLosses(config.losses, config.reconstruction, config.model.sample_rate)
    discriminators, adversarial_config = build(recipe)
    for tensors, numbers in held:
        real, fake, lengths = (tensors[f"loss_{name}"] for name in ("real", "gen", "len"))
        made = Generated(tensors["disc_gen"], tensors["disc_real"], compare(fake, real, lengths), None, None, None)
        with torch.no_grad():
            total = weighted_sum(generator_losses(made, discriminators, adversarial_config), config.losses).mean()
        game_losses = together(numbers, kinds)
        expected = numbers["mel_l1"] + 20 * numbers["stft"] + game_losses["gen_squared"] + game_losses["fm_absolute"]
        assert float(total) == pytest.approx(expected, rel=LOSS_TOLERANCE)
