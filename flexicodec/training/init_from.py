"""Weights to start from: our models and checkpoints, recognisers, SSL and SenseVoice folders, the peer's released file.

What a source lacks of the parts asked of it, and what it holds beside them, is printed and must be allowed by the
config.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from torch import Tensor

from flexicodec.blocks.conv import fold_weight_norm
from flexicodec.models.codec import CONFIG_NAME, WEIGHTS_NAME
from flexicodec.models.flexicodec.checkpoint import (
    OPTIONAL_PARTS,
    convert,
    is_needless,
    read_cmvn,
    sensevoice_cmvn,
    strip_wrapping,
)
from flexicodec.models.flexicodec.rooms import FlexiCodecRooms
from flexicodec.models.flexicodec.semantic import SanmConfig
from flexicodec.models.flexicodec.ssl import SSLConfig, ssl_state
from flexicodec.models.flexicodec.upstream_names import upstream_name
from flexicodec.models.recognizer import encoder_state, is_recognizer
from flexicodec.pretrained import SENSEVOICE_WEIGHTS, SHIPPED, locate, read_weights
from flexicodec.training.checkpoints import MARK, read_checkpoint
from flexicodec.training.config import InitConfig

log = logging.getLogger(__name__)
FROZEN = "semantic_encoder"
_GAIN, _DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def init_from(model: FlexiCodecRooms, sources: Iterable[InitConfig]) -> None:
    """Fill a fresh model's weights from sources, the later ones over the earlier ones.

    Raises:
        ValueError: A source is nothing known, has misshapen weights, or lacks or holds keys that the config does not
            allow; or no source brings the frozen encoder.
    """
    heard = False
    for source in sources:
        names = _fill(model, source)
        heard |= any(name.startswith(FROZEN + ".") for name in names)
    if not heard:
        raise ValueError(
            "no entry of init_from brings weights for the frozen semantic encoder, and similarities of random features "
            "mean nothing; name a recogniser's folder (flexicodec train-asr), SenseVoiceSmall's, or a codec's"
        )


def _fill(model: FlexiCodecRooms, source: InitConfig) -> set[str]:
    state, scope = _read(source.source, model)
    wanted = model.state_dict()
    known = {name.split(".")[0] for name in wanted}
    if unknown := set(source.parts) - known:
        raise ValueError(f"init_from has no parts {sorted(unknown)}; the model's are {', '.join(sorted(known))}")
    parts = set(source.parts) or scope or known
    asked = {name for name in wanted if name.split(".")[0] in parts}
    state = {name: value for name, value in state.items() if not source.parts or name.split(".")[0] in parts}
    misshapen = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(asked & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    if misshapen:
        raise ValueError(
            f"{source.source} does not fit the model: {_some(misshapen)}; leave these parts out, or fit it"
        )
    missing, extra = sorted(asked - state.keys()), sorted(state.keys() - asked)
    for label, keys, allowed, option in (
        ("lacks", missing, source.allow_missing, "allow_missing"),
        ("holds, of no use here,", extra, source.allow_extra, "allow_extra"),
    ):
        if keys:
            log.warning("%s %s %d keys: %s", source.source, label, len(keys), _some(keys))
        if refused := [key for key in keys if not any(fnmatch(key, pattern) for pattern in allowed)]:
            raise ValueError(f"{source.source} {label} {_some(refused)}; if that is meant, say so in {option}")
    taken = {name: state[name].float() for name in asked & state.keys()}
    model.load_state_dict({**wanted, **taken})
    log.info("took %d tensors from %s", len(taken), source.source)
    return set(taken)


def _read(source: str, model: FlexiCodecRooms) -> tuple[dict[str, Tensor], set[str]]:
    """Read a source's weights by our names, and the parts that this kind of source can bring (all if empty)."""
    path, encoder = Path(source), model.config.semantic_encoder
    if (path / MARK).is_file():
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            raise ValueError(f"the checkpoint {path} is damaged")
        return fold_names(checkpoint.weights("average") or checkpoint.weights("generator") or {}), set()
    if is_recognizer(path):
        if not isinstance(encoder, SanmConfig):
            raise ValueError(f"{path} is a SAN-M recogniser, but the model's semantic encoder is {encoder}")
        return _under(FROZEN, encoder_state(path, encoder)), {FROZEN}
    if isinstance(encoder, SSLConfig) and (path / CONFIG_NAME).is_file() and not _is_ours(path):
        return _under(FROZEN, ssl_state(path, encoder)), {FROZEN}
    if path.is_file() or (path / SENSEVOICE_WEIGHTS).is_file():
        return _read_upstream(path, model)
    if source in SHIPPED or path.is_dir() or source.count("/") == 1:
        folder, _ = locate(source, None, None)
        if _is_ours(folder):
            return dict(read_weights(folder / WEIGHTS_NAME)), set()
    raise ValueError(
        f"init_from knows no source {source!r}: expected a model's name or folder, a checkpoint's folder, a "
        "recogniser's, an SSL or SenseVoice folder, or a weights file of upstream's"
    )


def _read_upstream(path: Path, model: FlexiCodecRooms) -> tuple[dict[str, Tensor], set[str]]:
    """Find our weights among upstream's (or SenseVoice's alone), as many as the file has."""
    frozen_only = path.is_dir()
    state = strip_wrapping(read_weights(path / SENSEVOICE_WEIGHTS if frozen_only else path))
    if frozen_only:
        state = {f"semantic_model.{key}": value for key, value in state.items()}
    layers = model.config.semantic.num_layers
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    front_end = {name: wanted.pop(name) for name in list(wanted) if name.startswith(f"{FROZEN}.front_end.")}
    there = {name: shape for name, shape in wanted.items() if _has(state, upstream_name(name, layers))}
    if not there:
        raise ValueError(f"{path} holds no weight of a FlexiCodec by upstream's names; is it another model's file?")
    converted, left = convert(there, state, layers)
    found = dict(converted)
    if any(name.startswith(FROZEN + ".") for name in there):
        statistics = path / "am.mvn"
        cmvn = read_cmvn(statistics) if statistics.is_file() else sensevoice_cmvn()
        rows = (name for leaf in ("shift", "scale") for name in front_end if name.endswith(leaf))
        found.update(zip(rows, cmvn, strict=True))
    idle = OPTIONAL_PARTS - {name.split(".")[0] for name in there}
    found |= {f"upstream.{key}": state[key] for key in left if not is_needless(key, idle)}
    return found, {FROZEN} if frozen_only else set()


def fold_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn weights as they are trained, weight-normed, into plain ones; `module.` of a running mean goes too."""
    state = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    folded = {}
    for name, value in state.items():
        if name.endswith(_GAIN):
            stem = name.removesuffix(_GAIN)
            folded[f"{stem}.weight"] = fold_weight_norm(value, state[stem + _DIRECTION])
        elif not name.endswith(_DIRECTION):
            folded[name] = value
    return folded


def _has(state: Mapping[str, Tensor], name: str) -> bool:
    return name in state or name + "_v" in state


def _under(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for name, value in state.items()}


def _is_ours(folder: Path) -> bool:
    try:
        return "fingerprint" in json.loads((folder / CONFIG_NAME).read_text()) and (folder / WEIGHTS_NAME).is_file()
    except (OSError, ValueError):
        return False


def _some(keys: list[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
