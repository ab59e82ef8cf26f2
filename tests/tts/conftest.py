"""A tiny release of FlexiCodec-TTS: checkpoints in upstream's layout, with a codec inside."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexicodec.config import dump_yaml
from flexicodec.models.tts.ar import AutoregressiveTTS
from flexicodec.models.tts.config import ARConfig, CausalStackConfig, FlowMatchingConfig, VocosConfig
from flexicodec.models.tts.convert_upstream import AR_NAMES, FLOW_NAMES, VOCOS_NAMES, upstream_name
from flexicodec.models.tts.flow_matching import FlowMatchingDecoder
from flexicodec.models.tts.vocos import Vocos
from flexicodec.tts.load import AR_FILE, AR_PREFIX, DECODER_FILE, DECODER_PREFIX, VOCODER_FILE

CODES = 1000  # of the codec inside
GOLDEN = Path(__file__).parent.parent / "data" / "goldens" / "small_b"

AR_SETTINGS = {
    **{f"text_encoder_{name}": 8 for name in ("input_size", "output_size", "linear_units")},
    "text_encoder_attention_heads": 2,
    "text_encoder_num_blocks": 1,
    **{f"llm_{name}": 8 for name in ("input_size", "output_size", "linear_units")},
    "llm_attention_heads": 2,
    "llm_num_blocks": 1,
    "text_token_size": 60,
    "speech_token_size": CODES,
    "spk_embed_dim": 4,
    "flex_framerate": True,
    "flex_framerate_options": [0.86, 0.91],
}
FLOW_SETTINGS = {"cond_codebook_size": CODES, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
VOCOS_SETTINGS = {"dim": 8, "intermediate_dim": 8, "num_layers": 1}


class Letters:
    """A front end of letters, as ids."""

    def encode(self, text, language="en"):
        return [1 + ord(letter) % 50 for letter in text]


@pytest.fixture
def letters():
    """A front end that needs nothing installed."""
    return Letters()


def tiny_models():
    """One of each, with the codes of the codec below."""
    stack = CausalStackConfig(1, 8, 2, 8, "silu")
    lm = CausalStackConfig(1, 8, 2, 8, "relu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ar = AutoregressiveTTS(ARConfig(stack, lm, text_vocabulary=60, codebook_size=CODES, speaker_dim=4))
        yield AR_FILE, AR_NAMES, ar, AR_SETTINGS
        yield DECODER_FILE, FLOW_NAMES, FlowMatchingDecoder(FlowMatchingConfig(128, 8, 1, 2, CODES)), FLOW_SETTINGS
        yield VOCODER_FILE, VOCOS_NAMES, Vocos(VocosConfig(128, 8, 8, 1)), VOCOS_SETTINGS


@pytest.fixture(scope="session")
def codec_weights():
    """The small codec of the goldens: upstream's arguments and weights."""
    config = json.loads(GOLDEN.with_suffix(".json").read_text())["codec_config"]
    return config, load_file(f"{GOLDEN}.weights.safetensors")


@pytest.fixture(scope="session")
def release(tmp_path_factory, codec_weights):
    """The folder."""
    folder = tmp_path_factory.mktemp("release")
    config, weights = codec_weights
    inside = {f"flexicodec_model.{name}": value for name, value in weights.items()}
    prefixes = {AR_FILE: AR_PREFIX, DECODER_FILE: DECODER_PREFIX, VOCODER_FILE: ""}
    for file, names, model, settings in tiny_models():
        state = {prefixes[file] + upstream_name(name, names): value for name, value in model.state_dict().items()}
        save_file(state | (inside if prefixes[file] else {}), folder / file)
        (folder / file.replace(".safetensors", "_config.yaml")).write_text(dump_yaml(settings))
    (folder / "12hz_v1_half_config.yaml").write_text(dump_yaml({"model": config}))
    return folder
