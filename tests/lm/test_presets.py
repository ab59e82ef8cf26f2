"""Presets: their ids, exact both ways; embeddings, heads and losses that never look ahead or at another clip."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import TokenFormat, Tokens
from flexicodec.lm import Kind
from flexicodec.lm.batches import PackedBatch
from flexicodec.lm.loader import PackedDataset
from flexicodec.lm.packing import pack
from flexicodec.lm.presets import PRESETS, RateEmbedding, preset
from tests.lm.drawn import FLEXI, FORMATS, make_folder, random_clips, tokens

CLIP = Tokens([7, 9, 9], None, [2, 1, 3], None, FLEXI)
CLIPS = random_clips(5, 30, longest=20)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return pack(make_folder(folder / "tokens", [CLIPS]), folder / "packed")


@pytest.fixture(autouse=True)
def same_weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@given(data=st.data(), name=st.sampled_from(list(PRESETS)))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back(data, name):
    num_codebooks = data.draw(st.integers(0, 3)) if name == "delayed" else 0
    layout = preset(name, FLEXI, 4, num_codebooks).layout
    clip = data.draw(tokens(FLEXI, num_codebooks))
    assert layout.decode(layout.encode(clip)) == clip
    assert layout.decode(layout.encode(clip, framed=True)) == clip


def test_ids_of_flexislm():
    layout = preset("flexislm", FLEXI, 4).layout
    assert layout.encode(CLIP, framed=True).tolist() == [[0, 10, 12, 12, 1], [0, 0, 2, 1, 3]]
    assert [stream.num_ids for stream in preset("flexislm", TokenFormat(), 4).layout.streams] == [32_771, 32]


def test_ids_of_flexicodec_tts():
    layout = preset("flexicodec-tts", FLEXI, 4).layout
    assert layout.encode(CLIP, framed=True).tolist() == [[41, 7, 9, 9, 40], [0, 0, 2, 1, 3]]
    assert preset("flexicodec-tts", TokenFormat(), 4).layout.streams[0].end == 32_768


def test_ids_of_the_others():
    assert preset("delayed", FLEXI, 4, 2).layout.delays == (0, 0, 1, 1)
    assert preset("delayed", FORMATS["nanocodec"], 4, 3).layout.delays == (0, 0, 0)
    assert preset("frames", FLEXI, 4).layout.encode(CLIP).tolist() == [23, 2, 25, 25, 2, 2]


class Sum(torch.nn.Module):
    """Stands in for a causal transformer: the mean of the steps of the clip so far."""

    def forward(self, x, document):
        same = (document[:, :, None] == document[:, None, :]).tril()
        return (same / same.sum(-1, keepdim=True)).to(x) @ x


def batch_of(packed, layout, count=3):
    dataset = PackedDataset(packed, layout, 64)
    return PackedBatch.collate([dataset[0, row] for row in range(count)])


@pytest.mark.parametrize("name", PRESETS)
def test_losses_look_at_the_past_of_the_clip_only(packed, name):
    streams = preset(name, FLEXI, 16, 2 if name == "delayed" else 0)
    batch = batch_of(packed, streams.layout)
    nats = streams.nats(Sum()(streams(batch), batch.document), batch)
    predicted = streams._with_streams(batch.kinds != Kind.PAD) & (batch.position > 0)[:, None]
    assert torch.equal(nats > 0, predicted)
    # Change a step of the first clip: no loss before it, and none of another clip, changes.
    at = int((batch.document[0] == 0).sum()) - 2
    batch.ids[0, ..., at] = streams._with_streams(batch.ids)[0, :, at - 1].reshape(batch.ids[0, ..., at].shape)
    changed = streams.nats(Sum()(streams(batch), batch.document), batch) != nats
    assert changed[0, :, at:].any()
    assert not changed[0, :, :at].any()
    assert not changed[batch.document[:, None].expand_as(changed) != 0].any()
    assert not changed[1:].any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_weight_learns(packed, name):
    streams = preset(name, FLEXI, 16, 2 if name == "delayed" else 0)
    batch = batch_of(packed, streams.layout, 4)
    optimizer = torch.optim.Adam(streams.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = streams.loss(Sum()(streams(batch), batch.document), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    unused = {parameter for parameter, value in streams.named_parameters() if value.grad is None}
    assert unused == set()


def test_loss_is_the_mean_of_each_stream_by_its_weight(packed):
    streams = preset("flexislm", FLEXI, 16)
    batch = batch_of(packed, streams.layout)
    hidden = Sum()(streams(batch), batch.document)
    nats = streams.nats(hidden, batch)
    by_hand = nats[:, 0][nats[:, 0] > 0].mean() + 0.1 * nats[:, 1][nats[:, 1] > 0].mean()
    assert torch.isclose(streams.loss(hidden, batch), by_hand)
    counts = [int((nats[:, stream] > 0).sum()) for stream in (0, 1)]
    clips = int(sum(row.max() + 1 for row in batch.document))
    assert counts[0] == counts[1] + clips  # END is predicted, a duration for it is not


def test_tied_heads_share_weights():
    streams = preset("frames", FLEXI, 16, tied=True)
    assert streams.heads[0].weight is streams.tables[0].weight


def test_rates_are_told_apart_and_unknown_ones_are_one():
    embedding = RateEmbedding(24)
    rates = torch.tensor([[3.0, 4.0, 6.25, 6.5, 8.33, 12.5]])
    vectors = embedding(rates)[0]
    distances = torch.cdist(vectors, vectors) + 9 * torch.eye(6)
    assert distances.min() > 0.05
    assert torch.equal(embedding(torch.zeros(1, 2))[0, 0], embedding.unknown)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("moshi", FLEXI, 4), "no preset 'moshi'; there are flexislm, flexicodec-tts, delayed, frames"),
        (lambda: preset("flexislm", FLEXI, 4, 8), "flexislm has no acoustic codebooks, and 8 are asked"),
        (lambda: preset("frames", FORMATS["nanocodec"], 4), "frames needs semantic codes"),
        (lambda: preset("flexislm", FORMATS["no cap"], 4), "last up to None frames, this preset has classes 0 to 31"),
        (lambda: preset("flexicodec-tts", replace(FLEXI, max_duration=11), 4), "classes 0 to 10"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
