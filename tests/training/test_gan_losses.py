"""GAN losses against their closed forms."""

import pytest
import torch
import torch.nn.functional as F

from flexicodec.training.discriminators.layers import DiscriminatorOutput
from flexicodec.training.gan_losses import adversarial_loss, discriminator_loss, feature_matching_loss

GAMES = ("lsgan", "hinge")


def constant(*scores):
    """DiscriminatorOutputs of discriminators that score everything alike, each with another number of values."""
    return [DiscriminatorOutput(torch.full((2, 1, 3 + i), score), []) for i, score in enumerate(scores)]


def random_outputs(seed, dims=((1, 5), (1, 4, 3))):
    generator = torch.Generator().manual_seed(seed)
    return [
        DiscriminatorOutput(
            torch.randn(3, *dim, generator=generator), [torch.randn(3, 2, *dim, generator=generator)] * (i + 1)
        )
        for i, dim in enumerate(dims)
    ]


@pytest.mark.parametrize(
    ("kind", "real", "fake", "discriminator", "generator"),
    [
        ("lsgan", 1.0, 0.0, 0.0, 1.0),
        ("lsgan", 0.5, 0.5, 0.5, 0.25),
        ("lsgan", 0.0, 1.0, 2.0, 0.0),
        ("lsgan", 3.0, -1.0, 5.0, 4.0),
        ("hinge", 1.0, -1.0, 0.0, 2.0),
        ("hinge", 5.0, -5.0, 0.0, 6.0),  # beyond the margin there is nothing to gain
        ("hinge", 0.0, 0.0, 2.0, 1.0),
        ("hinge", -1.0, 2.0, 5.0, 0.0),
    ],
)
def test_closed_forms(kind, real, fake, discriminator, generator):
    assert discriminator_loss(constant(real), constant(fake), kind).tolist() == [discriminator] * 2
    assert adversarial_loss(constant(fake), kind).tolist() == [generator] * 2


@pytest.mark.parametrize("kind", GAMES)
def test_each_item_has_the_mean_over_its_own_scores(kind):
    real, fake = random_outputs(1), random_outputs(2)
    losses = discriminator_loss(real, fake, kind), adversarial_loss(fake, kind), feature_matching_loss(real, fake)
    for item in range(3):
        r, f = (
            [DiscriminatorOutput(j.scores[item : item + 1], [x[item : item + 1] for x in j.features]) for j in outputs]
            for outputs in (real, fake)
        )
        alone = discriminator_loss(r, f, kind), adversarial_loss(f, kind), feature_matching_loss(r, f)
        for loss, value in zip(losses, alone, strict=True):
            assert loss.shape == (3,)
            torch.testing.assert_close(loss[item : item + 1], value)


@pytest.mark.parametrize("kind", GAMES)
def test_sums_or_averages(kind):
    real, fake = random_outputs(1), random_outputs(2)
    parts = range(len(real))
    for loss, arguments, share in (
        (discriminator_loss, [(real, fake), kind], 4),  # two discriminators, two sides
        (adversarial_loss, [(fake,), kind], 2),
    ):
        outputs, *rest = arguments
        summed = loss(*outputs, *rest)
        torch.testing.assert_close(sum(loss(*(side[i : i + 1] for side in outputs), *rest) for i in parts), summed)
        torch.testing.assert_close(loss(*outputs, *rest, average=True), summed / share)


def test_least_squares_is_least_where_scores_are_the_share_of_real_audio():
    """LSGAN's optimum: with p real and q fake clips, p / (p + q)."""
    score = torch.tensor(0.1, requires_grad=True)
    judged = [DiscriminatorOutput(score.expand(1, 4), [])]
    optimizer = torch.optim.SGD([score], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        discriminator_loss(judged, judged, "lsgan").sum().backward()
        optimizer.step()
        judged = [DiscriminatorOutput(score.expand(1, 4), [])]
    assert float(score.detach()) == pytest.approx(0.5, abs=1e-4)


def test_matching_features_is_l1_summed_over_layers_and_discriminators():
    real, fake = random_outputs(1), random_outputs(2)
    pairs = [zip(r.features, f.features, strict=True) for r, f in zip(real, fake, strict=True)]
    layers = [F.l1_loss(a, b) for pair in pairs for a, b in pair]
    assert len(layers) == 3
    torch.testing.assert_close(feature_matching_loss(real, fake).mean(), sum(layers))
    averaged = (layers[0] + (layers[1] + layers[2]) / 2) / 2
    torch.testing.assert_close(feature_matching_loss(real, fake, average=True).mean(), averaged)
    assert not feature_matching_loss(real, real).any()


def test_features_of_real_audio_are_the_target():
    real, fake = (
        DiscriminatorOutput(torch.zeros(1, 1), [torch.full((1, 2), x, requires_grad=True)]) for x in (1.0, 2.0)
    )
    feature_matching_loss([real], [fake]).sum().backward()
    assert real.features[0].grad is None
    assert fake.features[0].grad.tolist() == [[0.5, 0.5]]


def test_relative_distances_do_not_depend_on_the_size_of_features():
    real, fake = random_outputs(1), random_outputs(2)

    def scaled(outputs, factor):
        return [DiscriminatorOutput(j.scores, [factor * x for x in j.features]) for j in outputs]

    losses = [feature_matching_loss(scaled(real, k), scaled(fake, k), relative=True) for k in (10.0, 1000.0)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)
    halved = [DiscriminatorOutput(j.scores, [0.5 * x for x in j.features]) for j in scaled(real, 1000)]
    half = feature_matching_loss(scaled(real, 1000), halved, relative=True, average=True)
    torch.testing.assert_close(half, torch.full((3,), 0.5), rtol=1e-3, atol=0)


def test_slips_are_errors():
    with pytest.raises(ValueError, match="loss is 'wgan', expected one of lsgan, hinge"):
        adversarial_loss(constant(0.0), "wgan")
    with pytest.raises(ValueError, match="loss is 'LSGAN'"):
        discriminator_loss(constant(0.0), constant(0.0), "LSGAN")
    with pytest.raises(ValueError, match="shorter"):
        feature_matching_loss(random_outputs(1), random_outputs(2)[:1])
