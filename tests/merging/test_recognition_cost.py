"""The learned cost of tokens: least sum against brute force, batches, and what it refuses."""

from hashlib import sha256
from importlib.resources import files
from itertools import product

import pytest
import torch
from clips_for_policies import noise, rows

from flexicodec.merging import LeastCost, cosine_similarities, make_policy
from flexicodec.merging.recognition_cost import DIM, LONGEST, TokenCost, certainty, shipped_cost
from flexicodec.merging.registry import policy_text, resolve_policy


def cut(features, lengths, text="recognition", cap=None, **control):
    policy = make_policy(text, **control)
    lengths = torch.tensor(lengths)
    similarities = cosine_similarities(features, lengths)
    return rows(policy(similarities, lengths, seconds=lengths / 12.5, features=features, max_duration=cap))


@pytest.mark.parametrize("cap", [3, 8])
def test_the_sum_of_costs_is_least(cap):
    x = noise(1, DIM, 8, seed=1)
    costs = shipped_cost()(x[0])
    of_count = {}
    for cuts in product([False, True], repeat=7):
        starts = [0, *(t for t, cut_here in enumerate(cuts, start=1) if cut_here), 8]
        durations = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        if max(durations) <= cap:
            total = sum(float(costs[d - 1][start]) for start, d in zip(starts, durations, strict=False))
            of_count.setdefault(len(durations), []).append((total, durations))
    for count, ways in of_count.items():
        assert cut(x, [8], cap=cap, frame_rate=count * 12.5 / 8) == [min(ways)[1]]
    price = 0.2
    cheapest = min(
        (total + price * len(durations), durations) for ways in of_count.values() for total, durations in ways
    )
    assert cut(x, [8], cap=cap, price=price) == [cheapest[1]]


def test_clips_and_padding_do_not_matter_to_one_another():
    x = noise(3, DIM, 30, seed=2)
    lengths = [30, 9, 1]
    together = cut(x, lengths, frame_rate=3.0)
    alone = [cut(x[i : i + 1, :, :n], [n], frame_rate=3.0)[0] for i, n in enumerate(lengths)]
    assert together == alone
    assert max(max(row) for row in together) <= LONGEST


def test_equal_frames_lose_nothing():
    held = noise(1, DIM, 1).expand(1, DIM, 8)
    for costs in shipped_cost()(held[0]):
        assert float(costs.abs().max()) < 1e-4
    assert certainty(torch.tensor([[0.0, 0.0], [0.25, 0.0]])).tolist() == [0.0, 0.5]


def test_it_has_a_name_like_the_others():
    policy, note = resolve_policy(0.9, 12.5, 8, policy="recognition", frame_rate=3)
    assert policy == LeastCost(3.0, cost="recognition", cap=8)
    assert note == {"policy": "recognition", "frame_rate": 3.0}
    assert policy_text(make_policy("recognition:cap=6,price=0.1")) == "recognition:cap=6"


def test_what_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="features have 4 channels, .* which have 288"):
        cut(noise(1, 4, 8), [8], frame_rate=6.0)
    with pytest.raises(ValueError, match="at most 8 frames, but up to 9 are allowed; set cap=8"):
        cut(noise(1, DIM, 12), [12], "recognition:cap=9", frame_rate=1.0)


def test_the_card_names_the_weights():
    folder = files("flexicodec") / "assets" / "token-cost"
    assert sha256((folder / "model.safetensors").read_bytes()).hexdigest() in (folder / "README.md").read_text()
    assert sum(each.numel() for each in TokenCost().state_dict().values()) < 30_000
