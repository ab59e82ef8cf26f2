"""`load`: a name, a folder, a `.nemo` file or a hub id to a codec. Missing or misshapen weights are errors.

Three layouts are read: ours (`config.json` + `model.safetensors`), that of FlexiCodec's authors (a safetensors or torch
file + a yaml), and NeMo's archives of LFSC and NanoCodec (one `.nemo` file). Only hub ids are downloaded.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexicodec.config import from_dict, load_yaml
from flexicodec.io_utils import describe_missing
from flexicodec.models.codec import Codec
from flexicodec.weights import (
    CONFIG_NAME,
    SHIPPED_PARTS,
    WEIGHTS_NAME,
    load_exactly,
    read_weights,
    unloaded_modules,
    unpack,
)

SHIPPED = ("flexicodec-mini",)
UPSTREAM_WEIGHTS = ("12hz_v1_half.safetensors", "nartts_flexicodec_only.safetensors")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
NEMO_SUFFIX = ".nemo"
TOKEN_SUFFIX = ".flxc"
FILE_SUFFIXES = (NEMO_SUFFIX, TOKEN_SUFFIX, *WEIGHT_SUFFIXES, ".json", ".yaml", ".yml")
SENSEVOICE_WEIGHTS = "model.pt"
MODEL_OF_RUN = "model"  # folder of the finished model in that of a training run
EXPORT_NAME = "export.json"
CHECKPOINT_NAME = "checkpoint.json"
MODELSCOPE_OWNER = "iic/"  # SenseVoiceSmall was first published as iic/SenseVoiceSmall


@torch.inference_mode(False)  # inference tensors would be rounded otherwise, and could never be trained
def load(
    model: str | Path = "flexicodec-mini",
    *,
    sensevoice: str | Path | None = None,
    filename: str | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    parts: str = "all",
) -> Codec:
    """Load a codec.

    Args:
        model: A model that ships with the package ("flexicodec-mini"), a folder, a `.nemo` file, or a hub id
            ("owner/name").
        sensevoice: For upstream's files without SenseVoice weights: the SenseVoiceSmall folder, its model.pt, or its
            hub id: FunAudioLLM/SenseVoiceSmall, or iic/SenseVoiceSmall on ModelScope (extra funasr).
        filename: Weights file of the folder or hub repository, where there are several.
        revision: Branch, tag or commit of the hub repository.
        device: None means the CPU, whatever default device and dtype the caller has set.
        parts: "all"; or to save time and memory "encode" for a model that only makes tokens, "decode" for one that only
            decodes them, "semantic" for a FlexiCodec that makes tokens without acoustic codes. Using a part that was
            not loaded raises a ValueError.

    Returns:
        The codec in eval mode, float32.

    Raises:
        ValueError: There is no such model, its files do not belong together, or a weight is missing or misshapen.
    """
    check_device(device)
    # Find the files, and which layout they have.
    path, name = locate(str(model), filename, revision)
    if revision is not None and (Path(model).exists() or str(model) in SHIPPED):
        raise ValueError(f"revision={revision!r} belongs to a hub id, but {model} is here already; leave it out")
    config = path / CONFIG_NAME
    ours = config.is_file() and filename in (None, WEIGHTS_NAME) and _is_ours(config)
    archive = None if ours else _nemo_archive(path, filename)
    if sensevoice is not None and (ours or archive):
        raise ValueError(f"sensevoice={str(sensevoice)!r} is of no use to {model}, which has an encoder of its own")

    if ours:
        codec = load_pretrained(path, name, parts)
    elif archive is not None:
        from flexicodec.models.nanocodec.convert_nemo import load_nemo

        codec = load_nemo(archive, name)
    else:
        codec = load_upstream(path, filename=filename, sensevoice=sensevoice, name=name)
    if parts != "all" and not ours:
        codec.keep(parts)  # foreign layouts are converted as a whole
    return codec.to(device or "cpu").eval()


def check_device(device: str | torch.device | None) -> None:
    """Raise a ValueError where tensors cannot be on a device, before the time of loading is spent."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {error}") from error


@torch.inference_mode(False)
def load_pretrained(folder: str | Path, name: str | None = None, parts: str = "all") -> Codec:
    """Load a folder that `Codec.save_pretrained` wrote; weights of other parts are not read."""
    from flexicodec.models.flexicodec.config import FlexiCodecConfig
    from flexicodec.models.flexicodec.model import FlexiCodec
    from flexicodec.models.nanocodec.config import NanoCodecConfig
    from flexicodec.models.nanocodec.model import NanoCodec
    from flexicodec.weights import UnloadedModule, meta_device

    # Checks that name the file, before anything is built.
    families: dict[str, tuple[type, Any]] = {
        FlexiCodec.model_type: (FlexiCodecConfig, FlexiCodec),
        NanoCodec.model_type: (NanoCodecConfig, NanoCodec),
    }
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(describe_missing(folder / CONFIG_NAME))
    held = json.loads((folder / CONFIG_NAME).read_text())
    if held.get("model_type") not in families:
        known = ", ".join(map(repr, families))
        raise ValueError(f"{folder / CONFIG_NAME} has model_type {held.get('model_type')!r}, known are {known}")
    if missing := [key for key in ("config", "fingerprint") if key not in held]:
        raise ValueError(f"{folder / CONFIG_NAME} has no {' and no '.join(missing)}; was it edited by hand?")
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{folder} has a {CONFIG_NAME} but no {WEIGHTS_NAME}; was the copy interrupted?")
    config_class, codec_class = families[held["model_type"]]
    config: Any = from_dict(config_class, held["config"])
    given = {}
    if codec_class is FlexiCodec and parts == "decode":  # without importing an encoder
        given["semantic_encoder"] = UnloadedModule("semantic_encoder", parts)
    with meta_device():  # no memory and no random weights until the file is read
        codec: Codec = codec_class(config, name=name, **given)
    codec.keep(parts)
    skipped = tuple(f"{part}." for part in unloaded_modules(codec))
    load_exactly(codec, read_model(folder, held, codec.state_dict(), skipped))
    codec.set_fingerprint(held["fingerprint"])
    return codec.eval()


def read_model(
    folder: Path, held: Mapping[str, Any], names: Collection[str], skip: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Read a saved model's weights in float32, with those that its folder leaves out because they ship.

    Args:
        folder: Written by `Codec.save_pretrained`.
        held: Content of its `config.json`.
        names: Weights of the model; a short encoder takes a part of what ships.
        skip: Prefixes of weights that are not read.
    """
    state = unpack(read_weights(folder / WEIGHTS_NAME, skip))
    for part, name in held.get(SHIPPED_PARTS, {}).items():
        prefix = f"{part}."
        if prefix in skip:
            continue
        from flexicodec.encoders import moonshine_weights  # a model that only decodes needs no encoder

        if name != moonshine_weights.SHIPPED:
            raise ValueError(
                f"{folder / CONFIG_NAME} takes the weights of {part} from {name!r}, which this version of the package "
                f"does not have; it has {moonshine_weights.SHIPPED!r}"
            )
        wanted = [key.removeprefix(prefix) for key in names if key.startswith(prefix)]
        for key, value in moonshine_weights.shipped_state(wanted).items():
            state[prefix + key] = value
    return state


@torch.inference_mode(False)
def load_upstream(
    folder: str | Path,
    *,
    filename: str | None = None,
    sensevoice: str | Path | None = None,
    name: str | None = None,
) -> Codec:
    """Load upstream's layout: one weights file and its yaml with constructor arguments under `model`; see `load`."""
    folder = Path(folder)
    if sensevoice is not None:  # before anything large is read
        sensevoice = _sensevoice_file(sensevoice)
    weights = _upstream_weights(folder, filename)
    state = read_weights(weights)
    return convert_codec(load_yaml(_upstream_config(folder, weights)), state, sensevoice=sensevoice, name=name)


def convert_codec(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    sensevoice: str | Path | None = None,
    name: str | None = None,
) -> Codec:
    """Convert upstream's constructor arguments and weights, with SenseVoice's where `state` lacks them."""
    from flexicodec.models.flexicodec.convert_upstream import from_upstream, read_cmvn

    cmvn = None
    sensevoice_state: Mapping[str, Tensor] | None = None
    if sensevoice is not None:
        # SenseVoice's weights, unless the checkpoint has them, and its feature normalisation.
        sensevoice_file = _sensevoice_file(sensevoice)
        if not any("semantic_model.encoder.encoders0" in key for key in state):
            sensevoice_state = read_weights(sensevoice_file)
        statistics = sensevoice_file.parent / "am.mvn"
        if statistics.is_file():
            cmvn = read_cmvn(statistics)
    return from_upstream(config, state, cmvn=cmvn, sensevoice_state_dict=sensevoice_state, name=name)


def parameter_counts(codec: Codec) -> dict[str, Any]:
    """Count the parameters of every part, and in all."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in codec.named_children()}
    return {**counts, "total": sum(counts.values())}


# ------------------------------------------------------------------------------------------------------- finding files


def locate(model: str, filename: str | None, revision: str | None) -> tuple[Path, str]:
    """Find a model's folder or archive, downloading hub ids; also returns its short name."""
    if model in SHIPPED:
        return Path(str(files("flexicodec") / "assets" / model)), model
    path = Path(model)
    if path.is_file() and path.suffix.lower() == NEMO_SUFFIX:
        return path, path.stem
    if path.is_file() and path.suffix.lower() == TOKEN_SUFFIX:
        raise ValueError(f"{model} is a token file and no model; flexicodec.Tokens.load reads it")
    if path.is_file() and (path.parent / CHECKPOINT_NAME).is_file():
        raise ValueError(_what_a_checkpoint_is(path.parent))
    if path.is_file():
        raise ValueError(f"{model} is a file; give its folder, and filename={path.name!r} if it holds several models")
    if path.is_dir():
        return _folder_of_model(path)
    _refuse_published_names(model)
    if path.suffix.lower() in FILE_SUFFIXES:  # no hub id ends like a file
        raise ValueError(f"there is no model {model!r}: the file {describe_missing(path)}")
    if _is_hub_id(model):
        wanted = [CONFIG_NAME, WEIGHTS_NAME, UPSTREAM_WEIGHTS[0], "*.yaml", "*" + NEMO_SUFFIX]
        if filename is not None:
            wanted = [filename, "*.yaml", "*.json", "am.mvn"]
        return download(model, wanted, revision), model
    if model == "recognizer-mini":
        raise ValueError(f"{model} is a recogniser and no codec: flexicodec.asr.Recognizer.load({model!r})")
    close = _close_names(model)
    lost = f"{model} is missing (did you mean {close[0]}?)" if close else describe_missing(path)
    raise ValueError(
        f"there is no model {model!r}: expected {', '.join(SHIPPED)}, an existing folder or .nemo file, or a hub id "
        f"like owner/name; the folder {lost}"
    )


def _folder_of_model(path: Path) -> tuple[Path, str]:
    """Find the model in its own folder or in that of its training run, after which it is named."""
    has_config = (path / CONFIG_NAME).is_file()
    if (path / EXPORT_NAME).is_file() and not has_config:
        raise ValueError(
            f"{path} holds exported graphs; flexicodec.export.runtime.load_exported({str(path)!r}) runs them, and load "
            "takes the folder that they were exported from"
        )
    if (path / CHECKPOINT_NAME).is_file():
        raise ValueError(_what_a_checkpoint_is(path))
    if not has_config and (path / MODEL_OF_RUN / CONFIG_NAME).is_file():
        path = path / MODEL_OF_RUN
    elif (path / "checkpoints").is_dir():
        raise ValueError(f"{path} is a training run that has not written its {MODEL_OF_RUN} yet; it does when it ends")
    name = path.resolve().name
    return path, path.resolve().parent.name if name == MODEL_OF_RUN else name


def _what_a_checkpoint_is(folder: Path) -> str:
    return (
        f"{folder} is a checkpoint of a training run, which training goes on from; load takes the run's folder "
        f"({folder.resolve().parents[1]}) once the run has ended, and init_from of another run takes the checkpoint"
    )


def _close_names(model: str) -> list[str]:
    """List shipped models with a name like this, or that has it as a part."""
    name = model.lower().replace("_", "-")
    parts = [shipped for shipped in SHIPPED if len(name) > 2 and name in shipped]
    return parts or difflib.get_close_matches(name, SHIPPED, 1)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _refuse_published_names(model: str) -> None:
    """Where a config of the papers is named instead of a model, say where its weights are."""
    from flexicodec.models.nanocodec.config import PUBLISHED, RELEASED, check_levels_are_known

    owner, _, name = model.rpartition("/")
    if owner in ("", "nvidia"):
        check_levels_are_known(model)
    if model not in PUBLISHED:
        return
    where = "its weights were not released; docs/training.md says how to train it"
    if model in RELEASED:
        where = f"its weights are at {RELEASED[model]}, which load takes"
    raise ValueError(f"{model} is a config, configs/nanocodec/{model}.yaml, and no model: {where}")


def download(repo: str, wanted: list[str], revision: str | None = None) -> Path:
    """Download files of a repository on the Hugging Face hub, or on ModelScope for `iic/...`; return their folder."""
    hub = "the hub"
    try:
        if repo.startswith(MODELSCOPE_OWNER):
            hub = "ModelScope"
            from modelscope import snapshot_download  # a dependency of funasr
        else:
            from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(f"{repo} is on ModelScope; install flexicodec-lab[funasr] to download from there") from error
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise ValueError(
            f"{repo} is missing here{_near(repo)} and could not be fetched from {hub} "
            f"({type(error).__name__}: {error}); "
            "download it elsewhere and pass the folder"
        ) from error


def _near(repo: str) -> str:
    """Name a folder here that a hub id nearly is."""
    described = describe_missing(repo)
    return described[described.index(" (did") :] if "did you mean" in described else ""


def _is_ours(config: Path) -> bool:
    try:
        held = json.loads(config.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{config} is not JSON ({error}); was the copy interrupted?") from error
    return isinstance(held, dict) and "model_type" in held


def _nemo_archive(path: Path, filename: str | None) -> Path | None:
    """Find the archive: `path` itself, the file named, or the only one in the folder."""
    if path.is_file():
        return path
    if filename is not None:
        named = path / filename
        return named if named.suffix == NEMO_SUFFIX and named.is_file() else None
    found = sorted(path.glob("*" + NEMO_SUFFIX))
    if len(found) > 1:
        raise ValueError(f"{path} holds several archives ({', '.join(p.name for p in found)}); choose with filename=")
    return found[0] if found else None


def _upstream_weights(folder: Path, filename: str | None) -> Path:
    if filename is not None:
        if not (folder / filename).is_file():
            raise ValueError(f"{folder} has no file {filename!r}: {describe_missing(folder / filename)}")
        return folder / filename
    for known in UPSTREAM_WEIGHTS:
        if (folder / known).is_file():
            return folder / known
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ValueError(
            f"{folder} holds neither {CONFIG_NAME} + {WEIGHTS_NAME} nor exactly one weights file (found: {names}); "
            "choose one with filename="
        )
    return found[0]


def _upstream_config(folder: Path, weights: Path) -> Path:
    own = folder / f"{weights.stem}_config.yaml"  # 12hz_v1_half.safetensors, 12hz_v1_half_config.yaml
    if own.is_file():
        return own
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not found:
        raise ValueError(
            f"{folder} has no yaml config beside {weights.name}; download it too (12hz_v1_half_config.yaml)"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} has several configs ({', '.join(p.name for p in found)}); keep the one that fits")
    return found[0]


def _sensevoice_file(sensevoice: str | Path) -> Path:
    path = Path(sensevoice)
    if path.is_file():
        return path
    if (path / SENSEVOICE_WEIGHTS).is_file():
        return path / SENSEVOICE_WEIGHTS
    name = str(sensevoice)
    if not path.exists() and (path.suffix.lower() in FILE_SUFFIXES or not _is_hub_id(name)):
        raise ValueError(f"sensevoice={name!r}: {describe_missing(path)}")
    if not path.exists() and _is_hub_id(name):
        return download(name, [SENSEVOICE_WEIGHTS, "am.mvn"]) / SENSEVOICE_WEIGHTS
    raise ValueError(
        f"sensevoice={name!r} holds no {SENSEVOICE_WEIGHTS}; expected the SenseVoiceSmall folder or hub id"
    )
