"""`load_tts`: a model that was trained here, or the released checkpoints of FlexiCodec-TTS, with the codec inside.

Weights are checked one by one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flexicodec import hub
from flexicodec.config import load_yaml
from flexicodec.io_utils import describe_missing
from flexicodec.models.codec import Codec
from flexicodec.models.tts.convert_upstream import (
    State,
    ar_from_upstream,
    flow_from_upstream,
    split_checkpoint,
    vocos_from_upstream,
)
from flexicodec.models.tts.text import EspeakFrontend, TextFrontend
from flexicodec.models.tts.token_decoder import TokenDecoder
from flexicodec.tts.codec_tts import CodecTTS
from flexicodec.tts.speech_models import is_speech_model, load_speech_models
from flexicodec.tts.text_to_speech import TextToSpeech
from flexicodec.weights import read_weights

AR_FILE = "artts.safetensors"
DECODER_FILE = "nartts.safetensors"
VOCODER_FILE = "vocos_emilia.safetensors"
AR_PREFIX = "transformer_lm."
DECODER_PREFIX = "voicebox_model."
CONFIG_ENDING = "_config.yaml"  # artts_config.yaml: constructor arguments of a model that has not the released sizes
# Parts of the codec inside, where no yaml says so; sizes are upstream's defaults.
CODEC_SETTINGS = {
    "use_similarity_alignment": True,
    "use_query_token_aggregator": True,
    "use_bottleneck_transformer": True,
    "transformer_num_layers": 32,
}


@torch.inference_mode(False)
def load_tts(
    model: str | Path,
    *,
    vocoder: str | Path | None = None,
    codec: Codec | None = None,
    sensevoice: str | Path | None = None,
    front_end: TextFrontend | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> TextToSpeech | CodecTTS:
    """Load a model.

    Args:
        model: A folder that `flexicodec train-tts` wrote; or a folder, or a hub id ("owner/name"), with
            `artts.safetensors` and, for more than the codec's own decoding, `nartts.safetensors`.
        vocoder: `vocos_emilia.safetensors` or its folder; None looks for it in the folder of the model.
        codec: For checkpoints without a codec inside. With one, it has to make the same tokens.
        sensevoice: SenseVoiceSmall's folder, for checkpoints whose codec lacks its weights; see `flexicodec.load`.
        front_end: Text to ids; None takes that of training: characters, or espeak-ng's English for released weights.
        device: None means the CPU.
        dtype: Of the language model and the decoder. torch.bfloat16 halves the decoder's memory and is faster; the
            codec stays float32.

    Raises:
        ValueError: A file or a weight is missing, unknown or misshapen, or the models are of different codecs.
    """
    if is_speech_model(Path(model)):
        if vocoder is not None or sensevoice is not None:
            raise ValueError(f"vocoder= and sensevoice= are for released weights; {model} needs neither")
        models, own = load_speech_models(Path(model), codec)
        return CodecTTS(models, own, front_end).to(device or "cpu", dtype)
    folder = _folder(model)
    # Text to tokens.
    ar_parts = split_checkpoint(read_weights(folder / AR_FILE), AR_PREFIX)
    ar = ar_from_upstream(_settings(folder, AR_FILE), ar_parts.model)
    codecs = {AR_FILE: ar_parts.codec}
    decoder = None
    # Tokens to audio, where the release has it.
    if (folder / DECODER_FILE).is_file():
        parts = split_checkpoint(read_weights(folder / DECODER_FILE), DECODER_PREFIX)
        flow = flow_from_upstream(_settings(folder, DECODER_FILE), parts.model)
        codecs[DECODER_FILE] = parts.codec
        vocoder_file = _vocoder_file(folder, vocoder)
        vocos = vocos_from_upstream(_settings(vocoder_file.parent, vocoder_file.name), read_weights(vocoder_file))
        decoder = TokenDecoder(flow, vocos)
    elif vocoder is not None:
        raise ValueError(f"vocoder={str(vocoder)!r} has no use without {describe_missing(folder / DECODER_FILE)}")
    codec = _one_codec(folder, codecs, codec, sensevoice)
    tts = TextToSpeech(ar, codec, front_end or EspeakFrontend(), decoder)
    return tts.to(device or "cpu", dtype)


def _folder(model: str | Path) -> Path:
    """Find the model's folder; a hub id is downloaded."""
    path = Path(model)
    if path.is_file():
        raise ValueError(f"{model} is a file; give the folder that holds {AR_FILE}")
    if not path.is_dir():
        # Checks the name, and that there is such a file, before gigabytes are fetched.
        path, _ = hub.locate(str(model), AR_FILE, None)
        path = hub.download(str(model), [AR_FILE, DECODER_FILE, VOCODER_FILE, "*.yaml"])
    if not (path / AR_FILE).is_file():
        raise ValueError(f"{describe_missing(path / AR_FILE)}; expected a folder of FlexiCodec-TTS")
    return path


def _vocoder_file(folder: Path, vocoder: str | Path | None) -> Path:
    path = folder if vocoder is None else Path(vocoder)
    if path.is_dir():
        path = path / VOCODER_FILE
    if not path.is_file():
        raise ValueError(
            f"{describe_missing(path)}; {DECODER_FILE} needs a vocoder: vocoder= names it (amphion/dualcodec-tts has "
            "it)"
        )
    return path


def _settings(folder: Path, weights: str) -> Mapping[str, Any]:
    """Read the constructor arguments beside a weights file; none stand for the released sizes."""
    path = folder / (Path(weights).stem + CONFIG_ENDING)
    return load_yaml(path) if path.is_file() else {}


def _codec_settings(folder: Path) -> Mapping[str, Any]:
    """Read the codec's yaml: the one that is not of a TTS model."""
    own = {Path(name).stem + CONFIG_ENDING for name in (AR_FILE, DECODER_FILE, VOCODER_FILE)}
    found = sorted(path for path in folder.glob("*.yaml") if path.name not in own)
    if len(found) > 1:
        raise ValueError(f"{folder} has several configs ({', '.join(path.name for path in found)}); keep the codec's")
    return load_yaml(found[0]) if found else CODEC_SETTINGS


def _one_codec(folder: Path, states: Mapping[str, State], given: Codec | None, sensevoice: str | Path | None) -> Codec:
    """Make the codec inside the checkpoints; all of them, and the one given, have to make the same tokens."""
    # Only the weights that tokens depend on are compared: decoders may differ.
    chosen = given
    origin = "codec="
    for file, state in states.items():
        if not state:
            continue
        codec = hub.convert_codec(_codec_settings(folder), state, sensevoice=sensevoice, name=f"codec of {file}")
        if chosen is None:
            chosen = codec
            origin = file
        elif codec.fingerprint != chosen.fingerprint:
            raise ValueError(
                f"{file} was trained on tokens of another codec than {origin}: fingerprints {codec.fingerprint} and "
                f"{chosen.fingerprint}; take files of one release"
            )
    if chosen is None:
        raise ValueError(f"the checkpoints in {folder} hold no codec; give the one they were trained with by codec=")
    return chosen
