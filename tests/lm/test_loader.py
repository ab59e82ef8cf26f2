"""The packed loader: every clip once and whole, the same batches whoever makes them, and clips kept apart."""

import json
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.lm import Kind, Vocabulary, delayed_layout, make_layout
from flexicodec.lm.batches import PackedBatch, attention_mask, block_mask, to_flattened
from flexicodec.lm.loader import PackedDataset, PackedLoader, next_fit
from flexicodec.lm.packing import pack
from tests.lm.drawn import FLEXI, characters, make_folder, random_clips

CLIPS = random_clips(3, 60)
OTHERS = random_clips(4, 25)
VOCABULARY = Vocabulary(26, FLEXI, 2)
LAYOUTS = {
    "marked": make_layout("marked", Vocabulary(26, FLEXI)),
    "flat": make_layout("flat", VOCABULARY),
    "delayed": delayed_layout(VOCABULARY, [0, 0, 1, 2]),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Two corpora with texts, at 6.25 and 8.33 Hz."""
    folder = tmp_path_factory.mktemp("packed")
    made = []
    for name, clips, rate in (("a", CLIPS, 6.25), ("b", OTHERS, 8.33)):
        tokens = make_folder(folder / name, [clips[:20], clips[20:]], frame_rate=rate)
        made.append(pack(tokens, folder / f"{name}-packed", base=26, tokenizer=characters))
    return made


def expected(packed, layout, clip):
    """The ids of a clip, alone."""
    tokens = packed.tokens(clip).keep(layout.num_codebooks)
    rate_id = None if layout.is_delayed else layout.vocabulary.rate_id(packed.record["choice"]["frame_rate"])
    return layout.encode(tokens, framed=True, rate_id=rate_id).numpy()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_clip_once_an_epoch_and_whole(packed, name):
    layout = LAYOUTS[name]
    dataset = PackedDataset(packed[0], layout, 300)
    for epoch in (0, 1):
        seen = []
        for row in range(dataset.num_rows(epoch)):
            item = dataset[epoch, row]
            _, clips = dataset.clips(epoch, row)
            seen += clips.tolist()
            assert item["document"].max() == len(clips) - 1
            for document, clip in enumerate(clips):
                here = item["document"] == document
                assert np.array_equal(item["ids"][..., here], expected(packed[0], layout, clip))
                assert item["position"][here].tolist() == list(range(here.sum()))
                rate = float(packed[0].tokens(clip).token_lengths / packed[0].tokens(clip).frame_lengths * 12.5)
                assert item["frame_rate"][here] == pytest.approx(rate, rel=1e-6)
            rest = item["document"] == -1
            assert (item["kinds"][..., rest] == Kind.PAD).all()
            assert (item["frame_rate"][rest] == 0).all()
        assert sorted(seen) == list(range(60))
        assert dataset.clips(0, 0)[1].tolist() != dataset.clips(1, 0)[1].tolist()


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), row_length=st.integers(5, 50))
@settings(max_examples=60, deadline=None)
def test_next_fit_by_the_plain_loop(lengths, row_length):
    starts, filled = [0], 0
    for clip, length in enumerate(min(each, row_length) for each in lengths):
        if filled + length > row_length:
            starts.append(clip)
            filled = 0
        filled += length
    assert next_fit(np.array(lengths), row_length).tolist() == [*starts, len(lengths)]


def test_clips_longer_than_a_row_are_cut_and_counted(packed, caplog):
    layout = LAYOUTS["marked"]
    dataset = PackedDataset(packed[0], layout, 30)
    wanted = [expected(packed[0], layout, clip) for clip in range(60)]
    long = [len(ids) for ids in wanted if len(ids) > 30]
    assert dataset.num_cut == len(long) > 0
    assert f"{len(long)} clips are longer than a row of 30 steps; {sum(long) - 30 * len(long)} steps" in caplog.text
    for row in range(dataset.num_rows(0)):
        item = dataset[0, row]
        for document, clip in enumerate(dataset.clips(0, row)[1]):
            assert np.array_equal(item["ids"][item["document"] == document], wanted[clip][:30])


@pytest.mark.parametrize("where", ["before", "after"])
def test_text_stands_with_its_clip(packed, where):
    layout = LAYOUTS["marked"]
    dataset = PackedDataset(packed[0], layout, 200, text=where)
    special = layout.vocabulary.special
    for row in range(dataset.num_rows(0)):
        item = dataset[0, row]
        for document, clip in enumerate(dataset.clips(0, row)[1]):
            number = clip if clip < 20 else clip - 20  # in its unit
            letters = [] if number % 5 == 4 else [0, 1] * (number % 4)
            text = [special("TEXT"), *letters, special("END_TEXT")]
            speech = expected(packed[0], layout, clip).tolist()
            wanted = text + speech if where == "before" else speech + text
            assert item["ids"][item["document"] == document].tolist() == wanted[:200]


def test_several_corpora_each_clip_once(packed):
    dataset = PackedDataset(packed, LAYOUTS["marked"], 200)
    seen = {0: [], 1: []}
    for row in range(dataset.num_rows(0)):
        source, clips = dataset.clips(0, row)
        seen[source] += clips.tolist()
        rates = dataset[0, row]["ids"][dataset[0, row]["position"] == 0]
        assert LAYOUTS["marked"].vocabulary.rate_id([6.25, 8.33][source]) in rates
    assert {source: sorted(clips) for source, clips in seen.items()} == {0: list(range(60)), 1: list(range(25))}


def test_weights_are_shares_of_rows(packed):
    dataset = PackedDataset(packed, LAYOUTS["marked"], 45, weights=[1, 9])
    sources = [dataset.clips(epoch, row)[0] for epoch in range(8) for row in range(dataset.num_rows(epoch))]
    share = np.mean(sources)
    assert abs(share - 0.9) < 4 * np.sqrt(0.09 / len(sources))
    rows = [dataset.clips(0, row) for row in range(len(dataset))]
    drawn = np.bincount(np.concatenate([clips for source, clips in rows if source == 1]), minlength=25)
    assert drawn.min() > 1  # more rows than the corpus has: it is shuffled again
    assert drawn.max() - drawn.min() <= 1


# ------------------------------------------------------------------------------------------------------- the loader


def take(loader, count):
    return [batch.ids for batch in islice(loader, count)]


@pytest.mark.parametrize(("stop", "workers"), [(0, 0), (1, 0), (7, 2), (13, 0)])
def test_a_run_goes_on_where_it_stopped(packed, stop, workers):
    dataset = PackedDataset(packed[0], LAYOUTS["marked"], 100)  # some 20 rows: several epochs
    whole = take(PackedLoader(dataset, 4), 20)
    first = PackedLoader(dataset, 4, workers=workers)
    begun = take(first, stop)
    state = json.loads(json.dumps(first.state_dict()))
    assert set(map(type, state.values())) == {int}
    second = PackedLoader(pickle.loads(pickle.dumps(dataset)), 4, workers=1 if workers else 0)
    second.load_state_dict(state)
    assert torch.equal(torch.stack(begun + take(second, 20 - stop)), torch.stack(whole))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one(packed, world_size):
    dataset = PackedDataset(packed, LAYOUTS["marked"], 100)
    whole = take(PackedLoader(dataset, 4), 12)
    first = PackedLoader(dataset, 4)
    take(first, 5)  # one rank began, several go on
    parts = []
    for rank in range(world_size):
        loader = PackedLoader(dataset, 4, rank=rank, world_size=world_size)
        loader.load_state_dict(first.state_dict())
        parts.append(take(loader, 7))
    for number, batch in enumerate(zip(*parts, strict=True)):
        assert torch.equal(torch.cat(batch), whole[5 + number])


def test_epochs_follow_each_other_without_a_gap(packed):
    dataset = PackedDataset(packed[0], LAYOUTS["marked"], 100)
    rows = torch.cat(take(PackedLoader(dataset, 7), 10))
    keys = [(epoch, row) for epoch in range(9) for row in range(dataset.num_rows(epoch))]
    assert torch.equal(rows, torch.stack([torch.from_numpy(dataset[key]["ids"]) for key in keys[:70]]))


def test_seeds_decide_and_global_randomness_does_not(packed):
    def first(seed):
        return take(PackedLoader(PackedDataset(packed[0], LAYOUTS["marked"], 100, seed=seed), 2), 3)

    before = torch.get_rng_state()
    once = first(0)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(once, first(0), strict=True))
    assert not torch.equal(once[0], first(1)[0])
    torch.set_rng_state(before)
    first(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: PackedLoader(data, 5, world_size=2), "a batch of 5 rows for rank 0 of 2; expected a multiple"),
        (lambda data: PackedLoader(data, 4).load_state_dict({"epoch": 0}), "expected epoch and row"),
        (lambda data: PackedLoader(data, 4).load_state_dict({"epoch": 0, "row": 9999}), "is this the state of another"),
        (lambda data: PackedDataset(data.packed, LAYOUTS["marked"], 1), "rows of 1 steps"),
        (lambda data: PackedDataset(data.packed, LAYOUTS["marked"], 9, weights=[1, 2]), "2 weights for 1 corpora"),
        (lambda data: PackedDataset(data.packed, LAYOUTS["delayed"], 99, text="after"), "delayed layouts have no ids"),
        (
            lambda data: PackedDataset(data.packed, make_layout("flat", Vocabulary(0, FLEXI, 3)), 99),
            "flat does not fit .*: 3 acoustic codebooks asked, 2 there",
        ),
    ],
)
def test_what_does_not_fit_is_refused(packed, make, message):
    with pytest.raises(ValueError, match=message):
        make(PackedDataset(packed[0], LAYOUTS["marked"], 100))


# ------------------------------------------------------------------------------------------------- masks and models


def batch_of(dataset, count):
    return PackedBatch.collate([dataset[0, row] for row in range(count)])


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=LAYOUTS["marked"].vocabulary.size,
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_logits_are_each_clips_alone(packed, llama, attention):
    batch = batch_of(PackedDataset(packed[0], LAYOUTS["marked"], 100), 4)
    llama.set_attn_implementation(attention)
    together = llama(batch.ids, attention_mask=attention_mask(batch), position_ids=batch.position).logits
    assert torch.isfinite(together).all()
    for row in range(4):
        for document in range(int(batch.document[row].max()) + 1):
            here = batch.document[row] == document
            alone = llama(batch.ids[row, here][None]).logits
            assert torch.allclose(together[row, here], alone[0], atol=1e-5)


def attention_inputs():
    return torch.randn(3, 3, 2, 100, 8, generator=torch.Generator().manual_seed(0))


def test_dense_attention_is_each_clips_alone(packed):
    batch = batch_of(PackedDataset(packed[0], LAYOUTS["marked"], 100), 3)
    query, key, value = attention_inputs()
    attend = torch.nn.functional.scaled_dot_product_attention
    dense = attend(query, key, value, attn_mask=attention_mask(batch))
    assert torch.isfinite(dense).all()
    for row, document in ((0, 0), (1, 1), (2, int(batch.document[2].max()))):
        here = batch.document[row] == document
        alone = attend(*(each[row, :, here] for each in (query, key, value)), is_causal=True)
        assert torch.allclose(dense[row, :, here], alone, atol=1e-5)


@pytest.mark.slow
def test_flex_attention_is_dense_attention(packed):
    from torch.nn.attention.flex_attention import flex_attention

    batch = batch_of(PackedDataset(packed[0], LAYOUTS["marked"], 100), 3)
    query, key, value = attention_inputs()
    with pytest.warns(UserWarning, match="without torch.compile"):
        flexible = flex_attention(query, key, value, block_mask=block_mask(batch))
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask(batch))
    assert torch.allclose(flexible, dense, atol=1e-5)


@pytest.mark.slow
def test_flattened_is_what_the_collator_of_transformers_makes(packed):
    from transformers import DataCollatorWithFlattening

    dataset = PackedDataset(packed[0], LAYOUTS["marked"], 100)
    clips = [clip for row in range(3) for clip in dataset.clips(0, row)[1]]
    alone = [{"input_ids": expected(packed[0], LAYOUTS["marked"], clip).tolist()[:100]} for clip in clips]
    theirs = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(alone)
    ours = to_flattened(batch_of(dataset, 3))
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name])), name
        assert not isinstance(value, torch.Tensor) or value.dtype == theirs[name].dtype, name


def test_labels_leave_out_holes_and_first_steps(packed):
    batch = batch_of(PackedDataset(packed[0], LAYOUTS["delayed"], 100), 2)
    labels = batch.labels()
    assert ((labels == -100) == ((batch.kinds == Kind.PAD) | (batch.position == 0)[:, None])).all()
    assert torch.equal(labels[labels >= 0], batch.ids[labels >= 0])
    with pytest.raises(ValueError, match="delayed streams have no input_ids"):
        to_flattened(batch)
