"""Conversion of released FlexiCodec weights and of SenseVoiceSmall's `model.pt`.

Weights are renamed and weight norm is folded in float32. Every weight we need must be there with the right shape, and
every unused key is named in a report: nothing is left random, as upstream's `strict=False` does. Names are mapped from
ours to upstream's, so that errors use the names in the file.
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
from flexicodec.weights import LoadReport, abbreviated, load_exactly

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
    """Say what upstream calls one of our weights.

    Three queries, keys and values share one name there, and the weight of a weight-normed convolution (see
    `WEIGHT_NORMED`) is kept as `weight_g` and `weight_v`.

    Args:
        name: A key of our model's state dict.
        num_convnext_layers: Blocks of a ConvNeXt stack, which upstream numbers through with the convolution after it.
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
    block = f"encoders.{layer - 1}" if layer else "encoders0.0"
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
    number, module, parameter = rest.split(".")
    return f"{int(number) + first_block}.{CONVNEXT_NAMES[module]}.{parameter}"


State = Mapping[str, Tensor]

SENSEVOICE_ENCODER_CONF = {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50}

# Where a config says nothing: the released model's sizes, and of the parts those that upstream's constructor makes.
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

# Settings that would change the computation in ways no released model uses and this package does not build.
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

# Keys that are known and carry nothing we need: frozen blocks nobody reads, training heads, unused statistics.
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
        config: Arguments of upstream's `FlexiCodec(...)`, or a mapping that holds them under `model`. Unknown keys
            are ignored and reported.
        state_dict: Upstream's weights, in any float type; legacy weight-norm names.
        cmvn: [2, 560] shifts and scales of the front end; None takes SenseVoiceSmall's.
        sensevoice_encoder_conf: FunASR's `encoder_conf`; what cannot be read off the weights is `attention_heads`. None
            takes SenseVoiceSmall's.
        sensevoice_state_dict: SenseVoiceSmall's weights, used where `state_dict` has no `semantic_model.*` of its own.
        dither: See `FrontEndConfig`; the goldens were recorded with 0.
        name: What to call the model in token files.

    Returns:
        The model in eval mode, float32; `model.load_report` says what was left out.

    Raises:
        ValueError: A key is missing, a shape is wrong, or the config asks for something that was never released.
    """
    settings, ignored = read_settings(config)
    state = strip_wrapping(state_dict)
    source = "checkpoint"
    if not any(key.startswith("semantic_model.encoder.encoders0.") for key in state):
        if sensevoice_state_dict is None:
            raise ValueError(
                "the checkpoint holds no semantic_model.* weights, so SenseVoiceSmall's are needed: "
                "pass sensevoice= with the folder that holds its model.pt (hub id FunAudioLLM/SenseVoiceSmall)"
            )
        state |= {f"semantic_model.{key}": value for key, value in strip_wrapping(sensevoice_state_dict).items()}
        source = "SenseVoiceSmall"
    check_statistics(state)
    encoder = read_encoder_config(state, sensevoice_encoder_conf or {}, dither)
    with torch.device("meta"):
        model = FlexiCodec(read_config(settings, encoder), name=name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    front_end = {
        key: shapes.pop(key) for key in ("semantic_encoder.front_end.shift", "semantic_encoder.front_end.scale")
    }
    converted, left = convert(shapes, state, settings["convnext_layers"])
    cmvn = sensevoice_cmvn() if cmvn is None else cmvn
    if cmvn.shape != (2, encoder.front_end.dim):
        raise ValueError(
            f"cmvn has shape {tuple(cmvn.shape)}, expected (2, {encoder.front_end.dim}): shifts, then scales"
        )
    load_exactly(model, {**converted, **dict(zip(front_end, cmvn.float().clone(), strict=True))})
    parts = {key.split(".")[0] for key in state.keys() - left}
    expected = {key for key in left if is_needless(key, OPTIONAL_PARTS - parts)}
    model.load_report = LoadReport(
        expected_extras=tuple(sorted(expected)),
        unexpected_extras=tuple(sorted(left - expected)),
        semantic_source=source,
        ignored_settings=ignored,
    )
    return model.eval()


def strip_wrapping(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take the tensors out of a training wrapper and drop prefixes that every key shares."""
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
    """Refuse files whose semantic features would have to be normalised: no released model does that."""
    for key, neutral in (("semantic_mean", 0.0), ("semantic_std", 1.0)):
        if key in state and state[key].device.type != "meta" and not bool((state[key] == neutral).all()):
            raise ValueError(f"{key} is {state[key].tolist()}, expected {neutral:g}: normalised features are not built")


def read_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fill upstream's defaults in and refuse what was never released."""
    inner = config.get("model", config)
    if not isinstance(inner, Mapping):
        raise ValueError(f"the config's `model` is {type(inner).__name__}, expected a mapping of constructor arguments")
    for key, allowed in UNSUPPORTED.items():
        if key in inner and inner[key] not in allowed:
            raise ValueError(f"upstream config has {key}={inner[key]!r}; only {allowed[0]!r} was ever released")
    known = {k: v for k, v in inner.items() if k in UPSTREAM_DEFAULTS and (k, v) != ("similarity_threshold", None)}
    ignored = tuple(sorted(k for k in inner if k not in UPSTREAM_DEFAULTS and k not in UNSUPPORTED))
    settings = {**UPSTREAM_DEFAULTS, **known}
    if list(settings["decoder_rates"]) != list(settings["encoder_rates"])[::-1]:
        raise ValueError(
            f"upstream config has encoder_rates={settings['encoder_rates']} but decoder_rates="
            f"{settings['decoder_rates']}; expected the same strides in reverse"
        )
    beside_levels = {k: v for k, v in (settings["fsq_config"] or {}).items() if k != "levels"}
    if any(v is not None and (k, v) != ("num_codebooks", 1) for k, v in beside_levels.items()):
        raise ValueError(f"upstream config has fsq_config={settings['fsq_config']}; only levels were ever released")
    return settings, ignored


def read_encoder_config(state: State, conf: Mapping[str, Any], dither: float) -> SanmConfig:
    """Size the frozen encoder: what `conf` (FunASR's `encoder_conf`) leaves open is read off the weights.

    Raises:
        ValueError: The weights that tell are missing or misshapen, or `conf` asks for what SenseVoice does not have.
    """
    first = "semantic_model.encoder.encoders0.0."
    axes = {first + "feed_forward.w_1.weight": 2, first + "self_attn.fsmn_block.weight": 3}
    for key, count in axes.items():
        if key not in state or state[key].ndim != count:
            fault = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
            raise ValueError(f"SenseVoice's {key} {fault}, expected {count} axes; is this another model's file?")
    widening, memory = (state[key].shape for key in axes)
    sizes = {
        "output_size": widening[1],
        "linear_units": widening[0],
        "kernel_size": memory[-1],
        "num_blocks": 1 + count_blocks(state, "semantic_model.encoder.encoders."),
        "attention_heads": SENSEVOICE_ENCODER_CONF["attention_heads"],  # not to be seen in any weight
    }
    if sizes["linear_units"] == SENSEVOICE_ENCODER_CONF["linear_units"]:  # SenseVoiceSmall itself: whole, or an error
        sizes |= SENSEVOICE_ENCODER_CONF
    sizes |= {key: conf[key] for key in sizes if key in conf}
    size, heads, shift = sizes["output_size"], sizes["attention_heads"], conf.get("sanm_shfit", 0)
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
        aggregator = TransformerConfig(
            num_layers=settings["agg_transformer_num_layers"],
            dim=settings["agg_transformer_dim"],
            num_heads=settings["agg_transformer_num_heads"],
            feedforward_dim=settings["agg_transformer_dim_feedforward"],
        )
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
        bottleneck = TransformerConfig(
            num_layers=settings["transformer_num_layers"],
            dim=settings["transformer_dim"],
            num_heads=settings["transformer_num_heads"],
            feedforward_dim=settings["transformer_dim_feedforward"],
        )
    dynamic = settings[
        "use_similarity_alignment"
    ]  # without it upstream makes aggregators and bottleneck but skips them
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


# ----------------------------------------------------------------------------------------------------------- weights


def convert(wanted: Mapping[str, tuple[int, ...]], state: State, num_convnext_layers: int) -> tuple[State, set[str]]:
    """Find our weights among upstream's, in float32.

    Args:
        wanted: Shapes of our weights by our names.
        state: Upstream's weights by upstream's names.
        num_convnext_layers: See `upstream_name`.

    Returns:
        Our weights by our names, and the names of upstream's that were not needed.

    Raises:
        ValueError: Names, as upstream does, what is missing or misshapen, and layers that the config does not know.
    """
    sources: dict[str, tuple[str, ...]] = {}
    faults: set[str] = set()
    for name, shape in wanted.items():
        theirs = upstream_name(name, num_convnext_layers)
        if name.startswith("acoustic_quantizer.") and name.endswith("_proj.weight"):
            shape = (*shape, 1)  # a convolution of width 1 there
        if "linear_q_k_v" in theirs:
            shape = (3 * shape[0], *shape[1:])
        expected = {theirs: shape}
        if WEIGHT_NORMED.fullmatch(name) and theirs not in state:
            expected = {theirs + "_g": (shape[0], *(1 for _ in shape[1:])), theirs + "_v": shape}
        sources[name] = tuple(expected)
        for key, its_shape in expected.items():
            if key not in state:
                faults.add(f"{key} is missing")
            elif tuple(state[key].shape) != its_shape:
                faults.add(f"{key} is {tuple(state[key].shape)} instead of {its_shape}")
    if faults:
        raise ValueError(
            f"the weights do not fit the config: {abbreviated(sorted(faults))}; is this another model's file?"
        )
    used = {key for keys in sources.values() for key in keys}
    left = set(state) - used
    layers = {_unnumbered(key) for key in used}
    if surplus := sorted(key for key in left if _unnumbered(key) in layers):
        raise ValueError(
            f"the config describes fewer layers than the file holds: {abbreviated(surplus)} would be left out"
        )
    converted = {}
    for name, keys in sources.items():
        tensor = fold_weight_norm(*(state[key] for key in keys)) if len(keys) == 2 else state[keys[0]].float()
        if "linear_q_k_v" in keys[0]:
            tensor = tensor.chunk(3)["qkv".index(name.split(".")[-2][0])]
        converted[name] = tensor.reshape(wanted[name])
    return converted, left


def is_needless(key: str, idle_parts: set[str]) -> bool:
    """Tell whether an upstream key is known to carry nothing we need, given the parts that the config leaves idle."""
    return bool(EXPECTED_EXTRAS.match(key)) or key.split(".")[0] in idle_parts


def _unnumbered(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def count_blocks(state: Iterable[str], prefix: str) -> int:
    """Count the numbered blocks below a prefix."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(m[1]) for key in state if (m := pattern.match(key))), default=-1)


def sensevoice_cmvn() -> Float[Tensor, "2 dim"]:
    """SenseVoiceSmall's feature shifts and scales (its `am.mvn`), which ship with the package."""
    path = files("flexicodec") / "assets" / "sensevoice_cmvn.safetensors"
    return load_file(str(path))["cmvn"]


def read_cmvn(path: str | Path) -> Float[Tensor, "2 dim"]:
    """Parse a Kaldi-nnet `am.mvn`: the numbers after <AddShift> and <Rescale>.

    Raises:
        ValueError: A tag is missing, or the two rows differ in length.
    """
    lines = Path(path).read_text().splitlines()
    rows = []
    for tag in ("<AddShift>", "<Rescale>"):
        at = next((i for i, line in enumerate(lines) if line.startswith(tag)), None)
        if at is None or at + 1 >= len(lines):
            raise ValueError(f"{path} has no {tag} line; expected FunASR's am.mvn")
        rows.append([float(number) for number in lines[at + 1].split()[3:-1]])
    if len(rows[0]) != len(rows[1]) or not rows[0]:
        raise ValueError(f"{path}: {len(rows[0])} shifts but {len(rows[1])} scales")
    return torch.tensor(rows)
