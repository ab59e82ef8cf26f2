"""Initial weights: fresh ones that keep features at unit scale, and pretrained ones from `init_from`.

DAC's initialisation lets features shrink to a hundredth on their way through the encoder, and a random residual
quantiser then adds more noise than it removes; in a short run the decoder learns to ignore the acoustic stream.
PyTorch's, which NeMo uses, lets a NanoCodec's shrink so far that all speech has the same codes. Here features keep
their size, and every stage of a residual quantiser starts as a projection onto directions of its own, and back.
"""

import json
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexicodec.asr import encoder_state, is_recognizer
from flexicodec.asr.checkpoint import FREE_FIELDS
from flexicodec.config import from_dict
from flexicodec.encoders import moonshine_weights
from flexicodec.encoders.base import MoonshineConfig, SanmConfig, SSLConfig
from flexicodec.encoders.ssl import ssl_state
from flexicodec.hub import SENSEVOICE_WEIGHTS, SHIPPED, UPSTREAM_WEIGHTS, load, locate, read_model, read_weights
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
from flexicodec.nn.conv import Conv, ConvTranspose, fold_weight_norm
from flexicodec.nn.dac import DACEncoder, ResidualUnit
from flexicodec.nn.sequential import Residual
from flexicodec.nn.spectral import SpectralConfig, SpectralDecoder, fit_head
from flexicodec.quantize import ResidualVectorQuantizer
from flexicodec.training.checkpoints import MARK, read_checkpoint
from flexicodec.training.config import InitConfig
from flexicodec.weights import CONFIG_NAME, abbreviated

log = logging.getLogger(__name__)

RESIDUAL_GAIN = 0.3  # of a residual unit's last convolution, so that fifteen of them do not explode
INPUT_GAIN = 5.0  # of the first convolution: speech of deviation 0.05 or so becomes features of deviation 1
# NanoCodec: the gain that keeps the mean square of unit-variance features through an activation and a convolution.
ACTIVATION_GAINS = {"lrelu": math.sqrt(2), "half_snake": 1.05, "snake": 0.88}
LATENT_GAIN = 10.0  # of the encoder's first convolution: speech then reaches most levels of the quantiser
OUTPUT_GAIN = 0.003  # of the decoder's last: nearly silent, for a loud start is unlearnt by one code for all speech

FROZEN = "semantic_encoder"
# Settings of a frozen encoder in which weights and model may differ.
FREE_SETTINGS = {SanmConfig: FREE_FIELDS, MoonshineConfig: ("windows", "norm_window", "left_padding")}
FRONT_END = "semantic_encoder.front_end."


# ---------------------------------------------------------------------------------------------------- fresh weights


@torch.no_grad()
def init_encoder(encoder: DACEncoder) -> None:
    """Initialise each convolution with the variance that keeps its features' size; the decoder keeps DAC's own."""
    for layer in _convolutions(encoder):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    for unit in encoder.modules():
        if isinstance(unit, ResidualUnit):
            _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)
    _convolutions(encoder)[0].weight.mul_(INPUT_GAIN)


@torch.no_grad()
def init_nanocodec(codec: NanoCodec) -> None:
    """Initialise each convolution of encoder and decoder with the variance that keeps its features' size."""
    for part, config in ((codec.encoder, codec.config.encoder), (codec.decoder, codec.config.decoder)):
        gain = ACTIVATION_GAINS[config.activation]
        for layer in part.modules():
            if not isinstance(layer, Conv | ConvTranspose):
                continue
            fan_in = layer.weight[0].numel()
            if isinstance(layer, ConvTranspose):  # each output is the sum of two inputs: the kernel is two strides
                fan_in = 2 * layer.in_channels // layer.groups
            nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for unit in part.modules():
            if isinstance(unit, Residual):
                _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)
    _convolutions(codec.encoder)[0].weight.mul_(LATENT_GAIN / ACTIVATION_GAINS[codec.config.encoder.activation])
    _convolutions(codec.decoder)[-1].weight.mul_(OUTPUT_GAIN / ACTIVATION_GAINS[codec.config.decoder.activation])


def _convolutions(module: nn.Module) -> list[Conv]:
    return [layer for layer in module.modules() if isinstance(layer, Conv)]


@torch.no_grad()
def init_quantizer(quantizer: ResidualVectorQuantizer) -> None:
    """Initialise each stage as a projection onto a few directions of an orthonormal basis, as long as they last."""
    width = quantizer.stages[0].codebook.embedding_dim
    basis = torch.empty(0, quantizer.dim)
    for stage in quantizer.stages:
        if len(basis) < width:
            basis = nn.init.orthogonal_(torch.empty(quantizer.dim, quantizer.dim))
        stage.in_proj.weight.copy_(basis[:width])
        stage.out_proj.weight.copy_(basis[:width].T)
        nn.init.zeros_(stage.in_proj.bias)
        nn.init.zeros_(stage.out_proj.bias)
        basis = basis[width:]


# ----------------------------------------------------------------------------------------------- pretrained weights


@dataclass(frozen=True, eq=False)
class _Source:
    """Content of a source of weights."""

    state: Mapping[str, Tensor]  # by our names; weights without a name of ours keep that of their file
    scope: frozenset[str] = frozenset()  # parts that this kind of source has; all if empty
    config: Mapping[str, Any] | None = None  # of the model the weights are from, if the source has one


def init_from(model: FlexiCodecNetwork | NanoCodec, sources: Iterable[InitConfig]) -> None:
    """Load weights into a fresh model, later sources over earlier ones.

    A FlexiCodec needs weights of its frozen encoder, with the same settings; a NanoCodec needs none. Keys that are
    missing or left over are logged, and refused unless the config allows them.
    """
    filled: set[str] = set()
    for source in sources:
        filled |= {_part(name) for name in _load_source(model, source)}
    if FROZEN not in filled and not isinstance(model, NanoCodec):
        raise ValueError(
            "no entry of init_from brings weights for the frozen semantic encoder, and similarities of random features "
            "mean nothing; name a recogniser's folder (flexicodec train-asr), SenseVoiceSmall's, or a codec's, or "
            f"{moonshine_weights.SHIPPED}"
        )


def init_discriminators(discriminators: nn.Module, source: str | Path) -> None:
    """Load discriminators from a training checkpoint or its `discriminators.safetensors`, strictly."""
    path = Path(source)
    if path.is_dir():
        path = path / "discriminators.safetensors"
    if not path.is_file():
        raise ValueError(f"adversarial.init_from is {str(source)!r}, which holds no discriminators.safetensors")
    try:
        discriminators.load_state_dict(dict(read_weights(path)))
    except RuntimeError as error:
        raise ValueError(f"{path} holds discriminators of other settings: {error}") from error


def _load_source(model: FlexiCodecNetwork | NanoCodec, source: InitConfig) -> set[str]:
    """Load one source and return the names of the weights it filled."""
    wanted = model.state_dict()
    known = {_part(name) for name in wanted}
    if unknown := set(source.parts) - known:
        raise ValueError(f"init_from has no parts {sorted(unknown)}; the model's are {', '.join(sorted(known))}")
    found = _read(source, model)
    state = _with_fitted_head(found, model)
    asked = {name for name in wanted if _part(name) in (set(source.parts) or found.scope or known)}
    taken = {name: state[name].float() for name in asked & state.keys()}

    # Refuse weights of another shape, and keys that are missing or left over unless they are allowed.
    misshapen = []
    for name in sorted(taken):
        if state[name].shape != wanted[name].shape:
            misshapen.append(f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}")
    if misshapen:
        raise ValueError(f"{source.source} does not fit the model: {abbreviated(misshapen)}; leave these parts out?")
    _check_keys(source.source, "lacks", asked - state.keys(), source.allow_missing, "allow_missing")
    _check_keys(source.source, "has unused", state.keys() - asked, source.allow_extra, "allow_extra")

    # Refuse or report other settings, which shapes do not show.
    if found.config is not None:
        filled = {_part(name) for name in taken}
        if isinstance(model, NanoCodec):
            _compare_settings(source.source, found.config, model.config, filled)
        elif FROZEN in filled:
            _check_frozen(source.source, found.config, model.config)
    model.load_state_dict({**wanted, **taken})
    log.info("took %d tensors from %s", len(taken), source.source)
    return set(taken)


def _with_fitted_head(found: _Source, model: FlexiCodecNetwork | NanoCodec) -> Mapping[str, Tensor]:
    """Fit the head of a decoder on spectra to the model's output rate; one that cannot be fitted is left out."""
    if found.config is None or isinstance(model, NanoCodec) or not isinstance(model.decoder, SpectralDecoder):
        return found.state
    old: Any = from_dict(FlexiCodecConfig, found.config).acoustic
    new: Any = model.config.acoustic
    weight, bias = (f"decoder.{model.decoder.head_name}.{leaf}" for leaf in ("weight", "bias"))
    is_same = [getattr(old, name, None) == getattr(new, name) for name in ("output_hop", "istft_window", "istft_hop")]
    # Other differences show in shapes.
    if all(is_same) or not isinstance(old, SpectralConfig) or weight not in found.state:
        return found.state
    state = {name: value for name, value in found.state.items() if name not in (weight, bias)}
    fresh = model.state_dict()[weight]
    fitted = None
    if fresh.shape[1] == found.state[weight].shape[1] and old.hop == new.hop:
        fitted = fit_head(found.state[weight], found.state[bias], fresh, old, new)
    if fitted is not None:
        state[weight], state[bias] = fitted
        log.info("the decoder's last layer is fitted to %d Hz", model.output_sample_rate)
    return state


def _check_keys(source: str, label: str, keys: Collection[str], allowed: Collection[str], option: str) -> None:
    if not keys:
        return
    log.warning("%s %s %d keys: %s", source, label, len(keys), abbreviated(sorted(keys)))
    refused = [key for key in sorted(keys) if not any(fnmatch(key, pattern) for pattern in allowed)]
    if refused:
        raise ValueError(f"{source} {label} {abbreviated(refused)}; if that is intended, list them in {option}")


def _check_frozen(source: str, held: Mapping[str, Any], config: FlexiCodecConfig) -> None:
    """Refuse a frozen encoder that was trained with other settings, such as its number of heads."""
    theirs: Any = from_dict(FlexiCodecConfig, held).semantic_encoder
    ours = config.semantic_encoder
    if type(theirs) is type(ours):
        free = FREE_SETTINGS.get(type(ours), ())
        theirs = replace(theirs, **{name: getattr(ours, name) for name in free})
    if theirs != ours:
        raise ValueError(
            f"the frozen encoder in {source} is {theirs}, and the model's is to be {ours}; nothing would train the one "
            "to be the other: make model.semantic_encoder the same, or name the other parts alone"
        )


def _compare_settings(source: str, held: Mapping[str, Any], config: NanoCodecConfig, taken: Collection[str]) -> None:
    """Log the settings of a NanoCodec's weights that differ from the model's."""
    theirs = from_dict(NanoCodecConfig, held)
    differing = []
    for part in sorted({*taken, "quantizer"}):
        ours = asdict(getattr(config, part))
        for name, value in asdict(getattr(theirs, part)).items():
            if value != ours[name]:
                differing.append(f"{part}.{name}")
    if theirs.sample_rate != config.sample_rate:
        differing.append("sample_rate")
    if differing:
        log.warning("%s was made with other settings: %s", source, ", ".join(differing))


# -------------------------------------------------------------------------------------------------- kinds of source


def _read(source: InitConfig, model: FlexiCodecNetwork | NanoCodec) -> _Source:
    """Read the parts of a source that are asked for by name, or all of it."""
    name = source.source
    _refuse_missing(name)
    model_of_run = Path(name) / "model"
    if (model_of_run / CONFIG_NAME).is_file() and not (Path(name) / CONFIG_NAME).is_file():
        name = str(model_of_run)  # `name` is the output folder of a training run
    if isinstance(model, NanoCodec):
        found = _read_nanocodec(name)
    else:
        for file in (Path(name), *(Path(name, filename) for filename in (SENSEVOICE_WEIGHTS, *UPSTREAM_WEIGHTS))):
            if file.is_file():
                return _read_upstream(file, model, source.parts)
        found = _read_folder(name, model)
    if not source.parts:
        return found
    return replace(found, state={key: value for key, value in found.state.items() if _part(key) in source.parts})


def _refuse_missing(source: str) -> None:
    """Refuse what an earlier stage has not written yet; names and hub ids are for others to find."""
    path = Path(source)
    if path.exists() or "/" not in source or (source.count("/") == 1 and path.parts[0] != "runs"):
        return
    run = path.parent if path.name == "model" else path
    raise ValueError(
        f"init_from knows no source {source!r}, which is missing. If an earlier stage writes it, start that first, the "
        f"config with output: {run} (docs/training.md has the stages). Else expected a model's name or folder "
        f"({', '.join(SHIPPED)}; a run's folder), a checkpoint (.../step-0001000), or for the frozen encoder a "
        "recogniser's folder"
    )


def _read_folder(source: str, model: FlexiCodecNetwork) -> _Source:
    """Read a checkpoint, a recogniser, a codec by folder or name, or an SSL model."""
    path = Path(source)
    encoder = model.config.semantic_encoder
    if source == moonshine_weights.SHIPPED:
        if not isinstance(encoder, MoonshineConfig):
            raise ValueError(
                f"{source} is Moonshine's encoder, but the model's semantic encoder is {encoder}; it takes "
                "semantic_encoder: {model_type: moonshine, ...}"
            )
        names = [key.removeprefix(f"{FROZEN}.") for key in model.state_dict() if _part(key) == FROZEN]
        return _encoder_source(moonshine_weights.shipped_state(names))
    if (path / MARK).is_file():
        return _read_checkpoint(path)
    if is_recognizer(path):
        if not isinstance(encoder, SanmConfig):
            raise ValueError(f"{path} is a SAN-M recogniser, but the model's semantic encoder is {encoder}")
        return _encoder_source(encoder_state(path, encoder))
    if source in SHIPPED or path.is_dir() or source.count("/") == 1:
        folder, _ = locate(source, None, None)
        try:
            held = json.loads((folder / CONFIG_NAME).read_text())
        except (OSError, ValueError):
            held = None
        if isinstance(held, dict) and {"fingerprint", "config"} <= held.keys():  # `save_pretrained` wrote it
            return _Source(read_model(folder, held, model.state_dict()), config=held["config"])
    if (path / CONFIG_NAME).is_file() and isinstance(encoder, SSLConfig):
        return _encoder_source(ssl_state(path, encoder))
    raise ValueError(
        f"init_from knows no source {source!r}: expected a model's name or folder, a checkpoint (.../step-0001000), a "
        f"recogniser's folder, {moonshine_weights.SHIPPED}, an SSL or SenseVoice folder that suits the model, or "
        "upstream's weights file"
    )


def _encoder_source(state: Mapping[str, Tensor]) -> _Source:
    return _Source({f"{FROZEN}.{name}": value for name, value in state.items()}, frozenset({FROZEN}))


def _read_checkpoint(path: Path) -> _Source:
    """Read the weights that a training checkpoint would export."""
    checkpoint = read_checkpoint(path)
    if checkpoint is None:
        raise ValueError(f"the checkpoint {path} is damaged")
    weights = checkpoint.weights("average") or checkpoint.weights("generator") or {}
    return _Source(fold_names(weights), config=checkpoint.config()["model"])


def _read_nanocodec(source: str) -> _Source:
    """Read a checkpoint, or anything that `flexicodec.load` opens: a folder of ours, a NeMo archive."""
    if (Path(source) / MARK).is_file():
        return _read_checkpoint(Path(source))
    try:
        codec = load(source)
    except ValueError as error:
        raise ValueError(f"init_from cannot read {source!r}: {error}") from error
    return _Source(codec.state_dict(), config=codec.config_dict() if isinstance(codec, NanoCodec) else None)


def _read_upstream(path: Path, model: FlexiCodecNetwork, parts: Collection[str]) -> _Source:
    """Read as many of our weights as a file of upstream's or SenseVoice's has; its other keys keep their names."""
    state = strip_wrapping(read_weights(path))
    sensevoice = any(key.startswith("encoder.encoders0.") for key in state)
    if sensevoice:
        state = {f"semantic_model.{key}": value for key, value in state.items()}
    check_statistics(state)

    # Our weights that the file can have, by upstream's names. Upstream's only frozen encoder is SAN-M.
    num_layers = model.config.semantic.num_layers
    has_encoder = isinstance(model.config.semantic_encoder, SanmConfig)
    shapes: dict[str, tuple[int, ...]] = {}
    theirs: dict[str, str] = {}
    for name, value in model.state_dict().items():
        is_asked = not parts or _part(name) in parts
        if is_asked and (has_encoder or _part(name) != FROZEN) and not name.startswith(FRONT_END):
            theirs[name] = upstream_name(name, num_layers)
            if theirs[name] in state or theirs[name] + "_v" in state:  # _v: legacy weight norm
                shapes[name] = tuple(value.shape)
    if not shapes:
        sought = ", ".join(parts) or "the model"
        raise ValueError(f"{path} holds nothing for {sought} by upstream's names; is it another model's file?")
    try:
        converted, left = convert(shapes, state, num_layers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = dict(converted)

    # The front end's normalisation comes from SenseVoice's statistics file.
    if any(_part(name) == FROZEN for name in shapes):
        statistics = path.parent / "am.mvn"
        shift, scale = read_cmvn(statistics) if statistics.is_file() else sensevoice_cmvn()
        found[FRONT_END + "shift"] = shift
        found[FRONT_END + "scale"] = scale

    asked_stems = {_upstream_part(key) for key in theirs.values()}
    for key in left:
        if not is_needless(key, set()) and (not parts or _upstream_part(key) in asked_stems):
            found[key] = state[key]
    return _Source(found, frozenset({FROZEN} if sensevoice else ()))


def fold_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weight-normed training weights to plain ones, without the `module.` prefix of a running mean."""
    folded = {}
    for name, value in state.items():
        # torch keeps a weight-normed weight as its gain, original0, and its direction, original1.
        plain = name.removeprefix("module.").replace(".parametrizations.weight.original0", ".weight")
        if name.endswith("original0"):
            folded[plain] = fold_weight_norm(value, state[name.removesuffix("0") + "1"])
        elif not name.endswith("original1") and name != "n_averaged":
            folded[plain] = value
    return folded


def _part(name: str) -> str:
    """Return the part of the model that a weight belongs to."""
    return name.split(".")[0]


def _upstream_part(key: str) -> str:
    """Return as much of upstream's name as tells the part: `dac.encoder`, `semantic_model.encoder`."""
    return ".".join(key.split(".")[:2])
