"""The networks of a text-to-speech model of our own, and its folder: text to tokens, and tokens to latents of a codec.

config.json          model_type flexicodec-tts, sizes, alphabet, fingerprint of the codec
model.safetensors    weights of both networks
codec/               the codec, as `flexicodec.load` opens it
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import flexicodec
from flexicodec import hub
from flexicodec.config import from_dict, to_dict
from flexicodec.io_utils import describe_missing
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import Features, FlexiCodec
from flexicodec.models.tts.characters import CharacterConfig, CharacterFrontend
from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.models.tts.latent_flow import LatentFlow
from flexicodec.models.tts.token_lm import CodeSpace, TokenLM, TokenLMConfig
from flexicodec.nn.masking import length_mask
from flexicodec.quantize import FSQConfig
from flexicodec.weights import CONFIG_NAME, WEIGHTS_NAME, load_exactly, read_weights, write_model_folder

MODEL_TYPE = "flexicodec-tts"
CODEC_FOLDER = "codec"


@dataclass(frozen=True)
class SpeechModelConfig:
    """Sizes of the networks.

    Attributes:
        lm: Text to tokens; None where a run trains the decoder only.
        flow: Tokens to latents; None decodes tokens with the codec alone, in a voice that is not the reference's.
            `output_dim`, `codebook_size` and `frames_per_code` follow from the codec.
        text: The front end.
        space: Codes of the codec; None takes them from it.
    """

    lm: TokenLMConfig | None = field(default_factory=TokenLMConfig)
    flow: FlowMatchingConfig | None = field(
        default_factory=lambda: FlowMatchingConfig(dim=256, num_layers=6, num_heads=4)
    )
    text: CharacterConfig = field(default_factory=CharacterConfig)
    space: CodeSpace | None = None

    def fitted(self, codec: FlexiCodec) -> "SpeechModelConfig":
        """Return the config with what follows from the codec."""
        space = code_space(codec)
        flow = self.flow
        if flow is not None:
            dim = codec.config.acoustic.latent_dim
            flow = replace(flow, output_dim=dim, codebook_size=space.size, frames_per_code=1)
        return replace(self, flow=flow, space=space)


class SpeechModels(nn.Module):
    """Both networks.

    Args:
        config: Sizes, with alphabet and codes.
    """

    def __init__(self, config: SpeechModelConfig) -> None:
        super().__init__()
        if config.space is None:
            raise ValueError("the config has no codes; SpeechModelConfig.fitted(codec) takes them from a codec")
        self.config = config
        self.front_end = CharacterFrontend(config.text)
        self.lm = None if config.lm is None else TokenLM(config.lm, config.space, len(self.front_end.ids))
        self.flow = None if config.flow is None else LatentFlow(config.flow, config.space)

    def save(self, folder: str | Path, codec: FlexiCodec) -> Path:
        """Write the folder; `flexicodec.load_tts(folder)` opens it."""
        codec.save_pretrained(Path(folder) / CODEC_FOLDER)
        held = {
            "model_type": MODEL_TYPE,
            "codec_fingerprint": codec.fingerprint,
            "flexicodec_lab_version": flexicodec.__version__,
            "config": to_dict(self.config),
        }
        return write_model_folder(folder, held, self.state_dict())


def is_speech_model(folder: Path) -> bool:
    """Tell whether a folder has a text-to-speech model that was trained here."""
    path = folder / CONFIG_NAME
    return path.is_file() and json.loads(path.read_text()).get("model_type") == MODEL_TYPE


def load_speech_models(folder: Path, codec: Codec | None = None) -> tuple[SpeechModels, FlexiCodec]:
    """Open a folder that `SpeechModels.save` wrote.

    Args:
        folder: The folder.
        codec: Instead of the one inside; it has to make the same tokens.

    Raises:
        ValueError: Another codec, or weights that are missing, unknown or misshapen.
    """
    held: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text())
    for name in ("config", "codec_fingerprint"):
        if name not in held:
            raise ValueError(f"{folder / CONFIG_NAME} has no {name}; was it edited by hand?")
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{describe_missing(folder / WEIGHTS_NAME)}; was the copy interrupted?")
    if codec is None:
        codec = hub.load_pretrained(folder / CODEC_FOLDER)
    check_codec(codec, held["codec_fingerprint"], f"the model in {folder}")
    assert isinstance(codec, FlexiCodec)
    with torch.random.fork_rng(devices=[]):  # random weights that the file replaces
        models = SpeechModels(from_dict(SpeechModelConfig, held["config"]))
    load_exactly(models, dict(read_weights(folder / WEIGHTS_NAME)))
    return models.eval(), codec


def check_codec(codec: Codec, fingerprint: str | None, what: str) -> None:
    """Refuse a codec whose tokens are others."""
    if codec.fingerprint != fingerprint:
        raise ValueError(
            f"{what} is of tokens of another codec: their fingerprint is {fingerprint}, and that of this codec "
            f"{codec.fingerprint}"
        )


def code_space(codec: Codec) -> CodeSpace:
    """Return codes and durations of a codec.

    Raises:
        ValueError: It has no semantic codes, or no longest duration.
    """
    if not isinstance(codec, FlexiCodec):
        raise ValueError(f"the codec is a {type(codec).__name__}; text to speech needs a FlexiCodec's semantic codes")
    if codec.max_duration is None:
        raise ValueError("the codec has no max_duration, and durations without a limit cannot be numbered")
    quantizer = codec.config.semantic.quantizer
    levels = quantizer.levels if isinstance(quantizer, FSQConfig) else (codec.semantic_quantizer.codebook_size,)
    return CodeSpace(tuple(levels), codec.max_duration)


# ---------------------------------------------------------------------------------------------------------- latents


def feature_latents(codec: FlexiCodec, features: Features) -> Float[Tensor, "batch dim frames"]:
    """Compute what the codec's decoder takes of a clip at its best: every frame a token, with all codebooks.

    These are the targets of the decoder at any frame rate of its tokens, so they are the same for all rates.
    """
    frames = features.semantic.shape[2]
    ones = length_mask(features.lengths, frames).long()
    semantic, acoustic = codec.quantize(features, ones)
    return codec.unmerger(semantic.latents + acoustic.latents, ones)


def decode_latents(
    codec: FlexiCodec, latents: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch samples"]:
    """Decode such vectors to audio, of whole frames."""
    audio, _ = codec.decode_frames(*codec.smooth_frames(latents, lengths))
    return audio[:, : latents.shape[2] * codec.frame_size]
