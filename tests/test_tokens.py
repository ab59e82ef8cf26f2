"""Laws of `Tokens`: validation, slicing and joining, and rates."""

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.token_format import RELEASED
from flexicodec.tokens import TokenFormat, Tokens

TINY = TokenFormat(
    frame_size=1280, semantic_codebook_size=20, acoustic_codebook_size=6, fingerprint="f00d", model="tiny"
)
FIXED = TokenFormat(
    sample_rate=22050,
    frame_size=1764,
    semantic_codebook_size=None,
    acoustic_codebook_size=4032,
    max_duration=1,
    parallel_codebooks=True,
)


def one_clip(num_tokens=5, num_codebooks=2, format=TINY, known=True, seed=0, **changes):
    """Random tokens of one clip, the last frame half filled with audio."""
    draw = np.random.default_rng(seed)
    longest = 40 if format.max_duration is None else format.max_duration
    durations = draw.integers(1, longest + 1, (1, num_tokens))
    semantic = None
    if format.semantic_codebook_size is not None:
        semantic = draw.integers(0, format.semantic_codebook_size, (1, num_tokens))
    values = {
        "semantic": semantic,
        "acoustic": draw.integers(0, format.acoustic_codebook_size, (1, num_codebooks, num_tokens)),
        "durations": durations,
        "audio_lengths": [int(durations.sum()) * format.frame_size - format.frame_size // 2] if known else None,
        "format": format,
    }
    return Tokens(**(values | changes))


def batch(sizes=(5, 1, 3), **options):
    return Tokens.cat([one_clip(size, seed=seed, **options) for seed, size in enumerate(sizes)])


@st.composite
def some_clip(draw, min_codebooks=0):
    format = TokenFormat(
        semantic_codebook_size=draw(st.sampled_from([None, 2, 1000, 32768])),
        acoustic_codebook_size=draw(st.sampled_from([1, 2, 1025, 2**32])),
        max_duration=draw(st.sampled_from([None, 1, 2, 8, 9])),
    )
    min_codebooks = max(min_codebooks, int(format.semantic_codebook_size is None))
    num_codebooks = draw(st.integers(min_codebooks, 4))
    return one_clip(draw(st.integers(1, 20)), num_codebooks, format, draw(st.booleans()), draw(st.integers(0, 99)))


# ----------------------------------------------------------------------------------------------------------- building


def test_tensors_arrays_and_lists_of_any_integers_are_the_same():
    lists = Tokens([[3, 19]], [[[1, 2], [5, 0]]], [[1, 8]], format=TINY)
    for make in (
        lambda x: np.array(x, np.uint16),
        lambda x: np.array(x, ">i4"),
        lambda x: torch.tensor(x, dtype=torch.uint8),
        lambda x: torch.tensor(x, dtype=torch.int32),
    ):
        assert Tokens(make([[3, 19]]), make([[[1, 2], [5, 0]]]), make([[1, 8]]), format=TINY) == lists
    assert Tokens([3, 19], [[1, 2], [5, 0]], [1, 8], format=TINY) == lists  # one clip, without the batch axis
    for name in ("semantic", "acoustic", "durations"):
        assert getattr(lists, name).dtype == torch.int64
    assert Tokens([3, 19], None, [1, 8], 11000, format=TINY) == Tokens([[3, 19]], None, [[1, 8]], [11000], format=TINY)


def test_tokens_do_not_share_memory_with_what_they_were_made_of():
    semantic, durations = torch.tensor([[1, 2]]), torch.tensor([[1, 1]])
    tokens = Tokens(semantic, None, durations)
    semantic[:], durations[:] = 9, 0
    assert tokens.semantic.tolist() == [[1, 2]]
    assert tokens.durations.tolist() == [[1, 1]]
    with pytest.raises(FrozenInstanceError):
        tokens.semantic = semantic


def test_codes_in_padding_become_zero_whatever_they_were():
    tokens = Tokens([[3, 99], [4, 5]], [[[1, -7]], [[2, 3]]], [[2, 0], [1, 1]], format=TINY)
    assert tokens.semantic.tolist() == [[3, 0], [4, 5]]
    assert tokens.acoustic.tolist() == [[[1, 0]], [[2, 3]]]
    assert tokens.token_lengths.tolist() == [1, 2]
    assert tokens.frame_lengths.tolist() == [2, 2]


def test_semantic_only():
    for acoustic in (None, torch.zeros(1, 0, 2, dtype=torch.int64)):
        tokens = Tokens([[1, 2]], acoustic, [[1, 1]])
        assert tokens.acoustic.shape == (1, 0, 2)
        assert tokens.num_codebooks == 0


def test_fixed_rate_needs_no_durations():
    tokens = Tokens(acoustic=torch.zeros(2, 8, 3, dtype=torch.int64), format=FIXED)
    assert tokens.semantic is None
    assert tokens.durations.tolist() == [[1, 1, 1]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic": [[1.0, 2, 3, 4, 5]]}, "float64, expected integers"),
        ({"semantic": torch.rand(1, 5)}, "float32, expected integers; are these logits"),
        ({"acoustic": torch.zeros(1, 2, 5, dtype=torch.bool)}, "bool, expected integers"),
        ({"durations": [[True] * 5]}, "bool, expected integers"),
        ({"semantic": [["1", "2", "3", "4", "5"]]}, "expected integers"),
        ({"semantic": [[2**64, 0, 0, 0, 0]]}, "expected integers"),
        ({"semantic": np.full((1, 5), 2**63, np.uint64)}, "expected integers"),
        ({"semantic": [[1, 2, 3, 4, 5], [1]]}, "different length one by one"),
        ({"semantic": [[[1, 2, 3, 4, 5]]]}, r"shape \[1, 1, 5\], expected \[batch, tokens\]"),
        ({"acoustic": [1, 2, 3, 4, 5]}, r"shape \[5\], expected \[batch, codebooks, tokens\]"),
        ({"semantic": [1, 2, 3, 4, 5]}, "some have none"),
        ({"semantic": [[1, 2, 3, 4]]}, "do not agree"),
        ({"acoustic": [[[1, 2, 3, 4]]]}, "do not agree"),
        ({"durations": [[1] * 5] * 2}, "do not agree"),
        ({"durations": None}, "durations are missing"),
        ({"semantic": None}, "semantic_codebook_size=20"),
        ({"semantic": None, "acoustic": None}, "neither semantic nor acoustic"),
        ({"semantic": [[1] * 5], "format": replace(TINY, semantic_codebook_size=None)}, "semantic_codebook_size=None"),
        ({"semantic": [[0, 0, 0, 20, 0]]}, "semantic code 20 of token 3 in clip 0, expected 0 to 19; is a vocabulary"),
        ({"semantic": [[0, -1, 0, 0, 0]]}, "semantic code -1 of token 1"),
        (
            {"acoustic": [[[0] * 5, [0, 6, 0, 0, 0]]]},
            "acoustic code 6 of token 1, codebook 1 in clip 0, expected 0 to 5",
        ),
        ({"durations": [[1, 1, 9, 1, 1]]}, "duration 9 of token 2 in clip 0, expected 0 .* to 8 frames"),
        ({"durations": [[1, 1, 1, 1, -1]]}, "duration -1 of token 4"),
        ({"durations": [[1, 0, 1, 1, 0]]}, "duration 0 of token 1 in clip 0 marks padding"),
        ({"durations": [[0, 1, 1, 1, 1]]}, "duration 0 of token 0 in clip 0 marks padding"),
        (
            {"semantic": torch.zeros(0, 5).long(), "acoustic": None, "durations": torch.zeros(0, 5).long()},
            "at least one",
        ),
        ({"audio_lengths": [1.5]}, "audio_lengths has type float64"),
        ({"audio_lengths": [100, 100]}, "2 entries for 1 clips"),
        ({"audio_lengths": [0]}, "audio length 0 of clip 0"),
        ({"durations": [[0] * 5], "audio_lengths": [1]}, "sum to 0 frames"),
        ({"durations": [[0] * 5], "audio_lengths": [-1]}, "audio length -1"),
        ({"audio_lengths": [-5]}, "audio length -5"),
        ({"info": {"a": float("nan")}}, "finite"),
        ({"info": {"a": {}}}, "finite"),
        ({"info": {"a": [1, 2]}}, "2 values for 1 clips"),
        ({"info": {1: 2}}, "names as keys"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        one_clip(**{"known": False} | changes)


def test_a_format_that_was_left_out_is_named():
    with pytest.raises(ValueError, match=r"format is None, expected a TokenFormat: format=codec\.format"):
        Tokens(acoustic=[[1, 2]], durations=[1, 1], format=None)
    with pytest.raises(
        ValueError, match=r"no semantic codes, but .* as none was given: is format=codec.format missing"
    ):
        Tokens(acoustic=[[1, 2]], durations=[1, 1])
    with pytest.raises(ValueError, match=r"durations are missing, .* is format=codec.format missing"):
        Tokens(acoustic=[[1, 2]])
    with pytest.raises(ValueError, match=r"semantic_codebook_size=20$"):
        Tokens(acoustic=[[1, 2]], durations=[1, 1], format=TINY)


@pytest.mark.parametrize("max_duration", [1, 8, None])
def test_a_clip_may_have_no_tokens_yet(max_duration, tmp_path):
    form = replace(TINY, max_duration=max_duration)
    nothing = Tokens([], [[], []], [], format=form)
    padded = Tokens([[3, 4], [5, 5]], torch.zeros(2, 2, 2, dtype=torch.int64), [[1, 1], [0, 0]], format=form)
    assert nothing == padded[1] == Tokens.cat([nothing, nothing])[0] == Tokens.concat([nothing, nothing])
    assert nothing != padded[0]
    assert Tokens.concat([nothing, padded[0], nothing]) == padded[0]
    assert Tokens.cat([padded[0], nothing]) == padded
    assert padded.token_lengths.tolist() == [2, 0]
    assert nothing.times(0).shape == (0, 2)
    for measured in (padded.seconds, padded.frame_rates, padded.bitrates_kbps):
        assert measured[0] > 0 == measured[1]
    assert nothing.bitrates_kbps.tolist() == [0]
    assert repr(nothing) == "Tokens(1 clip, no tokens)"
    assert Tokens([], None, [], audio_lengths=[0], format=form).seconds.tolist() == [0]
    with pytest.raises(ValueError, match="clip 0 has no token; a whole clip has at least one"):
        nothing.save(tmp_path / "nothing.flxc")


def test_frames_cover_the_audio_but_for_two_of_the_tail():
    for frames in (1, 2, 3, 10):
        durations = [[8] * (frames // 8) + [frames % 8]]
        codes = [[0] * len(durations[0])]
        for samples in range(1, 14 * 1280, 160):
            whole = -(-samples // 1280)
            if max(whole - 2, 1) <= frames <= whole:
                assert Tokens(codes, None, durations, [samples]).frame_lengths.tolist() == [frames]
            else:
                message = rf"durations sum to {frames} frames but the audio has {whole} \(16000 Hz, 1280 samples per"
                with pytest.raises(ValueError, match=message):
                    Tokens(codes, None, durations, [samples])
    with pytest.raises(ValueError, match="durations of clip 1 sum to 4 frames but the audio has 100"):
        Tokens([[0], [0]], None, [[4], [4]], [4 * 1280, 100 * 1280])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16000.0}, "sample_rate is 16000.0"),
        ({"frame_size": 0}, "frame_size is 0"),
        ({"acoustic_codebook_size": None}, "acoustic_codebook_size is None"),
        ({"semantic_codebook_size": 2**32 + 1}, "semantic_codebook_size is"),
        ({"max_duration": True}, "max_duration is True"),
        ({"fingerprint": 3}, "fingerprint is 3"),
        ({"parallel_codebooks": 1}, "parallel_codebooks is 1"),
    ],
)
def test_bad_formats_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TokenFormat(**changes)


# ----------------------------------------------------------------------------------------------------------- measures


def test_bitrate_of_the_paper():
    format = TokenFormat()
    assert (format.base_frame_rate, format.semantic_bits, format.acoustic_bits, format.duration_bits) == (
        12.5,
        15,
        12,
        3,
    )
    tokens = one_clip(125, 7, format, durations=[[1] * 125], audio_lengths=[160000])
    assert tokens.frame_rates.tolist() == [12.5]
    assert tokens.bitrates_kbps.tolist() == pytest.approx([1.275])  # 12.5 (15 + 3 + 7 * 12) bits per second
    halved = one_clip(62, 7, format, durations=[[2] * 61 + [3]], audio_lengths=[160000])
    assert halved.bitrates_kbps.tolist() == pytest.approx([6.2 * (15 + 3 + 84) / 1000])


def test_bits_of_sizes_that_are_no_powers_of_two():
    format = TokenFormat(semantic_codebook_size=32769, acoustic_codebook_size=4032, max_duration=9)
    assert (format.semantic_bits, format.acoustic_bits, format.duration_bits) == (16, 12, 4)
    assert (FIXED.semantic_bits, FIXED.duration_bits) == (0, 0)
    assert replace(TINY, max_duration=None).duration_bits is None


def test_each_clip_of_a_batch_has_its_own_rates():
    for known in (True, False):
        for format in (TINY, replace(TINY, max_duration=None)):
            tokens = batch(format=format, known=known)
            for i in range(3):
                for name in ("seconds", "frame_rates", "bitrates_kbps", "token_lengths", "frame_lengths"):
                    assert getattr(tokens, name)[i] == getattr(tokens[i], name)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(some_clip())
def test_times_are_in_order_and_sum_up(tokens):
    times = tokens.times(0)
    assert times.shape == (tokens.token_lengths[0], 2)
    assert torch.equal(times[1:, 0], times[:-1, 1])
    assert (times[:, 1] > times[:, 0]).all()
    assert times[0, 0] == 0
    assert times[-1, 1] == tokens.seconds[0]  # the tokens of some_clip cover the audio


def test_times_end_with_the_frames_where_the_tail_is_dropped():
    tokens = Tokens([[1, 2]], None, [[2, 1]], [4 * 1280 + 1])
    assert tokens.times(0).tolist() == [[0.0, 0.16], [0.16, 0.24]]
    with pytest.raises(IndexError, match="clip 1 of 1"):
        tokens.times(1)


def test_repr_says_it_in_a_line():
    durations = [[1] * 40 + [3] * 5 + [2] * 33 + [8] * 2]
    tokens = one_clip(80, 24, TokenFormat(), durations=durations, audio_lengths=[137 * 1280 - 1])
    assert repr(tokens) == "Tokens(1 clip, 11.0 s, 80 tokens, 7.3 Hz, 1+24 codebooks, 2.23 kbps)"
    fixed = Tokens(acoustic=torch.zeros(2, 13, 25, dtype=torch.int64), format=FIXED)
    assert repr(fixed) == "Tokens(2 clips, 4.0 s, 50 tokens, 12.5 Hz, 0+13 codebooks, 1.95 kbps)"


# -------------------------------------------------------------------------------------------------- selecting, joining


def test_joining_what_was_taken_apart_gives_the_same():
    for known in (True, False):
        tokens = batch((5, 1, 3, 8), known=known)
        assert len(tokens) == 4
        assert [len(part) for part in tokens] == [1] * 4
        assert Tokens.cat(tokens) == tokens
        assert Tokens.cat([tokens[:3], tokens[3:]]) == tokens
        assert tokens[-1] == tokens[3] == one_clip(8, seed=3, known=known)
        assert tokens[1].durations.shape == (1, 1)  # idle padding is cut off
        assert tokens[::-2] == Tokens.cat([tokens[3], tokens[1]])


def test_clips_out_of_range():
    with pytest.raises(IndexError, match="clip 3 of 3"):
        batch()[3]
    with pytest.raises(IndexError, match="clip -4 of 3"):
        batch()[-4]
    with pytest.raises(ValueError, match="selects none of 3 clips"):
        batch()[3:]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (one_clip(format=replace(TINY, fingerprint="beef")), "differs in fingerprint: 'f00d' and 'beef'"),
        (one_clip(format=replace(TINY, max_duration=9)), "differs in max_duration: 8 and 9"),
        (one_clip(num_codebooks=1), r"\[1, 2\] codebooks; keep\(acoustic=1\)"),
        (one_clip(known=False), "with and without audio_lengths"),
    ],
)
def test_what_cannot_be_joined(other, message):
    with pytest.raises(ValueError, match=message):
        Tokens.cat([one_clip(), other])
    with pytest.raises(ValueError, match="no tokens to join"):
        Tokens.cat([])


def test_keep_takes_the_first_codebooks_and_leaves_timing():
    tokens = batch(num_codebooks=3)
    for count in range(4):
        kept = tokens.keep(acoustic=count)
        assert torch.equal(kept.acoustic, tokens.acoustic[:, :count])
        assert torch.equal(kept.durations, tokens.durations)
        assert kept.keep(count) == kept
    for count in (4, -1):
        with pytest.raises(ValueError, match=f"{count} acoustic codebooks asked, 3 there"):
            tokens.keep(acoustic=count)
    with pytest.raises(ValueError, match="neither semantic nor acoustic"):
        one_clip(format=replace(TINY, semantic_codebook_size=None)).keep(acoustic=0)


def test_parallel_codebooks_stay_together(tmp_path):
    tokens = one_clip(4, 8, FIXED)
    assert tokens.keep(acoustic=8) == tokens
    with pytest.raises(ValueError, match="4 of 8 parallel codebooks"):
        tokens.keep(acoustic=4)
    tokens.save(tmp_path / "clip.flxc")
    with pytest.raises(ValueError, match="4 of 8 parallel codebooks"):
        Tokens.load(tmp_path / "clip.flxc", acoustic=4)


def test_equality_compares_all_but_unused_padding_and_notes():
    tokens = one_clip()
    padded = Tokens(
        *(torch.nn.functional.pad(x, (0, 3)) for x in (tokens.semantic, tokens.acoustic, tokens.durations)),
        tokens.audio_lengths,
        TINY,
        {"threshold": 0.9},
    )
    assert padded.durations.shape[1] == 8
    assert padded == tokens
    assert tokens != "tokens"
    changes = {
        "semantic": (tokens.semantic + 1) % 20,
        "acoustic": tokens.acoustic.flip(1),
        "durations": tokens.durations.flip(1),
        "audio_lengths": None,
        "format": replace(TINY, fingerprint="other"),
    }
    for name, value in changes.items():
        assert replace(tokens, **{name: value}) != tokens
    assert replace(tokens, audio_lengths=tokens.audio_lengths - 1) != tokens
    assert batch() != batch()[:2]
    with pytest.raises(TypeError, match="unhashable"):
        hash(tokens)


def test_notes_follow_their_clips(tmp_path):
    parts = [one_clip(info={"policy": "threshold", "threshold": tau}) for tau in (0.9, 0.8, 0.8)]
    tokens = Tokens.cat(parts)
    assert tokens.info == {"policy": "threshold", "threshold": [0.9, 0.8, 0.8]}
    assert tokens[0].info == {"policy": "threshold", "threshold": 0.9}
    assert tokens[1:].info["threshold"] == 0.8
    assert Tokens.cat([one_clip(), parts[0]]).info["threshold"] == [None, 0.9]
    given = replace(tokens, info={"frame_rate": torch.tensor([6.5, 4.0, 4.5]), "layer": np.int64(3)})
    assert given.info == {"frame_rate": [6.5, 4.0, 4.5], "layer": 3}
    given[2].save(tmp_path / "clip.flxc")
    assert Tokens.load(tmp_path / "clip.flxc").info == {"frame_rate": 4.5, "layer": 3}


def test_copies():
    tokens = batch()
    assert pickle.loads(pickle.dumps(tokens)) == tokens
    assert copy.deepcopy(tokens) == tokens
    moved = tokens.to("cpu")
    assert moved == tokens
    assert moved.durations is not tokens.durations


# What a model accepts


@pytest.mark.parametrize(
    "given", [one_clip(), batch(), one_clip(format=replace(TINY, fingerprint=None)), one_clip(5, 0)]
)
def test_a_format_accepts_its_tokens_and_those_without_a_fingerprint(given):
    TINY.check(given, num_codebooks=2)


@pytest.mark.parametrize(
    ("given", "format", "message"),
    [
        ([[1, 2]], TINY, "decode takes Tokens, got a list"),
        (one_clip(), replace(TINY, fingerprint="beef"), r"fingerprint f00d \(tiny\), and this one's is beef"),
        (one_clip(), replace(TINY, frame_size=640), "a grid of 1280 samples at 16000 Hz, this model's is 640"),
        (one_clip(), replace(TINY, semantic_codebook_size=None), "have semantic codes and this model has none"),
        (one_clip(5, 3), TINY, "hold 3 acoustic codebooks and the model has 2"),
        (one_clip(5, 1, FIXED), FIXED, "hold 1 of this model's 2 parallel codebooks"),
        (one_clip(acoustic=[[[5] * 5]]), replace(TINY, acoustic_codebook_size=4), "acoustic code 5 is out of range"),
        (Tokens([[]], None, [[]], format=TINY), TINY, "clip 0 has no token"),
    ],
)
def test_a_format_refuses_other_tokens_and_says_why(given, format, message):
    with pytest.raises(ValueError, match=message):
        format.check(given, num_codebooks=2)


def test_a_stream_may_have_no_tokens_yet():
    TINY.check(Tokens([[]], None, [[]], format=TINY), num_codebooks=2, may_be_empty=True)


# ---------------------------------------------------------------------------------------------------- side information


def adaptive_bits(durations, size):
    """The code of Krichevsky and Trofimov, a duration after another."""
    counts, bits = [0.5] * size, 0.0
    for duration in durations:
        bits -= math.log2(counts[duration - 1] / sum(counts))
        counts[duration - 1] += 1
    return bits


@pytest.mark.parametrize("longest", [8, 5, None])
@pytest.mark.parametrize("durations", [[1], [3, 1, 1, 2], [1] * 30, [5, 4, 3, 2, 1]])
def test_bitrates_say_how_durations_are_counted(durations, longest):
    form = replace(RELEASED, max_duration=longest)
    tokens = Tokens([0] * len(durations), None, durations, format=form)
    size = longest or max(durations)
    seconds = sum(durations) * 0.08
    bits = {
        "lengths": len(durations) * (size - 1).bit_length(),
        "mask": sum(durations),
        "entropy": adaptive_bits(durations, size),
    }
    padded = Tokens.cat([tokens, Tokens([0], None, [1], format=form)])
    for name, expected in bits.items():
        kbps = (15 * len(durations) + expected) / seconds / 1000
        assert tokens.bitrates_kbps(side_information=name).tolist() == pytest.approx([kbps])
        assert float(padded.bitrates_kbps(name)[0]) == pytest.approx(kbps)
    assert torch.equal(tokens.bitrates_kbps(), tokens.bitrates_kbps)
    assert type(tokens.bitrates_kbps * 2) is torch.Tensor


def test_a_mask_is_cheaper_above_a_third_of_the_grid():
    for duration, is_cheaper in ((2, True), (4, False)):
        tokens = Tokens([0] * 10, None, [duration] * 10, format=replace(RELEASED))
        assert bool(tokens.bitrates_kbps("mask") < tokens.bitrates_kbps("lengths")) == is_cheaper


def test_durations_of_a_fixed_rate_cost_nothing():
    tokens = Tokens([0] * 5, None, format=replace(RELEASED, max_duration=1))
    for name in ("lengths", "mask", "entropy"):
        assert tokens.bitrates_kbps(name).tolist() == pytest.approx([15 / 0.08 / 1000])
    with pytest.raises(ValueError, match="side_information is 'flags'; expected one of 'lengths', 'mask', 'entropy'"):
        tokens.bitrates_kbps("flags")
