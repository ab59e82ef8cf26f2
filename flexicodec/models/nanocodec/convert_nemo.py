"""Conversion of NeMo's LFSC and NanoCodec: `.nemo` archives, settings and weights.

Archives are tar files, read member by member, never extracted or unpickled. Weight norm (old or new PyTorch names) is
folded in float32. Every weight of the generator must be there with the right shape, and every unused key is named in a
report; NeMo itself loads whatever fits. Names are mapped from ours to NeMo's, so that errors use the names in the file.
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
from flexicodec.weights import LoadReport, abbreviated, load_exactly

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
# What NeMo's constructors put in where a config says nothing; grouped upsampling is then a causal decoder's alone.
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

UNIT_NAMES = ("input_activation.activation", "input_conv.conv", "skip_activation.activation", "skip_conv.conv")


def nemo_name(name: str, config: NanoCodecConfig) -> str:
    """Say what NeMo calls one of our weights; that of a convolution is kept there as a weight norm's two.

    Args:
        name: A key of our model's state dict.
        config: Of our model.
    """
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
    order = (
        ("residuals", "activation", "resampling") if part == "encoder" else ("activation", "resampling", "residuals")
    )
    kind = order[int(inner[0])]
    if kind == "residuals":
        _, chain, unit, layer = inner
        return f"res_layers.{stage}.res_blocks.{chain}.res_blocks.{unit}.{UNIT_NAMES[int(layer)]}"
    if kind == "activation":
        return f"activations.{stage}.activation"
    return f"{'down' if part == 'encoder' else 'up'}_sample_conv_layers.{stage}.conv"


CONFIG_MEMBER, WEIGHTS_MEMBER = "model_config.yaml", "model_weights.ckpt"
# Far above any real archive, and bounds on what a small compressed one can unfold to.
MOST_BYTES = {CONFIG_MEMBER: 2**20, WEIGHTS_MEMBER: 2**33}


def read_archive(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the config and the weights of a `.nemo` archive; whatever else lies in it is left alone.

    Returns:
        The config as plain values, and tensors by name on the CPU.

    Raises:
        ValueError: The file is no such archive, is damaged, or holds more than plain values and tensors.
    """
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
    assert file is not None  # a plain file, as _find has seen
    held = parse_yaml(file.read(), CONFIG_MEMBER)
    if not isinstance(held, dict):
        raise ValueError(f"{CONFIG_MEMBER} holds a {type(held).__name__}, expected settings by name")
    return held


def _read_weights(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Tensor]:
    file = archive.extractfile(member)
    assert file is not None
    try:
        held = torch.load(cast(Any, file), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or a malicious pickle makes torch raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{WEIGHTS_MEMBER} cannot be read as weights ({reason[:500]})") from error
    held = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{WEIGHTS_MEMBER} holds a {type(held).__name__} of other things than tensors by name")
    return dict(held)


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


def load_nemo(path: str | Path, name: str | None = None) -> NanoCodec:
    """Open a `.nemo` archive of an LFSC or a NanoCodec.

    Args:
        path: The file.
        name: What to call the model in token files; None takes the file's.

    Raises:
        ValueError: The file is no such archive, is damaged, or what `from_nemo` raises.
    """
    path = Path(path)
    config, state = read_archive(path)
    try:
        return from_nemo(config, state, name or path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_nemo(config: Mapping[str, Any], state_dict: State, name: str | None = None) -> NanoCodec:
    """Build our model from NeMo's model config and state dict.

    Args:
        config: What `model_config.yaml` holds. What concerns training is ignored and reported.
        state_dict: NeMo's weights, in any float type, with either naming of weight norms.
        name: What to call the model in token files.

    Returns:
        The model in eval mode, float32; `model.load_report` says what was left out.

    Raises:
        ValueError: A key is missing or unknown, a shape is wrong, or the config asks for what is not built here.
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


def read_config(config: Mapping[str, Any]) -> NanoCodecConfig:
    """Translate NeMo's model config into ours.

    Raises:
        ValueError: A setting is missing or not known, or asks for what is not built here.
    """
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
    """Read the groups and their levels."""
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
    """Read the settings of encoder or decoder, NeMo's defaults filled in; its latents have to be `dim` wide."""
    section, kind = config[f"audio_{part}"], _class_name(config[f"audio_{part}"])
    known = {"HiFiGAN" + part.capitalize(): False, "CausalHiFiGAN" + part.capitalize(): True}
    if kind not in known:
        raise ValueError(f"the config's audio_{part} is a {kind}; built here are {' and '.join(known)}")
    causal, fields, width_key = known[kind], FIELDS[part], LATENT_WIDTH[part]
    _check_keys(f"audio_{part}", section, {"_target_", width_key, *fields})
    if section.get(width_key) != dim:
        raise ValueError(
            f"the config's audio_{part} has {width_key}={section.get(width_key)}, but its groups need {dim}"
        )
    settings = {**DEFAULTS[part], **section}
    settings.setdefault("n_groups_equal_to_out_channels", causal)
    if causal:
        settings["pad_mode"] = "zeros"  # whatever is written there, NeMo's causal convolutions do not read it
    return {"causal": causal} | {ours: settings[theirs] for theirs, ours in fields.items()}


def _class_name(section: Mapping[str, Any]) -> str:
    return str(section.get("_target_")).rsplit(".", 1)[-1]


def _check_keys(part: str, section: Mapping[str, Any], known: set[str]) -> None:
    """Refuse settings that could change the computation in ways nobody here knows."""
    if unknown := sorted(str(key) for key in section if key not in known):
        raise ValueError(f"the config's {part} has settings that are not known here: {abbreviated(unknown)}")


# ----------------------------------------------------------------------------------------------------------- weights


def convert(
    wanted: Mapping[str, tuple[int, ...]], state: State, config: NanoCodecConfig
) -> tuple[dict[str, Tensor], set[str]]:
    """Find our weights among NeMo's, in float32.

    Args:
        wanted: Shapes of our weights by our names.
        state: NeMo's weights by NeMo's names.
        config: Of our model.

    Returns:
        Our weights by our names, and the names of NeMo's that went into them.

    Raises:
        ValueError: Names, as NeMo does, what is missing or misshapen.
    """
    sources: dict[str, tuple[str, ...]] = {}
    faults = []
    for name, shape in wanted.items():
        theirs = nemo_name(name, config)
        expected = {theirs: shape}
        if theirs.endswith(".weight") and theirs not in state:
            namings = [[theirs.removesuffix(".weight") + suffix for suffix in pair] for pair in NORM_SUFFIXES]
            size_key, direction_key = next((pair for pair in namings if pair[0] in state), namings[0])
            expected = {size_key: (shape[0], *(1 for _ in shape[1:])), direction_key: shape}
        sources[name] = tuple(expected)
        for key, its_shape in expected.items():
            if key not in state:
                faults.append(f"{key} is missing")
            elif tuple(state[key].shape) != its_shape:
                faults.append(f"{key} is {tuple(state[key].shape)} instead of {its_shape}")
    if faults:
        raise ValueError(
            f"the weights do not fit the config: {abbreviated(sorted(faults))}; is this another model's file?"
        )
    converted = {
        name: fold_weight_norm(*(state[key] for key in keys)) if len(keys) == 2 else state[keys[0]].float()
        for name, keys in sources.items()
    }
    return converted, {key for keys in sources.values() for key in keys}


def check_quantizer(state: State, config: NanoCodecConfig) -> set[str]:
    """Hold the quantizer's tables, which follow from the config, against it; return their names.

    Raises:
        ValueError: One is missing, or is another.
    """
    levels = torch.tensor(config.quantizer.levels)
    bases = torch.cat([torch.ones(1, dtype=torch.long), levels.cumprod(0)[:-1]])
    used = set()
    for group in range(config.quantizer.num_groups):
        for table, expected in (("num_levels", levels), ("dim_base_index", bases)):
            key = f"vector_quantizer.fsqs.{group}.{table}"
            if key not in state:
                raise ValueError(f"the weights do not fit the config: {key} is missing; is this another model's file?")
            if state[key].flatten().tolist() != expected.tolist():
                raise ValueError(
                    f"{key} is {state[key].flatten().tolist()}, but levels {list(config.quantizer.levels)} make it "
                    f"{expected.tolist()}"
                )
            used.add(key)
    return used
