"""Published corpora as folders: the clips, ids, speakers, texts and alignments that each layout's own rule gives."""

import gzip
import json

import numpy as np
import pytest
import soundfile

from flexicodec.corpus import Utterance, read_manifest, scan, write_manifest
from flexicodec.corpus.layouts.paths import read_texts

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3"}
AUDIO = object()  # what stands for audio in a tree
SPHERE = object()
HTK = "0 1000000 sil\n1000000 2000000 a\n"
PHN = "0 800 h#\n800 1600 aa\n"


def plant(root, tree):
    """Write a tree of files: texts, and audio of 0.2 s."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
            continue
        subtype = "OPUS" if path.suffix == ".opus" else None
        kind = "NIST" if content is SPHERE else FORMATS[path.suffix.lower()]
        soundfile.write(path, np.full(3200, 0.1), 16_000, format=kind, subtype=subtype)
    return root


def rows(listing, *fields):
    return [tuple(getattr(utterance, name) for name in fields) for utterance in listing.utterances]


CORPORA = {
    # name: layout, tree, clips (id, speaker, text, language)
    "libritts prefers the normalized text": (
        "libritts",
        {
            "dev/84/121123/84_121123_000007_000001.wav": AUDIO,
            "dev/84/121123/84_121123_000007_000001.normalized.txt": "Mister Brown\n",
            "dev/84/121123/84_121123_000007_000001.original.txt": "Mr. Brown\n",
            "dev/84/121123/84_121123_000008_000000.wav": AUDIO,
            "dev/84/121123/84_121123_000008_000000.original.txt": "No. 5\n",
            "dev/84/121123/84_121123_000009_000000.wav": AUDIO,
            "dev/84/121123/84_121123.trans.tsv": "84_121123_000009_000000\tNo. 6\tNumber six\n",
        },
        [
            ("84_121123_000007_000001", "84", "Mister Brown", "en"),
            ("84_121123_000008_000000", "84", "No. 5", "en"),
            ("84_121123_000009_000000", "84", "Number six", "en"),
        ],
    ),
    "librispeech": (
        "librispeech",
        {
            "dev-clean/84/1/84-1-0000.flac": AUDIO,
            "dev-clean/84/1/84-1-0001.flac": AUDIO,
            "dev-clean/84/1/84-1.trans.txt": "84-1-0000 GO DO\n",
        },
        [("84-1-0000", "84", "GO DO", "en"), ("84-1-0001", "84", None, "en")],
    ),
    "zeroth has underscores and another language": (
        "librispeech",
        {"003/106/106_003_0001.flac": AUDIO, "003/106/106_003.trans.txt": "106_003_0001 가 나\n"},
        [("106_003_0001", "106", "가 나", None)],
    ),
    "mls": (
        "mls",
        {
            "mls_polish_opus/train/audio/6892/10349/6892_10349_000001.opus": AUDIO,
            "mls_polish_opus/train/transcripts.txt": "6892_10349_000001\tjeden dwa\n",
            "mls_all/mls_german/dev/audio/252/1/252_1_000000.flac": AUDIO,
            "mls_all/mls_german/dev/transcripts.txt": "252_1_000000\teins\n",
        },
        [("252_1_000000", "252", "eins", "de"), ("6892_10349_000001", "6892", "jeden dwa", "pl")],
    ),
    "mls without its folder audio": (
        "mls",
        {"dev/252/1/252_1_000000.flac": AUDIO, "dev/transcripts.txt": "252_1_000000\teins\n"},
        [("252_1_000000", "252", "eins", None)],
    ),
    "libri-light has no text": (
        "libri-light",
        {
            "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_64kb.flac": AUDIO,
            "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_64kb.json": json.dumps({"speaker": "100"}),
            "medium/7/other/02_64kb.flac": AUDIO,
        },
        [
            ("7/other/02_64kb", "7", None, "en"),
            ("100/sea_fairies_0812_librivox_64kb_mp3/01_baum_64kb", "100", None, "en"),
        ],
    ),
    "vctk has two microphones": (
        "vctk",
        {
            "wav48_silence_trimmed/p225/p225_001_mic1.flac": AUDIO,
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": AUDIO,
            "wav48_silence_trimmed/s5/s5_002_mic2.flac": AUDIO,
            "txt/p225/p225_001.txt": "Please call Stella.\n",
        },
        [("p225_001", "p225", "Please call Stella.", "en"), ("s5_002", "s5", None, "en")],
    ),
    "vctk of the first release": (
        "vctk",
        {"wav48/p225/p225_001.wav": AUDIO, "txt/p225/p225_001.txt": "Please call Stella."},
        [("p225_001", "p225", "Please call Stella.", "en")],
    ),
    "ljspeech": (
        "ljspeech",
        {
            "wavs/LJ001-0001.wav": AUDIO,
            "wavs/LJ001-0002.wav": AUDIO,
            "metadata.csv": 'LJ001-0001|"In 1455|"In fourteen fifty-five\nLJ001-0002|in being|\n',
        },
        [("LJ001-0001", "LJ", '"In fourteen fifty-five', "en"), ("LJ001-0002", "LJ", "in being", "en")],
    ),
    "m-ailabs": (
        "m-ailabs",
        {
            "en_UK/by_book/female/ann_lee/book/wavs/book_01_f000001.wav": AUDIO,
            "en_UK/by_book/female/ann_lee/book/metadata.csv": "book_01_f000001|No. 1|number one\n",
            "de_DE/by_book/mix/buch/wavs/buch_01.wav": AUDIO,
            "de_DE/by_book/mix/buch/metadata.csv": "buch_01|Nr. 1|Nummer eins\n",
        },
        [("buch_01", None, "Nummer eins", "de"), ("book_01_f000001", "ann_lee", "number one", "en")],
    ),
    "hui": (
        "hui",
        {
            "HUI-Audio-Corpus-German/Bernd/Buch/wavs/buch_01_f000001.wav": AUDIO,
            "HUI-Audio-Corpus-German/Bernd/Buch/metadata.csv": "buch_01_f000001|Guten Tag\n",
        },
        [("buch_01_f000001", "Bernd", "Guten Tag", "de")],
    ),
    "common voice reads what was validated": (
        "common-voice",
        {
            "sv-SE/clips/common_voice_sv_1.mp3": AUDIO,
            "sv-SE/clips/common_voice_sv_2.mp3": AUDIO,
            "sv-SE/clips/common_voice_sv_3.mp3": AUDIO,
            "sv-SE/validated.tsv": (
                'client_id\tpath\tsentence\tlocale\nf00\tcommon_voice_sv_1.mp3\t"Hej\tsv-SE\n'
                'f01\tcommon_voice_sv_2.mp3\tHej "då"\tsv-SE\n'
            ),
            "sv-SE/train.tsv": "client_id\tpath\tsentence\tlocale\nf00\tcommon_voice_sv_1.mp3\tHej\tsv-SE\n",
            "sv-SE/invalidated.tsv": "client_id\tpath\tsentence\tlocale\nf02\tcommon_voice_sv_3.mp3\tx\tsv-SE\n",
        },
        [("common_voice_sv_1", "f00", '"Hej', "sv-SE"), ("common_voice_sv_2", "f01", 'Hej "då"', "sv-SE")],
    ),
    "common voice without validated.tsv": (
        "common-voice",
        {
            "clips/cv_1.wav": AUDIO,  # converted
            "clips/cv_2.mp3": AUDIO,
            "train.tsv": "client_id\tpath\tsentence_id\tsentence\tlocale\nf00\tcv_1.mp3\t1\tja\tde\n",
            "test.tsv": "client_id\tpath\tsentence_id\tsentence\tlocale\nf01\tcv_2\t2\tnein\tde\n",
            "other.tsv": "client_id\tpath\tsentence_id\tsentence\tlocale\nf01\tcv_3.mp3\t3\tnie\tde\n",
        },
        [("cv_2", "f01", "nein", "de"), ("cv_1", "f00", "ja", "de")],
    ),
    "common voice of an early release": (
        "common-voice",
        {"de/clips/1.mp3": AUDIO, "de/validated.tsv": "client_id\tpath\tsentence\nf00\t1.mp3\tja\n"},
        [("1", "f00", "ja", "de")],
    ),
    "aishell": (
        "aishell",
        {
            "wav/train/S0002/BAC009S0002W0122.wav": AUDIO,
            "wav/dev/S0724/BAC009S0724W0121.wav": AUDIO,
            "transcript/aishell_transcript_v0.8.txt": "BAC009S0002W0122 而 对 楼市 成交\n",
        },
        [("BAC009S0724W0121", "S0724", None, "zh"), ("BAC009S0002W0122", "S0002", "而对楼市成交", "zh")],
    ),
    "aishell-2 has a wav.scp too": (
        "aishell-2",
        {
            "data/wav/C0001/IC0001W0001.wav": AUDIO,
            "data/wav.scp": "IC0001W0001 wav/C0001/IC0001W0001.wav\n",
            "data/trans.txt": "IC0001W0001\t一二三\n",
        },
        [("IC0001W0001", "C0001", "一二三", "zh")],
    ),
    "aishell-3": (
        "aishell-3",
        {"train/wav/SSB0005/SSB00050001.wav": AUDIO, "train/content.txt": "SSB00050001.wav\t广 guang3 州 zhou1\n"},
        [("SSB00050001", "SSB0005", "广州", "zh")],
    ),
    "l2-arctic": (
        "l2-arctic",
        {
            f"{speaker}/{name}": content
            for speaker in ("ABA", "YKWK")
            for name, content in {
                "wav/arctic_a0001.wav": AUDIO,
                "transcript/arctic_a0001.txt": f"Author of {speaker}",
                "textgrid/arctic_a0001.TextGrid": "",
                "annotation/arctic_a0001.TextGrid": "",
            }.items()
        },
        [
            ("ABA_arctic_a0001", "ABA", "Author of ABA", "en"),
            ("YKWK_arctic_a0001", "YKWK", "Author of YKWK", "en"),
        ],
    ),
    "cmu arctic": (
        "cmu-arctic",
        {
            f"cmu_us_{speaker}_arctic{name}": content
            for speaker in ("slt", "bdl")
            for name, content in {
                "/wav/arctic_a0001.wav": AUDIO,
                "/etc/txt.done.data": f'( arctic_a0001 "Author of {speaker}, etc." )\n',
            }.items()
        },
        [
            ("bdl_arctic_a0001", "bdl", "Author of bdl, etc.", "en"),
            ("slt_arctic_a0001", "slt", "Author of slt, etc.", "en"),
        ],
    ),
    "esd": (
        "esd",
        {
            "0004/Angry/0004_000351.wav": AUDIO,
            "0004/0004.txt": "0004_000351\t打远一看\t生气\n",
            "0011/Sad/test/0011_001071.wav": AUDIO,
            "0011/0011.txt": "0011_001071\tThe nine\tSad\n",
        },
        [("0004_000351", "0004", "打远一看", "zh"), ("0011_001071", "0011", "The nine", "en")],
    ),
    "emov-db": (
        "emov-db",
        {"bea_Amused/amused_1-15_0001.wav": AUDIO, "sam/Sleepy/sleepiness_1-28_0001.wav": AUDIO},
        [("bea_amused_1-15_0001", "bea", None, "en"), ("sam_sleepiness_1-28_0001", "sam", None, "en")],
    ),
    "voxceleb": (
        "voxceleb",
        {"wav/id10001/1zcIwhmdeo4/00001.wav": AUDIO, "wav/id10001/7gWzIy6yIIk/00001.wav": AUDIO},
        [("id10001/1zcIwhmdeo4/00001", "id10001", None, None), ("id10001/7gWzIy6yIIk/00001", "id10001", None, None)],
    ),
    "jvs": (
        "jvs",
        {
            "jvs001/parallel100/wav24kHz16bit/VOICEACTRESS100_001.wav": AUDIO,
            "jvs001/parallel100/transcripts_utf8.txt": "VOICEACTRESS100_001:また、東寺\n",
        },
        [("jvs001_VOICEACTRESS100_001", "jvs001", "また、東寺", "ja")],
    ),
    "jsut": (
        "jsut",
        {"basic5000/wav/BASIC5000_0001.wav": AUDIO, "basic5000/transcript_utf8.txt": "BASIC5000_0001:水を\n"},
        [("BASIC5000_0001", "JSUT", "水を", "ja")],
    ),
    "voxpopuli": (
        "voxpopuli",
        {
            "en/2009/20090112-0900-PLENARY-3-en_20090112-17:20:21_3.ogg": AUDIO,
            "en/2010/20100112-x_1.ogg": AUDIO,
            "en/asr_train.tsv": (
                "id\traw_text\tnormalized_text\tspeaker_id\tsplit\n"
                "20090112-0900-PLENARY-3-en_20090112-17:20:21_3\tI am.\ti am\t2817\ttrain\n"
                "20100112-x_1\tYes.\t\tNone\ttrain\n"
            ),
        },
        [
            ("20090112-0900-PLENARY-3-en_20090112-17:20:21_3", "2817", "i am", "en"),
            ("20100112-x_1", None, "Yes.", "en"),
        ],
    ),
    "magicdata": (
        "magicdata",
        {
            "train/5_541/5_541_2017.wav": AUDIO,
            "train/TRANS.txt": "UtteranceID\tSpeakerID\tTranscription\n5_541_2017.wav\t5_541\t你好\n",
        },
        [("5_541_2017", "5_541", "你好", None)],
    ),
    "audiofolder": (
        "audiofolder",
        {
            "a/1.wav": AUDIO,
            "a/metadata.csv": 'file_name,transcription,speaker_id\n1.wav,"one, two",ann\n',
            "b/2.wav": AUDIO,
            "b/metadata.jsonl": '{"file_name": "2.wav", "text": "three", "language": "en"}\n',
        },
        [("1", "ann", "one, two", None), ("2", None, "three", "en")],
    ),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus(tmp_path, name):
    layout, tree, expected = CORPORA[name]
    listing = scan(plant(tmp_path, tree))
    assert listing.layout == layout
    assert sorted(rows(listing, "id", "speaker", "text", "language"), key=str) == sorted(expected, key=str)
    assert listing.unreadable == []
    assert not any(utterance.speaker_guessed for utterance in listing.utterances)


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_survives_its_manifest(tmp_path, name):
    _, tree, _ = CORPORA[name]
    utterances = scan(plant(tmp_path, tree)).utterances
    write_manifest(tmp_path / "m.jsonl", utterances)
    fields = ("id", "path", "speaker", "text", "language", "sentence", "alignment")
    read = read_manifest(tmp_path / "m.jsonl")
    assert [[getattr(u, f) for f in fields] for u in read] == [[getattr(u, f) for f in fields] for u in utterances]


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_timit(tmp_path, case):
    tree = {}
    for speaker in ("FCJF0", "MDAB0"):
        tree[case(f"TRAIN/DR1/{speaker}/SA1.WAV")] = SPHERE
        tree[case(f"TRAIN/DR1/{speaker}/SA1.PHN")] = PHN
        tree[case(f"TRAIN/DR1/{speaker}/SA1.WRD")] = PHN
        tree[case(f"TRAIN/DR1/{speaker}/SA1.TXT")] = "0 46797 She had your dark suit.\n"
    tree[case("TRAIN/DR1/FCJF0/SA1.WAV") + ".wav"] = AUDIO  # a RIFF copy
    listing = scan(plant(tmp_path, tree))
    assert listing.layout == "timit"
    folder = tmp_path / case("TRAIN/DR1")
    text = "She had your dark suit."
    assert rows(listing, "id", "speaker", "sentence", "text", "language", "alignment") == [
        (case(f"{name}_SA1"), case(name), "SA1", text, "en", folder / case(name) / case("SA1.PHN"))
        for name in ("FCJF0", "MDAB0")
    ]
    assert listing.utterances[0].path.name == case("SA1.WAV") + ".wav"
    assert listing.left_out == {"timit: further files of an utterance (other formats, copies)": 1}


def test_a_relative_folder_is_no_other(tmp_path, monkeypatch):
    plant(tmp_path, {"t/DR1/FCJF0/SA1.WAV": SPHERE, "t/DR1/FCJF0/SA1.PHN": PHN, "t/DR1/FCJF0/SA1.TXT": "0 9 She"})
    monkeypatch.chdir(tmp_path)
    listing = scan("t")
    assert (rows(listing, "id", "text"), listing.left_out) == ([("FCJF0_SA1", "She")], {})


def test_a_sentence_of_l2_arctic_has_its_name_and_alignment(tmp_path):
    listing = scan(plant(tmp_path, CORPORA["l2-arctic"][1]))
    assert rows(listing, "sentence", "alignment") == [
        ("arctic_a0001", tmp_path / speaker / "textgrid" / "arctic_a0001.TextGrid") for speaker in ("ABA", "YKWK")
    ]


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("vctk has two microphones", {"vctk: recordings of a sentence by the second microphone (mic1 is read)": 1}),
        ("common voice reads what was validated", {"common-voice: clips that validated.tsv of {}/sv-SE does not": 1}),
    ],
)
def test_what_a_layout_leaves_out_is_counted(tmp_path, name, left_out):
    listing = scan(plant(tmp_path, CORPORA[name][1]))
    (found,) = listing.left_out.items()
    ((reason, count),) = left_out.items()
    assert found[0].startswith(reason.format(tmp_path))
    assert found[1] == count


def test_the_tables_of_common_voice_that_are_not_read_are_named(tmp_path):
    listing = scan(plant(tmp_path, CORPORA["common voice reads what was validated"][1]))
    assert "validated.tsv is read and invalidated.tsv, train.tsv not" in listing.remarks[0]
    train = read_manifest(tmp_path / "sv-SE" / "train.tsv")  # as the remark advises
    assert [(u.path.name, u.speaker, u.text, u.language) for u in train] == [
        ("common_voice_sv_1.mp3", "f00", "Hej", "sv-SE")
    ]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("", [None]),
        ('\n\n{"file_name": "a.wav", "text": "hi"}\n', ["hi"]),
        ('{"file_name": "a.wav"', "metadata.jsonl: ex"),
    ],
)
def test_blank_lines_and_damage_of_a_metadata_file(tmp_path, content, texts):
    plant(tmp_path, {"a.wav": AUDIO, "metadata.jsonl": content})
    if isinstance(texts, str):
        with pytest.raises(ValueError, match=texts):
            scan(tmp_path)
    else:
        assert rows(scan(tmp_path), "text") == [tuple(texts)]


def test_unchecked_clips_of_common_voice_are_said_to_be(tmp_path):
    listing = scan(
        plant(tmp_path, {"clips/1.mp3": AUDIO, "invalidated.tsv": "client_id\tpath\tsentence\nf00\t1.mp3\tja\n"})
    )
    assert rows(listing, "text") == [("ja",)]
    assert "has no validated.tsv or train.tsv, dev.tsv, test.tsv; invalidated.tsv is read" in listing.remarks[0]


def test_turns_of_talks(tmp_path):
    tree = {
        "train/sph/Ann_2010.wav": AUDIO,
        "train/stm/Ann_2010.stm": (
            ";; a comment\n"
            "Ann_2010 1 Ann_2010 0.05 0.10 <o,f0,female> so it's <unk> fine\n"
            "Ann_2010 1 inter_segment_gap 0.10 0.12 <o,,unknown> ignore_time_segment_in_scoring\n"
            "Ann_2010 1 Ann_2010 0.12 0.20 <NA> more\n"
        ),
    }
    listing = scan(plant(tmp_path, tree))
    assert listing.layout == "stm"
    assert rows(listing, "id", "start", "duration", "text", "speaker", "channel") == [
        ("Ann_2010-Ann_2010-0000005-0000010", 0.05, pytest.approx(0.05), "so it's <unk> fine", "Ann_2010", 0),
        ("Ann_2010-Ann_2010-0000012-0000020", 0.12, pytest.approx(0.08), "more", "Ann_2010", 0),
    ]
    assert listing.left_out == {"stm: gaps that are not scored": 1}


def test_a_part_of_a_corpus_finds_its_texts(tmp_path):
    plant(tmp_path, {**CORPORA["vctk has two microphones"][1], **CORPORA["aishell"][1]})
    assert rows(scan(tmp_path / "wav48_silence_trimmed" / "p225"), "text") == [("Please call Stella.",)]
    assert rows(scan(tmp_path / "wav" / "train"), "text") == [("而对楼市成交",)]


def test_several_corpora_in_one_folder(tmp_path):
    tree = {}
    for name in ("vctk has two microphones", "common voice reads what was validated", "librispeech"):
        tree |= {f"{name[:4]}/{path}": content for path, content in CORPORA[name][1].items()}
    tree["mine/ann/1.wav"] = AUDIO
    listing = scan(plant(tmp_path, tree))
    assert listing.layout == "common-voice (2), librispeech (2), vctk (2), plain (1)"
    assert {u.speaker for u in listing.utterances if u.speaker_guessed} == {"ann"}


def test_a_wished_layout_that_is_not_there_says_what_it_looks_like(tmp_path):
    plant(tmp_path, {"ann/1.wav": AUDIO})
    with pytest.raises(ValueError, match=r"is laid out as vctk: wav48_silence_trimmed/p225/p225_001_mic1.flac"):
        scan(tmp_path, layout="vctk")


def test_a_wished_layout_leaves_other_tables_alone(tmp_path):
    plant(tmp_path, {**CORPORA["ljspeech"][1], **CORPORA["common voice without validated.tsv"][1]})
    assert scan(tmp_path, layout="common-voice").layout == "common-voice (2), plain (2)"
    assert scan(tmp_path, layout="ljspeech").layout == "ljspeech (2), plain (2)"
    assert scan(tmp_path, layout="plain").layout == "plain"


def test_texts_without_audio_are_named(tmp_path):
    tree = dict(CORPORA["mls"][1])
    tree["mls_all/mls_german/dev/transcripts.txt"] += "252_1_000009\tzwei\n"
    listing = scan(plant(tmp_path, tree))
    assert len(listing.utterances) == 2
    assert [name for name, _ in listing.unreadable] == [
        f"{tmp_path / 'mls_all' / 'mls_german' / 'dev' / '252_1_000009'}.*"
    ]


def test_a_list_that_names_no_audio_is_counted(tmp_path):
    listing = scan(plant(tmp_path, {"wavs/1.wav": AUDIO, "metadata.csv": "x1|A|a\nx2|B|b\n"}))
    assert (listing.layout, listing.unreadable) == ("plain", [])
    assert listing.left_out == {f"lines of {tmp_path / 'metadata.csv'}, none of which names audio here": 2}


def test_copies_in_other_formats_are_left_out(tmp_path):
    tree = dict(CORPORA["librispeech"][1])
    tree["dev-clean/84/1/84-1-0000.mp3"] = AUDIO
    listing = scan(plant(tmp_path, tree))
    assert [u.path.name for u in listing.utterances] == ["84-1-0000.flac", "84-1-0001.flac"]
    assert sum(listing.left_out.values()) == 1


def test_ids_are_unique_where_names_are_not(tmp_path):
    tree = {f"{copy}/{path}": content for copy in "ab" for path, content in CORPORA["librispeech"][1].items()}
    listing = scan(plant(tmp_path, {**tree, "c/x.wav": AUDIO, "c/x.flac": AUDIO}))
    assert len({u.id for u in listing.utterances}) == 6
    write_manifest(tmp_path / "m.jsonl", listing.utterances)
    assert len({u.id for u in read_manifest(tmp_path / "m.jsonl")}) == 6
    assert "6 clips share a name with another" in " ".join(listing.remarks)


@pytest.mark.parametrize(
    ("tree", "speaker", "text"),
    [
        ({"wavs/a.wav": AUDIO, "metadata.csv": "a|A|b\n"}, "root", "b"),  # as LJSpeech, by whom is not known
        ({"d/x-1.wav": AUDIO, "d/all.trans.txt": "x-1 A B\n"}, "x", "A B"),
        ({"ann/1.wav": AUDIO, "ann/1.lab": "a transcript\n"}, "ann", "a transcript"),
        ({"ann/1.wav": AUDIO, "ann/1.lab": HTK}, "ann", None),
        ({"1.wav": AUDIO, "1.txt": "words"}, None, "words"),
        ({"x/a.wav": AUDIO, "x/metadata.csv": "id|text\na.wav|A\n"}, "x", "A"),
        ({"x/a.wav": AUDIO, "x/metadata.csv": "seconds,kind\n1,A\n"}, "x", None),
    ],
)
def test_a_guessed_speaker_is_marked(tmp_path, tree, speaker, text):
    (utterance,) = scan(plant(tmp_path / "root", tree)).utterances
    assert (utterance.speaker, utterance.text) == (speaker, text)
    assert utterance.speaker_guessed == (speaker is not None)
    assert utterance.known_speaker is None


def test_json_beside_the_audio_is_read(tmp_path):
    row = {"id": "EN_1", "wav": "a.mp3", "text": " hello", "speaker": "EN_s", "language": "en", "dnsmos": 3.3}
    tree = {"x/a.mp3": AUDIO, "x/a.json": json.dumps(row), "x/b.mp3": AUDIO, "x/b.json": "[1]", "cuts.jsonl": "{}"}
    listing = scan(plant(tmp_path, tree))
    assert rows(listing, "id", "speaker", "speaker_guessed", "text", "language") == [
        ("EN_1", "EN_s", False, "hello", "en"),
        (str(tmp_path / "x" / "b"), "x", True, None, None),
    ]
    assert f"name one of them: {tmp_path / 'cuts.jsonl'}" in listing.remarks[0]
    plant(tmp_path, {"x/b.json": "{", "x/a.txt": "other words"})
    listing = scan(tmp_path)
    assert rows(listing, "text") == [("other words",)]
    assert "b.json cannot be read" in listing.unreadable[0][1]


def test_a_packed_list_of_texts_is_read(tmp_path):
    plant(tmp_path, {"1-2-3.flac": AUDIO})
    with gzip.open(tmp_path / "1-2.trans.txt.gz", "wt") as file:
        file.write("1-2-3 WORDS\n")
    assert rows(scan(tmp_path), "text", "known_speaker") == [("WORDS", "1")]


@pytest.mark.parametrize(
    ("tree", "layout"),
    [
        ({"84/1/84-1-0000.flac": AUDIO, "84/1/84-1-0000.lab": "the text"}, "librispeech"),
        ({"84/1/84_1_000000_000000.wav": AUDIO, "84/1/84_1_000000_000000.txt": "the  text\n"}, "libritts"),
        ({"ann/LJ001-0001.wav": AUDIO, "ann/LJ001-0001.lab": "the text"}, "ljspeech"),
        ({"wav48/p225/p225_001.wav": AUDIO, "wav48/p225/p225_001.txt": "the text"}, "vctk"),
        (
            {"mls_german/dev/audio/1/2/1_2_000000.flac": AUDIO, "mls_german/dev/audio/1/2/1_2_000000.lab": "the text"},
            "mls",
        ),
    ],
)
def test_a_text_beside_the_audio_of_a_known_corpus_is_read(tmp_path, tree, layout):
    listing = scan(plant(tmp_path, tree))
    assert (listing.layout, rows(listing, "text")) == (layout, [("the text",)])


def test_a_known_speaker_is_not_a_guess(tmp_path):
    assert Utterance(tmp_path, 1.0, speaker="ann").known_speaker == "ann"


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"a/1.wav": AUDIO, "a/1.TextGrid": ""}, {"a/1.wav": "a/1.TextGrid"}),
        ({"a/1.WAV": AUDIO, "a/1.PHN": PHN, "a/1.lab": HTK}, {"a/1.WAV": "a/1.PHN"}),
        ({"a/1.wav": AUDIO, "a/1.lab": HTK}, {"a/1.wav": "a/1.lab"}),
        # MFA writes a folder that mirrors the audio's.
        (
            {
                f"{kind}/{who}/1{end}": c
                for kind, end, c in (("wav", ".wav", AUDIO), ("tg", ".TextGrid", ""))
                for who in "ab"
            },
            {"wav/a/1.wav": "tg/a/1.TextGrid", "wav/b/1.wav": "tg/b/1.TextGrid"},
        ),
        (
            {"a/1.wav": AUDIO, "b/1.wav": AUDIO, "aligned/a/1.TextGrid": "", "aligned/b/1.TextGrid": ""},
            {"a/1.wav": "aligned/a/1.TextGrid", "b/1.wav": "aligned/b/1.TextGrid"},
        ),
        (
            {"wav/a/long-name.wav": AUDIO, "grids/long-name.TextGrid": ""},
            {"wav/a/long-name.wav": "grids/long-name.TextGrid"},
        ),
        (
            {"corpus/a/1.wav": AUDIO, "corpus/b/1.wav": AUDIO, "aligned/a/1.TextGrid": "", "aligned/b/1.TextGrid": ""},
            {"corpus/a/1.wav": "aligned/a/1.TextGrid", "corpus/b/1.wav": "aligned/b/1.TextGrid"},
        ),
        ({"a/s1/1.wav": AUDIO, "b/s2/1.wav": AUDIO, "b/s1/1.TextGrid": ""}, {"a/s1/1.wav": None, "b/s2/1.wav": None}),
        ({"a/s/1.wav": AUDIO, "b/s/1.wav": AUDIO, "c/s/1.TextGrid": ""}, {"a/s/1.wav": None, "b/s/1.wav": None}),
        # A file in another speaker's folder is not one's own.
        ({"a/1.wav": AUDIO, "b/1.wav": AUDIO, "a/1.TextGrid": ""}, {"a/1.wav": "a/1.TextGrid", "b/1.wav": None}),
        ({"a/1.wav": AUDIO, "b/2.wav": AUDIO, "b/1.TextGrid": ""}, {"a/1.wav": None, "b/2.wav": None}),
        ({"a/1.wav": AUDIO, "x/1.TextGrid": "", "y/1.TextGrid": ""}, {"a/1.wav": None}),
    ],
)
def test_alignments_are_found(tmp_path, tree, found):
    listing = scan(plant(tmp_path, tree))
    expected = {tmp_path / audio: alignment and tmp_path / alignment for audio, alignment in found.items()}
    assert {u.path: u.alignment for u in listing.utterances} == expected


def test_alignments_of_no_clip_are_counted(tmp_path):
    plant(tmp_path, {"a/1.wav": AUDIO, "b/1.wav": AUDIO, "c/1.TextGrid": "", "a/2.PHN": PHN, "a/3.lab": "a text"})
    listing = scan(tmp_path)
    assert rows(listing, "alignment") == [(None,), (None,)]
    assert listing.left_out == {"alignments that are of no clip here": 2}


def test_alignments_of_another_folder(tmp_path):
    plant(tmp_path, {"audio/a/1.wav": AUDIO, "audio/b/1.wav": AUDIO, "out/a/1.TextGrid": "", "out/c/1.TextGrid": ""})
    listing = scan(tmp_path / "audio", alignments=tmp_path / "out")
    assert rows(listing, "alignment") == [(tmp_path / "out" / "a" / "1.TextGrid",), (None,)]
    plant(tmp_path, {"kaldi/ctm": "a 1 0 1 AA\n", "kaldi/x.ctm": "", "kaldi/y.mlf": "#!MLF!#\n"})
    listing = scan(tmp_path / "audio", alignments=tmp_path / "kaldi")
    (reason,) = listing.left_out
    assert reason.startswith("CTM or MLF files of many clips")
    assert listing.left_out[reason] == 3
    # The same folders count more than similar ones.
    plant(tmp_path, {"c/dev/a/1.wav": AUDIO, "c/test/a/1.wav": AUDIO, "mfa/test/a/1.TextGrid": ""})
    listing = scan(tmp_path / "c", alignments=tmp_path / "mfa")
    assert rows(listing, "alignment") == [(None,), (tmp_path / "mfa" / "test" / "a" / "1.TextGrid",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("LJ001-0001|a\nLJ001-0001|b\n", r"metadata.csv:2: LJ001-0001 is there twice, with different texts")],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, content, message):
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / "metadata.csv")


def test_audio_that_is_not_read_is_counted(tmp_path):
    plant(tmp_path, {"a.wav": AUDIO, "._a.wav": "", "b.spx": "", "c.shn": "", "d.tar": ""})
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "annexed.wav").symlink_to(tmp_path / ".git" / "annex" / "1.wav")
    assert sum(scan(tmp_path).left_out.values()) == 6
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"no files to read in .*1 times: .spx files: audio that is not read"):
        scan(tmp_path)
