"""Saved recognisers: `config.json`, `model.safetensors` and the vocabulary's file; loaded whole or as an encoder."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import flexicodec
from flexicodec.asr.config import RecognizerConfig
from flexicodec.asr.vocabulary import Vocabulary
from flexicodec.config import from_dict, to_dict
from flexicodec.encoders.base import SanmConfig
from flexicodec.io_utils import describe_missing
from flexicodec.weights import CONFIG_NAME, WEIGHTS_NAME, write_model_folder

MODEL_TYPE = "recognizer"
FREE_FIELDS = ("num_layers", "window")  # fields of SanmConfig that the shapes of its weights do not depend on


def is_recognizer(folder: str | Path) -> bool:
    """Tell whether a folder holds a recogniser."""
    try:
        held = json.loads((Path(folder) / CONFIG_NAME).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("model_type") == MODEL_TYPE


def encoder_state(folder: str | Path, config: SanmConfig) -> dict[str, Tensor]:
    """Read the first `config.num_layers` encoder blocks of a recogniser, as weights of a `SanmEncoder`.

    Only the last block of the file has a final norm. A shorter encoder gets a plain one, without gain or shift.
    """
    held, state = read_folder(folder)
    faults = []
    for field in fields(SanmConfig):
        theirs = getattr(held.encoder, field.name)
        ours = getattr(config, field.name)
        if field.name not in FREE_FIELDS and theirs != ours:
            faults.append(f"{field.name} is {theirs}, not {ours}")
    if faults:
        raise ValueError(f"the encoder in {folder} is another than the one asked for: {'; '.join(faults)}")
    if held.encoder.num_layers < config.num_layers:
        raise ValueError(f"the encoder in {folder} has {held.encoder.num_layers} blocks, asked for {config.num_layers}")
    # Names are "encoder.encoder.layers.7.norm1.weight": blocks beyond those asked for are left out.
    kept = {}
    for name, tensor in state.items():
        block = re.match(r"encoder\.encoder\.layers\.(\d+)\.", name)
        if name.startswith("encoder.") and (block is None or int(block[1]) < config.num_layers):
            kept[name.removeprefix("encoder.")] = tensor
    norm = f"encoder.layers.{config.num_layers - 1}.final_layernorm."
    kept.setdefault(norm + "weight", torch.ones(config.dim, dtype=torch.float32, device="cpu"))
    kept.setdefault(norm + "bias", torch.zeros(config.dim, dtype=torch.float32, device="cpu"))
    return kept


def write_folder(
    folder: str | Path,
    config: RecognizerConfig,
    vocabulary: Vocabulary,
    state: dict[str, Tensor],
    dtype: torch.dtype | None,
) -> Path:
    """Write a recogniser: its vocabulary's file, then weights and config."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, vocabulary=vocabulary.save(folder))
    held = {"model_type": MODEL_TYPE, "flexicodec_lab_version": flexicodec.__version__, "config": to_dict(config)}
    return write_model_folder(folder, held, state, dtype)


def read_folder(folder: str | Path) -> tuple[RecognizerConfig, dict[str, Tensor]]:
    """Read a recogniser's config and its weights, in float32."""
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"no recogniser: the folder {describe_missing(folder)}")
    if not is_recognizer(folder):
        raise ValueError(f"{folder} holds no recogniser: expected {CONFIG_NAME} with model_type {MODEL_TYPE!r}")
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{folder} has a {CONFIG_NAME} but no {WEIGHTS_NAME}; was the copy interrupted?")
    config = from_dict(RecognizerConfig, json.loads((folder / CONFIG_NAME).read_text()).get("config", {}))
    state = load_file(folder / WEIGHTS_NAME)
    return config, {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
