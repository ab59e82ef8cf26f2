"""Conversion of NeMo's LFSC and NanoCodec: `.nemo` archives, settings and weights.

Archives are tar files, read member by member, never extracted or unpickled. Weight norm (old or new PyTorch names) is
folded in float32. Every weight of the generator has to be there with the right shape (NeMo loads those that fit), and
every unused key is reported. Names are mapped from ours to NeMo's, so that errors use the names in the file.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from flexicodec.config import from_dict, parse_yaml
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import fold_weight_norm
from flexicodec.quantize import GroupedFSQConfig
from flexicodec.weights import LoadReport, abbreviated, check_shapes, load_exactly

State = Mapping[str, Tensor]

GENERATOR = ("audio_encoder.", "audio_decoder.", "vector_quantizer.")
# Parts that NeMo saves beside the generator: for training, or frozen models it was trained with.
EXPECTED_EXTRAS = (
    "discriminator.",
    "mel_loss_fn.",
    "stft_loss_fn.",
    "speaker_encoder.",
    "speaker_encoder_resampler.",
    "slm_",
    "semantic_codec.",
)
SECTIONS = ("audio_encoder", "audio_decoder", "vector_quantizer")
SETTINGS = ("sample_rate", "samples_per_frame", *SECTIONS)
NORM_SUFFIXES = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
QUANTIZER = "GroupFiniteScalarQuantizer"
EPSILON = 1e-3  # of the quantizer's bound; no other was ever released


@torch.inference_mode(False)
def load_nemo(path: str | Path, name: str | None = None) -> NanoCodec:
    """Load a `.nemo` archive of an LFSC or a NanoCodec; `name` is that of the model in token files (the file's)."""
    path = Path(path)
    config, state = read_archive(path)
    try:
        return from_nemo(config, state, name or path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_nemo(config: Mapping[str, Any], state_dict: State, name: str | None = None) -> NanoCodec:
    """Build our model from NeMo's model config and state dict.

    Args:
        config: Of `model_config.yaml`. Settings of training are ignored and reported.
        state_dict: NeMo's weights, in any float type, with either naming of weight norms.
        name: Of the model in token files.

    Returns:
        The model in eval mode, float32; `model.load_report` lists unused weights and settings.

    Raises:
        ValueError: A key is missing or unknown, a shape is wrong, or the config has a setting that is not supported.
    """
    config = config["model"] if isinstance(config.get("model"), Mapping) else config
    ours = read_config(config)
    with torch.device("meta"):
        model = NanoCodec(ours, name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    converted, used = convert(shapes, state_dict, ours)
    used |= check_quantizer(state_dict, ours)
    left = set(state_dict) - used
    if surplus := sorted(key for key in left if key.startswith(GENERATOR)):
        raise ValueError(
            f"the config describes a smaller model than the file holds: {abbreviated(surplus)} would be left out"
        )
    load_exactly(model, converted)
    expected = {key for key in left if key.startswith(EXPECTED_EXTRAS)}
    model.load_report = LoadReport(
        expected_extras=tuple(sorted(expected)),
        unexpected_extras=tuple(sorted(left - expected)),
        ignored_settings=tuple(sorted(str(key) for key in config if key not in SETTINGS)),
    )
    return model.eval()


# ---------------------------------------------------------------------------------------------------------- settings

# NeMo's key -> our field, in its sections audio_encoder and audio_decoder.
_SHARED_FIELDS = {
    "base_channels": "width",
    "activation": "activation",
    "resblock_kernel_sizes": "kernel_sizes",
    "resblock_dilation_sizes": "dilations",
    "in_kernel_size": "in_kernel_size",
    "out_kernel_size": "out_kernel_size",
    "pad_mode": "padding_mode",
}
FIELDS = {
    "encoder": {"down_sample_rates": "strides", **_SHARED_FIELDS},
    "decoder": {
        "up_sample_rates": "strides",
        **_SHARED_FIELDS,
        "output_activation": "output_activation",
        "n_groups_equal_to_out_channels": "grouped_upsampling",
    },
}
LATENT_WIDTH = {"encoder": "encoded_dim", "decoder": "input_dim"}
# Defaults of NeMo's constructors; that of grouped upsampling is whether the decoder is causal.
_SHARED_DEFAULTS: dict[str, Any] = {
    "activation": "lrelu",
    "resblock_kernel_sizes": (3, 7, 11),
    "resblock_dilation_sizes": (1, 3, 5),
    "in_kernel_size": 7,
    "pad_mode": "reflect",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "encoder": {**_SHARED_DEFAULTS, "down_sample_rates": (2, 2, 8, 8), "base_channels": 32, "out_kernel_size": 7},
    "decoder": {
        **_SHARED_DEFAULTS,
        "up_sample_rates": (8, 8, 2, 2),
        "base_channels": 512,
        "out_kernel_size": 3,
        "output_activation": "tanh",
    },
}


def read_config(config: Mapping[str, Any]) -> NanoCodecConfig:
    """Translate NeMo's model config into ours."""
    missing = [key for key in SETTINGS if config.get(key) is None]
    if missing:
        raise ValueError(
            f"the config has no {', no '.join(missing)}; is it that of a NeMo AudioCodecModel with a quantizer?"
        )
    for section in SECTIONS:
        if not isinstance(config[section], Mapping):
            raise ValueError(f"the config's {section} is {config[section]!r}, expected settings by name")
    quantizer = _read_quantizer(config["vector_quantizer"])
    ours = from_dict(
        NanoCodecConfig,
        {
            "sample_rate": config["sample_rate"],
            "encoder": _read_part(config, "encoder", quantizer.dim),
            "decoder": _read_part(config, "decoder", quantizer.dim),
            "quantizer": quantizer,
        },
    )
    if config["samples_per_frame"] != ours.frame_size:
        raise ValueError(
            f"the config has samples_per_frame={config['samples_per_frame']}, but its strides "
            f"{ours.encoder.strides} make {ours.frame_size}"
        )
    return ours


def _read_quantizer(section: Mapping[str, Any]) -> GroupedFSQConfig:
    kind = _class_name(section)
    if kind != QUANTIZER:
        raise ValueError(f"the config's vector_quantizer is a {kind}; only {QUANTIZER} is built here")
    if section.get("eps", EPSILON) != EPSILON:
        raise ValueError(f"the config's vector_quantizer has eps={section['eps']!r}; only {EPSILON} was ever released")
    names = {"num_groups": "num_groups", "num_levels_per_group": "levels"}
    _check_keys("vector_quantizer", section, {"_target_", "eps", *names})
    if missing := [key for key in names if section.get(key) is None]:
        raise ValueError(f"the config's vector_quantizer has no {' and no '.join(missing)}")
    given = {ours: section[theirs] for theirs, ours in names.items()}
    return from_dict(GroupedFSQConfig, given, "vector_quantizer")


def _read_part(config: Mapping[str, Any], part: Literal["encoder", "decoder"], dim: int) -> dict[str, Any]:
    """Read the settings of encoder or decoder, with NeMo's defaults; its latents must have `dim` channels."""
    section = config[f"audio_{part}"]
    kind = _class_name(section)
    known = {"HiFiGAN" + part.capitalize(): False, "CausalHiFiGAN" + part.capitalize(): True}
    if kind not in known:
        raise ValueError(f"the config's audio_{part} is a {kind}; built here are {' and '.join(known)}")
    causal = known[kind]
    fields = FIELDS[part]
    width_key = LATENT_WIDTH[part]
    _check_keys(f"audio_{part}", section, {"_target_", width_key, *fields})
    if section.get(width_key) != dim:
        raise ValueError(
            f"the config's audio_{part} has {width_key}={section.get(width_key)}, but its groups need {dim}"
        )
    settings = {**DEFAULTS[part], **section}
    settings.setdefault("n_groups_equal_to_out_channels", causal)
    if causal:
        settings["pad_mode"] = "zeros"  # NeMo's causal convolutions ignore the setting
    return {"causal": causal} | {ours: settings[theirs] for theirs, ours in fields.items()}


def _class_name(section: Mapping[str, Any]) -> str:
    return str(section.get("_target_")).rsplit(".", 1)[-1]


def _check_keys(part: str, section: Mapping[str, Any], known: set[str]) -> None:
    """Refuse unknown settings, which may change the computation."""
    if unknown := sorted(str(key) for key in section if key not in known):
        raise ValueError(f"the config's {part} has settings that are not known here: {abbreviated(unknown)}")


# ---------------------------------------------------------------------------------------------------------- weights

UNIT_NAMES = ("input_activation.activation", "input_conv.conv", "skip_activation.activation", "skip_conv.conv")


def nemo_name(name: str, config: NanoCodecConfig) -> str:
    """Return NeMo's name of one of our weights; the weight of a convolution is there the two of a weight norm."""
    part, layers, number, *inner, leaf = name.split(".")
    assert layers == "layers", name
    if inner and inner[-1] == "snake":
        inner, leaf = inner[:-1], "snake_act.alpha"
    stages = len(config.encoder.strides if part == "encoder" else config.decoder.strides)
    stage = int(number) - 1
    if stage < 0:
        place = "pre_conv.conv"
    elif stage < stages:
        place = _stage_name(part, stage, inner)
    else:
        place = ("post_activation.activation", "post_conv.conv")[stage - stages]
    return f"audio_{part}.{place}.{leaf}"


def _stage_name(part: str, stage: int, inner: list[str]) -> str:
    # The layers of a stage, and of NeMo's module lists.
    order = ("activation", "resampling", "residuals")
    direction = "up"
    if part == "encoder":
        order = ("residuals", "activation", "resampling")
        direction = "down"
    kind = order[int(inner[0])]
    if kind == "residuals":
        _, chain, unit, layer = inner
        return f"res_layers.{stage}.res_blocks.{chain}.res_blocks.{unit}.{UNIT_NAMES[int(layer)]}"
    if kind == "activation":
        return f"activations.{stage}.activation"
    return f"{direction}_sample_conv_layers.{stage}.conv"


def convert(
    wanted: Mapping[str, tuple[int, ...]], state: State, config: NanoCodecConfig
) -> tuple[dict[str, Tensor], set[str]]:
    """Find our weights among NeMo's, in float32.

    Args:
        wanted: Shapes of our weights by our names.
        state: NeMo's weights by NeMo's names.
        config: Of our model.

    Returns:
        Our weights by our names, and the names of NeMo's that were used.
    """
    sources: dict[str, list[str]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in wanted.items():
        theirs = nemo_name(name, config)
        parts = {theirs: shape}
        if theirs.endswith(".weight") and theirs not in state:
            # A weight norm's two tensors, under the names of the first PyTorch version that is in the file.
            prefix = theirs.removesuffix(".weight")
            found = [pair for pair in NORM_SUFFIXES if prefix + pair[0] in state]
            norm_suffix, direction_suffix = (found or NORM_SUFFIXES)[0]
            parts = {prefix + norm_suffix: (shape[0], *[1] * (len(shape) - 1)), prefix + direction_suffix: shape}
        sources[name] = list(parts)
        expected |= parts
    check_shapes(expected, state)
    converted = {}
    for name, keys in sources.items():
        tensors = [state[key] for key in keys]
        converted[name] = fold_weight_norm(*tensors) if len(tensors) == 2 else tensors[0].float()
    return converted, set(expected)


def check_quantizer(state: State, config: NanoCodecConfig) -> set[str]:
    """Compare the quantizer's tables with those that follow from the config; return their names."""
    levels = torch.tensor(config.quantizer.levels, device="cpu")
    bases = torch.cat([torch.ones(1, dtype=torch.long, device="cpu"), levels.cumprod(0)[:-1]])
    used = set()
    for group in range(config.quantizer.num_groups):
        for table, expected in (("num_levels", levels), ("dim_base_index", bases)):
            key = f"vector_quantizer.fsqs.{group}.{table}"
            if key not in state:
                raise ValueError(f"the weights do not fit the config: {key} is missing; is this another model's file?")
            held = state[key].flatten().tolist()
            if held != expected.tolist():
                raise ValueError(
                    f"{key} is {held}, but levels {list(config.quantizer.levels)} make it {expected.tolist()}"
                )
            used.add(key)
    return used


# ---------------------------------------------------------------------------------------------------------- archives

CONFIG_MEMBER, WEIGHTS_MEMBER = "model_config.yaml", "model_weights.ckpt"
# Far above any real archive; bounds the memory that a small compressed one can take.
MOST_BYTES = {CONFIG_MEMBER: 2**20, WEIGHTS_MEMBER: 2**33}


def read_archive(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the config and the weights of a `.nemo` archive as plain values and tensors on the CPU, and nothing else."""
    path = Path(path)
    try:
        with tarfile.open(path, "r:*") as archive:
            config = _read_config(archive, _find(archive, CONFIG_MEMBER))
            return config, _read_weights(archive, _find(archive, WEIGHTS_MEMBER))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read as a .nemo archive ({reason}); was the download cut short?") from error


def _find(archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """Find the one plain file of this name at the root of the archive."""
    found = [member for member in archive.getmembers() if member.name.removeprefix("./") == name]
    if len(found) != 1 or not found[0].isreg():
        here = ", ".join(member.name for member in archive.getmembers()[:8])
        fault = f"{len(found)} members called {name}" if len(found) != 1 else f"a {name} that is no plain file"
        raise ValueError(f"the archive has {fault}, expected one; it begins with: {here or 'nothing'}")
    if found[0].size > MOST_BYTES[name]:
        raise ValueError(f"{name} claims {found[0].size} bytes, expected at most {MOST_BYTES[name]}")
    return found[0]


def _read_config(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = archive.extractfile(member)
    assert file is not None  # _find checked that it is a plain file
    held = parse_yaml(file.read(), CONFIG_MEMBER)
    if not isinstance(held, dict):
        raise ValueError(f"{CONFIG_MEMBER} holds a {type(held).__name__}, expected settings by name")
    return held


def _read_weights(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Tensor]:
    file = archive.extractfile(member)
    assert file is not None
    try:
        held = torch.load(cast(Any, file), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged and malicious pickles
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{WEIGHTS_MEMBER} cannot be read as weights ({reason[:500]})") from error
    held = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{WEIGHTS_MEMBER} holds a {type(held).__name__} of other things than tensors by name")
    return dict(held)
