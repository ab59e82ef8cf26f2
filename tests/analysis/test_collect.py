"""Clips have tokens at every setting and their phones; missing clips and phones are listed."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from flexicodec.analysis.collect import choose_source, clip_alignment, collect, evenly_spaced
from flexicodec.asr import Recognizer
from flexicodec.corpus import Utterance
from flexicodec.corpus.alignments.alignment import Segment, write_ctm, write_textgrid


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


def test_further_policies_are_compared(listening_codec, utterances):
    names = ("joint:acoustic=0.5", "centroid:cap=4")
    found = collect(listening_codec, utterances[:2], thresholds=(0.9,), policies=names).distortion
    assert found.policies[4:] == names
    least = list(found.policies).index("least variance, every clip")
    assert (found.tokens[4] == found.tokens[least]).all()
    assert (found.lost[4] >= found.lost[least] - 1e-6).all()
    assert (found.tokens[5] >= found.tokens[least]).all()  # a lower cap may take more
    for name, message in (("centriod", "did you mean 'centroid'"), ("density-peaks", "and not frame_rate")):
        with pytest.raises(ValueError, match=message):
            collect(listening_codec, utterances[:2], thresholds=(0.9,), policies=[name])


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


def test_the_beginning_of_a_file_takes_its_part_of_the_alignment(utterances, tmp_path):
    whole = utterances[0]
    ctm = tmp_path / "all.ctm"
    write_ctm(ctm, {whole.path.stem: [s for s in clip_alignment(whole, whole.duration).phones if s.label], "x": []})
    for alignment in (whole.alignment, ctm):
        part = replace(whole, duration=1.0, id="part", alignment=alignment)
        phones = clip_alignment(part, 1.0).phones
        assert 0 < len(phones) < len(clip_alignment(whole, whole.duration).phones)
        assert max(p.end for p in phones) <= 1.0


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


GRID = """File type = "ooTextFile"\nObject class = "TextGrid"\n0\n{end}\n<exists>\n{size}\n{tiers}"""


def write_tiers(path, tiers, end, kind="IntervalTier"):
    """A TextGrid in which each tier has one label over the whole clip."""
    parts = []
    for name, label in tiers.items():
        times = f"0\n{end}" if kind == "IntervalTier" else "0.1"
        parts.append(f'"{kind}"\n"{name}"\n0\n{end}\n1\n{times}\n"{label}"\n')
    path.write_text(GRID.format(end=end, size=len(tiers), tiers="".join(parts)))
    return path


def test_the_manifest_says_whose_phones_are_read(utterances, tmp_path):
    grid = write_tiers(tmp_path / "call.TextGrid", {"anna - phones": "S", "ben - phones": "T", "ben - words": "w"}, 2)
    ben = replace(utterances[0], alignment=grid, speaker="ben")
    assert [s.label for s in (*clip_alignment(ben, 2.0).phones, *clip_alignment(ben, 2.0).words)] == ["T", "w"]
    assert clip_alignment(replace(ben, speaker="anna"), 2.0).words == ()
    for other in ("cora", None):
        with pytest.raises(ValueError, match="has the speakers 'anna', 'ben'"):
            clip_alignment(replace(ben, speaker=other), 2.0)
    with pytest.raises(ValueError, match="say which with speaker="):
        clip_alignment(replace(ben, speaker_guessed=True), 2.0)

    ctm = tmp_path / "call.ctm"
    ctm.write_text("0 A 0.1 0.2 S\n0 B 0.1 0.2 T\n")
    by_channel = [clip_alignment(replace(ben, alignment=ctm, channel=i), 2.0).phones[0].label for i in (0, 1)]
    assert by_channel == ["S", "T"]
    with pytest.raises(ValueError, match="has the channels 'A', 'B'; say which"):
        clip_alignment(replace(ben, alignment=ctm), 2.0)


def test_no_alignment_of_one_clip_ends_the_analysis(listening_codec, utterances, tmp_path, monkeypatch):
    end = utterances[0].duration
    points = write_tiers(tmp_path / "points.TextGrid", {"phones": "S"}, end, "TextTier")
    several = write_tiers(tmp_path / "several.TextGrid", {"a - phones": "S", "b - phones": "T"}, end)
    empty = write_tiers(tmp_path / "empty.TextGrid", {"phones": ""}, end)
    cut_off = tmp_path / "cut.TextGrid"
    cut_off.write_text(utterances[4].alignment.read_text()[:-200])
    (tmp_path / "turns.rttm").write_text("SPEAKER f 1 0 1 <NA> <NA> a <NA>\n")
    files = [points, several, empty, cut_off, tmp_path / "turns.rttm", tmp_path]
    clips = [replace(u, alignment=file) for u, file in zip(utterances, files, strict=False)]
    found = collect(listening_codec, [*clips, *utterances[6:]], thresholds=(0.9,))
    assert [clip.id for clip in found.with_phones] == [u.id for u in utterances[6:]]
    reasons = [reason for _, reason in found.without_phones]
    messages = ("holds points", "has the speakers", "is empty", "was it cut off", "turns of speakers", "no alignment")
    for reason, message in zip(reasons, messages, strict=True):
        assert reason.startswith("alignment cannot be used: ")
        assert message in reason

    def broken(*args, **options):
        raise TypeError("a bug")

    monkeypatch.setattr("flexicodec.analysis.collect.read_alignment", broken)
    found = collect(listening_codec, utterances[:1], thresholds=(0.9,))
    assert "TypeError: a bug" in found.without_phones[0][1]


def test_what_was_cut_in_alignments_is_counted(listening_codec, utterances, tmp_path):
    clips = []
    for u in utterances[:3]:
        phones = tmp_path / f"{u.id}.PHN"
        last = round(u.duration * 16_000)
        phones.write_text(f"0 1000 h#\n1000 2000 hv\n2000 3000 jh\n3000 {last} axr\n")
        phones.with_suffix(".WRD").write_text(f"1000 3000 had\n2000 {last} your\n")
        clips.append(replace(u, alignment=phones))
    found = collect(listening_codec, clips, thresholds=(0.9,))
    assert found.alignment_changes == {"segments cut where the next one starts": (3, 3)}
    assert [len(clip.alignment.phones) for clip in found.clips] == [4, 4, 4]
    assert [len(clip.alignment.words) for clip in found.clips] == [2, 2, 2]


@pytest.mark.parametrize(
    ("suffix", "text", "slip"),
    [
        (".ctm", "0 1 0 900 S\n0 1 900 950 T\n", "are its times milliseconds?"),
        (".ctm", "0 1 0 90 S\n0 1 90 100 T\n", "are its times frames of 10 ms?"),
        (".phn", "0 14000 s\n14000 16000 t\n", "are its samples not counted at 16000 Hz?"),
        (".lab", "0 900 S\n900 2000 T\n", "are its times milliseconds, and not units of 100 ns?"),
        (".lab", "0 9000 S\n9000 32000 T\n", "are its times samples, and not units of 100 ns?"),
    ],
)
def test_slips_in_the_unit_of_time_are_named(utterances, tmp_path, suffix, text, slip):
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    with pytest.raises(ValueError, match="but the clip 2.00 s") as error:
        clip_alignment(replace(utterances[0], alignment=path), 2.0)
    assert slip in str(error.value)


CUT_OUT = [  # rows of a CTM, id and start of the clip, the time of its phone in the clip
    ("utt 1 0.2 0.1 S\n", "utt", 30.0, 0.2),  # Kaldi's times of an utterance
    ("utt 1 30.2 0.1 S\n", "utt", 30.0, 0.2),  # of its recording, though with the id of the utterance
    ("call 1 1.0 0.1 T\ncall 1 1.7 0.1 S\n", "call-0150", 1.5, 0.2),  # with the id of the recording
]


@pytest.mark.parametrize(("rows", "name", "start", "expected"), CUT_OUT)
def test_times_of_a_ctm_count_from_its_clip_or_its_file(utterances, tmp_path, rows, name, start, expected):
    path = tmp_path / "a.ctm"
    path.write_text(rows)
    clip = replace(utterances[0], path=tmp_path / "call.wav", id=name, start=start, alignment=path)
    (phone,) = clip_alignment(clip, 2.0).phones
    assert (phone.label, phone.start) == ("S", pytest.approx(expected))


def test_a_part_of_a_file_whose_speech_ends_within_it(utterances, tmp_path):
    grid = tmp_path / "a.TextGrid"  # of 13 s; the speech of the part from 3 s ends before 10 s
    write_textgrid(grid, {"phones": [Segment(0, 2, "T"), Segment(4, 9, "S"), Segment(9, 13, "sil")]}, 13.0)
    part = replace(utterances[0], start=3.0, alignment=grid)
    phones = [(s.start, s.end, s.label) for s in clip_alignment(part, 10.0).phones if s.label == "S"]
    assert phones == [(1.0, 6.0, "S")]


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
