"""Losses between the two streams, in one forward pass of the generator."""

from pathlib import Path

import pytest
import torch

from flexicodec.merging import Threshold
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.training.config import LossWeights
from flexicodec.training.generator import FlexiCodecGenerator
from flexicodec.training.rate_sampling import SampledRates
from tests.training.recipes import MODEL, recipe

LENGTHS = torch.tensor([6400, 4000])


def generate(keeps_semantic, unquantized):
    config = recipe("unused", Path("unused"), "unused", losses=LossWeights(residual=1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = FlexiCodecGenerator(FlexiCodec(MODEL), config)
        audio = 0.1 * torch.randn(2, 6400)
    policies = [Threshold(0.5), Threshold(1.0)]
    sampled = SampledRates(policies, torch.tensor([3, 0]), torch.tensor(keeps_semantic), torch.tensor(unquantized))
    return generator, generator(audio, LENGTHS, sampled)


@pytest.mark.parametrize("keeps_semantic", [[True, True], [False, True]])
@pytest.mark.parametrize("unquantized", [[False, False], [True, False]])
def test_the_residual_loss_is_the_energy_the_acoustic_codes_have_to_carry(keeps_semantic, unquantized):
    generator, made = generate(keeps_semantic, unquantized)
    codec = generator.codec
    with torch.no_grad():
        for item, length in enumerate(LENGTHS.tolist()):
            frames = codec.frame_counts(LENGTHS[item : item + 1])
            audio = made.reference[item : item + 1, :length]
            acoustic = codec.encode_acoustic(audio, LENGTHS[item : item + 1], frames)
            semantic = codec.encode_semantic(audio, LENGTHS[item : item + 1], frames)
            durations = made.durations[item : item + 1]
            durations = durations[:, durations[0] > 0]
            latents = codec.quantize_semantic(semantic, durations).latents
            difference = codec.acoustic_aggregator(acoustic, durations) - latents
            torch.testing.assert_close(made.losses["residual"][item], difference.square().mean(), rtol=1e-3, atol=1e-6)


def test_the_residual_loss_trains_the_semantic_stream_alone():
    generator, made = generate([True, True], [False, False])
    made.losses["residual"].sum().backward()
    reached = {name.split(".")[1] for name, weight in generator.named_parameters() if weight.grad is not None}
    codec = generator.codec
    trained = {"semantic_aggregator", "semantic_encoder_stack", "semantic_quantizer", "semantic_decoder_stack"}
    assert reached <= trained, reached
    assert all(weight.grad is not None for weight in codec.semantic_decoder_stack.parameters())
