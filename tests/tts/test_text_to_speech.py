"""Speaking with a tiny random release: lengths, seeds, voices, rates, and input that is refused."""

from dataclasses import replace

import pytest
import soundfile
import torch

import flexicodec
from flexicodec.cli import main
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig
from flexicodec.models.tts.generation import GenerationConfig
from flexicodec.tokens import Tokens

FAST = FlowSamplingConfig(steps=1)
SHORT = GenerationConfig(min_tokens=6, max_tokens=6)


@pytest.fixture(scope="module")
def tts(release):
    class Letters:
        def encode(self, text, language="en"):
            return [1 + ord(letter) % 50 for letter in text]

    return flexicodec.load_tts(release, front_end=Letters())


@pytest.fixture(scope="module")
def voice(tts, speech):
    return tts.encode_voice(speech[0], "some words", frame_rate=6.25)


def speak(tts, text="hello there", **options):
    return tts.synthesize(text, **{"generation": SHORT, "sampling": FAST, **options})


def test_audio_is_as_long_as_its_tokens_say(tts, voice):
    for given in (None, voice):
        audio, tokens = speak(tts, voice=given, frame_rate=6.25)
        assert audio.shape == (1, int(tokens.frame_lengths) * 1920)
        assert len(tokens) == 1
        assert tokens.format.fingerprint == tts.codec.fingerprint
        assert tokens.durations.max() <= tts.codec.format.max_duration
        assert tokens.info == {"threshold": 0.86, "seed": 0, "reached_limit": True}


def test_tokens_are_those_of_the_codec(tts, tmp_path):
    tokens = speak(tts).tokens
    tokens.save(tmp_path / "a.flxc")
    read = Tokens.load(tmp_path / "a.flxc")
    assert read == tokens
    assert torch.equal(tts.decode(read, sampling=FAST), tts.decode(tokens, sampling=FAST))
    assert tts.codec.decode(read).shape[0] == 1


def test_a_seed_gives_the_same_speech(tts, voice):
    options = {"voice": voice, "frame_rate": 6.25}
    first = speak(tts, **options, seed=1)
    again = speak(tts, **options, seed=1)
    assert torch.equal(first.audio, again.audio)
    assert first.tokens == again.tokens
    assert speak(tts, **options, seed=2).tokens != first.tokens


def test_a_voice_is_a_file_samples_or_encoded(tts, voice, speech, speech_folder):
    options = {"voice_text": "some words", "frame_rate": 6.25}
    expected = speak(tts, voice=voice, frame_rate=6.25)
    path = sorted(speech_folder.glob("*.flac"))[0]
    for given in (path, str(path), speech[0], speech[0][0].numpy()):
        out = speak(tts, voice=given, **options)
        assert out.tokens == expected.tokens
        torch.testing.assert_close(out.audio, expected.audio, atol=1e-4, rtol=0)


def test_the_voice_is_encoded_at_the_rate_of_the_speech(tts, speech):
    slow = tts.encode_voice(speech[0], frame_rate=6.25)
    fast = tts.encode_voice(speech[0], threshold=0.91)
    assert slow.threshold == 0.86
    assert int(slow.tokens.token_lengths) <= int(fast.tokens.token_lengths)
    assert torch.equal(slow.tokens.durations, tts.codec.encode(speech[0], threshold=0.86).durations)
    with pytest.raises(ValueError, match="encoded with threshold 0.91 and the text is to be spoken with 0.86"):
        speak(tts, voice=fast, frame_rate=6.25)


def test_tokens_without_their_text_are_no_prompt(tts, voice):
    """Upstream continues tokens whose text it was not given."""
    silent = replace(voice, text=None)
    assert speak(tts, voice=silent, frame_rate=6.25).tokens == speak(tts, frame_rate=6.25).tokens
    assert speak(tts, voice=voice, frame_rate=6.25).tokens != speak(tts, frame_rate=6.25).tokens
    with_voice, without = (speak(tts, voice=given, frame_rate=6.25).audio for given in (silent, None))
    assert not torch.equal(with_voice, without)


def test_rates(tts):
    assert tts.choose_threshold() == 0.91
    assert tts.choose_threshold(6.25) == 0.86
    assert tts.choose_threshold(8.3) == 0.91
    assert tts.choose_threshold(threshold=0.86) == 0.86
    known = r"threshold 0.86 \(6.25 Hz\), threshold 0.91 \(8.33 Hz\)"
    with pytest.raises(ValueError, match=f"frame_rate is 12.5 Hz; this model was trained with {known}"):
        speak(tts, frame_rate=12.5)
    with pytest.raises(ValueError, match=f"threshold is 0.9; this model was trained with {known}"):
        speak(tts, threshold=0.9)
    with pytest.raises(ValueError, match="give one of them"):
        speak(tts, frame_rate=6.25, threshold=0.86)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "  "}, "the text is empty"),
        ({"text": "long " * 1200}, "take 6003 positions and leave no room for tokens; this model has 5000"),
        ({"voice": torch.zeros(1, 32_000)}, "the reference is silent"),
        ({"voice": torch.ones(1, 3200)}, "the reference is 0.20 s long; expected 0.5 s or more"),
        ({"voice": torch.ones(2, 32_000)}, "is a batch of 2; expected one recording"),
        ({"voice": 0.1 * torch.ones(1, 32_000), "voice_text": " "}, "the text of the reference is empty"),
        ({"voice": "nowhere.wav"}, "nowhere.wav"),
    ],
)
def test_bad_input(tts, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        speak(tts, **options)


def test_tokens_of_another_codec(tts, voice, whole, speech):
    foreign = whole.encode(speech[0], num_codebooks=0)
    with pytest.raises(ValueError, match="made by another model"):
        tts.decode(foreign)
    with pytest.raises(ValueError, match="made by another model"):
        speak(tts, voice=replace(voice, tokens=foreign), frame_rate=6.25)
    with pytest.raises(ValueError, match="2 clips; decode them one by one"):
        tts.decode(Tokens.cat([voice.tokens, voice.tokens]))


def test_half_precision(release, letters, voice):
    tts = flexicodec.load_tts(release, front_end=letters, dtype=torch.bfloat16)
    audio, tokens = speak(tts, voice=voice, frame_rate=6.25)
    assert audio.dtype == torch.float32
    assert audio.shape == (1, int(tokens.frame_lengths) * 1920)


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def command(release, letters, monkeypatch, tmp_path):
    """Run `flexicodec tts` with a front end of letters."""
    load = flexicodec.load_tts
    monkeypatch.setattr(flexicodec, "load_tts", lambda *args, **options: load(*args, front_end=letters, **options))
    return lambda *args: main(["tts", *args, "--model", str(release), "--steps", "1", "-o", str(tmp_path / "out.wav")])


def test_the_command_writes_audio(command, speech_folder, tmp_path, capsys):
    voice = str(sorted(speech_folder.glob("*.flac"))[0])
    code = command(
        "hi", "--voice", voice, "--ref-text", "some words", "--frame-rate", "6.25", "--precision", "bfloat16"
    )
    out, err = capsys.readouterr()
    assert code == ("limit of tokens was reached" in err)
    assert f"{tmp_path / 'out.wav'}: Tokens(1 clip" in out
    audio, sample_rate = soundfile.read(tmp_path / "out.wav")
    assert sample_rate == 24_000
    assert len(audio) % 1920 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "the text is empty"),
        (("hi", "--frame-rate", "3"), "frame_rate is 3.0 Hz; this model was trained with"),
        (("hi", "--ref-text", "words"), "--ref-text says what is said in --voice FILE, which is missing"),
        (("hi", "--guidance", "-1"), "guidance is -1"),
        (("hi", "--voice", "nowhere.wav"), "nowhere.wav"),
    ],
)
def test_the_command_reports_mistakes_in_a_line(command, arguments, message, capsys, tmp_path):
    assert command(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.wav").exists()
