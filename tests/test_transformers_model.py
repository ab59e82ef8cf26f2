"""A FlexiCodec in transformers: the Auto classes, folders with remote code, and that a batch equals its clips."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

import flexicodec
from flexicodec.transformers_model import FlexiCodecConfig, FlexiCodecFeatureExtractor, FlexiCodecModel


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


CLIPS = [noise(20_000), noise(7_001, 1), noise(33_333, 2)]


@pytest.fixture(scope="module")
def folder(spectral, tmp_path_factory):
    return spectral.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny", transformers=True)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def extractor(folder):
    return AutoFeatureExtractor.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------- opening and saving


def test_one_folder_opens_in_both(folder, model, extractor, spectral):
    assert isinstance(model, FlexiCodecModel)
    assert isinstance(extractor, FlexiCodecFeatureExtractor)
    assert not model.training
    assert flexicodec.load(folder).fingerprint == model.codec.fingerprint == model.config.fingerprint
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, FlexiCodecConfig)
    assert (config.sampling_rate, config.hop_length, config.frame_rate) == (16000, 1280, 12.5)
    assert config.num_quantizers == len(config.codebook_sizes) == 1 + spectral.num_codebooks
    assert extractor.sampling_rate == spectral.sample_rate


def test_a_folder_that_was_saved_for_flexicodec_alone_opens_too(spectral, tmp_path):
    model = AutoModel.from_pretrained(spectral.save_pretrained(tmp_path))
    assert model.codec.fingerprint == spectral.fingerprint
    assert model.config.num_quantizers == 1 + spectral.num_codebooks


def test_transformers_saves_what_flexicodec_opens(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert flexicodec.load(tmp_path).fingerprint == model.codec.fingerprint
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(torch.zeros(1, 4000))[0], model(torch.zeros(1, 4000))[0])


def test_a_config_alone_gives_random_weights(folder):
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    assert model(torch.zeros(1, 1, 4000)).audio_values.shape == (1, 1, 4000)


REMOTE = """
import sys
from transformers import AutoFeatureExtractor, AutoModel
import torch
assert "flexicodec" not in sys.modules
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = extractor([[0.1] * 9000, [0.2] * 3000], sampling_rate=16000, return_tensors="pt")
encoded = model.encode(**inputs, frame_rate=6.25)
print(encoded.durations.tolist(), list(model.decode(encoded.audio_codes, encoded.durations).audio_values.shape))
"""


def test_remote_code_opens_it_where_the_package_was_not_imported(folder, model, extractor, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(flexicodec.__file__).parents[1]),
        "HF_MODULES_CACHE": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([sys.executable, "-c", REMOTE, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    inputs = extractor([[0.1] * 9000, [0.2] * 3000], sampling_rate=16000, return_tensors="pt")
    encoded = model.encode(**inputs, frame_rate=6.25)
    assert done.stdout.strip() == f"{encoded.durations.tolist()} [2, 1, {8 * 1280}]"


def test_without_the_package_remote_code_says_which_to_install(folder, tmp_path):
    code = (folder / "modeling_flexicodec.py").read_text()
    (tmp_path / "flexicodec.py").write_text("")  # another package of this name
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PATH": ""})
    assert "pip install flexicodec-lab" in done.stderr


def test_what_cannot_be_opened_is_refused(nanocodecs, model, folder, tmp_path):
    with pytest.raises(ValueError, match="transformers=True is for a FlexiCodec; flexicodec.load opens a NanoCodec"):
        nanocodecs["nano"].save_pretrained(tmp_path / "nano", transformers=True)
    assert not (tmp_path / "nano").exists()
    with pytest.raises(ValueError, match=r"dtype is torch.bfloat16; weights stay in float32"):
        AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    held = json.loads((folder / "config.json").read_text())
    assert held["auto_map"]["AutoModel"] == "modeling_flexicodec.FlexiCodecModel"


# ------------------------------------------------------------------------------------------------------ encode, decode


@pytest.mark.parametrize("options", [{}, {"frame_rate": 5.0}, {"threshold": 1.0, "num_quantizers": 3}])
def test_a_batch_equals_its_clips(model, extractor, options):
    batch = extractor(CLIPS, sampling_rate=16000, return_tensors="pt")
    assert batch["input_values"].shape == (3, 1, 33_333)
    encoded = model.encode(**batch, **options)
    assert encoded.audio_codes.shape[1] == options.get("num_quantizers", model.config.num_quantizers)
    assert torch.equal(encoded.audio_codes_mask, (encoded.durations > 0).long())
    decoded = model.decode(encoded.audio_codes, encoded.durations, batch["padding_mask"]).audio_values
    assert decoded.shape == (3, 1, 33_333)
    for i, clip in enumerate(CLIPS):
        single = extractor(clip, sampling_rate=16000, return_tensors="pt")
        alone = model.encode(**single, **options)
        count = alone.durations.shape[1]
        assert int(encoded.audio_codes_mask[i].sum()) == count
        assert torch.equal(encoded.audio_codes[i, :, :count], alone.audio_codes[0])
        assert torch.equal(encoded.durations[i, :count], alone.durations[0])
        assert not encoded.audio_codes[i, :, count:].any()
        sound = model.decode(alone.audio_codes, alone.durations, single["padding_mask"]).audio_values
        torch.testing.assert_close(decoded[i : i + 1, :, : len(clip)], sound, atol=1e-5, rtol=0)
        assert not decoded[i, :, len(clip) :].any()


def test_it_gives_the_codecs_own_tokens_and_audio(model, extractor, spectral):
    batch = extractor(CLIPS, sampling_rate=16000, return_tensors="pt")
    tokens = spectral.encode(*flexicodec.collate([torch.tensor(clip) for clip in CLIPS]), frame_rate=6.0)
    encoded = model.encode(**batch, frame_rate=6.0)
    assert torch.equal(encoded.audio_codes[:, 0], tokens.semantic)
    assert torch.equal(encoded.audio_codes[:, 1:], tokens.acoustic)
    out = model(**batch, frame_rate=6.0)
    assert torch.equal(out.audio_values[:, 0], spectral.decode(tokens))
    assert torch.equal(out.durations, tokens.durations)
    as_tuple = model(**batch, frame_rate=6.0, return_dict=False)
    assert torch.equal(as_tuple[0], out.audio_values)
    longer = torch.nn.functional.pad(encoded.audio_codes, (0, 4), value=7)  # a mask instead of zero durations
    durations = torch.nn.functional.pad(encoded.durations, (0, 4), value=1)
    mask = torch.nn.functional.pad(encoded.audio_codes_mask, (0, 4))
    decoded = model.decode(longer, durations, batch["padding_mask"], audio_codes_mask=mask)
    assert torch.equal(decoded.audio_values, out.audio_values)


def test_a_model_of_one_rate_needs_no_durations(make_codec, tmp_path):
    codec = make_codec("whole", merging=None)
    model = AutoModel.from_pretrained(codec.save_pretrained(tmp_path))
    encoded = model.encode(torch.tensor(CLIPS[0])[None])
    assert model.decode(encoded.audio_codes).audio_values.shape == (1, 1, 16 * 1280)


@pytest.mark.parametrize(
    "clip",
    [CLIPS[1], CLIPS[1].tolist(), torch.tensor(CLIPS[1]), CLIPS[1][None], CLIPS[1].astype(np.float64)],
    ids=["array", "list", "tensor", "channel", "float64"],
)
def test_clips_come_in_many_forms(extractor, clip):
    for given in (clip, [clip], [clip, clip]):
        batch = extractor(given, sampling_rate=16000, return_tensors="pt")
        assert batch["input_values"].dtype == torch.float32
        assert np.array_equal(batch["input_values"][-1, 0], CLIPS[1])
        assert batch["padding_mask"].all()


def test_integers_are_scaled(extractor):
    samples = (CLIPS[1] * 32768).astype(np.int16)
    for given in (samples, [samples], torch.tensor(samples)):
        found = extractor(given, sampling_rate=16000, return_tensors="pt")["input_values"]
        assert np.array_equal(found[0, 0], samples / np.float32(32768))


CODES = torch.zeros(1, 5, 4, dtype=torch.long)
LEFT = torch.tensor([[0, 1, 1, 1]])
WRONG = {
    "no durations": (lambda m, e: m.decode(CODES), "decode needs durations, which encode returned"),
    "codes [B, N]": (lambda m, e: m.decode(CODES[0], torch.ones(1, 4)), r"\[5, 4\]; expected \[B, K, N\]"),
    "left padding": (lambda m, e: m.encode(torch.zeros(1, 4), LEFT), "clips padded on the right"),
    "other mask": (lambda m, e: m.encode(torch.zeros(1, 5), LEFT), r"shape \[1, 4\] for audio of \[1, 5\]"),
    "no codebook": (lambda m, e: m.encode(torch.zeros(1, 4), num_quantizers=0), "expected 1 to 5, the semantic"),
    "stereo": (lambda m, e: m.encode(torch.zeros(1, 2, 4)), r"with one channel"),
    "misspelt": (lambda m, e: m.encode(torch.zeros(1, 4), framerate=6), "did you mean 'frame_rate'"),
    "rate": (lambda m, e: e(CLIPS, sampling_rate=24000), "16000"),
    "stereo clip": (lambda m, e: e(np.zeros((1, 2, 80)), sampling_rate=16000), r"clip 0 has shape \[2, 80\]"),
    "empty": (lambda m, e: e([CLIPS[0], []], sampling_rate=16000), r"clip 1 has shape \[0\]"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused(model, extractor, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, extractor)
