"""Moonshine: its decoder against transformers, guards of decoding, and the real weights where they are installed."""

import numpy as np
import pytest
import torch

from flexicodec.asr import moonshine
from flexicodec.asr.moonshine import BEGIN, END, Moonshine, cut_at_pauses, is_background, loop_length, token_limit
from flexicodec.encoders import moonshine_weights
from flexicodec.weights import load_exactly
from tests.encoders.test_moonshine_encoder import TINY, original

installed = pytest.mark.skipif(not moonshine_weights.ENCODER.is_installed(), reason="needs the extra instruments")


@pytest.fixture(scope="module")
def model():
    return original()


@pytest.fixture(scope="module")
def tiny(model):
    made = Moonshine(TINY, [b"<unk>", b"<s>", b"</s>"] + [bytes([i]) for i in range(47)]).eval()
    load_exactly(made.encoder, dict(model.model.encoder.state_dict()))
    load_exactly(made.decoder, dict(model.model.decoder.state_dict()))
    return made


@pytest.fixture(scope="module")
def features(tiny):
    audio = 0.1 * torch.randn(3, 12_000, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return tiny.encoder(audio, torch.tensor([12_000, 9000, 5000]))


def test_logits_equal_those_of_transformers_with_and_without_a_cache(model, tiny):
    audio = 0.1 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(3, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(input_values=audio, decoder_input_ids=tokens).logits
        memory = tiny.decoder.memory(tiny.encoder(audio, torch.tensor([9000, 9000]))[0])
        found, _ = tiny.decoder(tokens, memory)
        steps = []
        cache = None
        for start, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
            logits, cache = tiny.decoder(tokens[:, start:end], memory, None, cache)
            steps.append(logits)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=5e-5, rtol=1e-5)


def test_greedy_tokens_equal_those_of_transformers(model, tiny, monkeypatch):
    monkeypatch.setattr(moonshine, "LOOP_REPEATS", 100)
    audio = 0.1 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(5))
    options = {"do_sample": False, "max_new_tokens": 15, "decoder_start_token_id": BEGIN, "eos_token_id": END}
    expected = model.generate(input_values=audio, **options)[0].tolist()[1:]
    with torch.no_grad():
        found = tiny.generate(*tiny.encoder(audio, torch.tensor([9000])), [15])[0]
    assert found == [token for token in expected if token != END]


def test_a_batch_is_decoded_as_each_item_alone(tiny, features):
    together = tiny.generate(*features, [20, 9, 3])
    for row, limit in enumerate([20, 9, 3]):
        count = features[1][row : row + 1]
        assert tiny.generate(features[0][row : row + 1, :, : int(count)], count, [limit])[0] == together[row]
        assert len(together[row]) <= limit


@pytest.mark.parametrize(
    ("tokens", "length"),
    [
        ([], 0),
        ([5, 5, 5], 0),
        ([7, 5, 5, 5, 5], 1),
        ([1, 2, 1, 2, 1, 2, 1, 2], 2),
        ([1, 2, 1, 2, 1, 2, 1, 3], 0),
        (list(range(12)) * 4, 12),
        (list(range(13)) * 4, 0),
    ],
)
def test_loops_are_four_repetitions_at_the_end(tokens, length):
    assert loop_length(tokens) == length


def test_a_loop_ends_decoding_and_is_kept_once(tiny, monkeypatch):
    """A decoder that writes 9, then 4 5 4 5 without end, and for the second clip never repeats itself."""
    scripts = [[9] + [4, 5] * 50, list(range(3, 50)) * 3]

    def decode(tokens, memory, valid, cache):
        step = 0 if cache is None else int(cache[0][0][0, 0, 0])
        logits = torch.zeros(len(tokens), 1, 50)
        for row, key in enumerate(memory[0][0][:, 0, 0].tolist()):
            logits[row, 0, scripts[int(key)][step]] = 1
        held = torch.full((len(tokens), 1, 1), step + 1.0)
        return logits, [(held, held)]

    monkeypatch.setattr(tiny.decoder, "forward", decode)
    rows = torch.arange(2.0).view(2, 1, 1)
    monkeypatch.setattr(tiny.decoder, "memory", lambda features: [(rows, rows)])
    assert tiny.generate(torch.zeros(2, 1, 4), torch.tensor([4, 4]), [60, 30]) == [[9, 4, 5], scripts[1][:30]]


def test_the_limit_grows_with_the_clip():
    assert [token_limit(seconds) for seconds in (0.06, 1.0, 2.0, 10.0)] == [8, 8, 13, 65]


def test_long_clips_are_cut_in_their_pauses():
    generator = torch.Generator().manual_seed(0)
    clip = 0.1 * torch.randn(70 * 16_000, generator=generator)
    clip[25 * 16_000 : 26 * 16_000] *= 0.01
    clip[48 * 16_000 : 49 * 16_000] *= 0.01
    pieces = cut_at_pauses(clip, 16_000)
    assert torch.equal(torch.cat(pieces), clip)
    assert all(len(piece) <= 30 * 16_000 for piece in pieces)
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)[:-1] / 16_000
    assert ends.tolist() == [pytest.approx(25.5, abs=0.5), pytest.approx(48.5, abs=0.5)]
    assert [len(piece) for piece in cut_at_pauses(clip[: 30 * 16_000], 16_000)] == [30 * 16_000]


def test_background_is_faint_and_steady(speech):
    noise = torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    voice = speech[0][0]
    padded = torch.nn.functional.pad(1e-3 * noise, (0, 32_000))
    for clip in (torch.zeros(32_000), torch.zeros(10), 1e-3 * noise, 1e-4 * noise[:900], padded):
        assert is_background(clip, 16_000)
    for clip in (voice, 0.01 * voice, 0.001 * voice, 0.05 * noise):
        assert not is_background(clip, 16_000)


def test_tokens_become_text():
    pieces = [b"<unk>", b"<s>", b"</s>", *(bytes([i]) for i in range(256)), "\u2581na".encode(), b"ve", b"<<ST_1>>"]
    model = Moonshine(TINY, pieces)
    assert model.text([1, 259, 3 + 0xC3, 3 + 0xAF, 260, 261, 2]) == "na\u00efve"
    assert model.text([]) == ""
    assert model.text([259, 3 + 0xC3]) == "na\ufffd"


# ----------------------------------------------------------------------------------------------- the real weights


TEXTS = {  # of transformers' MoonshineForConditionalGeneration with these weights, greedy
    "4970-29095-0008": "Mother, I am going to study medicine.",
    "6930-81414-0019": "Mulchair picked up something from the ground and looked at it.",
}
SAID = "mother i'm going to study medicine voltaire picked up something from the ground and looked at it"


@pytest.fixture(scope="module")
def real():
    return Moonshine.load()


@installed
def test_texts_are_those_of_the_original(real, speech_folder, speech):
    waves = [clip[0].numpy() for clip in speech]
    names = [path.stem for path in sorted(speech_folder.glob("*.flac"))]
    assert dict(zip(names, real.transcribe(waves), strict=True)) == TEXTS
    assert [real.transcribe([wave])[0] for wave in waves] == list(TEXTS.values())
    assert real.transcribe([waves[0] / 100, waves[0] * 2]) == [TEXTS["4970-29095-0008"]] * 2


@installed
def test_features_are_those_of_the_quantised_graph(real, speech):
    """ONNX Runtime also quantises activations, which is the difference that is left."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(moonshine_weights.ENCODER.find()), providers=["CPUExecutionProvider"])
    for clip in speech:
        inputs = {"input_values": clip.numpy(), "attention_mask": np.ones(clip.shape, np.int64)}  # of samples
        expected = torch.from_numpy(session.run(None, inputs)[0])
        found, _ = real.encoder(clip, torch.tensor([clip.shape[1]]))
        cosine = torch.nn.functional.cosine_similarity(found.mT, expected, dim=-1)
        assert cosine.mean() > 0.999
        assert cosine.min() > 0.97


@installed
def test_it_tells_good_from_bad(real, speech):
    """Noise, a low-pass and shuffled words raise the error rate."""
    from flexicodec.evaluation.metrics.asr import error_rates

    def wer(change, said=SAID):
        waves = [change(clip[0].numpy()).astype(np.float32) for clip in speech]
        return error_rates([said], [" ".join(real.transcribe(waves))], "english")["wer"]

    def low_passed(wave):
        spectrum = np.fft.rfft(wave)
        spectrum[int(len(spectrum) * 500 / 8000) :] = 0
        return np.fft.irfft(spectrum, len(wave))

    generator = np.random.default_rng(0)
    clean = wer(lambda wave: wave)
    assert clean < 0.25
    assert wer(lambda wave: wave + generator.standard_normal(len(wave)) * wave.std() * 2) > clean + 0.3
    assert wer(low_passed) > clean + 0.3
    words = SAID.split()
    assert wer(lambda wave: wave, " ".join(generator.permutation(words))) > 0.6


@installed
def test_silence_and_faint_noise_have_no_words(real):
    noise = 1e-3 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    assert real.transcribe([np.zeros(48_000, np.float32), noise, noise[:500], np.zeros(1, np.float32)]) == [""] * 4
    assert real.transcribe([]) == []
