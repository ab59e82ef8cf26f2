"""Self-supervised frozen encoders (HuBERT, WavLM, wav2vec 2.0), for the paper's ASR-against-SSL ablation.

The layers are transformers'. The forward pass is ours, so that an item of a padded batch gets the features it gets
alone: statistics over time count valid samples only, and padding is neither convolved nor attended to. Config and
weights are read from a transformers folder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexicodec.config import to_dict
from flexicodec.encoders.base import PREPROCESSOR_NAME, SAMPLE_RATE, SSLConfig
from flexicodec.nn.attention import attention
from flexicodec.nn.masking import length_mask, valid_steps
from flexicodec.weights import load_exactly, read_weights

BARE_PARTS = ("feature_extractor", "feature_projection", "encoder")
POSITIONS = "encoder.pos_conv_embed.conv."
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def ssl_state(folder: str | Path, config: SSLConfig) -> dict[str, Tensor]:
    """Read the weights of an `SSLEncoder` from a local transformers folder, float32, under the encoder's names.

    Blocks above `config.layer` and everything around the bare model (heads, quantisers, masking vectors) are left out.

    Args:
        folder: Holds config.json and model.safetensors or pytorch_model.bin, sharded or not.
        config: The encoder to be loaded.

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
    # Loading into an encoder on the meta device checks names and shapes.
    with torch.device("meta"):
        encoder = SSLEncoder(config)
    try:
        load_exactly(encoder, _bare_weights(held, config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return encoder.state_dict()


def _bare_weights(held: Mapping[str, Tensor], config: SSLConfig) -> dict[str, Tensor]:
    """Select what the encoder may need, in float32, with the weight norm folded."""
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
    """Return whether a weight belongs to a block above the one whose features are used."""
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
        config: Sizes and options.
    """

    def __init__(self, config: SSLConfig):
        super().__init__()
        self.config = config
        self.dim = config.settings.hidden_size
        self.frame_rate = SAMPLE_RATE / config.settings.hop
        # Only the parts that are run: no masking vector, no heads.
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
        """Encode audio; see `SemanticEncoder`. Clips have at least the receptive field, 400 samples by default."""
        *_, hidden = self.hidden_states(audio, lengths)
        return hidden, self.num_frames(lengths)

    def hidden_states(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Iterator[Float[Tensor, "batch dim frames"]]:
        """Yield what enters the first block and what each block makes of it, zero past each item's frames."""
        long_enough = torch.compiler.is_exporting() or int(lengths.min()) >= self.config.settings.receptive_field
        assert long_enough, "the caller pads clips to a codec frame"
        # Zero-mean, unit-variance audio, then convolutions, projection and positions.
        in_clip = length_mask(lengths, audio.shape[1])
        audio = audio.masked_fill(~in_clip, 0.0)
        if self.config.normalise:
            audio = _standardise(audio, in_clip, NORMALISATION_EPS)
        frames = self.num_frames(lengths)
        hidden = self.place(self.project(self.convolve(audio, lengths)), frames)
        # The blocks; what each returns is zero past the item's frames.
        bias = self.position_bias(hidden.shape[1])
        padding = ~length_mask(frames, hidden.shape[1])[..., None]
        yield hidden.masked_fill(padding, 0.0).transpose(1, 2)
        valid = valid_steps(frames, hidden.shape[1])  # once for all blocks: on a GPU it waits for the device
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
                hidden = _standardise(hidden, length_mask(lengths, hidden.shape[2])[:, None], norm.eps)
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
        valid = length_mask(lengths, hidden.shape[1])[..., None]
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
    """Build transformers' bare model with as many blocks as are run, and nothing that only its training needs."""
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
    """Compute each frame's gate on the position bias (WavLM, arXiv 2110.13900, as released)."""
    outer, inner = module.gru_rel_pos_linear(hidden).unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, dim=-1)
    return outer * (inner * module.gru_rel_pos_const - 1.0) + 2.0


def _conv_steps(steps: Int[Tensor, " batch"], conv: nn.Conv1d) -> Int[Tensor, " batch"]:
    return (steps - conv.kernel_size[0]) // conv.stride[0] + 1


def _standardise(
    x: Float[Tensor, "*channels steps"], valid: Bool[Tensor, "*#channels steps"], eps: float
) -> Float[Tensor, "*channels steps"]:
    """Bring the valid steps to zero mean and unit variance, and the others to zero."""
    count = valid.sum(-1, keepdim=True)
    mean = x.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / count
    centred = (x - mean).masked_fill(~valid, 0.0)
    return centred * (centred.square().sum(-1, keepdim=True) / count + eps).rsqrt()
