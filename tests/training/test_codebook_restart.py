"""Unused codebook rows are restarted, with the same result for any number of processes."""

import threading
from types import SimpleNamespace

import pytest
import torch

from flexicodec.quantize import RVQConfig
from flexicodec.training.optim import KEPT_TOKENS, DeadCodeRestarter, reset_adam_rows
from tests.training.two_processes import Together

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    quantizer = RVQConfig(num_codebooks=3, codebook_size=32, codebook_dim=4).build(8)
    for stage in quantizer.stages:
        stage.codebook.weight.data[16:] = -stage.codebook.weight.data[0] * 100 + 0.01 * torch.randn(16, 4)
    return quantizer


def watch(quantizer, tokens, restarter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(4, 8, tokens, generator=generator) + 2.0
    if restarter is not None:
        restarter.items = torch.arange(4) + 4 * seed
    return quantizer(latents, torch.full((4,), tokens), torch.tensor([3, 3, 1, 0]))


def test_unused_rows_are_reset_to_features_and_used_ones_stay(quantizer):
    restarter = DeadCodeRestarter(quantizer, seed=0)
    quantizer.train()
    out = watch(quantizer, 70, restarter)
    before = [stage.codebook.weight.detach().clone() for stage in quantizer.stages]
    used = [set(out.codes[: 2 if k else 3, k].flatten().tolist()) for k in range(3)]
    moved = restarter.restart(5, ALONE)
    for k, (stage, rows) in enumerate(zip(quantizer.stages, moved, strict=True)):
        assert rows.tolist()
        assert not used[k] & set(rows.tolist())
        kept = sorted(set(range(32)) - set(rows.tolist()))
        assert torch.equal(stage.codebook.weight.detach()[kept], before[k][kept])
    again = watch(quantizer, 70, restarter)
    for k in range(3):
        assert len(set(again.codes[:2, k].flatten().tolist())) > len(used[k])
    assert restarter.use.sum() == 70 * (3 + 2 + 2)  # it goes on watching, from nothing
    restarter.close()
    total = restarter.use.sum()
    watch(quantizer, 70, restarter)
    assert restarter.use.sum() == total


def test_too_little_evidence_moves_nothing(quantizer):
    restarter = DeadCodeRestarter(quantizer, seed=0)
    quantizer.train()
    watch(quantizer, 40, restarter)
    assert not any(len(rows) for rows in restarter.restart(0, ALONE))
    watch(quantizer, 40, restarter, seed=1)  # but it adds up
    assert all(len(rows) for rows in restarter.restart(1, ALONE))


def test_a_restarter_is_taken_up_where_it_was(quantizer):
    first = DeadCodeRestarter(quantizer, seed=0)
    quantizer.train()
    watch(quantizer, 70, first)
    state = {name: tensor.clone() for name, tensor in first.state_dict(ALONE).items()}
    weights = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    first.restart(7, ALONE)
    expected = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    first.close()
    quantizer.load_state_dict(weights)
    second = DeadCodeRestarter(quantizer, seed=0)
    second.load_state_dict(state, ALONE)
    second.restart(7, ALONE)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in quantizer.state_dict().items())


def test_evaluation_is_not_watched(quantizer):
    restarter = DeadCodeRestarter(quantizer, seed=0)
    with torch.no_grad():
        watch(quantizer.eval(), 60, restarter)
    assert not restarter.use.any()
    assert not len(restarter.features)


def test_the_optimiser_state_of_reset_rows_is_cleared():
    weight = torch.nn.Parameter(torch.randn(5, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    reset_adam_rows(optimizer, weight, torch.tensor([1]))  # nothing yet to forget
    optimizer.step()
    kept = optimizer.state[weight]["exp_avg"].clone()
    reset_adam_rows(optimizer, weight, torch.tensor([1, 4]))
    state = optimizer.state[weight]
    assert not state["exp_avg"][[1, 4]].any()
    assert torch.equal(state["exp_avg"][[0, 2, 3]], kept[[0, 2, 3]])
    assert (state["exp_avg_sq"] > 0).all()


def test_two_processes_reseed_as_one_does(quantizer):
    state = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    latents = torch.randn(6, 8, 90, generator=torch.Generator().manual_seed(5)) + 2.0
    lengths, counts = torch.tensor([90, 80, 70, 90, 60, 90]), torch.tensor([3, 3, 2, 3, 0, 3])

    def see(restarter, rows):
        restarter.items = rows
        restarter.quantizer(latents[rows], lengths[rows], counts[rows])

    one = DeadCodeRestarter(quantizer.train(), seed=3)
    see(one, torch.arange(6))
    moved = one.restart(4, ALONE)

    together, found = Together(), [None, None]

    def work(rank):
        mine = RVQConfig(num_codebooks=3, codebook_size=32, codebook_dim=4).build(8).train()
        mine.load_state_dict(state)
        restarter = DeadCodeRestarter(mine, seed=3)
        see(restarter, torch.arange(3) + 3 * rank)
        found[rank] = restarter.restart(4, together.of(rank)), mine.state_dict()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(len(rows) for rows in moved) > 0
    for rows, weights in found:
        assert all(torch.equal(a, b) for a, b in zip(rows, moved, strict=True))
        for name, tensor in quantizer.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5)


def test_only_the_newest_features_are_kept(quantizer):
    restarter = DeadCodeRestarter(quantizer.train(), seed=0)
    for number in range(2):
        restarter.items = torch.tensor([number])
        quantizer(
            torch.full((1, 8, KEPT_TOKENS - 10), float(number)), torch.tensor([KEPT_TOKENS - 10]), torch.tensor([3])
        )
    assert len(restarter.features) == KEPT_TOKENS
    assert (restarter.features[:, 0] == 0).sum() == 10
