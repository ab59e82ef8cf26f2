"""Clips have tokens at every setting and their phones; missing clips and phones are listed."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from flexicodec.analysis.collect import choose_source, clip_alignment, collect, evenly_spaced
from flexicodec.asr import Recognizer
from flexicodec.corpus import Utterance
from flexicodec.corpus.alignment import Segment, write_ctm, write_textgrid


def test_every_setting_makes_its_tokens(gathered, listening_codec):
    assert [s.name for s in gathered.settings] == ["12.5 Hz", "6.25 Hz", "6.25 Hz, every clip"]
    assert [s.is_exact for s in gathered.settings] == [False, False, True]
    assert gathered.levels == listening_codec.semantic_quantizer.config.levels
    assert not gathered.reasons
    for clip in gathered.clips:
        assert clip.tokens.keys() == {s.name for s in gathered.settings}
        assert (clip.tokens["12.5 Hz"].durations == 1).all()
        assert len(clip.similarities) == int(clip.tokens["6.25 Hz"].frame_lengths[0]) - 1
        exact = clip.tokens["6.25 Hz, every clip"]
        assert abs(int(exact.token_lengths[0]) - 6.25 * clip.seconds) <= 0.5


def test_corpus_rates_are_met_by_one_tau(gathered):
    tokens = [clip.tokens["6.25 Hz"] for clip in gathered.clips]
    assert sum(int(each.token_lengths[0]) for each in tokens) / gathered.seconds == pytest.approx(6.25, rel=0.02)
    assert len({round(float(each.frame_rates[0]), 2) for each in tokens}) > 3


def test_tokens_are_those_of_encode(gathered, listening_codec):
    clip = gathered.clips[3]
    for setting in gathered.settings:
        choice = {"frame_rate": setting.frame_rate} if setting.is_exact else {"threshold": setting.threshold}
        assert clip.tokens[setting.name] == listening_codec.encode(clip.audio, **choice)


def test_phones_are_those_of_the_files(gathered, utterances):
    assert (gathered.source, gathered.unit, gathered.listed) == ("alignment", "phones", 12)
    for clip, utterance in zip(gathered.clips, utterances, strict=True):
        assert (clip.id, clip.speaker) == (utterance.id, utterance.speaker)
        assert sum(p.label not in ("", "sil") for p in clip.alignment.phones) == utterance.num_phones
    assert gathered.speakers == 3
    assert gathered.clusters()[:2] == ["speaker s0", "speaker s1"]


def test_distortion_of_merging(gathered):
    found = gathered.distortion
    losses = found.lost.sum(2) / found.whole.sum()
    assert losses.shape == (4, len(found.frame_rates))
    assert (np.diff(losses[2]) <= 0).all()  # more tokens never lose more, where they are placed best
    tau, exact, least, uniform = losses
    assert (least <= np.minimum(exact, uniform) + 1e-12).all()
    rates = found.tokens.sum(2) / found.seconds.sum()
    assert rates == pytest.approx(np.broadcast_to(found.frame_rates, rates.shape), rel=0.05)


def test_missing_phones_are_counted(listening_codec, utterances, tmp_path):
    bad = tmp_path / "bad.TextGrid"
    bad.write_text("no grid")
    odd = [
        replace(utterances[0], alignment=None),
        replace(utterances[1], alignment=tmp_path / "none.TextGrid"),
        replace(utterances[2], alignment=bad),
        replace(utterances[3], path=tmp_path / "none.wav"),
        utterances[4],
    ]
    found = collect(listening_codec, odd, thresholds=(0.9,))
    assert len(found.clips) == 4
    assert [clip.id for clip in found.with_phones] == ["4"]
    assert [name for name, _ in found.without_phones] == ["0", "1", "2"]
    assert found.unread[0][0] == "3"
    assert found.reasons == {"alignment cannot be used": 2, "audio cannot be read": 1, "no alignment": 1}


def test_an_alignment_of_another_clip_is_not_used(listening_codec, utterances):
    shortest, *_, longest = sorted(utterances, key=lambda u: u.duration)
    swapped = replace(shortest, alignment=longest.alignment)
    found = collect(listening_codec, [swapped, longest], thresholds=(0.9,))
    assert [clip.has_phones for clip in found.clips] == [False, True]
    assert "is it of another clip?" in found.without_phones[0][1]
    found = collect(listening_codec, [replace(longest, alignment=shortest.alignment)], thresholds=(0.9,))
    assert "is it of another clip?" in found.without_phones[0][1]  # too short is no better than too long


def test_guessed_speakers_are_unknown(listening_codec, utterances):
    guessed = [replace(utterances[0], speaker_guessed=True), *utterances[1:3]]
    found = collect(listening_codec, guessed, thresholds=(0.9,))
    assert [clip.speaker for clip in found.clips] == [None, utterances[1].speaker, utterances[2].speaker]


def test_silence_is_a_clip_like_any_other(listening_codec, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    write_textgrid(tmp_path / "silent.TextGrid", {"phones": [Segment(0, 1, "sil")]}, 1.0)
    silent = Utterance(tmp_path / "silent.wav", 1.0, alignment=tmp_path / "silent.TextGrid")
    found = collect(listening_codec, [silent], thresholds=(0.9,))
    (clip,) = found.with_phones
    assert clip.tokens["tau 0.9"].durations.tolist() == [[8, 5]]
    assert np.isfinite(found.distortion.lost).all()


def test_phones_by_count_or_by_recogniser(listening_codec, utterances):
    plain = [replace(u, alignment=None) for u in utterances[:3]]
    counted = collect(listening_codec, plain, thresholds=(0.9,))
    assert counted.source == "counts"
    assert [clip.num_phones for clip in counted.clips] == [u.num_phones for u in plain]

    texts = [replace(u, num_phones=None) for u in plain]
    texts[2] = replace(texts[2], text=None)
    collected = collect(listening_codec, texts, thresholds=(0.9,))
    assert (collected.source, collected.unit) == ("recogniser", "letters")
    assert ["".join(s.label for s in clip.symbols) for clip in collected.with_phones] == ["soitis"] * 2
    assert collected.reasons == {"no text": 1}


def test_a_text_that_cannot_be_spelt(listening_codec, utterances):
    odd = [replace(utterances[0], text="ein schöner Weg")]
    found = collect(listening_codec, odd, thresholds=(0.9,), source="recogniser")
    assert found.without_phones[0][1].startswith("the recogniser cannot spell the text")


def test_transcripts_come_from_the_given_recogniser(listening_codec, utterances):
    recognizer = Recognizer.load("recognizer-mini")
    found = collect(
        listening_codec, utterances[:2], thresholds=(0.9,), transcribe=lambda audio: recognizer.transcribe(audio)[0]
    )
    assert [clip.transcript for clip in found.clips] == [recognizer.transcribe(c.audio)[0] for c in found.clips]


def test_sources_in_their_order(utterances):
    assert choose_source(utterances) == "alignment"
    bare = [replace(u, alignment=None, num_phones=None) for u in utterances]
    assert choose_source(bare) == "recogniser"
    assert choose_source([bare[0], utterances[1]]) == "alignment"
    assert choose_source([replace(u, text=None) for u in bare]) == "counts"


def test_a_limit_is_spread_over_the_manifest(utterances):
    assert [u.id for u in evenly_spaced(utterances, 3)] == ["0", "4", "8"]
    assert evenly_spaced(utterances, 100) == utterances
    with pytest.raises(ValueError, match="limit is 0"):
        evenly_spaced(utterances, 0)


def test_a_part_of_a_file_takes_its_part_of_the_alignment(utterances):
    whole = utterances[0]
    part = replace(whole, start=0.5, duration=1.0)
    phones = clip_alignment(part, 1.0).phones
    assert max(p.end for p in phones) <= 1.0
    inner = {(round(p.start + 0.5, 6), p.label) for p in phones[1:-1]}
    assert len(inner) > 2
    assert inner <= {(round(p.start, 6), p.label) for p in clip_alignment(whole, whole.duration).phones}


def test_alignments_of_many_clips_are_told_apart_by_id(utterances, tmp_path):
    path = tmp_path / "all.ctm"
    write_ctm(path, {"0": [Segment(0.1, 0.2, "AA")], "1": [Segment(0.3, 0.5, "S")]})
    (phone,) = clip_alignment(replace(utterances[1], alignment=path), 2.0).phones
    assert phone.label == "S"
    with pytest.raises(ValueError, match="no utterance '7'"):
        clip_alignment(replace(utterances[7], alignment=path), 2.0)


def test_what_cannot_be_done_is_refused_before_the_work(listening_codec, nanocodecs, utterances):
    with pytest.raises(ValueError, match="neither frame rates nor thresholds"):
        collect(listening_codec, utterances)
    with pytest.raises(ValueError, match="frame_rate is 20 Hz"):
        collect(listening_codec, utterances, frame_rates=(20,))
    with pytest.raises(ValueError, match="threshold is 2"):
        collect(listening_codec, utterances, thresholds=(2,))
    with pytest.raises(ValueError, match="expected one of alignment, counts, recogniser"):
        collect(listening_codec, utterances, thresholds=(0.9,), source="mfa")
    with pytest.raises(ValueError, match="1 ids occur more than once"):
        collect(listening_codec, [*utterances, utterances[0]], thresholds=(0.9,))
    with pytest.raises(ValueError, match="fixed rate of"):
        collect(nanocodecs["nano"], utterances, thresholds=(0.9,))
    with pytest.raises(ValueError, match="none of 1 clips can be read; the first: audio cannot be read"):
        collect(listening_codec, [replace(utterances[0], duration=900.0)], thresholds=(0.9,))
