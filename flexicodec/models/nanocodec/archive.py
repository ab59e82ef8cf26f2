"""NeMo's `.nemo` archives: a tar with a config and weights, read member by member, never extracted or unpickled."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

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
    try:
        held = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{CONFIG_MEMBER} is not plain YAML: {error}") from error
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
