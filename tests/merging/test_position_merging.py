"""Position-aware merging and unmerging: masks, padding, any cap, and where training starts."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging import merge, unmerge
from flexicodec.merging.aggregators import MeanAggregator, StreamingAggregator
from flexicodec.merging.durations import Repeater
from flexicodec.merging.positions import (
    PositionAggregator,
    PositionConfig,
    PositionUnmerger,
    place_durations,
)

DIM = 6
PLACES = 4


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, lively):
    """Build a module as training starts it, or with weights that all matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        if lively:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def aggregator(lively=True):
    return seeded(lambda: PositionAggregator(DIM, PositionConfig(PLACES, 16)), lively)


def unmerger(lively=True):
    return seeded(lambda: PositionUnmerger(DIM, 16, PLACES), lively)


def pad(durations):
    longest = max(len(row) for row in durations)
    return torch.tensor([row + [0] * (longest - len(row)) for row in durations])


def places_of(duration):
    """Say for each frame of a token which place it takes."""
    counts = place_durations(torch.tensor([[duration]]), PLACES)[0]
    return torch.arange(PLACES).repeat_interleave(counts)


duration_lists = st.lists(st.lists(st.integers(1, 11), min_size=1, max_size=9), min_size=1, max_size=3)


@given(duration=st.integers(0, 3000), places=st.integers(1, 9))
@settings(derandomize=True, deadline=None)
def test_places_hold_all_frames_in_order_and_evenly(duration, places):
    counts = place_durations(torch.tensor([[duration]]), places)[0]
    assert counts.sum() == duration
    if duration <= places:
        assert counts.tolist() == [1] * duration + [0] * (places - duration)
    else:
        assert counts.max() - counts.min() <= 1


@settings(derandomize=True, deadline=None, max_examples=40)
@given(durations=duration_lists, extra_frames=st.integers(0, 3), extra_tokens=st.integers(0, 3))
def test_a_padded_batch_is_each_token_computed_by_hand(durations, extra_frames, extra_tokens):
    model = aggregator()
    lengths = [sum(row) for row in durations]
    features = noise(len(durations), DIM, max(lengths) + extra_frames)
    for item, length in enumerate(lengths):
        features[item, :, length:] = torch.nan
    padded = F.pad(pad(durations), (0, extra_tokens))
    out = model(features, padded, torch.tensor(lengths))
    assert out.shape == (len(durations), DIM, padded.shape[1])
    perceptron = model.perceptron
    for item, row in enumerate(durations):
        assert not out[item, :, len(row) :].any()
        start = 0
        for token, duration in enumerate(row):
            frames = features[item, :, start : start + duration]
            side_by_side = torch.zeros(PLACES, DIM)
            for place in range(min(duration, PLACES)):
                side_by_side[place] = frames[:, places_of(duration) == place].mean(dim=1)
            hidden = perceptron.linear1(side_by_side.flatten()) + perceptron.duration.weight[min(duration, PLACES)]
            expected = frames.mean(dim=1) + perceptron.linear2(F.gelu(hidden))
            torch.testing.assert_close(out[item, :, token], expected, atol=1e-5, rtol=1e-5)
            start += duration


@settings(derandomize=True, deadline=None, max_examples=40)
@given(durations=duration_lists, extra_frames=st.integers(0, 3), extra_tokens=st.integers(0, 3))
def test_unmerging_a_padded_batch_is_each_frame_computed_by_hand(durations, extra_frames, extra_tokens):
    model = unmerger()
    padded = F.pad(pad(durations), (0, extra_tokens))
    latents = noise(len(durations), DIM, padded.shape[1])
    latents.masked_fill_(padded[:, None] == 0, 1e30)
    num_frames = int(padded.sum(1).max()) + extra_frames
    out = model(latents, padded, num_frames)
    assert out.shape == (len(durations), DIM, num_frames)
    perceptron = model.perceptron
    for item, row in enumerate(durations):
        start = 0
        for token, duration in enumerate(row):
            vector = latents[item, :, token]
            known = min(duration, PLACES)
            hidden = F.gelu(perceptron.linear1(vector) + perceptron.duration.weight[known])
            vectors = perceptron.linear2(hidden).unflatten(0, (PLACES, DIM)) + model.embedding[known] + vector
            expected = vectors[places_of(duration)].T
            torch.testing.assert_close(out[item, :, start : start + duration], expected, atol=1e-5, rtol=1e-5)
            start += duration
        assert not out[item, :, start:].any()


def test_training_starts_near_the_mean_and_near_repetition():
    durations = torch.tensor([[1, 3, 1, 8, 2, 15]])
    features = noise(1, 192, 30)
    config = PositionConfig(8)
    tokens = seeded(lambda: PositionAggregator(192, config), lively=False)(features, durations)
    change = tokens - merge(features, durations)
    assert 0 < change.std() < 0.5  # of features with deviation 1: a run of one frame keeps most of what the frame had
    frames = seeded(lambda: PositionUnmerger(192, 768, 8), lively=False)(tokens, durations)
    change = frames - unmerge(tokens, durations)
    assert 0 < change.std() < 0.5
    assert torch.equal(Repeater()(tokens, durations), unmerge(tokens, durations))


def test_the_order_of_frames_matters_inside_a_token_and_nothing_outside_it():
    model = aggregator()
    durations = torch.tensor([[2, 3, 1]])
    features = noise(1, DIM, 6)
    before = model(features, durations)
    swapped = features[..., [0, 1, 3, 2, 4, 5]]
    after = model(swapped, durations)
    assert torch.equal(after[..., [0, 2]], before[..., [0, 2]])
    assert (after[..., 1] - before[..., 1]).abs().max() > 1e-3
    same = MeanAggregator()(features, durations) - MeanAggregator()(swapped, durations)
    assert same.abs().max() < 1e-6


def test_gradients_reach_every_weight_and_no_padding():
    model, back = aggregator(), unmerger()
    features = noise(2, DIM, 21).requires_grad_()
    durations = torch.tensor([[1, 2, 3, 4, 11], [3, 2, 0, 0, 0]])
    frames = back(model(features, durations), durations)
    (frames * noise(*frames.shape, seed=2)).sum().backward()
    for parameter in (*model.parameters(), *back.parameters()):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    assert (features.grad[0] != 0).all()
    assert (features.grad[1, :, :5] != 0).all()
    assert not features.grad[1, :, 5:].any()


@torch.no_grad()
def test_any_chunks_of_tokens_are_the_whole():
    durations = torch.tensor([[2, 1, 4, 9, 1, 1, 3]])
    features = noise(1, DIM, int(durations.sum()))
    whole = aggregator()(features, durations)
    stream = StreamingAggregator(aggregator(), DIM, 0, 0, 1)
    assert stream.exact
    assert stream.lookahead == 0
    state = stream.initial_state(features.device)
    outputs, start = [], 0
    for chunk in durations.split([0, 3, 0, 1, 3], dim=1):
        end = start + int(chunk.sum())
        y, state = stream.step(features[..., start:end], chunk, state, last=end == features.shape[-1])
        outputs.append(y)
        start = end
    torch.testing.assert_close(torch.cat(outputs, dim=-1), whole, atol=1e-6, rtol=1e-6)


def test_half_precision_is_near_and_unmerging_stays_in_float32():
    durations = torch.tensor([[2, 1, 4, 9]])
    features = noise(1, DIM, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = aggregator()(features, durations)
        frames = unmerger()(tokens, durations)
    torch.testing.assert_close(tokens, aggregator()(features, durations), atol=0.05, rtol=0.02)
    assert torch.equal(frames, unmerger()(tokens, durations))


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        PositionConfig(0)
    with pytest.raises(ValueError, match="unmerge_dim may be null"):
        PositionConfig(4, unmerge_dim=0)
