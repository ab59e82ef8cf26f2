"""Weights to start from: our models and checkpoints, recognisers, SSL and SenseVoice folders, what others released.

What a source lacks of the parts asked of it, and what it holds beside them, is printed, and the config must allow it.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flexicodec.asr import encoder_state, is_recognizer
from flexicodec.asr.checkpoint import HABITS
from flexicodec.config import from_dict
from flexicodec.encoders.base import SanmConfig, SSLConfig
from flexicodec.encoders.ssl import ssl_state
from flexicodec.hub import SENSEVOICE_WEIGHTS, SHIPPED, UPSTREAM_WEIGHTS, load, locate
from flexicodec.models.codec import CONFIG_NAME, WEIGHTS_NAME
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.convert_upstream import (
    check_statistics,
    convert,
    is_needless,
    read_cmvn,
    sensevoice_cmvn,
    strip_wrapping,
    upstream_name,
)
from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import fold_weight_norm
from flexicodec.training.checkpoints import MARK, read_checkpoint
from flexicodec.training.config import InitConfig
from flexicodec.weights import abbreviated, read_weights

log = logging.getLogger(__name__)
FROZEN = "semantic_encoder"
FRONT_END = "semantic_encoder.front_end."
_GAIN, _DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


@dataclass(frozen=True, eq=False)
class _Found:
    """What a source holds.

    Attributes:
        state: Weights by our names; what has no name of ours keeps that of its file.
        scope: Parts that this kind of source can bring; all if empty.
        config: Of the model the weights are from, where the source says so.
    """

    state: Mapping[str, Tensor]
    scope: frozenset[str] = frozenset()
    config: Mapping[str, Any] | None = None


def init_from(model: FlexiCodecNetwork | NanoCodec, sources: Iterable[InitConfig]) -> None:
    """Fill a fresh model's weights from sources, the later ones over the earlier ones; a NanoCodec needs none.

    Raises:
        ValueError: A source is nothing known, has misshapen weights, or lacks or holds keys that the config does not
            allow; or a FlexiCodec's frozen encoder is of other settings, or missing.
    """
    heard = False
    for source in sources:
        heard |= any(_part(name) == FROZEN for name in _fill(model, source))
    if not heard and not isinstance(model, NanoCodec):
        raise ValueError(
            "no entry of init_from brings weights for the frozen semantic encoder, and similarities of random features "
            "mean nothing; name a recogniser's folder (flexicodec train-asr), SenseVoiceSmall's, or a codec's"
        )


def init_discriminators(discriminators: nn.Module, source: str | Path) -> None:
    """Fill discriminators from a training checkpoint or its `discriminators.safetensors`; everything has to fit.

    Raises:
        ValueError: It holds no discriminators, or others.
    """
    path = Path(source)
    path = path / "discriminators.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"adversarial.init_from is {str(source)!r}, which holds no discriminators.safetensors")
    try:
        discriminators.load_state_dict(dict(read_weights(path)))
    except RuntimeError as error:
        raise ValueError(f"{path} holds discriminators of other settings: {error}") from error


def _fill(model: FlexiCodecNetwork | NanoCodec, source: InitConfig) -> set[str]:
    wanted = model.state_dict()
    known = {_part(name) for name in wanted}
    if unknown := set(source.parts) - known:
        raise ValueError(f"init_from has no parts {sorted(unknown)}; the model's are {', '.join(sorted(known))}")
    found = _read(source, model)
    state, parts = found.state, set(source.parts) or found.scope or known
    asked = {name for name in wanted if _part(name) in parts}
    misshapen = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(asked & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    if misshapen:
        raise ValueError(f"{source.source} does not fit the model: {abbreviated(misshapen)}; leave these parts out?")
    missing, extra = sorted(asked - state.keys()), sorted(state.keys() - asked)
    for label, keys, allowed, option in (
        ("lacks", missing, source.allow_missing, "allow_missing"),
        ("holds, of no use here,", extra, source.allow_extra, "allow_extra"),
    ):
        if keys:
            log.warning("%s %s %d keys: %s", source.source, label, len(keys), abbreviated(keys))
        if refused := [key for key in keys if not any(fnmatch(key, pattern) for pattern in allowed)]:
            raise ValueError(f"{source.source} {label} {abbreviated(refused)}; if that is meant, say so in {option}")
    taken = {name: state[name].float() for name in asked & state.keys()}
    if found.config is not None:
        filled = {_part(name) for name in taken}
        if isinstance(model, NanoCodec):
            _compare_settings(source.source, found.config, model.config, filled)
        elif FROZEN in filled:
            _check_frozen(source.source, found.config, model.config)
    model.load_state_dict({**wanted, **taken})
    log.info("took %d tensors from %s", len(taken), source.source)
    return set(taken)


def _read(source: InitConfig, model: FlexiCodecNetwork | NanoCodec) -> _Found:
    """Read a source; of its parts those asked for by name, where some are."""
    path = Path(source.source)
    if not (path / CONFIG_NAME).is_file() and (path / "model" / CONFIG_NAME).is_file():  # the output folder of a run
        source, path = replace(source, source=str(path / "model")), path / "model"
    if isinstance(model, NanoCodec):
        found = _read_nanocodec(source.source)
    else:
        for file in (path, *(path / name for name in (SENSEVOICE_WEIGHTS, *UPSTREAM_WEIGHTS))):
            if file.is_file():
                return _read_upstream(file, model, source.parts)
        found = _read_folder(source.source, model)
    state = {name: value for name, value in found.state.items() if not source.parts or _part(name) in source.parts}
    return replace(found, state=state)


def _read_folder(source: str, model: FlexiCodecNetwork) -> _Found:
    """Read a folder, or a model by its name, by our names."""
    path, encoder = Path(source), model.config.semantic_encoder
    if (path / MARK).is_file():
        return _read_checkpoint(path)
    if is_recognizer(path):
        if not isinstance(encoder, SanmConfig):
            raise ValueError(f"{path} is a SAN-M recogniser, but the model's semantic encoder is {encoder}")
        return _Found(_under(FROZEN, encoder_state(path, encoder)), frozenset({FROZEN}))
    if source in SHIPPED or path.is_dir() or source.count("/") == 1:
        folder, _ = locate(source, None, None)
        if (held := _our_config(folder)) is not None:
            return _Found(read_weights(folder / WEIGHTS_NAME), config=held)
    if (path / CONFIG_NAME).is_file() and isinstance(encoder, SSLConfig):
        return _Found(_under(FROZEN, ssl_state(path, encoder)), frozenset({FROZEN}))
    raise ValueError(
        f"init_from knows no source {source!r}: expected a model's name or folder, a checkpoint (.../step-0001000), a "
        "recogniser's folder, an SSL or SenseVoice folder that suits the model, or upstream's weights file"
    )


def _read_checkpoint(path: Path) -> _Found:
    """Read what a training checkpoint would export."""
    checkpoint = read_checkpoint(path)
    if checkpoint is None:
        raise ValueError(f"the checkpoint {path} is damaged")
    weights = checkpoint.weights("average") or checkpoint.weights("generator") or {}
    return _Found(fold_names(weights), config=checkpoint.config()["model"])


def _read_nanocodec(source: str) -> _Found:
    """Read a checkpoint, or whatever `flexicodec.load` opens: a folder of ours, an archive of NeMo's."""
    if (Path(source) / MARK).is_file():
        return _read_checkpoint(Path(source))
    try:
        codec = load(source)
    except ValueError as error:
        raise ValueError(f"init_from cannot read {source!r}: {error}") from error
    return _Found(codec.state_dict(), config=codec.config_dict() if isinstance(codec, NanoCodec) else None)


def _compare_settings(source: str, held: Mapping[str, Any], config: NanoCodecConfig, taken: Collection[str]) -> None:
    """Say which settings a NanoCodec's weights were made with and will not find here, where shapes do not tell."""
    theirs = from_dict(NanoCodecConfig, held)
    differing = [
        f"{part}.{name}"
        for part in sorted({*taken, "quantizer"})
        for name, value in asdict(getattr(theirs, part)).items()
        if value != asdict(getattr(config, part))[name]
    ]
    if theirs.sample_rate != config.sample_rate:
        differing.append("sample_rate")
    if differing:
        log.warning("%s was made with other settings: %s", source, ", ".join(differing))


def _read_upstream(path: Path, model: FlexiCodecNetwork, parts: Collection[str]) -> _Found:
    """Find our weights among upstream's (or SenseVoice's alone), as many as the file has; the rest keeps its names."""
    state = strip_wrapping(read_weights(path))
    if sensevoice := any(key.startswith("encoder.encoders0.") for key in state):
        state = {f"semantic_model.{key}": value for key, value in state.items()}
    check_statistics(state)
    layers, encoder = model.config.semantic.num_layers, model.config.semantic_encoder
    wanted = {name: tuple(v.shape) for name, v in model.state_dict().items() if not parts or _part(name) in parts}
    if not isinstance(encoder, SanmConfig):  # upstream has no other
        wanted = {name: shape for name, shape in wanted.items() if _part(name) != FROZEN}
    theirs = {name: upstream_name(name, layers) for name in wanted if not name.startswith(FRONT_END)}
    there = {name: wanted[name] for name, key in theirs.items() if key in state or key + "_v" in state}
    if not there:
        sought = ", ".join(parts) or "the model"
        raise ValueError(f"{path} holds nothing for {sought} by upstream's names; is it another model's file?")
    try:
        converted, left = convert(there, state, layers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = dict(converted)
    if any(_part(name) == FROZEN for name in there):
        statistics = path.parent / "am.mvn"
        cmvn = read_cmvn(statistics) if statistics.is_file() else sensevoice_cmvn()
        found |= {FRONT_END + leaf: row for leaf, row in zip(("shift", "scale"), cmvn, strict=True)}
    asked = {_stem(key) for key in theirs.values()}
    extra = {key for key in left if not is_needless(key, set()) and (not parts or _stem(key) in asked)}
    return _Found(found | {key: state[key] for key in extra}, frozenset({FROZEN} if sensevoice else ()))


def _check_frozen(source: str, held: Mapping[str, Any], config: FlexiCodecConfig) -> None:
    """Refuse a frozen encoder that was trained with other settings: heads, say, cannot be seen in a weight's shape."""
    theirs, ours = from_dict(FlexiCodecConfig, held).semantic_encoder, config.semantic_encoder
    if isinstance(theirs, SanmConfig) and isinstance(ours, SanmConfig):
        theirs = replace(theirs, **{name: getattr(ours, name) for name in HABITS})
    if theirs != ours:
        raise ValueError(
            f"the frozen encoder in {source} is {theirs}, and the model's is to be {ours}; nothing would train the one "
            "to be the other: make model.semantic_encoder the same, or name the other parts alone"
        )


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


def _part(name: str) -> str:
    """The part of the model that a weight belongs to."""
    return name.split(".")[0]


def _stem(key: str) -> str:
    """As much of upstream's name as tells the part: `dac.encoder`, `semantic_model.encoder`."""
    return ".".join(key.split(".")[:2])


def _under(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for name, value in state.items()}


def _our_config(folder: Path) -> Mapping[str, Any] | None:
    """Read the config of a model's folder that `save_pretrained` wrote; None where it did not."""
    try:
        held = json.loads((folder / CONFIG_NAME).read_text())
    except (OSError, ValueError):
        return None
    return held.get("config") if isinstance(held, dict) and "fingerprint" in held else None
