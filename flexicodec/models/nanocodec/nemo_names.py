"""What NeMo calls our weights and our settings: the one place where the two sets of names meet.

From our side to theirs, so that whatever a file lacks can be named as its owner knows it.
"""

from typing import Any

from flexicodec.models.nanocodec.config import NanoCodecConfig

# NeMo's key -> our field, in its sections audio_encoder and audio_decoder.
_SHARED_FIELDS = {
    "base_channels": "width",
    "activation": "activation",
    "resblock_kernel_sizes": "kernel_sizes",
    "resblock_dilation_sizes": "dilations",
    "in_kernel_size": "in_kernel_size",
    "out_kernel_size": "out_kernel_size",
    "pad_mode": "padding_mode",
}
FIELDS = {
    "encoder": {"down_sample_rates": "strides", **_SHARED_FIELDS},
    "decoder": {
        "up_sample_rates": "strides",
        **_SHARED_FIELDS,
        "output_activation": "output_activation",
        "n_groups_equal_to_out_channels": "grouped_upsampling",
    },
}
LATENT_WIDTH = {"encoder": "encoded_dim", "decoder": "input_dim"}
# What NeMo's constructors put in where a config says nothing; grouped upsampling is then a causal decoder's alone.
_SHARED_DEFAULTS: dict[str, Any] = {
    "activation": "lrelu",
    "resblock_kernel_sizes": (3, 7, 11),
    "resblock_dilation_sizes": (1, 3, 5),
    "in_kernel_size": 7,
    "pad_mode": "reflect",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "encoder": {**_SHARED_DEFAULTS, "down_sample_rates": (2, 2, 8, 8), "base_channels": 32, "out_kernel_size": 7},
    "decoder": {
        **_SHARED_DEFAULTS,
        "up_sample_rates": (8, 8, 2, 2),
        "base_channels": 512,
        "out_kernel_size": 3,
        "output_activation": "tanh",
    },
}

UNIT_NAMES = ("input_activation.activation", "input_conv.conv", "skip_activation.activation", "skip_conv.conv")


def nemo_name(name: str, config: NanoCodecConfig) -> str:
    """Say what NeMo calls one of our weights; that of a convolution is kept there as a weight norm's two.

    Args:
        name: A key of our model's state dict.
        config: Of our model.
    """
    part, layers, number, *inner, leaf = name.split(".")
    assert layers == "layers", name
    if inner and inner[-1] == "snake":
        inner, leaf = inner[:-1], "snake_act.alpha"
    stages = len(config.encoder.strides if part == "encoder" else config.decoder.strides)
    stage = int(number) - 1
    if stage < 0:
        place = "pre_conv.conv"
    elif stage < stages:
        place = _stage_name(part, stage, inner)
    else:
        place = ("post_activation.activation", "post_conv.conv")[stage - stages]
    return f"audio_{part}.{place}.{leaf}"


def _stage_name(part: str, stage: int, inner: list[str]) -> str:
    order = (
        ("residuals", "activation", "resampling") if part == "encoder" else ("activation", "resampling", "residuals")
    )
    kind = order[int(inner[0])]
    if kind == "residuals":
        _, chain, unit, layer = inner
        return f"res_layers.{stage}.res_blocks.{chain}.res_blocks.{unit}.{UNIT_NAMES[int(layer)]}"
    if kind == "activation":
        return f"activations.{stage}.activation"
    return f"{'down' if part == 'encoder' else 'up'}_sample_conv_layers.{stage}.conv"
