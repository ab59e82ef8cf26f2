"""Weights of a self-supervised encoder out of a transformers folder, under the names of ours."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flexicodec.config import to_dict
from flexicodec.models.flexicodec.checkpoint import load_exactly
from flexicodec.models.flexicodec.ssl import SSLEncoder
from flexicodec.models.flexicodec.ssl_config import PREPROCESSOR_NAME, SSLConfig
from flexicodec.pretrained import read_weights

BARE_PARTS = ("feature_extractor", "feature_projection", "encoder")
POSITIONS = "encoder.pos_conv_embed.conv."
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def ssl_state(folder: str | Path, config: SSLConfig) -> dict[str, Tensor]:
    """Read the weights of an `SSLEncoder` from a local transformers folder, float32, under the encoder's names.

    Blocks above `config.layer` and what stands around the bare model (heads, quantisers, masking vectors) are left out.

    Args:
        folder: Holds config.json and model.safetensors or pytorch_model.bin, sharded or not.
        config: What is to be filled.

    Raises:
        ValueError: The folder's config.json says otherwise than `config`, there are no weights, or a weight is
            missing, unknown or misshapen.
    """
    folder = Path(folder)
    _check_same(config, folder)
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no model.safetensors and no pytorch_model.bin")
    held = {key: value for file in files for key, value in read_weights(file).items()}
    with torch.device("meta"):
        encoder = SSLEncoder(config)
    try:
        load_exactly(encoder, _bare_weights(held, config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return encoder.state_dict()


def _bare_weights(held: Mapping[str, Tensor], config: SSLConfig) -> dict[str, Tensor]:
    """Pick out what the encoder may need, in float32, with the weight norm folded."""
    held = {key.removeprefix(f"{config.model_type}."): value for key, value in held.items()}
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in held.items()
        if key.split(".")[0] in BARE_PARTS and not _is_above(key, config)
    }
    for size, direction in WEIGHT_NORMS:
        if {POSITIONS + size, POSITIONS + direction} <= state.keys():
            size_, direction_ = state.pop(POSITIONS + size), state.pop(POSITIONS + direction)
            state[POSITIONS + "weight"] = torch._weight_norm(direction_, size_, 2)
    return state


def _is_above(key: str, config: SSLConfig) -> bool:
    """Tell whether a weight comes into play behind the layer that is taken."""
    parts = key.split(".")
    if parts[:2] == ["encoder", "layers"]:
        return int(parts[2]) >= config.layer
    return parts[:2] == ["encoder", "layer_norm"] and config.settings.do_stable_layer_norm


def _check_same(config: SSLConfig, folder: Path) -> None:
    """Refuse a folder whose files describe another encoder: heads, say, cannot be seen in any weight's shape."""
    silent = not (folder / PREPROCESSOR_NAME).is_file()
    theirs = SSLConfig.from_folder(folder, config.layer, normalise=config.normalise if silent else None)
    ours, found = ({**to_dict(each), **to_dict(each.settings)} for each in (config, theirs))
    differing = [
        f"{key} is {found[key]}, not {ours[key]}" for key in ours if key != "settings" and found[key] != ours[key]
    ]
    if differing:
        raise ValueError(f"the model in {folder} is not the one in the config: {'; '.join(differing)}")
