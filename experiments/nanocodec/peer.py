"""NeMo's own codec from an unpacked wheel, without the imports of its package: the reference for comparisons.

    pip install --no-deps --target DIR nemo_toolkit==3.0.0 lightning==2.6.6 pytorch-lightning==2.6.6 \\
        lightning-utilities==0.15.3 torchmetrics==1.9.0            # and hydra-core, einops and transformers as usual

Every class of the codec runs unmodified. The `__init__` modules of its packages, which import all of NeMo, are skipped;
data loaders, callbacks and front ends, imported by the codec's module but never called by its generator, are empty
stubs.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.convert_nemo import FIELDS, LATENT_WIDTH

PACKAGES = (
    *("nemo.collections", "nemo.collections.asr", "nemo.collections.common", "nemo.collections.common.parts"),
    *("nemo.collections.audio", "nemo.collections.audio.parts", "nemo.collections.audio.parts.utils"),
    *(f"nemo.collections.tts{part}" for part in ("", ".losses", ".models", ".modules", ".parts", ".parts.utils")),
)
SHELLS = (
    *("nv_one_logger", "nemo.lightning", "nemo.lightning.callback_group", "nemo.collections.asr.modules"),
    *(f"nemo.collections.common.data{part}" for part in ("", ".lhotse", ".lhotse.dataloader")),
    *(f"nemo.collections.tts.data.{part}" for part in ("audio_codec_dataset_lhotse", "vocoder_dataset")),
    *(f"nemo.collections.tts.parts.utils.{part}" for part in ("callbacks", "tts_dataset_utils", "helpers")),
    "nemo.collections.tts.modules.common",
)
MODULES = "nemo.collections.tts.modules.audio_codec_modules"
LOSSES = "nemo.collections.tts.losses.audio_codec_loss"


def codec_class(folder: Path) -> Any:
    """Import NeMo's AudioCodecModel from the folder of its installation."""
    sys.path.append(str(folder))
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    sys.modules.update({name: MagicMock() for name in SHELLS})
    return importlib.import_module("nemo.collections.tts.models.audio_codec").AudioCodecModel


def settings(config: NanoCodecConfig) -> dict[str, Any]:
    """Convert one of our configs to NeMo's."""
    described: dict[str, Any] = {"sample_rate": config.sample_rate, "samples_per_frame": config.frame_size}
    for part, kind in (("encoder", "HiFiGANEncoder"), ("decoder", "HiFiGANDecoder")):
        ours = getattr(config, part)
        named = {theirs: getattr(ours, field) for theirs, field in FIELDS[part].items()}
        named = {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()}
        kind = f"{MODULES}.{'Causal' * ours.causal}{kind}"
        described[f"audio_{part}"] = {"_target_": kind, LATENT_WIDTH[part]: config.quantizer.dim, **named}
    described["vector_quantizer"] = {
        "_target_": f"{MODULES}.GroupFiniteScalarQuantizer",
        "num_groups": config.quantizer.num_groups,
        "num_levels_per_group": list(config.quantizer.levels),
    }
    training = {
        "loss_resolutions": [[32, 8, 32]],
        "mel_loss_dims": [5],
        "feature_loss_type": "absolute",
        "commit_loss_scale": 0.0,
        "generator_loss": {"_target_": f"{LOSSES}.GeneratorSquaredLoss"},
        "discriminator_loss": {"_target_": f"{LOSSES}.DiscriminatorSquaredLoss"},
    }
    return described | training


def build(folder: Path, config: NanoCodecConfig) -> tuple[Any, dict[str, Any]]:
    """Build NeMo's model of this config with random weights, in eval mode; also return NeMo's settings."""
    from omegaconf import OmegaConf

    described = settings(config)
    return codec_class(folder)(OmegaConf.create(described)).eval(), described
