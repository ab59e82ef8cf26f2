"""Configs of the frozen semantic encoders, and the interface that a codec expects of one.

SAN-M (SenseVoice-Small, or a smaller one of our own) and Moonshine are trained on transcripts; HuBERT, WavLM and
wav2vec 2.0 on speech alone. The networks are imported when one is built, so that reading a config stays cheap.
"""

import json
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.config import from_dict

if TYPE_CHECKING:
    from flexicodec.encoders.moonshine import MoonshineEncoder
    from flexicodec.encoders.sanm import SanmEncoder
    from flexicodec.encoders.ssl import SSLEncoder

SAMPLE_RATE = 16_000
MOONSHINE_FRAME_SIZE = 384  # samples from one frame to the next
SENSEVOICE_PROMPT = (0, 1, 2, 15)  # language auto, event, emotion, no inverse text normalisation


@runtime_checkable
class SemanticEncoder(Protocol):
    """A frozen encoder of 16 kHz audio.

    A call takes audio [B, S] and valid samples [B], at least one codec frame (1280) each. It returns features
    [B, dim, frames], zero past the valid frames, and the number of valid frames [B].

    Attributes:
        frame_rate: Hz.
        dim: Size of a feature vector.
    """

    frame_rate: float
    dim: int

    def __call__(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]: ...


@dataclass(frozen=True)
class FrontEndConfig:
    """Filterbank features; the defaults are SenseVoice-Small's.

    Attributes:
        num_mels: Mel bands between 20 Hz and the Nyquist frequency.
        stack: Fbank frames stacked into one feature vector (FunASR's `lfr_m`).
        stride: Fbank frames between two stacked vectors (FunASR's `lfr_n`); 6 means 60 ms.
        dither: Amplitude, in 16-bit steps, of the noise added to every 25 ms frame. SenseVoice was trained with 1.0,
            and digital silence without it lies far outside its training data. The noise is a fixed function of the
            frame index, so the same audio always gives the same features.
    """

    num_mels: int = 80
    stack: int = 7
    stride: int = 6
    dither: float = 1.0

    @property
    def dim(self) -> int:
        """Size of one stacked feature vector."""
        return self.num_mels * self.stack


@dataclass(frozen=True)
class SanmConfig:
    """A SAN-M encoder; the defaults are the 50 blocks of SenseVoice-Small that FlexiCodec uses.

    Attributes:
        num_layers: Blocks that are run (and held).
        dim: Width of the blocks and of the features.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward layers.
        kernel_size: Width of the FSMN memory, in frames.
        prompt: Rows of the prompt embedding put before the features, () for none. SenseVoice takes four.
        positions: Add sinusoidal positions, counted from the clip's start. Without them (our own models) order is known
            from the FSMN memory alone, and a frame's features do not depend on its place in a recording.
        window: Frames to either side that attention covers; None means the whole clip, as in SenseVoice.
        front_end: Its input features.
    """

    num_layers: int = 50
    dim: int = 512
    num_heads: int = 4
    feedforward_dim: int = 2048
    kernel_size: int = 11
    prompt: tuple[int, ...] = SENSEVOICE_PROMPT
    positions: bool = True
    window: int | None = None
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)

    def build(self) -> "SanmEncoder":
        """Make the encoder, with random weights."""
        from flexicodec.encoders.sanm import SanmEncoder

        return SanmEncoder(self)


@dataclass(frozen=True)
class MoonshineConfig:
    """Moonshine's encoder (and the sizes of its decoder); the defaults are those of Moonshine Tiny.

    Frames are 24 ms apart (41.67 Hz). Where all windows are limited a frame depends on a limited part of a recording,
    and chunks and streams equal the whole. `windows: [62], norm_window: 62, left_padding: 256` keeps what codecs need.

    Attributes:
        model_type: Tells this config from those of the other encoders.
        num_layers: Transformer blocks that are run (and held); the final norm follows the last of them.
        dim: Width of the blocks and of the features.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward layers.
        rotary_dim: Dimensions of each head that are rotated by the position.
        windows: Frames to either side that attention covers, for each block: a number, or one for the left and one for
            the right; None is the whole clip. A single entry is for all blocks, () is the whole clip for all.
        norm_window: Frames to either side over which the group norm behind the first convolution takes its mean and
            variance, as in `windows`; None takes them over the whole clip, as Moonshine was trained.
        left_padding: Zeros put before each clip. Frame i is centred at sample 384 i + 447 of what is encoded, so with
            256 zeros it is centred in the samples from 384 i on.
    """

    model_type: Literal["moonshine"] = "moonshine"
    num_layers: int = 6
    dim: int = 288
    num_heads: int = 8
    feedforward_dim: int = 1152
    rotary_dim: int = 32
    windows: tuple[int | tuple[int, int] | None, ...] = ()
    norm_window: int | tuple[int, int] | None = None
    left_padding: int = 0

    def __post_init__(self) -> None:
        for name in ("num_layers", "dim", "num_heads", "feedforward_dim", "rotary_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.dim % (2 * self.num_heads) or self.rotary_dim % 2 or self.rotary_dim > self.dim // self.num_heads:
            raise ValueError(
                f"dim {self.dim} in {self.num_heads} heads and rotary_dim {self.rotary_dim}; expected heads of even "
                "size, and an even number of rotated dimensions in each"
            )
        if len(self.windows) not in (0, 1, self.num_layers):
            raise ValueError(
                f"windows has {len(self.windows)} entries for {self.num_layers} blocks; expected one each, or one for "
                "all (a left and a right number are one entry: [[62, 4]])"
            )
        for window in (*self.windows, self.norm_window):
            if window is not None and min(window if isinstance(window, tuple) else (window,)) < 0:
                raise ValueError(f"a window of {window} frames; expected 0 or more to either side")
        if not 0 <= self.left_padding <= MOONSHINE_FRAME_SIZE:
            raise ValueError(
                f"left_padding is {self.left_padding} samples, expected 0 to {MOONSHINE_FRAME_SIZE}, one frame"
            )

    @property
    def layer_windows(self) -> tuple[int | tuple[int, int] | None, ...]:
        """Window of each block."""
        if len(self.windows) == 1:
            return self.windows * self.num_layers
        return self.windows or (None,) * self.num_layers

    def build(self) -> "MoonshineEncoder":
        """Make the encoder, with random weights."""
        from flexicodec.encoders.moonshine import MoonshineEncoder

        return MoonshineEncoder(self)


ModelType = Literal["hubert", "wavlm", "wav2vec2"]
LONGEST_FIRST_FRAME = 1280  # samples; `SemanticEncoder` promises frames for clips of one codec frame
CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"

# Settings of one family alone; the others would ignore them.
ONE_FAMILY = {
    "feat_proj_layer_norm": "hubert",
    "conv_pos_batch_norm": "hubert",
    "num_buckets": "wavlm",
    "max_bucket_distance": "wavlm",
}


@dataclass(frozen=True)
class SSLSettings:
    """Sizes of a self-supervised encoder, under their names in a transformers `config.json`.

    The defaults are those of transformers, and fit hubert-base-ls960, wavlm-base and wav2vec2-base.

    Attributes:
        hidden_size: Width of the blocks and of the features.
        num_attention_heads: Attention heads.
        intermediate_size: Inner width of the feed-forward layers.
        hidden_act: Activation there.
        layer_norm_eps: Of the transformer's layer norms.
        do_stable_layer_norm: Pre-norm blocks (the large models) instead of post-norm ones (the base models).
        feat_extract_norm: "group" normalises the first convolution over time, "layer" every one over channels.
        feat_extract_activation: Activation of the convolutions.
        feat_proj_layer_norm: Layer norm before the projection; only HuBERT can go without.
        conv_dim: Channels of the convolutions.
        conv_stride: Their strides.
        conv_kernel: Their widths.
        conv_bias: Whether they have a bias.
        num_conv_pos_embeddings: Width of the positional convolution, in frames.
        num_conv_pos_embedding_groups: Its groups.
        conv_pos_batch_norm: Batch norm before it instead of weight norm on it; HuBERT only.
        num_buckets: Relative positions WavLM distinguishes.
        max_bucket_distance: Frames beyond which it does not distinguish them.
    """

    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    do_stable_layer_norm: bool = False
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False
    num_buckets: int = 320
    max_bucket_distance: int = 800

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} attention heads do not divide hidden_size {self.hidden_size}")
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel) > 0:
            raise ValueError(
                f"conv_dim, conv_stride and conv_kernel have {len(self.conv_dim)}, {len(self.conv_stride)} and "
                f"{len(self.conv_kernel)} values; expected one per convolution"
            )
        if self.receptive_field > LONGEST_FIRST_FRAME:
            raise ValueError(
                f"the convolutions need {self.receptive_field} samples for a frame; expected at most "
                f"{LONGEST_FIRST_FRAME}, the shortest clip"
            )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame depends on, before the positional convolution."""
        samples = 1
        # From the last convolution to the first.
        for kernel, stride in zip(self.conv_kernel[::-1], self.conv_stride[::-1], strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


@dataclass(frozen=True)
class SSLConfig:
    """A self-supervised encoder, up to one of its layers; `from_folder` reads one off a transformers folder.

    Attributes:
        model_type: Its family.
        layer: Transformer blocks that are run (and held): the features are `hidden_states[layer]` of transformers. 0
            is what enters the first block: projected convolutional features plus their positional convolution, in
            post-norm models through a layer norm. The norm that pre-norm models put behind their last block is never
            applied.
        normalise: Bring every clip to zero mean and unit variance first (`do_normalize` in preprocessor_config.json).
        settings: Sizes and options.
    """

    model_type: ModelType
    layer: int
    normalise: bool = False
    settings: SSLSettings = field(default_factory=SSLSettings)

    def __post_init__(self) -> None:
        if self.model_type not in get_args(ModelType):
            raise ValueError(f"model_type is {self.model_type!r}, expected one of {', '.join(get_args(ModelType))}")
        if self.layer < 0:
            raise ValueError(f"layer is {self.layer}, expected the number of blocks to run, 0 or more")
        # Options of one family keep their defaults in the others.
        for name, family in ONE_FAMILY.items():
            if self.model_type != family and getattr(self.settings, name) != getattr(SSLSettings, name):
                raise ValueError(
                    f"settings.{name} is {getattr(self.settings, name)}, which {self.model_type} does not know; "
                    f"it belongs to {family}"
                )

    def build(self) -> "SSLEncoder":
        """Make the encoder, with random weights."""
        from flexicodec.encoders.ssl import SSLEncoder

        return SSLEncoder(self)

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.settings.hidden_size

    @classmethod
    def from_folder(cls, folder: str | Path, layer: int | None, normalise: bool | None = None) -> "SSLConfig":
        """Describe the encoder in a local transformers folder, up to a layer.

        Args:
            folder: Holds config.json and preprocessor_config.json.
            layer: See `SSLConfig`; None runs all blocks there are.
            normalise: None does as preprocessor_config.json says.

        Raises:
            ValueError: A file is missing, the model is of another family, or not so deep, or has parts that are not
                built here.
        """
        folder = Path(folder)
        held = _read_json(folder / CONFIG_NAME)
        if held.get("model_type") not in get_args(ModelType):
            raise ValueError(
                f"{folder / CONFIG_NAME} has model_type {held.get('model_type')!r}, expected "
                f"{', '.join(get_args(ModelType))}"
            )
        depth = held.get("num_hidden_layers", 12)
        layer = depth if layer is None else layer
        if layer > depth:
            raise ValueError(f"layer is {layer}, but the model in {folder} has {depth} blocks; expected 0 to {depth}")
        if held.get("adapter_attn_dim") is not None:
            raise ValueError(f"the model in {folder} has attention adapters (MMS), which are not built here")
        if normalise is None:
            if not (folder / PREPROCESSOR_NAME).is_file():
                raise ValueError(
                    f"{folder} has no {PREPROCESSOR_NAME}, which says how the model wants its audio; copy it there, or "
                    "pass normalise="
                )
            preprocessor = _read_json(folder / PREPROCESSOR_NAME)
            if (rate := preprocessor.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
                raise ValueError(f"the model in {folder} takes audio at {rate} Hz, expected {SAMPLE_RATE}")
            normalise = bool(preprocessor.get("do_normalize", True))
        names = {each.name for each in fields(SSLSettings)}
        settings = {key: value for key, value in held.items() if key in names}
        return cls(held["model_type"], layer, normalise, from_dict(SSLSettings, settings, str(folder / CONFIG_NAME)))


EncoderConfig = SanmConfig | SSLConfig | MoonshineConfig


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no {path}; expected a local folder in transformers' layout")
    try:
        held = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); was the copy interrupted?") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__}, expected a mapping")
    return held
