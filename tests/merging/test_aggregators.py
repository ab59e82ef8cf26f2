import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging.aggregators import MeanAggregator, QueryAggregator, interleave
from flexicodec.nn.transformer import TransformerConfig

DIM = 10


def tiny(window=None, input_dim=DIM):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = TransformerConfig(2, dim=8, num_heads=2, feedforward_dim=12, window=window, layer_scale_init=0.5)
        model = QueryAggregator(input_dim, config)
        torch.nn.init.normal_(model.query_embedding)
        return model


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pad(durations):
    longest = max(len(d) for d in durations)
    return torch.tensor([d + [0] * (longest - len(d)) for d in durations])


def aggregate_manually(model, features, durations):
    """features [dim, frames], durations a list: build the sequence token by token."""
    sequence, query_positions, start = [], [], 0
    for duration in durations:
        frames = features[:, start : start + duration]
        sequence += [frames, frames.mean(1, keepdim=True) + model.query_embedding[0]]
        start += duration
        query_positions.append(start + len(query_positions))
    return model.transformer(torch.cat(sequence, 1)[None])[0][:, query_positions]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=5e-6, rtol=1e-5)


duration_lists = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=20), min_size=1, max_size=3)


@pytest.mark.parametrize("window", [None, 4])
@settings(derandomize=True, deadline=None, max_examples=25)
@given(durations=duration_lists, extra_frames=st.integers(0, 3), extra_tokens=st.integers(0, 3))
def test_a_padded_batch_equals_each_clip_computed_manually(window, durations, extra_frames, extra_tokens):
    model = tiny(window)
    lengths = [sum(d) for d in durations]
    features = noise(len(durations), DIM, max(lengths) + extra_frames)
    for i, length in enumerate(lengths):
        features[i, :, length:] = 1e30
    padded = torch.nn.functional.pad(pad(durations), (0, extra_tokens))
    out = model(features, padded, torch.tensor(lengths))
    assert out.shape == (len(durations), DIM, padded.shape[1])
    assert torch.equal(out, model(features, padded))
    for i, (d, length) in enumerate(zip(durations, lengths, strict=True)):
        assert (out[i, :, len(d) :] == 0).all()
        close(out[i, :, : len(d)], aggregate_manually(model, features[i, :, :length], d))


def numbered(durations, num_frames):
    """Interleave frames 0, 1, ... and queries num_frames, num_frames + 1, ..."""
    numbers = torch.arange(num_frames + durations.shape[1]).expand(len(durations), 1, -1)
    sequence, positions = interleave(numbers[..., :num_frames], numbers[..., num_frames:], durations)
    return sequence[:, 0], positions


@settings(derandomize=True, deadline=None, max_examples=50)
@given(durations=duration_lists, extra_frames=st.integers(0, 3))
def test_interleaving_uses_every_frame_and_query_once(durations, extra_frames):
    padded = pad(durations)
    num_frames = int(padded.sum(1).max()) + extra_frames
    order, query_positions = numbered(padded, num_frames)
    total = num_frames + padded.shape[1]
    assert order.sort(dim=1).values.tolist() == [list(range(total))] * len(durations)
    assert order.gather(1, query_positions).tolist() == [list(range(num_frames, total))] * len(durations)
    for i, d in enumerate(durations):
        valid = order[i, : sum(d) + len(d)].tolist()
        assert [x for x in valid if x < num_frames] == list(range(sum(d)))


def test_interleaving_matches_the_diagram():
    order, query_positions = numbered(torch.tensor([[2, 3, 0]]), 6)
    assert order.tolist() == [[0, 1, 6, 2, 3, 4, 7, 8, 5]]
    assert query_positions.tolist() == [[2, 6, 7]]


def test_as_many_tokens_as_features_is_no_special_case():
    model = tiny()
    for durations in ([1] * DIM, [2] * DIM, [1, 1]):
        features = noise(1, DIM, sum(durations))
        out = model(features, torch.tensor([durations]))
        close(out[0], aggregate_manually(model, features[0], durations))
    assert tiny(input_dim=8)(noise(1, 8, 8), torch.ones(1, 8, dtype=torch.int64)).shape == (1, 8, 8)


def test_a_windowed_aggregator_does_not_depend_on_the_end_of_the_clip():
    model = tiny(window=4)  # two layers of 4 interleaved positions reach 8
    durations = torch.tensor([[2, 3, 1, 4] * 20])
    features = noise(1, DIM, 200)
    whole = model(features, durations)
    part = model(features[..., 50:150], durations[:, 20:60])
    close(part[..., 8:-8], whole[..., 20:60][..., 8:-8])


def test_the_mean_is_the_mean():
    features = noise(2, DIM, 7)
    features[1, :, 3:] = 1e30
    out = MeanAggregator()(features, torch.tensor([[2, 4, 1], [3, 0, 0]]), torch.tensor([7, 3]))
    close(out[0, :, 1], features[0, :, 2:6].mean(-1))
    close(out[1, :, 0], features[1, :, :3].mean(-1))
    assert (out[1, :, 1:] == 0).all()


def test_gradients_reach_every_weight_and_no_padding():
    model, features = tiny(), noise(2, DIM, 9).requires_grad_()
    model(features, torch.tensor([[4, 5], [3, 0]])).square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in model.parameters())
    assert (features.grad[1, :, 3:] == 0).all()
    assert (features.grad[1, :, :3] != 0).any()


def test_ten_minutes_fit_through_a_window():
    durations = torch.full((1, 2_500), 3)
    assert tiny(window=8)(noise(1, DIM, 7_500), durations).isfinite().all()
