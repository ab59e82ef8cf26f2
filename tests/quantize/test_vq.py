"""Plain VQ and residual FSQ: differences from vector-quantize-pytorch."""

from collections.abc import Iterator

import pytest
import torch
import vector_quantize_pytorch

from flexicodec.quantize import PlainVQ, ResidualFSQConfig, VQConfig
from flexicodec.quantize import vq as module

DIM = 6


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(3, DIM, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain() -> PlainVQ:
    return VQConfig(codebook_size=12, codebook_dim=4, decay=0.5).build(DIM)


def test_the_codebook_learns_only_in_train_mode_with_a_graph(plain: PlainVQ, latents: torch.Tensor) -> None:
    before = plain.vq.codebook.clone()
    plain.eval()(latents)
    with torch.no_grad():
        plain.train()(latents)
    assert torch.equal(plain.vq.codebook, before)
    out = plain.train()(latents)
    assert not torch.equal(plain.vq.codebook, before)
    plain.vq.codebook = before
    assert torch.equal(plain.eval()(latents).codes, out.codes)  # codes were chosen before the update


def test_padding_and_dropped_items_do_not_update_the_codebook(plain: PlainVQ, latents: torch.Tensor) -> None:
    twin = VQConfig(codebook_size=12, codebook_dim=4, decay=0.5).build(DIM)
    twin.load_state_dict(plain.state_dict())
    plain.train()(latents, torch.tensor([8, 3, 8]), torch.tensor([1, 1, 0]))
    one = torch.cat([latents[:1], latents[1:2, :, :3]], dim=2)
    twin.train()(one)
    torch.testing.assert_close(plain.vq.codebook, twin.vq.codebook)


def test_training_brings_the_codebook_to_the_data(plain: PlainVQ, latents: torch.Tensor) -> None:
    losses = [plain.train()(latents).losses["commitment"].mean().item() for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_dead_codes_are_restarted(latents: torch.Tensor) -> None:
    plain = VQConfig(codebook_size=12, codebook_dim=4, decay=0.5, dead_code_threshold=0.5).build(DIM).train()
    for _ in range(20):
        plain(latents)
    codes = plain.eval()(latents).codes
    assert len(codes.unique()) > 8


def test_searching_in_blocks_changes_nothing(
    plain: PlainVQ, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain.eval()(latents).codes
    for entries in (1, 12 * 5):
        monkeypatch.setattr(module, "_SEARCH_ENTRIES", entries)
        assert torch.equal(plain(latents).codes, whole)


def test_residual_fsq_gives_the_librarys_codes(latents: torch.Tensor) -> None:
    ours = ResidualFSQConfig((5, 4, 3), num_codebooks=4).build(DIM)
    theirs = vector_quantize_pytorch.ResidualFSQ(
        levels=[5, 4, 3], num_quantizers=4, dim=DIM, quantize_dropout=True, is_channel_first=True
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    out, (expected, codes) = ours(latents), theirs(latents)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.latents, expected, rtol=1e-5, atol=1e-5)
    for count in (1, 2, 4):
        coarse = theirs.get_output_from_indices(out.codes[:, :count].transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(ours.dequantize(out.codes[:, :count]), coarse, rtol=1e-5, atol=1e-5)


def test_residual_fsq_divides_its_step_by_the_levels_at_each_stage() -> None:
    quantizer = ResidualFSQConfig((4, 4, 4), num_codebooks=5).build(3)
    latents = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    clamped = torch.tanh(latents / (4 / 3)) * (4 / 3)
    for count in range(1, 6):
        error = (quantizer(latents, num_codebooks=count).latents - clamped).abs().max()
        assert error == pytest.approx(4.0 ** (1 - count) / 3, rel=0.1)  # half a step of 2/3, a quarter per stage


def test_bad_configs_are_errors() -> None:
    assert ResidualFSQConfig([4, 4], 3).codebook_size == 16
    with pytest.raises(ValueError, match="finer than float32"):
        ResidualFSQConfig((8, 8, 8, 8), num_codebooks=24)
    with pytest.raises(ValueError, match="at least 2 with a product"):
        ResidualFSQConfig((1, 4))
    with pytest.raises(ValueError, match="codebook_dim of at least 2"):
        VQConfig(codebook_dim=1)
    with pytest.raises(ValueError, match="decay from 0 to below 1"):
        VQConfig(decay=1.0)
