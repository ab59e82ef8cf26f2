"""Schedules, running means, and codebook rows that come back to life."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexicodec.quantize import RVQConfig
from flexicodec.training.config import OptimConfig
from flexicodec.training.optim import (
    Reseeder,
    forget_rows,
    learning_rate_factor,
    make_average,
    make_optimizer,
    update_average,
)


@given(st.integers(1, 50), st.integers(60, 500), st.floats(0, 1))
def test_the_cosine_warms_up_then_falls_to_its_share(warmup, steps, share):
    config = OptimConfig(warmup_steps=warmup, final_share=share)
    factors = [learning_rate_factor(config, step, steps) for step in range(steps + 1)]
    assert factors[0] == 1 / warmup  # the first step is not lost
    assert factors[warmup - 1] == 1.0
    assert all(a <= b for a, b in zip(factors[:warmup], factors[1:warmup], strict=False))
    assert all(a >= b - 1e-12 for a, b in zip(factors[warmup:], factors[warmup + 1 :], strict=False))
    assert factors[steps] == pytest.approx(share)
    assert learning_rate_factor(config, 10 * steps, steps) == pytest.approx(share)


def test_the_exponential_multiplies_every_step():
    config = OptimConfig(warmup_steps=2, schedule="exponential", decay=0.5)
    assert [learning_rate_factor(config, step, 100) for step in range(5)] == [0.5, 1.0, 1.0, 0.5, 0.25]


def test_an_optimiser_takes_what_is_trained():
    module = torch.nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    optimizer = make_optimizer(module, OptimConfig(learning_rate=1e-3), learning_rate=0.5)
    assert [parameter is module.weight for group in optimizer.param_groups for parameter in group["params"]] == [True]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_running_mean_follows():
    module = torch.nn.Linear(1, 1, bias=False)
    module.register_buffer("learnt_otherwise", torch.zeros(2))
    torch.nn.init.zeros_(module.weight)
    average = make_average(module, 0.9)
    update_average(average, module)  # the first time it starts from what is there
    torch.nn.init.ones_(module.weight)
    for step in range(1, 4):
        module.learnt_otherwise += 1
        update_average(average, module)
        assert torch.equal(average.module.learnt_otherwise, module.learnt_otherwise)
        assert float(average.module.weight.detach()) == pytest.approx(1 - 0.9**step)
    assert make_average(module, None) is None


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    quantizer = RVQConfig(num_codebooks=3, codebook_size=32, codebook_dim=4).build(8)
    for stage in quantizer.stages:
        stage.codebook.weight.data[16:] = -stage.codebook.weight.data[0] * 100 + 0.01 * torch.randn(16, 4)
    return quantizer


def alone(tensor):
    return tensor


def watch(quantizer, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(4, 8, tokens, generator=generator) + 2.0
    counts = torch.tensor([3, 3, 1, 0])
    return quantizer(latents, torch.full((4,), tokens), counts)


def test_rows_nobody_used_move_onto_features_and_used_ones_stay(quantizer):
    reseeder = Reseeder(quantizer, seed=0)
    quantizer.train()
    out = watch(quantizer, 70)
    before = [stage.codebook.weight.detach().clone() for stage in quantizer.stages]
    used = [set(out.codes[: 2 if k else 3, k].flatten().tolist()) for k in range(3)]
    moved = reseeder.reseed(5, alone, alone)
    for k, (stage, rows) in enumerate(zip(quantizer.stages, moved, strict=True)):
        assert rows.tolist()
        assert not used[k] & set(rows.tolist())
        kept = sorted(set(range(32)) - set(rows.tolist()))
        assert torch.equal(stage.codebook.weight.detach()[kept], before[k][kept])
    again = watch(quantizer, 70)
    for k in range(3):
        assert len(set(again.codes[:2, k].flatten().tolist())) > len(used[k])
    assert reseeder.use.sum() == 70 * (3 + 2 + 2)  # it goes on watching, from nothing
    reseeder.close()
    total = reseeder.use.sum()
    watch(quantizer, 70)
    assert reseeder.use.sum() == total


def test_too_little_evidence_moves_nothing(quantizer):
    reseeder = Reseeder(quantizer, seed=0)
    quantizer.train()
    watch(quantizer, 40)
    assert not any(len(rows) for rows in reseeder.reseed(0, alone, alone))
    watch(quantizer, 40, seed=1)  # but it adds up
    assert all(len(rows) for rows in reseeder.reseed(1, alone, alone))


def test_a_reseeder_is_taken_up_where_it_was(quantizer):
    first = Reseeder(quantizer, seed=0)
    quantizer.train()
    watch(quantizer, 70)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    first.reseed(7, alone, alone)
    expected = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    first.close()
    quantizer.load_state_dict(weights)
    second = Reseeder(quantizer, seed=0)
    second.load_state_dict(state)
    second.reseed(7, alone, alone)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in quantizer.state_dict().items())


def test_evaluation_is_not_watched(quantizer):
    reseeder = Reseeder(quantizer, seed=0)
    with torch.no_grad():
        watch(quantizer.eval(), 60)
    assert not reseeder.use.any()
    assert not len(reseeder.features)


def test_an_optimisers_memory_of_moved_rows_is_cleared():
    weight = torch.nn.Parameter(torch.randn(5, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    forget_rows(optimizer, weight, torch.tensor([1]))  # nothing yet to forget
    optimizer.step()
    kept = optimizer.state[weight]["exp_avg"].clone()
    forget_rows(optimizer, weight, torch.tensor([1, 4]))
    state = optimizer.state[weight]
    assert not state["exp_avg"][[1, 4]].any()
    assert torch.equal(state["exp_avg"][[0, 2, 3]], kept[[0, 2, 3]])
    assert (state["exp_avg_sq"] > 0).all()
