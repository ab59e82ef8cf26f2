"""Self-supervised frozen encoders (HuBERT, WavLM, wav2vec 2.0), for the paper's ASR-against-SSL ablation.

The layers are transformers'. The forward pass is ours, so that an item of a padded batch gets the features it gets
alone: statistics over time count valid samples only, and padding is neither convolved nor attended to. Config and
weights are read from a transformers folder.
"""

import json
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from flexicodec.config import from_dict

if TYPE_CHECKING:
    pass
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexicodec.config import to_dict
from flexicodec.nn.attention import attention
from flexicodec.nn.masking import valid_steps
from flexicodec.weights import load_exactly, read_weights

ModelType = Literal["hubert", "wavlm", "wav2vec2"]
SAMPLE_RATE = 16_000
LONGEST_FIRST_FRAME = 1280  # samples; `SemanticEncoder` promises frames for clips of one codec frame
CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"

# Settings that one family alone knows; elsewhere they would be passed over in silence.
ONE_FAMILY = {
    "feat_proj_layer_norm": "hubert",
    "conv_pos_batch_norm": "hubert",
    "num_buckets": "wavlm",
    "max_bucket_distance": "wavlm",
}


@dataclass(frozen=True)
class SSLSettings:
    """What shapes such an encoder, under the names it has in a transformers `config.json`.

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
        num_buckets: Relative positions WavLM tells apart.
        max_bucket_distance: Frames from which it tells them apart no more.
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
        """Samples that one frame sees, before the positional convolution."""
        samples = 1
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
        settings: Sizes and habits.
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
        for name, family in ONE_FAMILY.items():
            if self.model_type != family and getattr(self.settings, name) != getattr(SSLSettings, name):
                raise ValueError(
                    f"settings.{name} is {getattr(self.settings, name)}, which {self.model_type} does not know; "
                    f"it belongs to {family}"
                )

    def build(self) -> "SSLEncoder":
        """Make the encoder, with random weights."""
        pass

        return SSLEncoder(self)

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
                raise ValueError(f"the model in {folder} hears audio at {rate} Hz, expected {SAMPLE_RATE}")
            normalise = bool(preprocessor.get("do_normalize", True))
        names = {each.name for each in fields(SSLSettings)}
        settings = {key: value for key, value in held.items() if key in names}
        return cls(held["model_type"], layer, normalise, from_dict(SSLSettings, settings, str(folder / CONFIG_NAME)))


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


BARE_PARTS = ("feature_extractor", "feature_projection", "encoder")
POSITIONS = "encoder.pos_conv_embed.conv."
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def ssl_state(folder: str | Path, config: SSLConfig) -> dict[str, Tensor]:
    """Read the weights of an `SSLEncoder` from a local transformers folder, float32, under the encoder's names.

    Blocks above `config.layer` and what stands around the bare model (heads, quantisers, masking vectors) are left out.

    Args:
        folder: Holds config.json and model.safetensors or pytorch_model.bin, sharded or not.
        config: What is to be filled.

    Raises:
        ValueError: The folder's config.json says otherwise than `config`, there are no weights, or a weight is
            missing, unknown or misshapen.
    """
    folder = Path(folder)
    _check_same(config, folder)
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no model.safetensors and no pytorch_model.bin")
    held = {key: value for file in files for key, value in read_weights(file).items()}
    with torch.device("meta"):
        encoder = SSLEncoder(config)
    try:
        load_exactly(encoder, _bare_weights(held, config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return encoder.state_dict()


def _bare_weights(held: Mapping[str, Tensor], config: SSLConfig) -> dict[str, Tensor]:
    """Pick out what the encoder may need, in float32, with the weight norm folded."""
    held = {key.removeprefix(f"{config.model_type}."): value for key, value in held.items()}
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in held.items()
        if key.split(".")[0] in BARE_PARTS and not _is_above(key, config)
    }
    for size, direction in WEIGHT_NORMS:
        if {POSITIONS + size, POSITIONS + direction} <= state.keys():
            size_, direction_ = state.pop(POSITIONS + size), state.pop(POSITIONS + direction)
            state[POSITIONS + "weight"] = torch._weight_norm(direction_, size_, 2)
    return state


def _is_above(key: str, config: SSLConfig) -> bool:
    """Tell whether a weight comes into play behind the layer that is taken."""
    parts = key.split(".")
    if parts[:2] == ["encoder", "layers"]:
        return int(parts[2]) >= config.layer
    return parts[:2] == ["encoder", "layer_norm"] and config.settings.do_stable_layer_norm


def _check_same(config: SSLConfig, folder: Path) -> None:
    """Refuse a folder whose files describe another encoder: heads, say, cannot be seen in any weight's shape."""
    silent = not (folder / PREPROCESSOR_NAME).is_file()
    theirs = SSLConfig.from_folder(folder, config.layer, normalise=config.normalise if silent else None)
    ours, found = ({**to_dict(each), **to_dict(each.settings)} for each in (config, theirs))
    differing = [
        f"{key} is {found[key]}, not {ours[key]}" for key in ours if key != "settings" and found[key] != ours[key]
    ]
    if differing:
        raise ValueError(f"the model in {folder} is not the one in the config: {'; '.join(differing)}")


CLASSES = {"hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2"}  # as transformers begins their names
NORMALISATION_EPS = 1e-7  # of transformers' feature extractor


class SSLEncoder(nn.Module):
    """A frozen self-supervised encoder over raw audio, usually at 50 Hz; see `SemanticEncoder`.

    Weights are named as in transformers' bare model; the positional convolution's weight norm is folded.

    Args:
        config: Sizes and habits.
    """

    def __init__(self, config: SSLConfig):
        super().__init__()
        self.config = config
        self.dim = config.settings.hidden_size
        self.frame_rate = SAMPLE_RATE / config.settings.hop
        body = _transformers_model(config)
        self.feature_extractor = body.feature_extractor
        self.feature_projection = body.feature_projection
        self.encoder = body.encoder
        if config.settings.do_stable_layer_norm:
            self.encoder.layer_norm = nn.Identity()  # stands behind the last block
        convolution = self.encoder.pos_conv_embed.conv
        if parametrize.is_parametrized(convolution, "weight"):
            parametrize.remove_parametrizations(convolution, "weight")
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SSLEncoder":
        """Stay in eval mode: the encoder is frozen."""
        return super().train(False)

    def num_frames(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the frames of each item; the convolutions pad nothing."""
        frames = audio_lengths
        for layer in self.feature_extractor.conv_layers:
            frames = _conv_steps(frames, layer.conv)
        return frames

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Listen; see `SemanticEncoder`. Clips must be as long as the receptive field, 400 samples by default."""
        *_, hidden = self.hidden_states(audio, lengths)
        return hidden, self.num_frames(lengths)

    def hidden_states(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Iterator[Float[Tensor, "batch dim frames"]]:
        """Yield what enters the first block and what each block makes of it, zero past each item's frames."""
        long_enough = torch.compiler.is_exporting() or int(lengths.min()) >= self.config.settings.receptive_field
        assert long_enough, "the caller pads clips to a codec frame"
        heard = _valid(lengths, audio.shape[1])
        audio = audio.masked_fill(~heard, 0.0)
        if self.config.normalise:
            audio = _standardise(audio, heard, NORMALISATION_EPS)
        frames = self.num_frames(lengths)
        hidden = self.place(self.project(self.convolve(audio, lengths)), frames)
        bias = self.position_bias(hidden.shape[1])
        padding = ~_valid(frames, hidden.shape[1])[..., None]
        yield hidden.masked_fill(padding, 0.0).transpose(1, 2)
        valid = valid_steps(frames, hidden.shape[1])  # asked once: the answer has to come from the device
        for block in self.encoder.layers:
            hidden = _run_block(block, hidden, valid, bias, self.config.settings.do_stable_layer_norm)
            yield hidden.masked_fill(padding, 0.0).transpose(1, 2)

    def convolve(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Run the convolutional front end; a norm over time sees each item's valid steps only."""
        hidden = audio[:, None]
        for layer in self.feature_extractor.conv_layers:
            lengths = _conv_steps(lengths, layer.conv)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):  # a group per channel: statistics over time, padding included
                hidden = layer.conv(hidden)
                hidden = _standardise(hidden, _valid(lengths, hidden.shape[2])[:, None], norm.eps)
                hidden = layer.activation(hidden * norm.weight[:, None] + norm.bias[:, None])
            else:
                hidden = layer(hidden)
        return hidden

    def project(self, features: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch frames dim"]:
        """Bring the convolutions' channels to the width of the blocks."""
        projected = self.feature_projection(features.transpose(1, 2))
        return projected[0] if isinstance(projected, tuple) else projected  # some return their input's norm as well

    def place(
        self, hidden: Float[Tensor, "batch frames dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Add the positional convolution, for which padding is zero as beyond a clip's ends."""
        positions = self.encoder.pos_conv_embed
        valid = _valid(lengths, hidden.shape[1])[..., None]
        hidden = hidden.masked_fill(~valid, 0.0)
        around = hidden.transpose(1, 2)
        if self.config.settings.conv_pos_batch_norm:
            around = positions.batch_norm(around).masked_fill(~valid.mT, 0.0)
        hidden = hidden + positions.activation(positions.padding(positions.conv(around))).transpose(1, 2)
        return self.encoder.layer_norm(hidden)

    def position_bias(self, frames: int) -> Float[Tensor, "heads frames frames"] | None:
        """Look up WavLM's bias on attention scores by distance, which the first block holds for all."""
        if self.config.model_type != "wavlm" or not len(self.encoder.layers):
            return None
        return self.encoder.layers[0].attention.compute_bias(frames, frames)


# -------------------------------------------------------------------------------------------------------------- parts


def _transformers_model(config: SSLConfig) -> Any:
    """Make transformers' bare model with as many blocks as are run, and nothing that only its training needs."""
    import transformers

    name = CLASSES[config.model_type]
    unused = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0}
    settings = getattr(transformers, f"{name}Config")(
        **asdict(config.settings), num_hidden_layers=config.layer, feat_proj_dropout=0.0, **unused
    )
    return getattr(transformers, f"{name}Model")(settings)


def _run_block(
    block: Any,
    hidden: Float[Tensor, "batch frames dim"],
    valid: Bool[Tensor, "batch frames"] | None,
    bias: Float[Tensor, "heads frames frames"] | None,
    pre_norm: bool,
) -> Float[Tensor, "batch frames dim"]:
    """Run a transformer block of any of the families."""
    if pre_norm:
        hidden = hidden + _attend(block.attention, block.layer_norm(hidden), valid, bias)
        return hidden + block.feed_forward(block.final_layer_norm(hidden))
    hidden = block.layer_norm(hidden + _attend(block.attention, hidden, valid, bias))
    return block.final_layer_norm(hidden + block.feed_forward(hidden))


def _attend(
    module: Any,
    hidden: Float[Tensor, "batch frames dim"],
    valid: Bool[Tensor, "batch frames"] | None,
    bias: Float[Tensor, "heads frames frames"] | None,
) -> Float[Tensor, "batch frames dim"]:
    """Attend to the valid frames, with WavLM's gated bias where there is one."""

    def heads(features: Tensor) -> Tensor:
        return features.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)

    query, key, value = (heads(project(hidden)) for project in (module.q_proj, module.k_proj, module.v_proj))
    if bias is None:
        out = attention(query, key, value, valid)
    else:
        scores = _gate(module, heads(hidden)) * bias
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
    return module.out_proj(out.transpose(1, 2).flatten(2))


def _gate(module: Any, hidden: Float[Tensor, "batch heads frames head_dim"]) -> Float[Tensor, "batch heads frames 1"]:
    """Compute how much each frame heeds distances (WavLM, arXiv 2110.13900, as released)."""
    outer, inner = module.gru_rel_pos_linear(hidden).unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, dim=-1)
    return outer * (inner * module.gru_rel_pos_const - 1.0) + 2.0


def _conv_steps(steps: Int[Tensor, " batch"], conv: nn.Conv1d) -> Int[Tensor, " batch"]:
    return (steps - conv.kernel_size[0]) // conv.stride[0] + 1


def _valid(lengths: Int[Tensor, " batch"], steps: int) -> Bool[Tensor, "batch steps"]:
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def _standardise(
    x: Float[Tensor, "*channels steps"], valid: Bool[Tensor, "*#channels steps"], eps: float
) -> Float[Tensor, "*channels steps"]:
    """Bring the valid steps to zero mean and unit variance, and the others to zero."""
    count = valid.sum(-1, keepdim=True)
    mean = x.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / count
    centred = (x - mean).masked_fill(~valid, 0.0)
    return centred * (centred.square().sum(-1, keepdim=True) / count + eps).rsqrt()
