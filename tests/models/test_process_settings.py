"""Settings of the process and of the caller change nothing: the same weights, tokens and audio, to the bit."""

from contextlib import contextmanager

import pytest
import torch

import flexicodec
from flexicodec import Tokens
from flexicodec.corpus import read_manifest
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.systems import Sweep
from flexicodec.training.logging import read_curves
from flexicodec.training.trainer import train
from tests.training.recipes import make_recogniser, recipe


@contextmanager
def setting(change, value, back):
    """Change a setting of the process for a while."""
    change(value)
    try:
        yield
    finally:
        change(back)


def default_dtype(dtype):
    return lambda: setting(torch.set_default_dtype, dtype, torch.float32)


def default_device(device):
    return lambda: setting(torch.set_default_device, device, None)


def matmul_precision(name):
    return lambda: setting(torch.set_float32_matmul_precision, name, "highest")


def autocast(dtype):
    return lambda: torch.autocast("cpu", dtype=dtype)


SETTINGS = {
    "default dtype float64": default_dtype(torch.float64),
    "default dtype bfloat16": default_dtype(torch.bfloat16),
    "default dtype float16": default_dtype(torch.float16),
    "default device meta": default_device("meta"),  # any other device than the model's
    "on the cpu": lambda: torch.device("cpu"),
    "on meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "matmul precision medium": matmul_precision("medium"),
    "autocast bfloat16": autocast(torch.bfloat16),
    "autocast float16": autocast(torch.float16),
}


def noise(codec):
    """Two clips of different length, no whole numbers of frames."""
    samples = 3 * codec.frame_size + 17
    generator = torch.Generator("cpu").manual_seed(3)
    audio = 0.1 * torch.randn(2, samples, generator=generator, dtype=torch.float32, device="cpu")
    return audio, [samples, samples - codec.frame_size - 5]


def everything(codec):
    """Run every way from audio to tokens and back."""
    audio, lengths = noise(codec)
    tokens = codec.encode(audio, lengths)
    results = {
        "tokens": tokens,
        "one clip as an array, resampled": codec.encode(audio[0].numpy(), sample_rate=24_000),
        "audio": codec.decode(tokens),
        "embedding": codec.embed(tokens),
        "times": tokens.times(1),
        "bitrates": tokens.bitrates_kbps.double(),
        "fingerprint": codec.compute_fingerprint(),
    }
    if codec.format.max_duration != 1:
        features = codec.features(audio, lengths)
        for policy in ("variance", "running"):
            results[policy] = codec.tokenize(features, frame_rate=6.25, policy=policy)
    with codec.streaming_encoder() as stream:
        pieces = [stream.encode(chunk) for chunk in audio[:1].split(2000, dim=1)] + [stream.flush()]
    pieces = [piece for piece in pieces if piece is not None]
    results["streamed tokens"] = Tokens.concat(pieces)
    for lookahead in (None, 1):
        with codec.streaming_decoder(lookahead_frames=lookahead) as stream:
            played = [stream.decode(piece) for piece in pieces] + [stream.flush()]
        results[f"streamed audio, {lookahead}"] = torch.cat(played, dim=1)
    return results


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.device == second.device and torch.equal(first, second)
    return bool(first == second)


@pytest.fixture(scope="module", params=["whole", "released", "nano"])
def saved(request, nanocodecs, tmp_path_factory):
    """A model's folder, and what it gives without any setting."""
    model = nanocodecs.get(request.param) or request.getfixturevalue(request.param)
    folder = model.save_pretrained(tmp_path_factory.mktemp(request.param))
    return folder, everything(flexicodec.load(folder))


@pytest.mark.parametrize("name", SETTINGS)
def test_results_do_not_depend_on_settings(saved, name):
    folder, expected = saved
    with SETTINGS[name]():
        codec = flexicodec.load(folder)
        found = everything(codec)
    assert {key for key, value in expected.items() if not same(value, found[key])} == set()
    # A model loaded there is as any other: the same elsewhere, and it can be trained.
    assert {str(parameter.dtype) for parameter in codec.parameters()} == {"torch.float32"}
    assert {str(parameter.device) for parameter in codec.parameters()} == {"cpu"}
    audio, lengths = noise(codec)
    assert codec.encode(audio, lengths) == expected["tokens"]
    trained = next(parameter for parameter in codec.parameters() if parameter.requires_grad)
    trained.sum().backward()
    assert trained.grad is not None
    assert codec.bfloat16().float().device.type == "cpu"


def test_settings_may_be_combined(saved):
    folder, expected = saved
    with SETTINGS["default dtype float64"](), SETTINGS["autocast bfloat16"](), SETTINGS["on meta"]():
        found = everything(flexicodec.load(folder))
    assert {key for key, value in expected.items() if not same(value, found[key])} == set()


@pytest.mark.parametrize("name", ["default dtype float64", "default dtype bfloat16", "default device meta"])
def test_calibration_neither(whole, speech_folder, name):
    expected = flexicodec.calibrate(whole, [speech_folder], 6.25)
    with SETTINGS[name]():
        assert flexicodec.calibrate(whole, [speech_folder], 6.25) == expected


def test_weights_without_values_are_refused(whole):
    with torch.device("meta"):
        empty = type(whole)(whole.config)
    for call in (lambda: empty.encode(torch.zeros(1, 3000)), lambda: empty.decode(whole.encode(torch.zeros(1, 3000)))):
        with pytest.raises(ValueError, match="weights are on the meta device and have no values"):
            call()


@pytest.mark.parametrize("name", ["default dtype float64", "default dtype bfloat16", "on meta", "inference mode"])
def test_recognisers_neither(name):
    from flexicodec.asr import Recognizer

    audio, _ = noise(flexicodec.load("flexicodec-mini", parts="semantic"))
    plain = Recognizer.load("recognizer-mini")
    expected = plain.log_probs(audio)[0], plain.align(audio, None, ["a", "b"])
    with SETTINGS[name]():
        recognizer = Recognizer.load("recognizer-mini")
        found = recognizer.log_probs(audio)[0], recognizer.align(audio, None, ["a", "b"])
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


# ------------------------------------------------------------------------------------------------ training, evaluation

QUICK = ("default dtype float64", "on meta", "inference mode")
settings_by_speed = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SETTINGS]


def trained(folder, manifest, recogniser):
    """Losses of two training steps, and what the model gives."""
    config = recipe(manifest, folder / "run", recogniser, steps=2, save_every=2, adversarial=None)
    codec = flexicodec.load(train(config))
    audio, lengths = noise(codec)
    curves = read_curves(folder / "run" / "curves.jsonl")
    return [value for _, value in curves["loss/total"]], codec.encode(audio, lengths).durations.shape[0]


def evaluated(folder, manifest, model):
    """Rows of an evaluation without models."""
    measures = MetricConfig(metrics=("stoi", "mel_distance"), transcribers=(), speaker_encoders=(), mos=())
    sweep = Sweep(frame_rates=(6.25,))
    found = evaluate_corpus(read_manifest(manifest)[:2], [f"m={model}"], folder, EvaluationConfig(measures, sweep))
    assert not found.failed
    return [{key: row.get(key) for key in ("stoi", "mel_distance", "bitrate_kbps")} for row in found.rows]


@pytest.mark.parametrize("name", settings_by_speed)
def test_training_and_evaluation_neither(name, manifest, whole, tmp_path):
    model = whole.save_pretrained(tmp_path / "model")
    recogniser = make_recogniser(tmp_path / "recogniser")
    expected = trained(tmp_path / "plain", manifest, recogniser), evaluated(tmp_path / "rows", manifest, model)
    before = torch.get_default_dtype()
    with SETTINGS[name]():
        found = trained(tmp_path / "set", manifest, recogniser), evaluated(tmp_path / "set-rows", manifest, model)
    assert torch.get_default_dtype() == before
    assert found[0][0] == pytest.approx(expected[0][0], rel=1e-4)
    assert found[1] == expected[1]
