"""Training a decoder to 24 kHz behind encoders of 16 kHz: what is read, what is trained, what stays."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState

import flexicodec
from flexicodec.audio import resample
from flexicodec.config import from_dict, load_yaml
from flexicodec.corpus import Utterance, write_manifest
from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.merging.positions import PositionConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn.spectral import SpectralConfig, TwoRateConfig
from flexicodec.training.config import AugmentationConfig, DataConfig, InitConfig, TrainingConfig
from flexicodec.training.data import FeatureCache, read_manifests, training_batches
from flexicodec.training.data.batches import validation_clips
from flexicodec.training.initialization import init_from
from flexicodec.training.trainer import train
from tests.training.recipes import ADVERSARY, MODEL

CONFIGS = Path(__file__).parents[2] / "configs" / "flexicodec"
RATE = 24_000
SIZES = TwoRateConfig(16, 1, 16, 1)
ACOUSTIC = SpectralConfig(num_mels=20, latent_dim=16, encoder=SIZES, decoder=SIZES)
LOW = replace(
    MODEL,
    acoustic=ACOUSTIC,
    merging=replace(
        MODEL.merging,
        semantic_aggregator=PositionConfig(8, hidden_dim=16),
        acoustic_aggregator=PositionConfig(8, hidden_dim=16, unmerge_dim=16),
    ),
    bottleneck=None,
)
HIGH = replace(LOW, acoustic=replace(ACOUSTIC, output_sample_rate=RATE, istft_window=960, istft_hop=240))


@pytest.fixture
def manifest(tmp_path):
    """Six clips at 24 kHz, each of a few tones up to 10 kHz and a little noise."""
    random = np.random.default_rng(0)
    utterances = []
    for index in range(6):
        samples = 12_001 + 2400 * index
        time = np.arange(samples) / RATE
        wave = 0.01 * random.standard_normal(samples)
        for frequency in random.uniform(200, 10_000, 4):
            wave += 0.08 * np.sin(2 * np.pi * frequency * time)
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, wave, RATE)
        utterances.append(Utterance(path=path, duration=samples / RATE))
    write_manifest(tmp_path / "train.jsonl", utterances)
    return tmp_path / "train.jsonl"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A codec of 16 kHz."""
    return FlexiCodec.random(LOW).save_pretrained(tmp_path_factory.mktemp("start") / "model")


def recipe(manifest, output, start, **settings):
    """The shipped overlay at toy size."""
    config = from_dict(TrainingConfig, load_yaml(CONFIGS / "finetune_decoder_24khz.yaml"))
    given = config.model.acoustic
    assert (given.output_sample_rate, given.istft_window, given.istft_hop) == (RATE, 960, 240)
    data = replace(config.data, manifest=(str(manifest),), validation=str(manifest), validation_clips=2)
    data = replace(data, batch_size=3, crop_seconds=0.48, audio_cache=None)
    config = replace(
        config,
        output=str(output),
        model=HIGH,
        data=data,
        init_from=(InitConfig(str(start)),),
        optim=replace(config.optim, learning_rate=1e-2, warmup_steps=2),
        mixed_precision="no",
        trackers=("jsonl",),
        steps=6,
        log_every=1,
        save_every=3,
        validate_every=1000,
        sample_every=None,
        export_half=False,
    )
    return replace(config, **settings)


def curves(output):
    return [json.loads(line) for line in (Path(output) / "curves.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("crop_seconds", [0.4, None])
def test_encoders_get_the_same_audio_at_their_rate(manifest, crop_seconds):
    data = DataConfig((str(manifest),), batch_size=4, crop_seconds=crop_seconds, batch_seconds=3.0)
    data = replace(data, augmentation=AugmentationConfig(gain_db=(-6.0, 6.0)))
    batches = list(islice(training_batches(data, sample_rate=RATE, input_rate=16_000, seed=3), 3))
    for batch in batches:
        inputs, lengths = batch.encoder_audio
        assert lengths.tolist() == (-(-batch.lengths * 2 // 3)).tolist()
        assert inputs.shape == (len(lengths), int(lengths.max()))
        for row, (length, own) in enumerate(zip(batch.lengths.tolist(), lengths.tolist(), strict=True)):
            assert torch.equal(inputs[row, :own], resample(batch.audio[row, :length], RATE, 16_000))
            assert not inputs[row, own:].any()
        moved = batch.to("meta")
        assert moved.inputs.is_meta
        assert moved.input_lengths.is_meta
    # Batches are the same wherever a run starts, and need no second copy at one rate.
    later = next(training_batches(data, sample_rate=RATE, input_rate=16_000, seed=3, start=2))
    assert torch.equal(later.inputs, batches[2].inputs)
    plain = next(training_batches(data, sample_rate=RATE, input_rate=RATE, seed=3))
    assert plain.inputs is None
    assert plain.encoder_audio[0] is plain.audio
    assert torch.equal(plain.audio, batches[0].audio)


def test_cached_features_are_those_of_the_encoders_rate(manifest, tmp_path):
    utterances = read_manifests([str(manifest)])
    low, high = FlexiCodec.random(LOW), FlexiCodec.random(HIGH)
    cache = FeatureCache(utterances, tmp_path / "features", high)
    same = FeatureCache(utterances, tmp_path / "features", low)  # the frozen encoder is the same, and so is its cache
    audio = torch.from_numpy(read_utterance(utterances[4], 16_000))[None]
    lengths = torch.tensor([audio.shape[1]])
    whole = low.encode_semantic(audio, lengths, low.frame_counts(lengths))[0].half().float().numpy()
    for first, count in ((0, 3), (2, 2), (6, 9)):
        found = cache.read(4, first * 1920, count * 1920)
        assert np.array_equal(found, same.read(4, first * 1280, count * 1280))
        assert np.array_equal(found, whole[:, first : first + count])
    data = DataConfig((str(manifest),), batch_size=6, crop_seconds=0.32)
    for batch in islice(training_batches(data, sample_rate=RATE, input_rate=16_000, seed=0, features=cache), 4):
        inputs, lengths = batch.encoder_audio
        frames = high.frame_counts(lengths)
        assert batch.features.shape[-1] == int(frames.max())
        # Crops begin with a frame: those of the crop alone differ by its ends, and by nothing in between.
        alone = high.encode_semantic(inputs, lengths, frames)
        assert torch.nn.functional.cosine_similarity(alone, batch.features, dim=1).median() > 0.9


def test_validation_reads_the_decoders_rate(manifest):
    (clip,) = validation_clips(DataConfig(validation=str(manifest), validation_clips=1), RATE)
    assert np.array_equal(clip.numpy(), read_utterance(read_manifests([str(manifest)])[0], RATE))


# --------------------------------------------------------------------------------------------------- runs and weights


def test_a_decoder_learns_24_khz_and_tokens_stay(manifest, tmp_path, start):
    AcceleratorState._reset_state()
    before = flexicodec.load(start)
    config = recipe(manifest, tmp_path / "run", start, steps=24, validate_every=24, sample_every=24)
    config = replace(config, data=replace(config.data, audio_cache=str(tmp_path / "audio") + "/"))
    after = flexicodec.load(train(config))
    rows = curves(config.output)
    losses = [row["loss/mel_energy"] for row in rows if "loss/mel_energy" in row]
    assert len(losses) == 24
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    assert rows[-1]["validation/mel"] > 0
    assert [path.name.split("-")[-1] for path in (tmp_path / "audio").iterdir()] == ["24000.pcm"]

    # Tokens, and all they depend on, are those of the codec of 16 kHz.
    assert after.fingerprint == after.compute_fingerprint() == before.fingerprint
    audio = torch.from_numpy(read_utterance(read_manifests([str(manifest)])[5], 16_000))[None]
    tokens = before.encode(audio, frame_rate=6.25)
    assert after.encode(audio, frame_rate=6.25) == tokens
    old = before.state_dict()
    moved = set()
    for name, value in after.state_dict().items():
        if value.shape != old[name].shape or not torch.equal(value, old[name]):
            moved.add(name.split(".")[0])
    assert moved == {"unmerger", "decoder"}

    # The audio has the other rate, also in samples that a run writes, and sound above 8 kHz.
    assert after.output_sample_rate == RATE
    decoded = after.decode(tokens)
    assert decoded.shape == (1, -(-audio.shape[1] * 3 // 2))
    power = torch.fft.rfft(decoded[0]).abs().square()
    high = round(len(power) * 8.2 / 12)
    assert power[high:].mean() > 1e-3 * power[:high].mean()
    samples = sorted((tmp_path / "run" / "samples").rglob("*.flac"))
    assert {soundfile.info(path).samplerate for path in samples} == {RATE}
    original, copy = (soundfile.info(next(path for path in samples if kind in path.name)) for kind in ("orig", "dec"))
    assert copy.frames == original.frames


def test_a_run_resumes_exactly(manifest, tmp_path, start):
    AcceleratorState._reset_state()
    straight = recipe(manifest, tmp_path / "straight", start, adversarial=ADVERSARY)
    cache = replace(straight.data, feature_cache=str(tmp_path / "features"))
    straight = replace(straight, data=cache)
    train(straight)
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    (newest,) = (tmp_path / "resumed" / "checkpoints").glob("step-*6")
    shutil.rmtree(newest)
    shutil.rmtree(tmp_path / "resumed" / "model")
    resumed = flexicodec.load(train(replace(straight, output=str(tmp_path / "resumed"))))
    expected = flexicodec.load(tmp_path / "straight" / "model").state_dict()
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


def test_the_sound_is_there_before_the_first_step(start):
    """The head is fitted: up to 8 kHz the fresh decoder gives what the old one does."""
    low = flexicodec.load(start)
    high = FlexiCodec.random(HIGH, seed=1)
    init_from(high, [InitConfig(str(start))])
    audio = 0.1 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    tokens = low.encode(audio)
    assert high.encode(audio) == tokens
    head = high.decoder.get_submodule(high.decoder.head_name)
    with torch.no_grad():
        head.bias.view(-1, 2, 481)[:, 0, 321:] -= 40
    torch.testing.assert_close(high.decode(tokens)[:, ::3], low.decode(tokens)[:, ::2], atol=1e-5, rtol=0)


def test_a_head_that_cannot_be_fitted_starts_fresh_where_that_is_allowed(start):
    other = replace(HIGH, acoustic=replace(HIGH.acoustic, istft_window=1440))  # 60 ms instead of 40
    codec = FlexiCodec.random(other, seed=1)
    with pytest.raises(ValueError, match=r"lacks decoder\.layers\.4\.body\.1\.bias.*list them in allow_missing"):
        init_from(codec, [InitConfig(str(start))])
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    init_from(codec, [InitConfig(str(start), (), ("decoder.layers.*.body.1.*",))])
    low = flexicodec.load(start).state_dict()
    for name, value in codec.state_dict().items():
        is_head = name.startswith(f"decoder.{codec.decoder.head_name}.")
        assert torch.equal(value, before[name] if is_head else low[name]), name
