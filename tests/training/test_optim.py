"""Schedules and running means."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexicodec.training.config import OptimConfig
from flexicodec.training.optim import learning_rate_factor, make_average, make_optimizer, update_average


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


def test_the_exponential_may_fall_once_an_epoch():
    config = OptimConfig(warmup_steps=0, schedule="exponential", decay=0.5, epoch_steps=3)
    assert [learning_rate_factor(config, step, 100) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_adam_has_no_weight_decay():
    """Where no gradient pulls, AdamW shrinks a weight and Adam leaves it; with a gradient and no decay they agree."""
    ends = {}
    for name, decay, slope in (("adam", 0.0, 0.0), ("adamw", 0.1, 0.0), ("adam", 0.0, 1.0), ("adamw", 0.0, 1.0)):
        weight = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(weight.weight)
        optimizer = make_optimizer(weight, OptimConfig(optimizer=name, weight_decay=decay, learning_rate=0.1))
        (slope * weight.weight.square().sum()).backward()
        optimizer.step()
        ends[name, slope] = float(weight.weight.detach())
    assert ends["adam", 0.0] == 1.0 > ends["adamw", 0.0]
    assert ends["adam", 1.0] == ends["adamw", 1.0] == pytest.approx(0.9)
    with pytest.raises(ValueError, match="adam, which has no weight decay here, and weight_decay is 0.01"):
        OptimConfig(optimizer="adam")
    with pytest.raises(ValueError, match="epoch_steps is 0, expected 1 or more"):
        OptimConfig(epoch_steps=0)


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
