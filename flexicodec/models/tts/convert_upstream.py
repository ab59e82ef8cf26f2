"""Conversion of the released TTS checkpoints, whose layouts and constructor arguments are upstream's.

Every weight has to be there with the right shape, and no other may be; upstream loads without such checks. Names are
mapped from ours to those in the file, so that errors use the latter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flexicodec.models.tts.ar import AutoregressiveTTS
from flexicodec.models.tts.config import ARConfig, FlowMatchingConfig, VocosConfig
from flexicodec.models.tts.flow_matching import AlignmentHead, FlowMatchingDecoder
from flexicodec.models.tts.vocos import Vocos
from flexicodec.weights import abbreviated, check_shapes, load_exactly, meta_device

State = Mapping[str, Tensor]
Settings = Mapping[str, Any]
Model = TypeVar("Model", bound=nn.Module)
Names = tuple[tuple[str, str], ...]

CODEC_PREFIXES = ("flexicodec_model.", "dualcodec_model.")  # of the codec inside a checkpoint

# Patterns of our names and what they become, applied one after the other.
_STACK: Names = (
    (r"^lm\.", "llm."),
    (r"^(text_encoder|llm)\.layers\.", r"\1.encoders."),
    (r"^(text_encoder|llm)\.norm\.", r"\1.after_norm."),
    (r"^(text_encoder.*)\.norm1\.", r"\1.norm_mha."),
    (r"^(text_encoder.*)\.norm2\.", r"\1.norm_ff."),
    (r"\.attention\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.attention\.out_proj\.", ".self_attn.linear_out."),
    (r"\.attention\.position_proj\.", ".self_attn.linear_pos."),
    (r"\.attention\.content_bias$", ".self_attn.pos_bias_u"),
    (r"\.attention\.position_bias$", ".self_attn.pos_bias_v"),
    (r"\.linear([12])\.", r".feed_forward.w_\1."),
)
AR_NAMES: Names = (
    *_STACK,
    ("^text_projection", "text_encoder_affine_layer"),
    ("^control_embedding", "llm_embedding"),
    ("^rate_projection", "framerate_embed_affine_layer"),
    ("^speaker_projection", "spk_embed_affine_layer"),
    ("^token_embedding", "speech_embedding"),
    ("^token_head", "llm_decoder"),
    ("^duration_head", "duration_decoder"),
    ("^duration_weights$", "duration_class_weights"),
)
FLOW_NAMES: Names = (
    (r"\.norm1\.gain", ".input_layernorm.to_weight"),
    (r"\.norm2\.gain", ".post_attention_layernorm.to_weight"),
    (r"^norm\.gain", "norm.to_weight"),
    (r"\.([qkv])_proj", r".self_attn.\1_proj"),
    (r"\.out_proj", ".self_attn.o_proj"),
    (r"\.(gate|up|down)_proj", r".mlp.\1_proj"),
    ("^time_mlp", "diff_step_mlp"),
    ("^condition_mlp", "cond_mlp"),
    ("^input_mlp", "mel_mlp"),
    ("^output_mlp", "mel_out_mlp"),
    ("^", "diff_estimator."),
    (r"^diff_estimator\.code_embedding", "cond_emb"),
)
ALIGNMENT_NAMES: Names = (("^mlp", "repa_projection"),)
VOCOS_NAMES: Names = (
    (r"\.depthwise\.", ".dwconv."),
    (r"\.linear([12])\.", r".pwconv\1."),
    (r"\.scale$", ".gamma"),
    ("^blocks", "convnext"),
    ("^final_norm", "final_layer_norm"),
    ("^", "backbone."),
    (r"^backbone\.head", "head.out"),
)
VOCOS_WINDOW = "head.istft.window"
CLASS_WEIGHTS = "duration_class_weights"

# Constructor arguments of upstream's classes and our fields; a dot stands for a part of the config.
AR_SETTINGS = {
    "text_encoder_output_size": "text_encoder.dim",
    "text_encoder_attention_heads": "text_encoder.num_heads",
    "text_encoder_linear_units": "text_encoder.feedforward_dim",
    "text_encoder_num_blocks": "text_encoder.num_layers",
    "llm_output_size": "lm.dim",
    "llm_attention_heads": "lm.num_heads",
    "llm_linear_units": "lm.feedforward_dim",
    "llm_num_blocks": "lm.num_layers",
    "text_token_size": "text_vocabulary",
    "speech_token_size": "codebook_size",
    "spk_embed_dim": "speaker_dim",
    "duration_classes": "duration_classes",
    "flex_framerate_options": "thresholds",
    "lsm_weight": "loss.label_smoothing",
    "length_normalized_loss": "loss.per_token",
    "duration_loss_type": "loss.duration_loss",
    "duration_lsm_weight": "loss.duration_smoothing",
    "duration_focal_alpha": "loss.focal_alpha",
    "duration_focal_gamma": "loss.focal_gamma",
    "focal_alpha": "loss.focal_alpha",
    "focal_gamma": "loss.focal_gamma",
}
FLOW_SETTINGS = {
    "mel_dim": "output_dim",
    "hidden_size": "dim",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "cfg_scale": "drop_probability",
    "cond_codebook_size": "codebook_size",
    "cond_scale_factor": "frames_per_code",
    "sigma": "sigma",
    "time_scheduler": "schedule",
    "repa_layer_idx": "alignment_layer",
}
VOCOS_SETTINGS = {
    "input_channels": "num_mels",
    "dim": "dim",
    "intermediate_dim": "hidden_dim",
    "num_layers": "num_layers",
    "n_fft": "window",
    "hop_size": "hop",
}
UPSTREAM_THRESHOLDS = (0.87, 0.91, 1.0)  # options of rate where the arguments name none
# A word in upstream's name of a loss of durations, and our name.
DURATION_LOSSES = {"smooth": "label_smoothing", "weight": "weighted", "focal": "focal", "ce": "cross_entropy"}
DURATION_LOSSES["cross"] = "cross_entropy"
# Settings with the one value that was released.
ONLY = {"use_cond_code": True, "padding": "same", "adanorm_num_embeddings": None}
ONLY |= {"use_duration_conditioning": True, "use_dialog_span": False}
# Two widths that upstream names twice have to be equal.
TWICE = {"text_encoder_input_size": "text_encoder_output_size", "llm_input_size": "llm_output_size"}
TWICE |= {"cond_dim": "hidden_size"}


@dataclass(frozen=True)
class Checkpoint:
    """What a released TTS checkpoint holds.

    Attributes:
        model: Weights of the TTS model, without a prefix.
        codec: Weights of the codec that made its tokens; empty if it has none.
        alignment: Weights of `AlignmentHead`, which only training needs.
    """

    model: State
    codec: State
    alignment: State


def split_checkpoint(state: State, prefix: str) -> Checkpoint:
    """Take a checkpoint apart.

    Args:
        state: All of it.
        prefix: Of the TTS model's keys: "transformer_lm.", "voicebox_model." or "" for a file without a codec.

    Raises:
        ValueError: No key has the prefix, or one belongs to none of the parts.
    """
    # Each key goes to one part, or is reported.
    model = {}
    codec = {}
    alignment = {}
    unknown = []
    for key, value in state.items():
        codec_prefix = next((each for each in CODEC_PREFIXES if key.startswith(each)), None)
        if codec_prefix is not None:
            codec[key.removeprefix(codec_prefix)] = value
        elif key.startswith("repa_projection."):
            alignment[key] = value
        elif key.startswith(prefix):
            model[key.removeprefix(prefix)] = value
        else:
            unknown.append(key)
    if unknown or not model:
        fault = f"unknown keys {abbreviated(sorted(unknown))}" if unknown else "no such keys"
        raise ValueError(f"expected a checkpoint with keys {prefix}*, found {fault}; is this another model's file?")
    return Checkpoint(model, codec, alignment)


def ar_from_upstream(settings: Settings, state: State) -> AutoregressiveTTS:
    """Build the autoregressive model from upstream's arguments (none: the released sizes) and its weights.

    Raises:
        ValueError: A weight is missing, unknown or misshapen, or a setting that no released model has.
    """
    held = dict(settings)
    # Upstream's class has no rate unless it is told so.
    if not held.pop("flex_framerate", not settings):
        held["flex_framerate_options"] = ()
    elif settings:
        held.setdefault("flex_framerate_options", UPSTREAM_THRESHOLDS)
    kind = str(held.get("duration_loss_type", "focal"))
    held["duration_loss_type"] = next((ours for word, ours in DURATION_LOSSES.items() if word in kind), kind)
    class_weights = held.pop("duration_class_weights", None)
    config = read_settings(ARConfig(), AR_SETTINGS, held)
    weights = dict(state)
    if class_weights is not None:
        weights.setdefault(CLASS_WEIGHTS, torch.tensor(class_weights))

    def build() -> AutoregressiveTTS:
        model = AutoregressiveTTS(config)
        if CLASS_WEIGHTS in weights:
            model.duration_weights = torch.empty(config.duration_classes)
        return model

    return _convert(build, AR_NAMES, weights)


def flow_from_upstream(settings: Settings, state: State) -> FlowMatchingDecoder:
    """Build the flow-matching decoder; see `ar_from_upstream`."""
    config = read_settings(FlowMatchingConfig(), FLOW_SETTINGS, settings)
    return _convert(lambda: FlowMatchingDecoder(config), FLOW_NAMES, state)


def vocos_from_upstream(settings: Settings, state: State) -> Vocos:
    """Build the vocoder; see `ar_from_upstream`. The file also holds the window, which has to be Hann's."""
    config = read_settings(VocosConfig(), VOCOS_SETTINGS, settings)
    rest = {name: value for name, value in state.items() if name != VOCOS_WINDOW}
    if VOCOS_WINDOW in state:
        window = state[VOCOS_WINDOW].float().cpu()
        expected = torch.hann_window(config.window, device="cpu")
        if window.shape != expected.shape or not torch.allclose(window, expected, atol=1e-3):
            raise ValueError(f"{VOCOS_WINDOW} is no Hann window of {config.window} samples; is this another vocoder?")
    return _convert(lambda: Vocos(config), VOCOS_NAMES, rest)


def alignment_from_upstream(state: State) -> AlignmentHead:
    """Build the head that only training needs; its sizes are those of its weights."""
    shapes = [tuple(state[f"repa_projection.{index}.weight"].shape) for index in (0, 2)]
    hidden_dim, dim = shapes[0]
    return _convert(lambda: AlignmentHead(dim, shapes[1][0], hidden_dim), ALIGNMENT_NAMES, state)


def upstream_name(name: str, names: Names) -> str:
    """Return upstream's name of one of our weights."""
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def read_settings(defaults: Any, table: Mapping[str, str], settings: Settings) -> Any:
    """Replace fields of a config by upstream's settings.

    Raises:
        ValueError: An unknown setting, or one with a value that no released model has.
    """
    parts: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if key in ONLY and value != ONLY[key]:
            raise ValueError(f"upstream config has {key}={value!r}; only {ONLY[key]!r} was ever released")
        if key in TWICE and value != settings.get(TWICE[key], value):
            raise ValueError(
                f"upstream config has {key}={value}, but {TWICE[key]}={settings[TWICE[key]]}; expected equal"
            )
        if key in ONLY or key in TWICE or "dropout" in key:  # which changes training only
            continue
        if key not in table:
            raise ValueError(f"upstream config has an unknown setting {key}={value!r}; known: {', '.join(table)}")
        # "lm.dim" is the field dim of the part lm.
        part, _, field = table[key].rpartition(".")
        parts.setdefault(part, {})[field] = tuple(value) if isinstance(value, list) else value
    changed = parts.pop("", {})
    for part, fields in parts.items():
        changed[part] = replace(getattr(defaults, part), **fields)
    return replace(defaults, **changed)


def _convert(build: Callable[[], Model], names: Names, state: State) -> Model:
    """Build a model and load upstream's weights in float32; every weight is used."""
    with meta_device():
        model = build()
    wanted = {name: upstream_name(name, names) for name in model.state_dict()}
    shapes = {wanted[name]: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes(shapes, state)
    if unknown := sorted(state.keys() - shapes.keys()):
        raise ValueError(f"the file holds weights that the config does not have: {abbreviated(unknown)}")
    # All are there, so none of ours stays random.
    loaded = {}
    for name, theirs in wanted.items():
        value = state[theirs].float()
        if isinstance(model, FlowMatchingDecoder):
            value = _interleaved(name, value, model.config.num_heads)
        loaded[name] = value
    load_exactly(model, loaded)
    return model.eval()


def _interleaved(name: str, value: Tensor, num_heads: int) -> Tensor:
    """Sort the rows of queries and keys: pairs of rotary positions are adjacent here, and half a head apart there."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return value
    halves = value.unflatten(0, (num_heads, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2).contiguous()
