"""Conversion of released FlexiCodec weights and of SenseVoiceSmall's `model.pt`.

Weights are renamed and weight norm is folded in float32. Every weight has to be there with the right shape (upstream's
`strict=False` leaves missing ones random), and every unused key is reported. Names are mapped from ours to upstream's,
so that errors use the names in the file.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn.conv import fold_weight_norm
from flexicodec.nn.transformer import TransformerConfig
from flexicodec.quantize import FSQConfig, RVQConfig
from flexicodec.weights import LoadReport, abbreviated, check_shapes, load_exactly

State = Mapping[str, Tensor]

SENSEVOICE_ENCODER_CONF = {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50}

# Defaults of a config: the released model's sizes, and the parts that upstream's constructor makes.
UPSTREAM_DEFAULTS: dict[str, Any] = {
    "encoder_dim": 32,
    "encoder_rates": [4, 4, 5, 8, 2],
    "decoder_rates": [2, 8, 5, 4, 4],
    "decoder_dim": 1536,
    "latent_dim": 512,
    "n_codebooks": 24,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "convnext_dim": 768,
    "convnext_layers": 4,
    "fsq_config": None,
    "use_similarity_alignment": False,
    "similarity_threshold": 0.91,
    "similarity_threshold_lower": 0.8,
    "similarity_threshold_upper": 1.0,
    "max_tokens_per_group": 8,
    "use_query_token_aggregator": False,
    "agg_transformer_num_layers": 6,
    "agg_transformer_dim": 512,
    "agg_transformer_num_heads": 8,
    "agg_transformer_dim_feedforward": 2048,
    "agg_use_mean_pooling_init": True,
    "use_bottleneck_transformer": False,
    "transformer_num_layers": 6,
    "transformer_dim": 512,
    "transformer_num_heads": 8,
    "transformer_dim_feedforward": 2048,
}

# Settings that no released model changes, and their only values supported here.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "is_causal": (False,),
    "transformer_causal": (False,),
    "agg_transformer_causal": (False,),
    "semantic_model_type": ("sensevoice",),
    "semantic_downsample_factor": (1.33333,),
    "sensevoice_semantic_layer_idx": (None,),
    "sensevoice_prepend_inputs": (True,),
    "decode_semantic_for_codec": (True,),
    "agg_use_mean_pooling_init": (True,),
    "sample_rate": (16_000,),
}

# Known keys that are not needed: unused frozen blocks, training heads, unused statistics.
EXPECTED_EXTRAS = re.compile(
    r"^(semantic_mean|semantic_std|repa_mlp\..*|bottleneck_transformer_2\..*|flow_matching_decoder\..*"
    r"|semantic_model\.(encoder\.tp_.*|ctc\..*|encoder\.embed\..*))$"
)
OPTIONAL_PARTS = {"bottleneck_transformer", "semantic_aggregator", "acoustic_aggregator"}  # idle at a fixed rate
WRAPPERS = ("state_dict", "model_state_dict", "model", "generator")
PREFIXES = ("module.", "flexicodec_model.", "dualcodec_model.", "model.")


def from_upstream(
    config: Mapping[str, Any],
    state_dict: State,
    *,
    cmvn: Float[Tensor, "2 dim"] | None = None,
    sensevoice_encoder_conf: Mapping[str, Any] | None = None,
    sensevoice_state_dict: State | None = None,
    dither: float = 1.0,
    name: str | None = None,
) -> FlexiCodec:
    """Build our model from upstream's constructor arguments and state dict.

    Args:
        config: Arguments of upstream's `FlexiCodec(...)`, or a mapping with them under `model`. Unknown keys are
            ignored and reported.
        state_dict: Upstream's weights, in any float type; legacy weight-norm names.
        cmvn: Shifts and scales of the front end; None takes SenseVoiceSmall's.
        sensevoice_encoder_conf: FunASR's `encoder_conf`, for `attention_heads`, which no weight shows. None takes
            SenseVoiceSmall's.
        sensevoice_state_dict: SenseVoiceSmall's weights, used if `state_dict` has no `semantic_model.*`.
        dither: See `FrontEndConfig`; the goldens were recorded with 0.
        name: Of the model in token files.

    Returns:
        The model in eval mode, float32; `model.load_report` lists unused weights and settings.

    Raises:
        ValueError: A key is missing, a shape is wrong, or the config has a setting that no released model has.
    """
    # SenseVoice's encoder is in the checkpoint or in a file of its own.
    settings, ignored = read_settings(config)
    state = strip_wrapping(state_dict)
    source = "checkpoint"
    if not any(key.startswith("semantic_model.encoder.encoders0.") for key in state):
        if sensevoice_state_dict is None:
            raise ValueError(
                "the checkpoint holds no semantic_model.* weights, so SenseVoiceSmall's are needed: "
                "pass sensevoice= with the folder that holds its model.pt (hub id FunAudioLLM/SenseVoiceSmall)"
            )
        for key, value in strip_wrapping(sensevoice_state_dict).items():
            state[f"semantic_model.{key}"] = value
        source = "SenseVoiceSmall"

    check_statistics(state)
    encoder = read_encoder_config(state, sensevoice_encoder_conf or {}, dither)
    with torch.device("meta"):
        model = FlexiCodec(read_config(settings, encoder), name=name)
    # All weights but the front end's constants, which are not in the file.
    front_end = ("semantic_encoder.front_end.shift", "semantic_encoder.front_end.scale")
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in front_end}
    converted, left = convert(shapes, state, settings["convnext_layers"])
    if cmvn is None:
        cmvn = sensevoice_cmvn()
    if cmvn.shape != (2, encoder.front_end.dim):
        raise ValueError(
            f"cmvn has shape {tuple(cmvn.shape)}, expected (2, {encoder.front_end.dim}): shifts, then scales"
        )
    load_exactly(model, {**converted, **dict(zip(front_end, cmvn.float().clone(), strict=True))})

    # Unused weights: those of parts that the config does not use are expected.
    used_parts = {key.split(".")[0] for key in state.keys() - left}
    expected = {key for key in left if is_needless(key, OPTIONAL_PARTS - used_parts)}
    model.load_report = LoadReport(
        expected_extras=tuple(sorted(expected)),
        unexpected_extras=tuple(sorted(left - expected)),
        semantic_source=source,
        ignored_settings=ignored,
    )
    return model.eval()


def strip_wrapping(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Unwrap the tensors of a training checkpoint and drop prefixes that all keys share."""
    for wrapper in WRAPPERS:
        inner = state_dict.get(wrapper)
        if isinstance(inner, Mapping):
            return strip_wrapping(inner)
    state = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
    for prefix in PREFIXES:
        if state and all(k.startswith(prefix) for k in state):
            return strip_wrapping({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def check_statistics(state: State) -> None:
    """Refuse models that normalise semantic features; no released model does."""
    for key, neutral in (("semantic_mean", 0.0), ("semantic_std", 1.0)):
        if key in state and state[key].device.type != "meta" and not bool((state[key] == neutral).all()):
            raise ValueError(f"{key} is {state[key].tolist()}, expected {neutral:g}: normalised features are not built")


def read_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Add upstream's defaults and refuse settings that no released model has; also returns the ignored keys."""
    inner = config.get("model", config)
    if not isinstance(inner, Mapping):
        raise ValueError(f"the config's `model` is {type(inner).__name__}, expected a mapping of constructor arguments")
    for key, allowed in UNSUPPORTED.items():
        if key in inner and inner[key] not in allowed:
            raise ValueError(f"upstream config has {key}={inner[key]!r}; only {allowed[0]!r} was ever released")
    settings = dict(UPSTREAM_DEFAULTS)
    ignored = []
    for key, value in inner.items():
        if key not in UPSTREAM_DEFAULTS and key not in UNSUPPORTED:
            ignored.append(key)
        elif key in UPSTREAM_DEFAULTS and (key, value) != ("similarity_threshold", None):
            settings[key] = value
    if list(settings["decoder_rates"]) != list(settings["encoder_rates"])[::-1]:
        raise ValueError(
            f"upstream config has encoder_rates={settings['encoder_rates']} but decoder_rates="
            f"{settings['decoder_rates']}; expected the same strides in reverse"
        )
    for key, value in (settings["fsq_config"] or {}).items():
        if key != "levels" and value is not None and (key, value) != ("num_codebooks", 1):
            raise ValueError(f"upstream config has fsq_config={settings['fsq_config']}; only levels were ever released")
    return settings, tuple(sorted(ignored))


def read_encoder_config(state: State, conf: Mapping[str, Any], dither: float) -> SanmConfig:
    """Size the frozen encoder from its weights and `conf` (FunASR's `encoder_conf`)."""
    linear = "semantic_model.encoder.encoders0.0.feed_forward.w_1.weight"
    memory = "semantic_model.encoder.encoders0.0.self_attn.fsmn_block.weight"
    for key, axes in ((linear, 2), (memory, 3)):
        if key not in state or state[key].ndim != axes:
            fault = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
            raise ValueError(f"SenseVoice's {key} {fault}, expected {axes} axes; is this another model's file?")
    linear_units, output_size = state[linear].shape
    sizes = {
        "output_size": output_size,
        "linear_units": linear_units,
        "kernel_size": state[memory].shape[-1],
        "num_blocks": 1 + count_blocks(state, "semantic_model.encoder.encoders."),
        "attention_heads": SENSEVOICE_ENCODER_CONF["attention_heads"],
    }
    if linear_units == SENSEVOICE_ENCODER_CONF["linear_units"]:  # SenseVoiceSmall: all its blocks have to be there
        sizes |= SENSEVOICE_ENCODER_CONF
    sizes |= {key: conf[key] for key in sizes if key in conf}
    size = sizes["output_size"]
    heads = sizes["attention_heads"]
    shift = conf.get("sanm_shfit", 0)  # FunASR's spelling
    if size % heads or shift:
        raise ValueError(
            f"SenseVoice's encoder_conf has output_size={size}, attention_heads={heads}, sanm_shfit={shift}; "
            "expected heads that divide the size, and no shift"
        )
    return SanmConfig(
        num_layers=sizes["num_blocks"],
        dim=sizes["output_size"],
        num_heads=sizes["attention_heads"],
        feedforward_dim=sizes["linear_units"],
        kernel_size=sizes["kernel_size"],
        front_end=FrontEndConfig(dither=dither),
    )


def read_config(settings: Mapping[str, Any], encoder: SanmConfig) -> FlexiCodecConfig:
    """Translate upstream's settings into our config."""
    latent_dim = settings["latent_dim"]
    aggregator = None
    if settings["use_query_token_aggregator"]:
        aggregator = _transformer_config(settings, "agg_transformer")
    cap = settings["max_tokens_per_group"]
    merging = MergingConfig(
        threshold=settings["similarity_threshold"],
        threshold_range=(settings["similarity_threshold_lower"], settings["similarity_threshold_upper"]),
        max_duration=cap if cap and cap > 0 else None,
        semantic_aggregator=aggregator,
        acoustic_aggregator=aggregator and replace(aggregator, dim=latent_dim),  # upstream ignores its own width here
    )
    bottleneck = None
    if settings["use_bottleneck_transformer"] and settings["transformer_num_layers"]:
        bottleneck = _transformer_config(settings, "transformer")
    # Without similarity alignment upstream makes aggregators and bottleneck, and skips them.
    dynamic = settings["use_similarity_alignment"]
    return FlexiCodecConfig(
        geometry="released",
        semantic_encoder=encoder,
        acoustic=AcousticConfig(
            tuple(settings["encoder_rates"]), settings["encoder_dim"], latent_dim, settings["decoder_dim"]
        ),
        merging=merging if dynamic else None,
        semantic=SemanticConfig(
            FSQConfig(levels=tuple((settings["fsq_config"] or {}).get("levels", (8,) * 5))),
            dim=settings["convnext_dim"],
            num_layers=settings["convnext_layers"],
        ),
        acoustic_quantizer=RVQConfig(settings["n_codebooks"], settings["codebook_size"], settings["codebook_dim"]),
        bottleneck=bottleneck if dynamic else None,
    )


def _transformer_config(settings: Mapping[str, Any], prefix: str) -> TransformerConfig:
    return TransformerConfig(
        num_layers=settings[f"{prefix}_num_layers"],
        dim=settings[f"{prefix}_dim"],
        num_heads=settings[f"{prefix}_num_heads"],
        feedforward_dim=settings[f"{prefix}_dim_feedforward"],
    )


# ---------------------------------------------------------------------------------------------------------- weights


LAYER_NAMES = {
    "in_proj.weight": "self_attn.in_proj_weight",
    "out_proj.weight": "self_attn.out_proj.weight",
    "scale1": "layer_scale_1.scale",
    "scale2": "layer_scale_2.scale",
}
CONVNEXT_NAMES = {"depthwise": "dwconv", "norm": "norm", "linear1": "pwconv1", "linear2": "pwconv2"}
SANM_NAMES = {
    "self_attn.q_proj": "self_attn.linear_q_k_v",
    "self_attn.k_proj": "self_attn.linear_q_k_v",
    "self_attn.v_proj": "self_attn.linear_q_k_v",
    "self_attn.o_proj": "self_attn.linear_out",
    "self_attn.fsmn.conv": "self_attn.fsmn_block",
    "mlp.fc1": "feed_forward.w_1",
    "mlp.fc2": "feed_forward.w_2",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
}
WEIGHT_NORMED = re.compile(
    r"(encoder|decoder)\.layers\..*\.weight|acoustic_quantizer\..*_proj\.weight|semantic_\w+_stack\.conv_\w+\.weight"
)


def upstream_name(name: str, num_convnext_layers: int) -> str:
    """Return upstream's name of one of our weights.

    Queries, keys and values share one name there, and the weight of a weight-normed convolution (see `WEIGHT_NORMED`)
    is stored as `weight_g` and `weight_v`.

    Args:
        name: A key of our model's state dict.
        num_convnext_layers: Blocks of a ConvNeXt stack; upstream numbers them together with the convolution behind.
    """
    part, rest = name.split(".", 1)
    if part == "semantic_encoder":
        return "semantic_model." + _sanm_name(rest)
    if part == "bottleneck":
        return "bottleneck_transformer." + _transformer_name(rest)
    if part in ("semantic_aggregator", "acoustic_aggregator"):
        head, _, inner = rest.partition(".")
        return name if head == "query_embedding" else f"{part}.transformer.{_transformer_name(inner)}"
    if part in ("encoder", "decoder"):
        # layers.3.1.weight is block.3.block.1.weight there
        *numbers, leaf = rest.removeprefix("layers.").split(".")
        return f"dac.{part}.{'block' if part == 'encoder' else 'model'}.{'.block.'.join(numbers)}.{leaf}"
    if part == "semantic_quantizer":
        return "semantic_vq.fsq." + rest
    if part == "acoustic_quantizer":
        return "dac.quantizer." + rest
    if part == "semantic_encoder_stack":
        return "convnext_encoder." + _convnext_name(rest, first_block=1, convolution=0)
    assert part == "semantic_decoder_stack", name
    return "convnext_decoder." + _convnext_name(rest, first_block=0, convolution=num_convnext_layers)


def _sanm_name(name: str) -> str:
    if name == "prompt.weight":
        return "embed.weight"
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match, name
    layer, module, parameter = int(match[1]), match[2], match[3]
    if module == "final_layernorm":
        return f"encoder.after_norm.{parameter}"
    block = f"encoders.{layer - 1}" if layer else "encoders0.0"  # the first block has a list of its own
    return f"encoder.{block}.{SANM_NAMES[module]}.{parameter}"


def _transformer_name(name: str) -> str:
    if name.startswith("layers."):
        layers, number, rest = name.split(".", 2)
        return f"transformer.{layers}.{number}.{LAYER_NAMES.get(rest, rest)}"
    return {"input_projection.weight": "input_proj.weight", "output_projection.weight": "output_projs.0.weight"}[name]


def _convnext_name(name: str, first_block: int, convolution: int) -> str:
    head, rest = name.split(".", 1)
    if head != "blocks":
        return f"{convolution}.{rest}"
    # One sequence of convolution and blocks there, in either order.
    number, module, parameter = rest.split(".")
    return f"{int(number) + first_block}.{CONVNEXT_NAMES[module]}.{parameter}"


def convert(wanted: Mapping[str, tuple[int, ...]], state: State, num_convnext_layers: int) -> tuple[State, set[str]]:
    """Find our weights among upstream's, in float32.

    Args:
        wanted: Shapes of our weights by our names.
        state: Upstream's weights by upstream's names.
        num_convnext_layers: See `upstream_name`.

    Returns:
        Our weights by our names, and the names of upstream's that were not needed.

    Raises:
        ValueError: Names, as upstream does, missing and misshapen weights, and layers that the config does not have.
    """
    sources: dict[str, list[str]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in wanted.items():
        theirs = upstream_name(name, num_convnext_layers)
        if name.startswith("acoustic_quantizer.") and name.endswith("_proj.weight"):
            shape = (*shape, 1)  # a convolution of width 1
        if "linear_q_k_v" in theirs:
            shape = (3 * shape[0], *shape[1:])
        parts = {theirs: shape}
        if WEIGHT_NORMED.fullmatch(name) and theirs not in state:
            parts = {theirs + "_g": (shape[0], *[1] * (len(shape) - 1)), theirs + "_v": shape}
        sources[name] = list(parts)
        expected |= parts
    check_shapes(expected, state)

    # Layers beyond those of the config are a mistake: other unused weights may be known extras.
    left = set(state) - expected.keys()
    layers = set(map(_unnumbered, expected))
    if surplus := sorted(key for key in left if _unnumbered(key) in layers):
        raise ValueError(
            f"the config describes fewer layers than the file holds: {abbreviated(surplus)} would be left out"
        )

    converted = {}
    for name, keys in sources.items():
        tensors = [state[key] for key in keys]
        tensor = fold_weight_norm(*tensors) if len(tensors) == 2 else tensors[0].float()
        if "linear_q_k_v" in keys[0]:  # self_attn.q_proj.weight is the first third, and so on
            tensor = tensor.chunk(3)["qkv".index(name.split(".")[-2][0])]
        converted[name] = tensor.reshape(wanted[name])
    return converted, left


def is_needless(key: str, idle_parts: set[str]) -> bool:
    """Tell whether an upstream key is known not to be needed, or belongs to a part that the config does not use."""
    return bool(EXPECTED_EXTRAS.match(key)) or key.split(".")[0] in idle_parts


def _unnumbered(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def count_blocks(state: Iterable[str], prefix: str) -> int:
    """Count the numbered blocks below a prefix."""
    matches = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in state]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def sensevoice_cmvn() -> Float[Tensor, "2 dim"]:
    """SenseVoiceSmall's feature shifts and scales (its `am.mvn`), which ship with the package."""
    path = files("flexicodec") / "assets" / "sensevoice_cmvn.safetensors"
    return load_file(str(path))["cmvn"]


def read_cmvn(path: str | Path) -> Float[Tensor, "2 dim"]:
    """Parse FunASR's `am.mvn` (Kaldi-nnet text): the numbers after <AddShift> and <Rescale>."""
    lines = Path(path).read_text().splitlines()
    rows = []
    for tag in ("<AddShift>", "<Rescale>"):
        at = next((i for i, line in enumerate(lines) if line.startswith(tag)), None)
        if at is None or at + 1 >= len(lines):
            raise ValueError(f"{path} has no {tag} line; expected FunASR's am.mvn")
        rows.append([float(number) for number in lines[at + 1].split()[3:-1]])
    if len(rows[0]) != len(rows[1]) or not rows[0]:
        raise ValueError(f"{path}: {len(rows[0])} shifts but {len(rows[1])} scales")
    return torch.tensor(rows, dtype=torch.float32, device="cpu")
