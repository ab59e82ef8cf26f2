"""`load_tts`: files, the codec inside them, and what does not belong together."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import flexicodec
from flexicodec.models.flexicodec.convert_upstream import from_upstream
from flexicodec.tts.load import AR_FILE, DECODER_FILE, VOCODER_FILE


@pytest.fixture
def copied(release, tmp_path):
    """A copy of the release to change."""
    return shutil.copytree(release, tmp_path / "copied")


def edit(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file)


def without_codec(state):
    for name in [name for name in state if name.startswith("flexicodec_model.")]:
        del state[name]


def test_the_codec_is_the_one_inside(release, codec_weights, letters):
    tts = flexicodec.load_tts(release, front_end=letters)
    assert tts.codec.fingerprint == from_upstream(*codec_weights).fingerprint
    assert tts.sample_rate == 24_000
    assert tts.frame_rates == {0.86: 6.25, 0.91: 8.33}


def test_half_precision_leaves_the_codec_alone(release, codec_weights):
    tts = flexicodec.load_tts(release, dtype=torch.bfloat16)
    assert {weight.dtype for weight in [*tts.ar.parameters(), *tts.decoder.parameters()]} == {torch.bfloat16}
    assert tts.codec.fingerprint == from_upstream(*codec_weights).fingerprint


def test_the_language_model_alone_decodes_with_the_codec(copied, letters):
    (copied / DECODER_FILE).unlink()
    tts = flexicodec.load_tts(copied, front_end=letters)
    assert tts.sample_rate == 16_000
    audio, tokens = tts.synthesize("hello")
    assert audio.shape == tts.codec.decode(tokens).shape
    with pytest.raises(ValueError, match="vocoder='there' has no use without"):
        flexicodec.load_tts(copied, vocoder="there")


def test_the_vocoder_may_be_elsewhere(copied, tmp_path):
    moved = tmp_path / "vocoder"
    moved.mkdir()
    for name in (VOCODER_FILE, "vocos_emilia_config.yaml"):
        shutil.move(copied / name, moved / name)
    with pytest.raises(ValueError, match=r"vocos_emilia\.safetensors.*needs a vocoder: vocoder= names it"):
        flexicodec.load_tts(copied)
    for given in (moved, moved / VOCODER_FILE):
        assert flexicodec.load_tts(copied, vocoder=given).decoder is not None


def test_checkpoints_of_two_codecs_do_not_go_together(copied):
    def other_codec(state):
        state["flexicodec_model.semantic_vq.fsq.project_in.weight"] += 0.5

    edit(copied / DECODER_FILE, other_codec)
    with pytest.raises(ValueError, match=r"nartts.safetensors was trained on tokens of another codec than artts"):
        flexicodec.load_tts(copied)


def test_a_codec_is_given_or_inside(copied, codec_weights, whole):
    edit(copied / AR_FILE, without_codec)
    assert flexicodec.load_tts(copied).codec.fingerprint == from_upstream(*codec_weights).fingerprint
    edit(copied / DECODER_FILE, without_codec)
    with pytest.raises(ValueError, match="hold no codec; give the one they were trained with by codec="):
        flexicodec.load_tts(copied)
    own = from_upstream(*codec_weights)
    assert flexicodec.load_tts(copied, codec=own).codec is own
    with pytest.raises(ValueError, match="was trained on 1000 semantic codes and the codec has 320"):
        flexicodec.load_tts(copied, codec=whole)


def test_a_codec_of_another_release_is_refused(release, whole):
    with pytest.raises(ValueError, match=r"artts\.safetensors was trained on tokens of another codec than codec="):
        flexicodec.load_tts(release, codec=whole)


@pytest.mark.parametrize("file", [AR_FILE, DECODER_FILE, VOCODER_FILE])
def test_a_weight_too_few_or_too_many(copied, file):
    last = sorted(name for name in load_file(copied / file) if not name.startswith("flexicodec_model."))[-1]
    prefix = last.split(".")[0]
    edit(copied / file, lambda state: state.update({f"{prefix}.other": torch.zeros(1)}))
    with pytest.raises(ValueError, match="does not have: .*other"):
        flexicodec.load_tts(copied)
    edit(copied / file, lambda state: (state.pop(f"{prefix}.other"), state.pop(last)))
    with pytest.raises(ValueError, match="is missing"):
        flexicodec.load_tts(copied)


def test_what_only_training_needs_is_no_surprise(copied):
    edit(copied / DECODER_FILE, lambda state: state.update({"repa_projection.0.weight": torch.zeros(4, 8)}))
    assert flexicodec.load_tts(copied).decoder is not None


def test_places_without_a_model(tmp_path, release):
    with pytest.raises(ValueError, match=r"artts\.safetensors.*expected a folder of FlexiCodec-TTS"):
        flexicodec.load_tts(tmp_path)
    with pytest.raises(ValueError, match="is a file; give the folder that holds artts.safetensors"):
        flexicodec.load_tts(release / AR_FILE)
    with pytest.raises(ValueError, match="there is no model 'nowhere'"):
        flexicodec.load_tts("nowhere")
