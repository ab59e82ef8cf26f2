"""A FlexiCodec as a model of transformers: config, feature extractor and audio tokenizer, with the Auto classes.

    codec.save_pretrained(folder, transformers=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(clips, sampling_rate=16000, return_tensors="pt")
    encoded = model.encode(**inputs, frame_rate=6.25)
    audio = model.decode(encoded.audio_codes, encoded.durations, inputs["padding_mask"]).audio_values

One folder serves this and `flexicodec.load`. With this module imported, the Auto classes open every saved FlexiCodec
without remote code. Shapes and names are those of transformers' codecs: B clips, K codebooks with the semantic one
first, N tokens. What they lack is `durations`, the frames that each token lasts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.models.encodec.feature_extraction_encodec import EncodecFeatureExtractor
from transformers.utils import ModelOutput

from flexicodec import hub
from flexicodec.audio.batches import FULL_SCALE
from flexicodec.config import from_dict
from flexicodec.models.flexicodec import config as own_config
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.tokens import Tokens

REMOTE_MODULE = "modeling_flexicodec"
# transformers would name a missing package after its module, which on PyPI is another one: hence the own message.
REMOTE_CODE = '''"""Opens this folder with transformers (trust_remote_code=True); the model is in flexicodec-lab."""

try:
    from flexicodec.transformers_model import FlexiCodecConfig, FlexiCodecFeatureExtractor, FlexiCodecModel
except ImportError as error:
    raise ImportError(
        "this model needs the package flexicodec-lab (pip install flexicodec-lab; flexicodec is another package with a "
        f"module of this name): {error}"
    ) from error

__all__ = ["FlexiCodecConfig", "FlexiCodecFeatureExtractor", "FlexiCodecModel"]
'''


class FlexiCodecConfig(PreTrainedConfig):
    """Config of a FlexiCodec for transformers; `config` is the codec's own.

    Attributes:
        config: The model's settings, as `Codec.config_dict` returns them.
        fingerprint: Of the weights that tokens depend on.
        sampling_rate: Hz of the audio that is encoded.
        output_sampling_rate: Hz of decoded audio.
        hop_length: Samples per frame.
        frame_rate: Frames per second; a token lasts one frame or more, `durations` says how many.
        num_quantizers: Codebooks, the semantic one among them.
        codebook_sizes: Codes of each codebook.
        max_duration: Frames of the longest token; None for no limit.
    """

    model_type = FlexiCodec.model_type

    config: dict[str, Any] | None = None
    fingerprint: str | None = None
    sampling_rate: int = 16000
    output_sampling_rate: int = 16000
    hop_length: int = 1280
    frame_rate: float = 12.5
    num_quantizers: int | None = None
    codebook_sizes: list[int] | None = None
    max_duration: int | None = None


def describe(codec: FlexiCodec) -> dict[str, Any]:
    """Return what the config says beside the codec's own settings, by transformers' names."""
    form = codec.format
    assert form.semantic_codebook_size is not None
    return {
        "sampling_rate": codec.sample_rate,
        "output_sampling_rate": codec.output_sample_rate,
        "hop_length": codec.frame_size,
        "frame_rate": codec.base_frame_rate,
        "num_quantizers": 1 + codec.num_codebooks,
        "codebook_sizes": [form.semantic_codebook_size] + [form.acoustic_codebook_size] * codec.num_codebooks,
        "max_duration": codec.max_duration,
    }


def remote_code_entries(codec: FlexiCodec) -> dict[str, Any]:
    """Return the entries of `config.json` with which AutoModel finds `modeling_flexicodec.py` beside it."""
    return {
        **describe(codec),
        "architectures": [FlexiCodecModel.__name__],
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.{FlexiCodecConfig.__name__}",
            "AutoModel": f"{REMOTE_MODULE}.{FlexiCodecModel.__name__}",
            "AutoFeatureExtractor": f"{REMOTE_MODULE}.{FlexiCodecFeatureExtractor.__name__}",
        },
    }


def write_remote_code(codec: FlexiCodec, folder: Path) -> None:
    """Write the module, which imports this package, and the feature extractor's settings."""
    (folder / f"{REMOTE_MODULE}.py").write_text(REMOTE_CODE)
    FlexiCodecFeatureExtractor(sampling_rate=codec.sample_rate).save_pretrained(folder)


class FlexiCodecFeatureExtractor(EncodecFeatureExtractor):
    """Clips to a padded batch: `input_values` [B, 1, S] and `padding_mask` [B, S], 1 at samples of the clip."""

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs: Any):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(self, raw_audio: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Pad clips to the longest.

        Args:
            raw_audio: [S], or a list of such: arrays, tensors or lists of floats in [-1, 1], or int16. A batch [B, S]
                or [B, 1, S] is a list of its clips.
            args: As for `EncodecFeatureExtractor`, of which `sampling_rate` and `return_tensors` matter most.
            kwargs: The same by name.

        Raises:
            ValueError: Another sampling rate, several channels, or no samples.
        """
        many = isinstance(raw_audio, list | tuple) and not np.isscalar(raw_audio[0] if raw_audio else 0)
        if not many and getattr(raw_audio, "ndim", 1) > 1:
            raw_audio = list(raw_audio)
            many = True
        clips = [_float_clip(clip, i) for i, clip in enumerate(raw_audio if many else [raw_audio])]
        return super().__call__(clips, *args, **kwargs)


def _float_clip(clip: Any, number: int) -> np.ndarray:
    """Return a clip as float32 [S]; integers are scaled to [-1, 1]."""
    samples = clip.detach().cpu().numpy() if isinstance(clip, Tensor) else np.asarray(clip)
    shape = samples.shape
    if samples.ndim == 2 and shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"clip {number} has shape {list(shape)}; expected [S] or [1, S], one channel of some samples")
    if samples.dtype.name not in FULL_SCALE:
        raise ValueError(f"clip {number} is {samples.dtype}; expected {', '.join(FULL_SCALE)}")
    return (samples / FULL_SCALE[samples.dtype.name]).astype(np.float32)


@dataclass
class FlexiCodecEncoderOutput(ModelOutput):
    """Tokens of a batch; what is padding is 0 in all of them."""

    audio_codes: Int[Tensor, "batch codebooks tokens"] | None = None  # the semantic codebook first
    audio_codes_mask: Int[Tensor, "batch tokens"] | None = None  # 1 at tokens of the clip
    durations: Int[Tensor, "batch tokens"] | None = None  # frames of each token


@dataclass
class FlexiCodecDecoderOutput(ModelOutput):
    """Decoded audio, zero behind the end of a clip."""

    audio_values: Float[Tensor, "batch 1 samples"] | None = None


@dataclass
class FlexiCodecOutput(ModelOutput):
    """Audio that was encoded and decoded again, and its tokens."""

    audio_values: Float[Tensor, "batch 1 samples"] | None = None
    audio_codes: Int[Tensor, "batch codebooks tokens"] | None = None
    audio_codes_mask: Int[Tensor, "batch tokens"] | None = None
    durations: Int[Tensor, "batch tokens"] | None = None


class FlexiCodecModel(PreTrainedAudioTokenizerBase):
    """A FlexiCodec behind the interface of transformers' audio tokenizers; `codec` is the model itself.

    Args:
        config: With the codec's own settings; weights are random.
        codec: A model to wrap instead of a random one.
    """

    config_class = FlexiCodecConfig
    base_model_prefix = "codec"
    main_input_name = "input_values"

    def __init__(self, config: FlexiCodecConfig, codec: FlexiCodec | None = None) -> None:
        super().__init__(config)
        if codec is None:
            codec = FlexiCodec.random(from_dict(own_config.FlexiCodecConfig, config.config or {}))
        self.codec = codec
        for name, value in describe(codec).items():
            setattr(config, name, value)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the weights as the codec made them."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **kwargs: Any) -> "FlexiCodecModel":
        """Load a folder, hub id or shipped name, as `flexicodec.load` does, always in float32.

        Args:
            pretrained_model_name_or_path: What to load.
            kwargs: `config`, `revision`, and `device_map` where it names one device; `dtype` may only be float32, or
                "auto". What the Auto classes add is ignored.

        Raises:
            ValueError: Not a FlexiCodec, or another dtype: codes are decided in float32
                (`encode(precision="bfloat16")` computes the rest in half precision).
        """
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if dtype not in (None, "auto", "float32", torch.float32):
            raise ValueError(f'dtype is {dtype}; weights stay in float32, and encode takes precision="bfloat16"')
        device = kwargs.get("device_map")
        if isinstance(device, dict):
            device = device.get("")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        name = str(pretrained_model_name_or_path)
        # Auto classes resolve a branch to a commit; of a folder there is none.
        revision = None if Path(name).exists() or name in hub.SHIPPED else kwargs.get("revision")
        codec = hub.load(name, revision=revision, device=device)
        if not isinstance(codec, FlexiCodec):
            raise ValueError(f"{name} is a {type(codec).__name__}; flexicodec.load opens it")
        config = kwargs.get("config") or FlexiCodecConfig()
        config.config = codec.config_dict()
        config.fingerprint = codec.fingerprint
        config.name_or_path = name
        return cls(config, codec).eval()

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write a folder that AutoModel and `flexicodec.load` open; see `Codec.save_pretrained`."""
        self.codec.save_pretrained(save_directory, kwargs.get("dtype"), transformers=True)
        if kwargs.get("push_to_hub"):
            raise ValueError("save_pretrained writes a folder; push_to_hub(repo_id) uploads it")

    def encode(
        self,
        input_values: Float[Tensor, "batch *channel samples"],
        padding_mask: Tensor | None = None,
        *,
        num_quantizers: int | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> FlexiCodecEncoderOutput | tuple[Tensor, ...]:
        """Turn audio into tokens; a clip in a batch gets the tokens it gets alone.

        Args:
            input_values: [B, 1, S] or [B, S] at `config.sampling_rate`.
            padding_mask: [B, S] or [B, 1, S], 1 at samples of a clip, 0 at padding on the right; None for no padding.
            num_quantizers: Codebooks to use, the semantic one among them; None for all.
            return_dict: False returns a tuple.
            options: Those of `Codec.encode`: `frame_rate`, `threshold`, `policy` and others.

        Raises:
            ValueError: Audio, mask or an option is wrong.
        """
        audio = _without_channel(input_values, "input_values")
        lengths = None if padding_mask is None else _clip_lengths(padding_mask, audio.shape)
        if num_quantizers is not None:
            if not 1 <= num_quantizers <= 1 + self.codec.num_codebooks:
                raise ValueError(
                    f"num_quantizers is {num_quantizers}; expected 1 to {1 + self.codec.num_codebooks}, the semantic "
                    "codebook among them"
                )
            options["num_codebooks"] = num_quantizers - 1
        tokens = self.codec.encode(audio.to(self.codec.device), lengths, **options)
        assert tokens.semantic is not None
        output = FlexiCodecEncoderOutput(
            audio_codes=torch.cat([tokens.semantic[:, None], tokens.acoustic], 1),
            audio_codes_mask=(tokens.durations > 0).long(),
            durations=tokens.durations,
        )
        return output if return_dict is not False else output.to_tuple()

    def decode(
        self,
        audio_codes: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"] | None = None,
        padding_mask: Tensor | None = None,
        *,
        audio_codes_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> FlexiCodecDecoderOutput | tuple[Tensor, ...]:
        """Turn tokens into audio.

        Args:
            audio_codes: [B, K, N], the semantic codebook first, and as many of the acoustic ones as there are.
            durations: [B, N] frames of each token, 0 at padding. Only models of one rate can do without.
            padding_mask: That of the audio: the result is as long as it, and zero where it is (at
                `config.output_sampling_rate`). None: clips are as long as their frames.
            audio_codes_mask: [B, N], 1 at tokens, where `durations` does not say it.
            return_dict: False returns a tuple.
            options: Those of `Codec.decode`.

        Raises:
            ValueError: Durations are missing or do not fit, or a code is none of this model's.
        """
        if durations is None and self.codec.max_duration != 1:
            raise ValueError(
                "decode needs durations, which encode returned beside audio_codes: decode(codes, durations)"
            )
        if audio_codes.ndim != 3:
            raise ValueError(f"audio_codes has shape {list(audio_codes.shape)}; expected [B, K, N]")
        if durations is None:
            durations = torch.ones_like(audio_codes[:, 0])
        if audio_codes_mask is not None:
            durations = durations * _without_channel(audio_codes_mask, "audio_codes_mask").long()
        lengths = None
        if padding_mask is not None:
            mask = _without_channel(padding_mask, "padding_mask")
            lengths = _clip_lengths(mask, mask.shape)
        form = self.codec.format
        tokens = Tokens(audio_codes[:, 0], audio_codes[:, 1:], durations, lengths, form)
        audio = self.codec.decode(tokens, **options)
        if padding_mask is not None:
            audio = F.pad(audio, (0, self.codec.output_lengths(padding_mask.shape[-1]) - audio.shape[-1]))
        output = FlexiCodecDecoderOutput(audio_values=audio[:, None])
        return output if return_dict is not False else output.to_tuple()

    def forward(
        self,
        input_values: Float[Tensor, "batch *channel samples"],
        padding_mask: Tensor | None = None,
        *,
        return_dict: bool | None = None,
        **options: Any,
    ) -> FlexiCodecOutput | tuple[Tensor, ...]:
        """Encode and decode audio; see `encode`."""
        if padding_mask is None:
            audio = _without_channel(input_values, "input_values")
            padding_mask = torch.ones_like(audio, dtype=torch.long)
        encoded = self.encode(input_values, padding_mask, **options)
        assert isinstance(encoded, FlexiCodecEncoderOutput)
        assert encoded.audio_codes is not None
        decoded = self.decode(encoded.audio_codes, encoded.durations, padding_mask)
        output = FlexiCodecOutput(audio_values=decoded[0], **encoded)
        return output if return_dict is not False else output.to_tuple()


def _without_channel(values: Tensor, name: str) -> Tensor:
    """Return [B, 1, S] as [B, S]."""
    if values.ndim == 3 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim != 2:
        raise ValueError(f"{name} has shape {list(values.shape)}; expected [B, S], or [B, 1, S] with one channel")
    return values


def _clip_lengths(padding_mask: Tensor, shape: torch.Size) -> Int[Tensor, " batch"]:
    """Count the samples of each clip by a mask whose zeros are on the right."""
    mask = _without_channel(padding_mask, "padding_mask")
    if mask.shape != shape:
        raise ValueError(f"padding_mask has shape {list(mask.shape)} for audio of {list(shape)}")
    lengths = (mask != 0).sum(-1)
    expected = torch.arange(mask.shape[-1], device=mask.device) < lengths[:, None]
    if not torch.equal(mask != 0, expected):
        raise ValueError("padding_mask has zeros before ones; expected clips padded on the right (padding_side)")
    return lengths


AutoConfig.register(FlexiCodecConfig.model_type, FlexiCodecConfig)
AutoModel.register(FlexiCodecConfig, FlexiCodecModel)
AutoFeatureExtractor.register(FlexiCodecConfig, FlexiCodecFeatureExtractor)
