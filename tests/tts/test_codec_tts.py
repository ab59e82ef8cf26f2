"""Speaking with a tiny model of our own: rates, voices, lengths, seeds, batches, folders, and input that is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import soundfile
import torch

import flexicodec
from flexicodec.cli import main
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig
from flexicodec.models.tts.generation import GenerationConfig
from flexicodec.tokens import Tokens
from flexicodec.tts import CodecTTS
from flexicodec.tts.speech_models import SpeechModels, code_space, decode_latents, feature_latents
from flexicodec.tts.voices import Voice
from tests.tts.tiny_models import make_models

FAST = FlowSamplingConfig(steps=2, guidance=1.0)
SHORT = GenerationConfig(min_tokens=5, max_tokens=5)
HZ = 6.25


@pytest.fixture(scope="module", params=["whole", "spectral"])
def codec(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def tts(codec):
    return CodecTTS(make_models(codec), codec)


@pytest.fixture(scope="module")
def voice(tts, speech):
    return tts.encode_voice(speech[0], "some words", frame_rate=HZ)


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return make_models(whole).save(folder / "model", whole)


def speak(tts, text="hello there", **options):
    return tts.synthesize(text, **{"generation": SHORT, "sampling": FAST, **options})


def test_latents_are_what_the_codec_decodes(codec, speech):
    features = codec.features(speech[0])
    with torch.no_grad():
        latents = feature_latents(codec, features)
        audio = decode_latents(codec, latents, features.lengths)
    expected = codec.decode(codec.encode(speech[0], threshold=1.0))
    torch.testing.assert_close(audio[:, : expected.shape[1]], expected, atol=1e-4, rtol=1e-4)


def test_latents_of_a_batch_are_those_of_its_clips(codec, speech):
    both = flexicodec.collate([speech[0][0], speech[1][0, :20_001]])
    features = codec.features(*both)
    with torch.no_grad():
        together = feature_latents(codec, features)
        alone = feature_latents(codec, codec.features(speech[1][:, :20_001]))
    torch.testing.assert_close(together[1:, :, : alone.shape[2]], alone, atol=1e-3, rtol=1e-3)


def test_audio_is_as_long_as_its_tokens_say(tts, voice):
    for given in (None, voice):
        for rate in (HZ, None) if given is None else (HZ,):
            audio, tokens = speak(tts, voice=given, frame_rate=rate)
            assert audio.shape == (1, int(tokens.frame_lengths) * tts.codec.frame_size)
            assert tokens.format.fingerprint == tts.codec.fingerprint
            assert 1 <= tokens.durations.min()
            assert tokens.durations.max() <= tts.codec.format.max_duration
            assert tokens.info == {"frame_rate": rate, "seed": 0, "reached_limit": True}
            assert audio.isfinite().all()


def test_a_voice_is_encoded_at_the_rate_asked_for(tts, speech):
    for rate in (4.0, 6.25, 12.5):
        tokens = tts.encode_voice(speech[0], frame_rate=rate).tokens
        assert tokens.frame_rates[0].item() == pytest.approx(rate, rel=0.1)
        assert tokens.num_codebooks == 0


def test_a_seed_gives_the_same_speech(tts, voice):
    options = {"voice": voice, "frame_rate": HZ}
    first = speak(tts, **options, seed=1)
    again = speak(tts, **options, seed=1)
    assert torch.equal(first.audio, again.audio)
    assert first.tokens == again.tokens
    other = speak(tts, **options, seed=2)
    assert other.audio.shape != first.audio.shape or not torch.allclose(other.audio, first.audio)


def test_voice_and_its_text_matter(tts, voice):
    options = {"frame_rate": HZ, "seed": 3}
    with_text = speak(tts, voice=voice, **options)
    without = speak(tts, voice=replace(voice, text=None), **options)
    unprompted = speak(tts, **options)
    assert without.tokens == unprompted.tokens  # only the decoder imitates it
    assert not torch.equal(without.audio, unprompted.audio)
    assert with_text.tokens.semantic.tolist() != without.tokens.semantic.tolist()


def test_texts_side_by_side_are_those_alone(tts, voice):
    texts = ["one", "two words", "a longer text"]
    voices = [None, voice, None]
    rates = [None, HZ, 12.5]
    settings = replace(SHORT, max_tokens=9, seed=(1, 2, 3))
    together = tts.generate(texts, voices, frame_rate=rates, config=settings)
    for row, tokens in enumerate(together):
        alone = replace(settings, seed=row + 1)
        (single,) = tts.generate([texts[row]], [voices[row]], frame_rate=rates[row], config=alone)
        assert tokens == single
        assert tokens.info == single.info


def test_a_folder_is_what_was_saved(folder, whole, tts, tmp_path):
    loaded = flexicodec.load_tts(folder)
    assert isinstance(loaded, CodecTTS)
    assert loaded.codec.fingerprint == whole.fingerprint
    if tts.codec is whole:
        first, again = speak(tts), speak(loaded)
        assert again.tokens == first.tokens
        torch.testing.assert_close(again.audio, first.audio, atol=1e-4, rtol=1e-4)
    tokens = speak(loaded).tokens
    tokens.save(tmp_path / "a.flxc")
    read = Tokens.load(tmp_path / "a.flxc")
    assert torch.equal(loaded.decode(read, sampling=FAST), loaded.decode(tokens, sampling=FAST))


def test_half_precision_leaves_codec_and_statistics_alone(folder):
    half = flexicodec.load_tts(folder, dtype=torch.bfloat16)
    assert half.models.lm.backbone.dtype == torch.bfloat16
    assert {weight.dtype for weight in half.codec.parameters()} == {torch.float32}
    assert half.models.flow.mean.dtype == torch.float32
    audio, tokens = speak(half)
    assert audio.dtype == torch.float32
    assert audio.shape[1] == int(tokens.frame_lengths) * 1280


def test_loading_leaves_the_random_state_alone(folder):
    state = torch.get_rng_state()
    flexicodec.load_tts(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_decoder_the_codec_decodes(whole):
    config = replace(make_models(whole).config, flow=None)
    with torch.random.fork_rng(devices=[]):
        tts = CodecTTS(SpeechModels(config), whole)
    audio, tokens = speak(tts)
    assert torch.equal(audio, whole.decode(tokens))


@pytest.mark.parametrize("rate", [2.9, 13.0, 0.0, -1.0])
def test_a_rate_out_of_range_is_refused(tts, rate):
    with pytest.raises(ValueError, match=f"frame_rate is {rate} Hz; expected 3 to 12.5"):
        speak(tts, frame_rate=rate)


def test_bad_input_is_refused(tts, voice, speech, spectral, whole):
    cases = [
        ({"text": " "}, "the text is empty"),
        ({"text": "see you at 10"}, "write numbers in words"),
        ({"text": "\u4f60\u597d"}, "another language"),
        ({"voice": speech[0][:, :3200]}, r"0\.20 s long; expected 0\.5 s"),
        ({"voice": torch.zeros(1, 16_000)}, "is silent"),
        ({"voice": speech[0], "voice_text": " "}, "the text of the reference is empty"),
        ({"voice": speech[0], "voice_text": "\u4f60"}, "another language"),
        ({"voice": voice, "frame_rate": 12.5}, r"encoded with frame_rate 6\.25 .* with 12\.5"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            speak(tts, **options)
    other = spectral if tts.codec is whole else whole
    foreign = other.encode(speech[0], frame_rate=HZ, num_codebooks=0)
    with pytest.raises(ValueError, match="fingerprint"):
        tts.decode(foreign)
    with pytest.raises(ValueError, match="fingerprint"):
        speak(tts, voice=Voice(speech[0], foreign, "some words", frame_rate=HZ), frame_rate=HZ)
    with pytest.raises(ValueError, match="2 clips; decode them one by one"):
        tts.decode(Tokens.cat([voice.tokens, voice.tokens]))
    with pytest.raises(ValueError, match="2 texts, 1 voices and 2 rates"):
        tts.generate(["a", "b"], [None])


def test_a_text_longer_than_the_model_has_positions(whole):
    config = make_models(whole).config
    with torch.random.fork_rng(devices=[]):
        tts = CodecTTS(SpeechModels(replace(config, lm=replace(config.lm, max_positions=20))), whole)
    with pytest.raises(ValueError, match="this model has 20; speak the text in parts"):
        speak(tts, "a text of more than twenty letters")


def test_another_codec_is_refused(folder, spectral, whole, tmp_path):
    with pytest.raises(ValueError, match="tokens of another codec"):
        flexicodec.load_tts(folder, codec=spectral)
    with pytest.raises(ValueError, match="the model is for"):
        CodecTTS(make_models(spectral), replace_max_duration(whole))
    copied = shutil.copytree(folder, tmp_path / "copied")
    shutil.rmtree(copied / "codec")
    spectral.save_pretrained(copied / "codec")
    with pytest.raises(ValueError, match="tokens of another codec"):
        flexicodec.load_tts(copied)
    with pytest.raises(ValueError, match="vocoder= and sensevoice= are for released weights"):
        flexicodec.load_tts(folder, vocoder="x")


def replace_max_duration(codec):
    """A codec of the same codes whose tokens are shorter."""
    other = type(codec)(replace(codec.config, merging=replace(codec.config.merging, max_duration=4)))
    assert code_space(other) != code_space(codec)
    return other


def test_damaged_folders(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    (copied / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="was the copy interrupted"):
        flexicodec.load_tts(copied)
    held = json.loads((copied / "config.json").read_text())
    del held["codec_fingerprint"]
    (copied / "config.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="has no codec_fingerprint"):
        flexicodec.load_tts(copied)


def test_codecs_without_numbered_tokens_are_refused(nanocodecs, whole):
    with pytest.raises(ValueError, match="is a NanoCodec"):
        code_space(nanocodecs["nano"])
    with torch.random.fork_rng(devices=[]):
        unlimited = type(whole)(replace(whole.config, merging=replace(whole.config.merging, max_duration=None)))
    with pytest.raises(ValueError, match="no max_duration"):
        code_space(unlimited)


def test_the_command(folder, tmp_path, speech, capsys):
    flexicodec.write_audio(tmp_path / "ref.wav", speech[0], 16_000)
    out = tmp_path / "out.wav"
    arguments = [
        "tts",
        "hello",
        "--model",
        str(folder),
        "--voice",
        str(tmp_path / "ref.wav"),
        "--ref-text",
        "some words",
    ]
    code = main([*arguments, "--frame-rate", "6.25", "--steps", "2", "-o", str(out)])
    printed = capsys.readouterr()
    assert code in (0, 1), printed.err
    assert (code == 1) == ("limit of tokens" in printed.err)
    audio, rate = soundfile.read(out)
    assert rate == 16_000
    assert len(audio) % 1280 == 0
    assert main([*arguments, "--threshold", "0.9", "-o", str(out)]) == 2
    assert "--threshold is for released weights" in capsys.readouterr().err
