"""Released TTS checkpoints: every name and shape at full size, and nothing is skipped silently."""

import json
import re
from pathlib import Path

import pytest
import torch

from flexicodec.models.tts.ar import AutoregressiveTTS
from flexicodec.models.tts.config import ARConfig, CausalStackConfig, FlowMatchingConfig, VocosConfig
from flexicodec.models.tts.convert_upstream import (
    ALIGNMENT_NAMES,
    AR_NAMES,
    FLOW_NAMES,
    VOCOS_NAMES,
    alignment_from_upstream,
    ar_from_upstream,
    flow_from_upstream,
    split_checkpoint,
    upstream_name,
    vocos_from_upstream,
)
from flexicodec.models.tts.flow_matching import AlignmentHead, FlowMatchingDecoder
from flexicodec.models.tts.vocos import Vocos
from flexicodec.weights import meta_device

# Names in the released layout, "#" for the number of a layer; how many there are of each, and their shape.
LAYOUT = json.loads((Path(__file__).parent.parent / "data" / "state_dict_tts.json").read_text())
NUMBERED = re.compile(r"(?<!_mlp)(?<!_projection)\.\d+\.")

AR = {
    "text_encoder_input_size": 8,
    "text_encoder_output_size": 8,
    "text_encoder_attention_heads": 2,
    "text_encoder_linear_units": 12,
    "text_encoder_num_blocks": 1,
    "llm_input_size": 16,
    "llm_output_size": 16,
    "llm_attention_heads": 2,
    "llm_linear_units": 24,
    "llm_num_blocks": 2,
    "text_token_size": 11,
    "speech_token_size": 30,
    "spk_embed_dim": 4,
    "flex_framerate": True,
    "flex_framerate_options": [0.86, 0.91],
}
FLOW = {"mel_dim": 10, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "cond_codebook_size": 30}
VOCOS = {"input_channels": 10, "dim": 12, "intermediate_dim": 24, "num_layers": 2, "n_fft": 16, "hop_size": 4}


def in_layout(names):
    """Count names, without the numbers of layers."""
    found = {}
    for name, value in names.items():
        entry = found.setdefault(NUMBERED.sub(".#.", name), [0, list(value.shape)])
        assert entry[1] == list(value.shape)
        entry[0] += 1
    return found


def random_weights(model, names):
    """Weights in upstream's layout."""
    return {upstream_name(name, names): torch.randn(value.shape) for name, value in model.state_dict().items()}


def tiny_ar():
    stacks = CausalStackConfig(1, 8, 2, 12, "silu"), CausalStackConfig(2, 16, 2, 24, "relu")
    return AutoregressiveTTS(ARConfig(*stacks, text_vocabulary=11, codebook_size=30, speaker_dim=4))


CASES = {
    "ar": (ar_from_upstream, AR, AR_NAMES, tiny_ar),
    "flow": (flow_from_upstream, FLOW, FLOW_NAMES, lambda: FlowMatchingDecoder(FlowMatchingConfig(10, 16, 2, 2, 30))),
    "vocos": (vocos_from_upstream, VOCOS, VOCOS_NAMES, lambda: Vocos(VocosConfig(10, 12, 24, 2, 16, 4))),
}


@pytest.fixture(params=CASES)
def case(request):
    """A converter, upstream's arguments for a tiny model, the table of names, and a tiny model of ours."""
    return CASES[request.param]


@pytest.mark.parametrize(
    ("layout", "prefix", "parts", "parameters"),
    [
        ("ar", "transformer_lm.", [(AutoregressiveTTS, (ARConfig(),), AR_NAMES)], 432_235_531),
        ("nar", "voicebox_model.", [(FlowMatchingDecoder, (FlowMatchingConfig(),), FLOW_NAMES)], 362_860_672),
        ("vocoder", "", [(Vocos, (VocosConfig(),), VOCOS_NAMES)], 255_042_434),
    ],
)
def test_names_and_shapes_at_full_size(layout, prefix, parts, parameters):
    names = {}
    with meta_device():
        for build, arguments, table in parts:
            model = build(*arguments)
            names |= {prefix + upstream_name(name, table): value for name, value in model.state_dict().items()}
        alignment = AlignmentHead()
    assert sum(value.numel() for value in names.values()) == parameters
    expected = dict(LAYOUT[layout])
    if layout == "nar":  # the head that only training needs has no prefix of its own
        named = {upstream_name(name, ALIGNMENT_NAMES): value for name, value in alignment.state_dict().items()}
        assert in_layout(named) == {name: expected.pop(name) for name in named}
    if layout == "vocoder":
        assert expected.pop("head.istft.window") == [1, [1920]]
    assert in_layout(names) == expected


def test_settings_and_weights_give_the_model(case):
    convert, settings, names, build = case
    state = random_weights(build(), names)
    model = convert(settings, state)
    assert model.config == build().config
    assert not model.training
    halves = convert(settings, {name: value.half() for name, value in state.items()})
    assert {value.dtype for value in halves.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.popitem(), "is missing"),
        (lambda state: state.update(other=torch.zeros(1)), "does not have: other"),
        (lambda state: state.update({next(iter(state)): torch.zeros(3, 3, 3)}), r"is \(3, 3, 3\) instead of"),
    ],
)
def test_every_weight_counts(case, change, message):
    convert, settings, names, build = case
    state = random_weights(build(), names)
    change(state)
    with pytest.raises(ValueError, match=message):
        convert(settings, state)


def test_layers_beyond_the_config_are_no_extras(case):
    convert, settings, names, build = case
    fewer = {key: 1 if key in ("num_layers", "llm_num_blocks") else value for key, value in settings.items()}
    with pytest.raises(ValueError, match="does not have"):
        convert(fewer, random_weights(build(), names))


@pytest.mark.parametrize(
    ("convert", "settings", "message"),
    [
        (ar_from_upstream, AR | {"llm_input_size": 24}, "llm_input_size=24, but llm_output_size=16"),
        (ar_from_upstream, AR | {"llm_blocks": 3}, "unknown setting llm_blocks=3"),
        (ar_from_upstream, AR | {"duration_loss_type": "mse"}, "duration_loss is 'mse'"),
        (ar_from_upstream, AR | {"llm_attention_heads": 3}, "heads of equal size"),
        (flow_from_upstream, FLOW | {"use_cond_code": False}, "only True was ever released"),
        (flow_from_upstream, FLOW | {"time_scheduler": "log"}, "schedule is 'log'"),
        (flow_from_upstream, FLOW | {"num_heads": 16}, "heads of even size"),
        (vocos_from_upstream, VOCOS | {"padding": "center"}, "only 'same' was ever released"),
        (vocos_from_upstream, VOCOS | {"n_fft": 15}, "must be even"),
    ],
)
def test_settings_without_a_released_model(convert, settings, message):
    with pytest.raises(ValueError, match=message):
        convert(settings, {})


def test_a_model_without_rates_or_with_class_weights():
    names = AR_NAMES
    state = random_weights(tiny_ar(), names)
    without = {key: value for key, value in state.items() if not key.startswith("framerate")}
    assert ar_from_upstream(AR | {"flex_framerate": False}, without).config.thresholds == ()
    weighted = ar_from_upstream(
        AR | {"duration_loss_type": "weighted"}, state | {"duration_class_weights": torch.ones(10)}
    )
    assert weighted.duration_weights.tolist() == [1.0] * 10


def test_the_vocoders_window_has_to_be_hanns():
    convert, settings, names, build = CASES["vocos"]
    state = random_weights(build(), names)
    convert(settings, state | {"head.istft.window": torch.hann_window(16).half()})
    with pytest.raises(ValueError, match="no Hann window of 16"):
        convert(settings, state | {"head.istft.window": torch.ones(16)})


def test_a_checkpoint_is_taken_apart():
    one = torch.ones(1)
    state = {"voicebox_model.a": one, "flexicodec_model.b.c": one, "repa_projection.0.weight": one}
    parts = split_checkpoint(state, "voicebox_model.")
    assert (set(parts.model), set(parts.codec), set(parts.alignment)) == ({"a"}, {"b.c"}, {"repa_projection.0.weight"})
    with pytest.raises(ValueError, match=r"keys transformer_lm\.\*, found unknown keys voicebox_model\.a"):
        split_checkpoint(state, "transformer_lm.")
    with pytest.raises(ValueError, match="found no such keys"):
        split_checkpoint({"flexicodec_model.b": one}, "transformer_lm.")


def test_the_alignment_head_has_the_sizes_of_its_weights():
    state = random_weights(AlignmentHead(6, 5, 7), ALIGNMENT_NAMES)
    assert [layer.in_features for layer in alignment_from_upstream(state).mlp[::2]] == [6, 7]
