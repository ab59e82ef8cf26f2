"""Laws for every quantizer."""

from collections.abc import Iterator

import pytest
import torch

from flexicodec.quantize import (
    FSQConfig,
    GroupedFSQConfig,
    Quantizer,
    QuantizerConfig,
    ResidualFSQConfig,
    RVQConfig,
    VQConfig,
)
from flexicodec.quantize.base import straight_through

DIM, TOKENS = 12, 9
CONFIGS: dict[str, QuantizerConfig] = {
    "fsq": FSQConfig((8, 5, 4)),
    "rvq": RVQConfig(num_codebooks=4, codebook_size=32, codebook_dim=4),
    "euclidean_rvq": RVQConfig(num_codebooks=4, codebook_size=32, codebook_dim=None),
    "vq": VQConfig(codebook_size=50, codebook_dim=4),
    "residual_fsq": ResidualFSQConfig((4, 3, 5), num_codebooks=3),
    "grouped_fsq": GroupedFSQConfig(3, (8, 7, 6, 6)),
    "fsq without projections": FSQConfig((5,) * DIM),
}


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


@pytest.fixture(params=CONFIGS)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return CONFIGS[request.param].build(DIM).eval()


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(3, DIM, TOKENS, generator=torch.Generator().manual_seed(0)) * 2


LENGTHS = torch.tensor([TOKENS, 1, 6])


def test_config_tells_what_the_quantizer_will_be() -> None:
    for config in CONFIGS.values():
        built = config.build(DIM)
        assert (built.num_codebooks, built.codebook_size) == (config.num_codebooks, config.codebook_size)
        assert built.dim == DIM


def test_lookup_of_the_codes_gives_the_latents(quantizer: Quantizer, latents: torch.Tensor) -> None:
    for count in range(quantizer.num_codebooks + 1):
        out = quantizer(latents, LENGTHS, num_codebooks=count)
        assert out.codes.shape == (3, count, TOKENS)
        assert out.codes.dtype == torch.int64
        assert out.latents.dtype == torch.float32
        torch.testing.assert_close(quantizer.dequantize(out.codes, LENGTHS), out.latents, rtol=1e-5, atol=1e-5)


def test_fewer_codebooks_are_the_first_rows(quantizer: Quantizer, latents: torch.Tensor) -> None:
    codes = quantizer(latents).codes
    for count in range(quantizer.num_codebooks + 1):
        assert torch.equal(quantizer(latents, num_codebooks=count).codes, codes[:, :count])
    assert not quantizer(latents, num_codebooks=0).latents.any()


def test_counts_per_item_equal_truncating_each_item(quantizer: Quantizer, latents: torch.Tensor) -> None:
    counts = torch.tensor([quantizer.num_codebooks, 0, 1])
    out = quantizer(latents, num_codebooks=counts)
    assert out.codes.shape[1] == quantizer.num_codebooks
    for i, count in enumerate(counts.tolist()):
        alone = quantizer(latents[i : i + 1], num_codebooks=count)
        assert torch.equal(out.codes[i : i + 1, :count], alone.codes)
        assert not out.codes[i, count:].any()
        torch.testing.assert_close(out.latents[i : i + 1], alone.latents, rtol=1e-5, atol=1e-5)


def test_losses_are_each_items_own_mean_and_count_dropped_codebooks_as_zero(
    quantizer: Quantizer, latents: torch.Tensor
) -> None:
    counts = torch.tensor([quantizer.num_codebooks, 0, 1])
    together = quantizer(latents, LENGTHS, counts).losses
    for name, loss in together.items():
        alone = [
            quantizer(latents[i : i + 1, :, :length], num_codebooks=count).losses[name]
            for i, (length, count) in enumerate(zip(LENGTHS.tolist(), counts.tolist(), strict=True))
        ]
        torch.testing.assert_close(loss, torch.cat(alone))
        assert loss[1] == 0
    for count in range(quantizer.num_codebooks + 1):
        as_tensor = quantizer(latents, LENGTHS, torch.full((3,), count)).losses
        torch.testing.assert_close(quantizer(latents, LENGTHS, count).losses, as_tensor)


@pytest.mark.parametrize("junk", [1e6, float("nan")])
def test_a_padded_batch_equals_each_clip_alone(quantizer: Quantizer, latents: torch.Tensor, junk: float) -> None:
    padding = torch.arange(TOKENS) >= LENGTHS[:, None]
    out = quantizer(latents.masked_fill(padding[:, None], junk), LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = quantizer(latents[i : i + 1, :, :length])
        assert torch.equal(out.codes[i : i + 1, :, :length], alone.codes)
        torch.testing.assert_close(out.latents[i : i + 1, :, :length], alone.latents, rtol=1e-5, atol=1e-5)
    assert not out.codes.masked_select(padding[:, None]).any()
    assert not out.latents.masked_select(padding[:, None]).any()
    assert all(loss.isfinite().all() for loss in out.losses.values())


def test_a_batch_of_padding_only_is_all_zeros(quantizer: Quantizer, latents: torch.Tensor) -> None:
    for clips, lengths in ((latents, torch.zeros(3, dtype=torch.long)), (latents[..., :0], None)):
        quantizer.train()(clips, lengths)  # teaches nothing
        out = quantizer.eval()(clips, lengths)
        assert not out.codes.any()
        assert not out.latents.any()
        assert not any(loss.any() for loss in out.losses.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_are_made_in_float32_whatever_comes(
    quantizer: Quantizer, latents: torch.Tensor, dtype: torch.dtype
) -> None:
    latents = latents.to(torch.bfloat16)  # representable in all of them, at this size
    reference = quantizer(latents.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(latents.to(dtype))
        again = quantizer.dequantize(out.codes)
    assert torch.equal(out.codes, reference.codes)
    assert torch.equal(out.latents, reference.latents)
    assert again.dtype == torch.float32


def test_a_model_in_half_precision_computes_in_float32(quantizer: Quantizer, latents: torch.Tensor) -> None:
    reference = quantizer.eval().half().float()(latents)
    out = quantizer.half()(latents)
    assert torch.equal(out.codes, reference.codes)
    assert torch.equal(out.latents, reference.latents)
    assert quantizer.dequantize(out.codes).dtype == torch.float32


def test_gradients_pass_straight_through_and_not_into_padding(quantizer: Quantizer, latents: torch.Tensor) -> None:
    latents = latents.requires_grad_()
    out = quantizer.train()(latents, LENGTHS)
    (out.latents * torch.linspace(-1, 1, DIM)[:, None]).sum().backward()
    assert latents.grad is not None
    valid = torch.arange(TOKENS) < LENGTHS[:, None]
    assert (latents.grad.abs().sum(dim=1) > 0).equal(valid)


def test_every_parameter_has_a_gradient_whatever_the_counts(quantizer: Quantizer, latents: torch.Tensor) -> None:
    out = quantizer.train()(latents, LENGTHS, torch.zeros(3, dtype=torch.long))
    if list(quantizer.parameters()):
        (out.latents.sum() + sum(loss.sum() for loss in out.losses.values())).backward()
    assert all(parameter.grad is not None for parameter in quantizer.parameters())


@torch.no_grad()
def test_encoding_is_the_same_in_train_and_eval_mode_and_leaves_no_trace(
    quantizer: Quantizer, latents: torch.Tensor
) -> None:
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    random_state = torch.get_rng_state()
    reference = quantizer.eval()(latents, LENGTHS)
    for _ in range(2):
        out = quantizer.train()(latents, LENGTHS)
        assert torch.equal(out.codes, reference.codes)
        assert torch.equal(out.latents, reference.latents)
        assert out.losses.keys() == reference.losses.keys()
        assert all(torch.equal(loss, reference.losses[name]) for name, loss in out.losses.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bad_latents_lengths_and_counts_are_errors(quantizer: Quantizer, latents: torch.Tensor) -> None:
    more = quantizer.num_codebooks + 1
    with pytest.raises(ValueError, match="channel-last"):
        quantizer(latents.transpose(1, 2))
    with pytest.raises(ValueError, match="one for each of the 3 items"):
        quantizer(latents, torch.tensor([2]))
    for count in (more, -1, torch.tensor([0, more, 0])):
        with pytest.raises(ValueError, match=rf"num_codebooks is ({more}|-1), this quantizer has {more - 1}"):
            quantizer(latents, num_codebooks=count)
    with pytest.raises(ValueError, match="one count for each"):
        quantizer(latents, num_codebooks=torch.tensor(1))


def test_codes_out_of_range_name_their_layer_and_the_range(quantizer: Quantizer) -> None:
    codes = torch.zeros(2, quantizer.num_codebooks, 4, dtype=torch.long)
    last = quantizer.num_codebooks - 1
    for value in (-1, quantizer.codebook_size):
        wrong = codes.clone()
        wrong[1, last, 2] = value
        with pytest.raises(
            ValueError,
            match=rf"code {value} in codebook layer {last} \(item 1, token 2\).*0\.\.{quantizer.codebook_size - 1}",
        ):
            quantizer.dequantize(wrong)
        assert quantizer.dequantize(wrong, torch.tensor([4, 2])).shape == (2, DIM, 4)  # in padding it does not matter
    with pytest.raises(ValueError, match="axes swapped"):
        quantizer.dequantize(codes[:, :1].expand(-1, quantizer.num_codebooks + 1, -1))
    with pytest.raises(ValueError, match="expected integers"):
        quantizer.dequantize(codes.float())


def test_straight_through_is_exact_forward() -> None:
    features = torch.tensor([1e-3, 7e4, -0.3], requires_grad=True)
    target = torch.tensor([1 / 3, 1e-9, 5.0])
    out = straight_through(features, target)
    assert torch.equal(out, target)
    assert torch.equal(torch.autograd.grad(out.sum(), features)[0], torch.ones(3))
