"""What upstream calls our weights: the one place where the two sets of names meet.

From our side to theirs, so that whatever a file lacks can be named as its owner knows it.
"""

import re

LAYER_NAMES = {
    "in_proj.weight": "self_attn.in_proj_weight",
    "out_proj.weight": "self_attn.out_proj.weight",
    "scale1": "layer_scale_1.scale",
    "scale2": "layer_scale_2.scale",
}
CONVNEXT_NAMES = {"depthwise": "dwconv", "norm": "norm", "linear1": "pwconv1", "linear2": "pwconv2"}
SANM_NAMES = {
    "self_attn.q_proj": "self_attn.linear_q_k_v",
    "self_attn.k_proj": "self_attn.linear_q_k_v",
    "self_attn.v_proj": "self_attn.linear_q_k_v",
    "self_attn.o_proj": "self_attn.linear_out",
    "self_attn.fsmn.conv": "self_attn.fsmn_block",
    "mlp.fc1": "feed_forward.w_1",
    "mlp.fc2": "feed_forward.w_2",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
}
WEIGHT_NORMED = re.compile(
    r"(encoder|decoder)\.layers\..*\.weight|acoustic_quantizer\..*_proj\.weight|semantic_\w+_stack\.conv_\w+\.weight"
)


def upstream_name(name: str, num_convnext_layers: int) -> str:
    """Say what upstream calls one of our weights.

    Three queries, keys and values share one name there, and the weight of a weight-normed convolution (see
    `WEIGHT_NORMED`) is kept as `weight_g` and `weight_v`.

    Args:
        name: A key of our model's state dict.
        num_convnext_layers: Blocks of a ConvNeXt stack, which upstream numbers through with the convolution after it.
    """
    part, rest = name.split(".", 1)
    if part == "semantic_encoder":
        return "semantic_model." + _sanm_name(rest)
    if part == "bottleneck":
        return "bottleneck_transformer." + _transformer_name(rest)
    if part in ("semantic_aggregator", "acoustic_aggregator"):
        head, _, inner = rest.partition(".")
        return name if head == "query_embedding" else f"{part}.transformer.{_transformer_name(inner)}"
    if part in ("encoder", "decoder"):
        *numbers, leaf = rest.removeprefix("layers.").split(".")
        return f"dac.{part}.{'block' if part == 'encoder' else 'model'}.{'.block.'.join(numbers)}.{leaf}"
    if part == "semantic_quantizer":
        return "semantic_vq.fsq." + rest
    if part == "acoustic_quantizer":
        return "dac.quantizer." + rest
    if part == "semantic_encoder_stack":
        return "convnext_encoder." + _convnext_name(rest, first_block=1, convolution=0)
    assert part == "semantic_decoder_stack", name
    return "convnext_decoder." + _convnext_name(rest, first_block=0, convolution=num_convnext_layers)


def _sanm_name(name: str) -> str:
    if name == "prompt.weight":
        return "embed.weight"
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match, name
    layer, module, parameter = int(match[1]), match[2], match[3]
    if module == "final_layernorm":
        return f"encoder.after_norm.{parameter}"
    block = f"encoders.{layer - 1}" if layer else "encoders0.0"
    return f"encoder.{block}.{SANM_NAMES[module]}.{parameter}"


def _transformer_name(name: str) -> str:
    if name.startswith("layers."):
        layers, number, rest = name.split(".", 2)
        return f"transformer.{layers}.{number}.{LAYER_NAMES.get(rest, rest)}"
    return {"input_projection.weight": "input_proj.weight", "output_projection.weight": "output_projs.0.weight"}[name]


def _convnext_name(name: str, first_block: int, convolution: int) -> str:
    head, rest = name.split(".", 1)
    if head != "blocks":
        return f"{convolution}.{rest}"
    number, module, parameter = rest.split(".")
    return f"{int(number) + first_block}.{CONVNEXT_NAMES[module]}.{parameter}"
