"""Kaldi data directories: ids, channels of two-sided calls, commands in wav.scp, and what is refused by name."""

import numpy as np
import pytest
import soundfile

from flexicodec.corpus import read_manifest, read_utterance, scan, write_manifest
from flexicodec.corpus.layouts.kaldi import parse_command

LEVELS = (0.1, 0.3)  # of the two sides of the call: their mean is 0.2


@pytest.fixture
def call(tmp_path):
    """A data directory with a call of two channels, and one file of one channel."""
    soundfile.write(tmp_path / "call.wav", np.tile(LEVELS, (16_000, 1)), 8000)
    soundfile.write(tmp_path / "mono.wav", np.full(16_000, 0.1), 8000)
    (tmp_path / "wav.scp").write_text("rec call.wav\n")
    return tmp_path


def write(folder, **lists):
    for name, content in lists.items():
        (folder / name.replace("_scp", ".scp")).write_text(content)


def levels(listing):
    """Return what is read of each utterance, by its id."""
    return {u.id: pytest.approx(float(read_utterance(u, 8000).mean()), abs=1e-3) for u in listing.utterances}


A, B, MEAN = *LEVELS, 0.2


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        # Numbers in segments count from 0 in Kaldi's extract-segments; letters, and 1 and 2, are common too.
        ({"segments": "u1 rec 0 1 0\nu2 rec 0 1 1\n"}, {"u1": A, "u2": B}),
        ({"segments": "u2 rec 0 1 1\n"}, {"u2": B}),
        ({"segments": "u1 rec 0 1 A\nu2 rec 0 1 B\n"}, {"u1": A, "u2": B}),
        ({"segments": "u1 rec 0 1 1\nu2 rec 0 1 2\n"}, {"u1": A, "u2": B}),
        ({"segments": "u1 rec 0 1 -1\nu2 rec 0 1 b\n"}, {"u1": MEAN, "u2": B}),
        # A recording per side.
        (
            {"wav_scp": "c-A call.wav\nc-B call.wav\n", "reco2file_and_channel": "c-A c A\nc-B c B\n"},
            {"c-A": A, "c-B": B},
        ),
        (
            {"wav_scp": "c-A call.wav\nc-B call.wav\n", "reco2file_and_channel": "c-A c 1\nc-B c 2\n"},
            {"c-A": A, "c-B": B},
        ),
        (
            {
                "wav_scp": "c-B call.wav\n",
                "reco2file_and_channel": "c-B c B\nother c A\n",
                "segments": "u1 c-B 0 1\nu2 c-B 1 2 0\n",
            },
            {"u1": B, "u2": A},
        ),
        # A file of one channel is the side already.
        ({"wav_scp": "c-B mono.wav\n", "reco2file_and_channel": "c-B c B\n"}, {"c-B": A}),
        # Commands that hand a channel on.
        ({"wav_scp": "a sph2pipe -f wav -p -c 2 call.wav |\nb cat call.wav |\n"}, {"a": B, "b": MEAN}),
        (
            {
                "wav_scp": "c-A sph2pipe -f wav -c 1 call.wav |\nc-B sph2pipe -f wav -c 2 call.wav|\n",
                "reco2file_and_channel": "c-A c A\nc-B c B\n",
            },
            {"c-A": A, "c-B": B},
        ),
    ],
)
def test_the_channel_that_is_named_is_read(call, lists, expected):
    write(call, **lists)
    listing = scan(call)
    assert listing.unreadable == []
    assert levels(listing) == expected
    write_manifest(call / "m.jsonl", listing.utterances)
    assert [(u.id, u.channel) for u in read_manifest(call / "m.jsonl")] == [
        (u.id, u.channel) for u in listing.utterances
    ]


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"segments": "u1 rec 0 1 0\nu2 rec 0 1 2\n"}, r"channel 2 \(from 0\) is named, but .*call.wav has 2"),
        ({"wav_scp": "a sph2pipe -c 2 mono.wav |\n"}, r"channel 1 \(from 0\) is named, but .*mono.wav has 1"),
        ({"segments": "u1 rec 0 2.6\n"}, "it is said to end at 2.6 s, but .* ends at 2 s"),
    ],
)
def test_an_utterance_that_its_file_does_not_have_is_left_out_with_the_reason(call, lists, reason):
    write(call, **lists)
    ((_, found),) = scan(call).unreadable
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


@pytest.mark.parametrize(
    ("lists", "counted"),
    [
        ({}, "1 clips have several channels and name none: the mean is read"),
        ({"segments": "u1 rec 0 1 1\nu2 rec 0 1 2\n"}, "the channels in segments were taken to count from 1"),
        ({"segments": "u1 rec 0 2.3 0\n"}, "1 clips end after their file and were cut"),
        ({"wav_scp": "b cat call.wav |\n"}, "wav.scp names 1 recordings by commands"),
        ({"wav_scp": "c-B mono.wav\n", "reco2file_and_channel": "c-B c B\n"}, "1 recordings are side B"),
        ({"utt2dur": "rec 1.8\n"}, "1 clips differ from the duration in utt2dur"),
    ],
)
def test_what_was_decided_is_said(call, lists, counted):
    write(call, **lists)
    assert counted in " / ".join(scan(call).remarks)


def test_the_lists_of_utterances(call):
    write(
        call,
        wav_scp="r1 call.wav\nr2 mono.wav\n",
        segments="u1 r1 0 1 0\nu2 r1 1 2 1\n",
        text="u1 one\nu2 two\nu3 three\n",
        utt2spk="u1 ann\nu2 bob\n",
        utt2lang="u1 en\nu2 de\n",
        utt2dur="u1 1.0\nu2 1.0\n",
        spk2gender="ann f\nbob m\n",
    )
    listing = scan(call)
    assert [(u.id, u.text, u.speaker, u.language, u.speaker_guessed) for u in listing.utterances] == [
        ("u1", "one", "ann", "en", False),
        ("u2", "two", "bob", "de", False),
    ]
    assert listing.left_out == {
        "recordings without a segment": 1,
        "lines of text for utterances that are not listed": 1,
    }
    assert listing.remarks == []


def test_an_utterance_without_a_speaker_has_none(call):
    write(call, wav_scp="a mono.wav\nb mono.wav\n", utt2spk="a ann\nb\n")
    assert [u.speaker for u in scan(call).utterances] == ["ann", None]


def test_speakers_with_their_utterances(call):
    write(call, segments="u1 rec 0 1 0\nu2 rec 0 1 1\nu3 rec 1 2 1\n", spk2utt="ann u1\nbob u2 u3\n")
    assert [u.speaker for u in scan(call).utterances] == ["ann", "bob", "bob"]


def test_alignments_beside_whole_recordings_are_found(call):
    write(call, wav_scp="r mono.wav\n")
    (call / "mono.TextGrid").touch()
    assert [u.alignment for u in scan(call).utterances] == [call / "mono.TextGrid"]


@pytest.mark.parametrize(
    ("suffix", "content", "is_used"),
    [
        (".PHN", "0 8000 aa\n", False),
        (".csv", "Begin,End,Label,Type\n0,1,AA1,phones\n", False),
        (".csv", "Begin,End,Label,Type,Speaker\n0,1,AA1,phones,A\n0,1,B,phones,B\n", True),
        (".TextGrid", "", True),  # damaged, which analyze says
    ],
)
def test_both_sides_of_a_call_share_an_alignment_if_it_tells_them_apart(call, suffix, content, is_used):
    write(call, wav_scp="A call.wav\nB call.wav\n", reco2file_and_channel="A call A\nB call B\n")
    path = call / f"call{suffix}"
    path.write_text(content)
    listing = scan(call)
    assert [u.alignment for u in listing.utterances] == [path if is_used else None] * 2
    counts = {"alignments of several channels that do not tell whose phones they are": 1}
    assert listing.left_out == ({} if is_used else counts)


@pytest.mark.parametrize(
    ("command", "file", "channel"),
    [
        ("cat a.wav |", "a.wav", None),
        ("/opt/kaldi/tools/sph2pipe_v2.5/sph2pipe -f wav -p -c 1 a.sph |", "a.sph", 0),
        ("sph2pipe -f wav a.sph | sox -t wav - -r 16000 -t wav - |", "a.sph", None),
        ("sph2pipe -f wav -c 2 a.sph | sox -t wav - -r 16k -b 16 -t wav - rate -v 16000 |", "a.sph", 1),
        ("flac -c -d -s a.flac |", "a.flac", None),
        ("flac -cds 'a b.flac' |", "a b.flac", None),
        ("sox a.wav -t wav - remix 2 |", "a.wav", 1),
        ("sox a.mp3 -r 8000 -c 1 -t wav - |", "a.mp3", None),
        ("sox a.wav -t wav - remix - |", "a.wav", None),
        ("ffmpeg -v 8 -i a.opus -ar 16000 -ac 1 -f wav - |", "a.opus", None),
        ("ffmpeg -i a.opus -f wav pipe:1 |", "a.opus", None),
        ("ffmpeg -v 8 -i a.m4a -f wav -acodec pcm_s16le -|", "a.m4a", None),
        ("sox a.wav -r 16000 -s -2 -t wav - |", "a.wav", None),
    ],
)
def test_commands_that_hand_a_file_on_are_followed(command, file, channel):
    assert parse_command(command) == (file, channel)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sox a.wav -t wav - speed 1.1 |", "sox has the effect speed, which changes the audio"),
        ("sox a.wav -t wav - trim 0 3 |", "sox has the effect trim"),
        ("sox --vol 0.5 a.wav -t wav - |", "sox has the option --vol"),
        ("sox -v 0.5 a.wav -t wav - |", "sox has the option -v"),
        ("sox -t raw -r 8000 a.raw -t wav - |", "raw samples"),
        ("sox a.wav b.wav -t wav - |", "sox is given a.wav b.wav"),
        ("sox a.wav b.wav |", "sox is given a.wav b.wav"),
        ("sph2pipe -t 0:3 a.sph |", "sph2pipe has the option -t"),
        ("ffmpeg -ss 3 -i a.opus -f wav - |", "ffmpeg has the option -ss"),
        ("cat a.wav b.wav |", "cat is given a.wav b.wav"),
        ("cat a.wav | wav-reverberate - - |", "wav-reverberate is none of"),
        ("cat a.wav | sox b.wav -t wav - |", "sox reads b.wav"),
        ("gunzip -c a.wav.gz |", "gunzip is none of"),
        ("sph2pipe -c 2 a.sph | sox - -t wav - remix 2 |", "twice"),
        ("sph2pipe -c 3x a.sph |", "channel is '3x'"),
    ],
)
def test_commands_that_do_more_are_refused(command, reason):
    with pytest.raises(ValueError, match=reason):
        parse_command(command)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"wav_scp": "rec sox call.wav -t wav - tempo 0.9 |\n"}, "rec is the output of a command .*effect tempo"),
        ({"wav_scp": "rec raw.ark:17\n"}, r"rec lies in an archive \(raw.ark:17\)"),
        ({"wav_scp": "rec raw.ark:17[0:80]\n"}, r"rec lies in an archive"),
        ({"utt2dur": "rec one\n"}, "utt2dur: rec has 'one'; expected seconds"),
        ({"segments": "u1 rec 0 1 left\n"}, "perhaps a channel .*fifth column that is no channel"),
        ({"segments": "u1 rec 0 1 A B\n"}, "fifth column"),
        ({"reco2file_and_channel": "rec call\n"}, r"rec has 'call'; expected a file and a channel"),
        ({"reco2file_and_channel": "rec call 0\n"}, "channel"),
    ],
)
def test_lists_that_cannot_be_followed_are_refused(call, lists, message):
    write(call, **lists)
    with pytest.raises(ValueError, match=message):
        scan(call)


@pytest.mark.parametrize("layout", ["auto", "kaldi"])
def test_features_alone_are_refused(tmp_path, layout):
    write(tmp_path, feats_scp="u1 raw.ark:17\n", utt2spk="u1 ann\n")
    with pytest.raises(ValueError, match=r"holds features \(feats.scp\) and no audio"):
        scan(tmp_path, layout)


def test_a_folder_of_kaldi_directories_names_them(call):
    for name in ("train", "dev"):
        (call / "data" / name).mkdir(parents=True)
        (call / "data" / name / "wav.scp").write_text("rec ../../call.wav\n")
    with pytest.raises(ValueError, match=r"holds several Kaldi directories; name one of .*dev, .*train"):
        scan(call / "data")
    assert len(scan(call / "data" / "dev").utterances) == 1
    (call / "wav.scp").unlink()  # beside audio they are remarked on
    assert "Kaldi directories below are not read, name one of them: " in scan(call).remarks[0]
