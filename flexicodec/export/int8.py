"""Transformer blocks in 8 bits: weights stored as integers per output channel, activations rounded as they come.

Only products of an activation with weights inside transformer blocks are touched. Attention scores, norms, convolutions
and everything that decides a code stay in float32.
"""

import re
from pathlib import Path
from typing import Any

# Where the weights of transformer blocks are, as modules of the traced parts are called: SAN-M and self-supervised
# encoders, aggregators, bottleneck.
BLOCKS = re.compile(r"(^encoder\.encoder\.layers|_aggregator\.transformer\.layers|\.bottleneck\.layers)\.\d+")


def quantize_blocks(path: Path) -> int:
    """Quantise the transformer blocks of an ONNX file, in place, and say how many products it were.

    Raises:
        ImportError: The extra `export` is not installed.
        ValueError: The graph has no transformer blocks.
    """
    import onnx

    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ImportError(f"int8 needs onnxruntime ({error}): pip install 'flexicodec-lab[export]'") from error

    model = onnx.load(path)
    names = block_products(model)
    if not names:
        raise ValueError(f"{path.name} has no transformer blocks whose products could be quantised")
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=names,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    return len(names)


def block_products(model: Any) -> list[str]:
    """Name the products of activations with weights that stand in transformer blocks."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and any(BLOCKS.search(s) for s in _scopes(node))
    ]


def _scopes(node: Any) -> list[str]:
    """List the modules that a node was traced in."""
    held = {entry.key: entry.value for entry in node.metadata_props}
    return re.findall(r"'([^']*)'", held.get("pkg.torch.onnx.name_scopes", ""))
