"""Upstream's names and shapes to ours: the released FlexiCodec files, SenseVoiceSmall's `model.pt`, and their kin.

Renaming is mechanical; weight norm is folded in float32. Every key we need must be there with the right shape, every
key we do not need is named in a report: nothing is silently left random, as upstream's `strict=False` does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from flexicodec.blocks.conv import fold_weight_norm
from flexicodec.blocks.transformer import TransformerConfig
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.flexicodec.frontend import FrontEndConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.semantic import SanmConfig
from flexicodec.quantize import FSQConfig, RVQConfig

State = Mapping[str, Tensor]

SENSEVOICE_ENCODER_CONF = {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50}

# What upstream's constructor assumes where its config says nothing.
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
    "use_query_token_aggregator": True,
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
WRAPPERS = ("state_dict", "model_state_dict", "model", "generator")
PREFIXES = ("module.", "flexicodec_model.", "dualcodec_model.", "model.")


@dataclass(frozen=True)
class LoadReport:
    """What a conversion found beside what it needed.

    Attributes:
        expected_extras: Keys that were left out knowingly.
        unexpected_extras: Keys nobody knows; worth a look.
        semantic_source: Where the frozen encoder's weights came from.
        ignored_settings: Keys of upstream's config that mean nothing here.
    """

    expected_extras: tuple[str, ...]
    unexpected_extras: tuple[str, ...]
    semantic_source: str
    ignored_settings: tuple[str, ...]


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
    semantic = {k.removeprefix("semantic_model."): v for k, v in state.items() if k.startswith("semantic_model.")}
    source = "checkpoint"
    if not any(k.startswith("encoder.encoders0.") for k in semantic):
        if sensevoice_state_dict is None:
            raise ValueError(
                "the checkpoint holds no semantic_model.* weights, so SenseVoiceSmall's are needed: "
                "pass sensevoice= with the folder that holds its model.pt (hub id FunAudioLLM/SenseVoiceSmall)"
            )
        semantic, source = dict(strip_wrapping(sensevoice_state_dict)), "SenseVoiceSmall"

    conf = {**SENSEVOICE_ENCODER_CONF, **(sensevoice_encoder_conf or {})}
    model_config = read_config(settings, semantic, int(conf["attention_heads"]), dither)
    with torch.device("meta"):
        model = FlexiCodec(model_config, name=name)
    semantic_state = convert_sensevoice(semantic)
    cmvn = sensevoice_cmvn() if cmvn is None else cmvn
    semantic_state["front_end.shift"], semantic_state["front_end.scale"] = cmvn[0].float(), cmvn[1].float()
    converted = {f"semantic_encoder.{key}": value for key, value in semantic_state.items()}
    codec_state, left = convert_codec({k: v for k, v in state.items() if not k.startswith("semantic_model.")})
    converted |= codec_state
    load_exactly(model, converted)
    left |= {k for k in state if k.startswith("semantic_model.") and EXPECTED_EXTRAS.match(k)}
    model.load_report = LoadReport(
        expected_extras=tuple(sorted(k for k in left if EXPECTED_EXTRAS.match(k))),
        unexpected_extras=tuple(sorted(k for k in left if not EXPECTED_EXTRAS.match(k))),
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


def read_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fill upstream's defaults in and refuse what was never released."""
    inner = config.get("model", config)
    if not isinstance(inner, Mapping):
        raise ValueError(f"the config's `model` is {type(inner).__name__}, expected a mapping of constructor arguments")
    for key, allowed in UNSUPPORTED.items():
        if key in inner and inner[key] not in allowed:
            raise ValueError(f"upstream config has {key}={inner[key]!r}; only {allowed[0]!r} was ever released")
    known = {k: v for k, v in inner.items() if k in UPSTREAM_DEFAULTS}
    ignored = tuple(sorted(k for k in inner if k not in UPSTREAM_DEFAULTS and k not in UNSUPPORTED))
    return {**UPSTREAM_DEFAULTS, **known}, ignored


def read_config(settings: Mapping[str, Any], semantic: State, attention_heads: int, dither: float) -> FlexiCodecConfig:
    """Translate upstream's settings, and the sizes of its SenseVoice weights, into our config."""
    first = "encoder.encoders0.0."
    needed = [first + "feed_forward.w_1.weight", first + "self_attn.fsmn_block.weight"]
    require(needed, semantic, "SenseVoice weights")
    sanm = SanmConfig(
        num_layers=1 + count_blocks(semantic, "encoder.encoders."),
        dim=semantic[needed[0]].shape[1],
        num_heads=attention_heads,
        feedforward_dim=semantic[needed[0]].shape[0],
        kernel_size=semantic[needed[1]].shape[-1],
        front_end=FrontEndConfig(dither=dither),
    )
    latent_dim = settings["latent_dim"]
    aggregator = None
    if settings["use_query_token_aggregator"]:
        aggregator = TransformerConfig(
            num_layers=settings["agg_transformer_num_layers"],
            dim=settings["agg_transformer_dim"],
            num_heads=settings["agg_transformer_num_heads"],
            feedforward_dim=settings["agg_transformer_dim_feedforward"],
        )
    merging = MergingConfig(
        threshold=settings["similarity_threshold"],
        threshold_range=(settings["similarity_threshold_lower"], settings["similarity_threshold_upper"]),
        max_duration=settings["max_tokens_per_group"] or None,
        semantic_aggregator=aggregator,
        acoustic_aggregator=aggregator and replace(aggregator, dim=latent_dim),  # upstream ignores its own width here
    )
    bottleneck = TransformerConfig(
        num_layers=settings["transformer_num_layers"],
        dim=settings["transformer_dim"],
        num_heads=settings["transformer_num_heads"],
        feedforward_dim=settings["transformer_dim_feedforward"],
    )
    dynamic = settings["use_similarity_alignment"]
    return FlexiCodecConfig(
        geometry="released",
        semantic_encoder=sanm,
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
        bottleneck=bottleneck if dynamic and settings["use_bottleneck_transformer"] else None,
    )


# ----------------------------------------------------------------------------------------------------------- weights

LAYER_NAMES = {
    "self_attn.in_proj_weight": "in_proj.weight",
    "self_attn.out_proj.weight": "out_proj.weight",
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "linear1.weight": "linear1.weight",
    "linear2.weight": "linear2.weight",
    "layer_scale_1.scale": "scale1",
    "layer_scale_2.scale": "scale2",
}
CONVNEXT_NAMES = {"dwconv": "depthwise", "norm": "norm", "pwconv1": "linear1", "pwconv2": "linear2"}
SANM_NAMES = {
    "self_attn.linear_out": "self_attn.o_proj",
    "self_attn.fsmn_block": "self_attn.fsmn.conv",
    "feed_forward.w_1": "mlp.fc1",
    "feed_forward.w_2": "mlp.fc2",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}


def convert_codec(state: State) -> tuple[dict[str, Tensor], set[str]]:
    """Rename everything but SenseVoice; also returns the keys that have no place in our model."""
    folded = fold_all(state)
    layers = count_blocks(folded, "convnext_decoder.") - 1
    converted, left = {}, set()
    for key, tensor in folded.items():
        name = rename_codec_key(key, decoder_layers=layers)
        if name is None:
            left |= {key} & set(state) or {key + "_g", key + "_v"} & set(state)
        else:
            is_projection = re.match(r"acoustic_quantizer\..*(in|out)_proj\.weight$", name)
            converted[name] = tensor.squeeze(-1) if is_projection else tensor
    return converted, left


def fold_all(state: State) -> dict[str, Tensor]:
    """Cast to float32 and replace every weight_g / weight_v pair by the weight they stand for."""
    folded = {}
    for key, tensor in state.items():
        if key.endswith("weight_g"):
            stem = key.removesuffix("_g")
            require([stem + "_v"], state, "checkpoint")
            folded[stem] = fold_weight_norm(tensor, state[stem + "_v"])
        elif not (key.endswith("weight_v") and key.removesuffix("_v") + "_g" in state):
            folded[key] = tensor.float() if tensor.is_floating_point() else tensor
    return folded


def rename_codec_key(key: str, decoder_layers: int) -> str | None:
    """Say what we call one of upstream's (folded) weights; None if it has no place here."""
    if match := re.match(r"(bottleneck|semantic_aggregator|acoustic_aggregator)(?:_transformer)?\.(.+)", key):
        part, rest = match.groups()
        rest = rest.removeprefix("transformer.") if part != "bottleneck" else rest
        inner = "" if part == "bottleneck" else "transformer."
        if rest == "query_embedding":
            return f"{part}.query_embedding"
        if rest in ("input_proj.weight", "output_projs.0.weight"):
            return f"{part}.{inner}{'input' if rest.startswith('input') else 'output'}_projection.weight"
        if layer := re.match(r"transformer\.layers\.(\d+)\.(.+)", rest):
            name = LAYER_NAMES.get(layer[2])
            return name and f"{part}.{inner}layers.{layer[1]}.{name}"
        return None
    if match := re.match(r"dac\.quantizer\.quantizers\.(\d+)\.((?:in_proj|out_proj|codebook)\..+)", key):
        return f"acoustic_quantizer.quantizers.{match[1]}.{match[2]}"
    if match := re.match(r"dac\.(encoder\.block|decoder\.model)\.(.+)", key):
        # Blocks hold their layers in order on both sides; only the word between the numbers goes.
        rest = re.sub(r"\.block\.", ".", match[2])
        return f"{match[1].split('.')[0]}.layers.{rest}"
    if match := re.match(r"semantic_vq\.fsq\.(project_(?:in|out)\..+)", key):
        return f"semantic_quantizer.{match[1]}"
    if match := re.match(r"convnext_encoder\.(\d+)\.(.+)", key):
        return _rename_convnext("semantic_encoder_stack", int(match[1]) - 1, match[2], "conv_in", conv_at=-1)
    if match := re.match(r"convnext_decoder\.(\d+)\.(.+)", key):
        return _rename_convnext("semantic_decoder_stack", int(match[1]), match[2], "conv_out", conv_at=decoder_layers)
    return None


def _rename_convnext(stack: str, block: int, rest: str, conv: str, conv_at: int) -> str | None:
    if block == conv_at:
        return f"{stack}.{conv}.{rest}"
    part, _, parameter = rest.partition(".")
    return f"{stack}.blocks.{block}.{CONVNEXT_NAMES[part]}.{parameter}" if part in CONVNEXT_NAMES else None


def convert_sensevoice(state: State) -> dict[str, Tensor]:
    """Rename SenseVoiceSmall's encoder, splitting its fused queries, keys and values; timestamp blocks are left out."""
    require(["embed.weight", "encoder.after_norm.weight", "encoder.after_norm.bias"], state, "SenseVoice weights")
    num_layers = 1 + count_blocks(state, "encoder.encoders.")
    converted = {"prompt.weight": state["embed.weight"].float()}
    for key, tensor in state.items():
        match = re.match(r"encoder\.(encoders0|encoders)\.(\d+)\.(.+)\.(weight|bias)$", key)
        if not match:
            continue
        layer = int(match[2]) + (match[1] == "encoders")
        prefix = f"encoder.layers.{layer}."
        if match[3] == "self_attn.linear_q_k_v":
            for part, third in zip("qkv", tensor.float().chunk(3), strict=True):
                converted[f"{prefix}self_attn.{part}_proj.{match[4]}"] = third
        else:
            converted[f"{prefix}{SANM_NAMES.get(match[3], match[3])}.{match[4]}"] = tensor.float()
    for parameter in ("weight", "bias"):
        name = f"encoder.layers.{num_layers - 1}.final_layernorm.{parameter}"
        converted[name] = state[f"encoder.after_norm.{parameter}"].float()
    return converted


def count_blocks(state: Iterable[str], prefix: str) -> int:
    """Count the numbered blocks below a prefix."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(m[1]) for key in state if (m := pattern.match(key))), default=-1)


def require(keys: Iterable[str], state: State, where: str) -> None:
    """Raise ValueError naming the keys that are missing."""
    missing = [key for key in keys if key not in state]
    if missing:
        raise ValueError(f"{where}: {_some(missing)} missing; is this another model's file, or a part of one?")


def load_exactly(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Put weights into a model built on the meta device; every key must be there, and nothing else.

    Raises:
        ValueError: Names missing, unknown and misshapen keys.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    faults = [
        f"{label}: {_some(keys)}"
        for label, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if keys
    ]
    if faults:
        raise ValueError(f"the weights do not fit the config; {'; '.join(faults)}")
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(state, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


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


def _some(keys: list[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
