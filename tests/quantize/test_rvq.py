"""Residual vector quantization: the search, the residual chain and its losses."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from flexicodec.quantize import ResidualVectorQuantizer, RVQConfig, VectorQuantizer
from flexicodec.quantize import rvq as module
from flexicodec.quantize.rvq import nearest_by_cosine

DIM = 10


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


@pytest.fixture
def quantizer() -> ResidualVectorQuantizer:
    return RVQConfig(num_codebooks=3, codebook_size=20, codebook_dim=4).build(DIM)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, DIM, 7, generator=torch.Generator().manual_seed(0))


def test_the_nearest_row_has_the_highest_cosine_whatever_its_length() -> None:
    generator = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(50, 4, generator=generator), torch.randn(30, 4, generator=generator)
    expected = F.cosine_similarity(features[:, None], codebook[None], dim=-1).argmax(dim=-1)
    assert torch.equal(nearest_by_cosine(features, codebook)[1][:, 0], expected)
    scales = torch.rand(30, 1, generator=generator) * 100 + 0.01
    assert torch.equal(nearest_by_cosine(features, codebook * scales)[1][:, 0], expected)


def test_the_first_row_wins_ties() -> None:
    codebook = torch.tensor([[0.0, 1.0], [1.0, 0.0], [4.0, 0.0], [0.0, -1.0]])
    assert nearest_by_cosine(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), codebook)[1].tolist() == [[1], [0]]


def test_searching_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(50, 4, generator=generator), torch.randn(30, 4, generator=generator)
    _, whole = nearest_by_cosine(features, codebook)
    for entries in (1, 30 * 7, 30 * 50):
        monkeypatch.setitem(module._SEARCH_ENTRIES, "cpu", entries)
        assert torch.equal(nearest_by_cosine(features, codebook)[1], whole)


@torch.no_grad()
def test_each_stage_codes_what_the_stages_before_left_over(
    quantizer: ResidualVectorQuantizer, latents: torch.Tensor
) -> None:
    codes = quantizer(latents).codes
    for k, stage in enumerate(quantizer.quantizers):
        assert isinstance(stage, VectorQuantizer)
        residual = latents - quantizer.dequantize(codes[:, :k])
        assert torch.equal(stage(residual).codes, codes[:, k : k + 1])
        row = stage.codebook(codes[:, k])  # as it is, not normalised
        torch.testing.assert_close(stage.dequantize(codes[:, k : k + 1]), stage.out_proj(row).transpose(1, 2))


def test_losses_compare_projected_features_with_rows_and_train_one_side_each(latents: torch.Tensor) -> None:
    stage = VectorQuantizer(DIM, codebook_size=20, codebook_dim=4)
    out = stage(latents)
    encoded, rows = stage.in_proj(latents.transpose(1, 2)), stage.codebook(out.codes[:, 0])
    for name in ("commitment", "codebook"):
        torch.testing.assert_close(out.losses[name], (encoded - rows).square().mean(dim=(1, 2)))
    for name, learners in {"commitment": stage.in_proj, "codebook": stage.codebook}.items():
        weights = [stage.in_proj.weight, stage.codebook.weight]
        gradients = torch.autograd.grad(out.losses[name].sum(), weights, allow_unused=True, retain_graph=True)
        taught = [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
        assert len(taught) == 1
        assert taught[0] is learners.weight


def test_losses_sum_over_the_stages(quantizer: ResidualVectorQuantizer, latents: torch.Tensor) -> None:
    last = {"commitment": 0.0, "codebook": 0.0}
    for count in range(quantizer.num_codebooks + 1):
        losses = {name: loss.mean().item() for name, loss in quantizer(latents, num_codebooks=count).losses.items()}
        assert losses.keys() == last.keys()
        assert all(losses[name] > last[name] or count == 0 for name in losses)
        last = losses


def test_training_brings_the_codebooks_to_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = RVQConfig(num_codebooks=2, codebook_size=16, codebook_dim=3).build(6)
    latents = torch.randn(4, 6, 40, generator=generator)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=3e-2)
    errors = []
    for _ in range(60):
        out = quantizer(latents)
        error = (out.latents - latents).square().mean()
        (error + (0.25 * out.losses["commitment"] + out.losses["codebook"]).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]


def test_parameter_names_are_those_released_weights_map_to(quantizer: ResidualVectorQuantizer) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in quantizer.quantizers[0].state_dict().items()}
    assert shapes == {
        "in_proj.weight": (4, DIM),
        "in_proj.bias": (4,),
        "out_proj.weight": (DIM, 4),
        "out_proj.bias": (DIM,),
        "codebook.weight": (20, 4),
    }
    assert len(quantizer.state_dict()) == 3 * len(shapes)


def test_bad_configs_are_errors() -> None:
    assert (RVQConfig().num_codebooks, RVQConfig().codebook_size, RVQConfig().codebook_dim) == (24, 4096, 8)
    with pytest.raises(ValueError, match="at least 1"):
        RVQConfig(num_codebooks=0)
