"""Export of a codec to a folder of ONNX files.

`export.json` is written last and describes the other files; `runtime.load_exported` opens the folder. With `int8`,
products of activations with weights inside transformer blocks are quantised to 8 bits (weights per output channel,
activations dynamically). Attention scores, norms, convolutions and everything that decides a code stay in float32.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import flexicodec
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.export.graphs import SAMPLES, Graph, TensorSpec, graphs
from flexicodec.io_utils import replacing
from flexicodec.models.codec import Codec
from flexicodec.weights import unloaded_modules

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


MANIFEST_NAME = "export.json"
FRONT_END_NAME = "front_end.safetensors"
LAYOUT = 1  # of the folder
OPSET = 18


def export(codec: Codec, folder: str | Path, *, int8: bool = False) -> Path:
    """Write a codec as ONNX graphs, what its front end needs beside them, and `export.json`.

    Takes a minute or two. `compare.compare` holds the result against the codec.

    Args:
        codec: In eval mode, on the CPU.
        folder: Made if missing.
        int8: Keep the weights of transformer blocks in 8 bits and multiply in integers; the rest stays in float32.

    Returns:
        The folder.

    Raises:
        ImportError: The extra `export` is not installed.
        ValueError: The codec has parts that cannot be exported, or lacks some, or has no transformer blocks for int8.
    """
    if absent := unloaded_modules(codec):
        raise ValueError(f"a model without its {', '.join(absent)} cannot be exported; load it with parts='all'")
    if codec.device.type != "cpu" or codec.training:
        raise ValueError(
            f"the model is on {codec.device} and in {'train' if codec.training else 'eval'} mode; export wants "
            "codec.cpu().eval()"
        )
    parts = graphs(codec)
    if int8 and not any(graph.has_blocks for graph in parts):
        raise ValueError(f"int8 is for transformer blocks, and a {type(codec).__name__} has none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # what lies there is no longer whole
    for graph in parts:
        with replacing(folder / f"{graph.name}.onnx") as target:
            write_graph(graph, codec.frame_size, target)
            if int8 and graph.has_blocks:
                quantize_blocks(target)
    encoder = getattr(codec, "semantic_encoder", None)
    if isinstance(encoder, SanmEncoder):
        front_end = {"shift": encoder.front_end.shift.clone(), "scale": encoder.front_end.scale.clone()}
        with replacing(folder / FRONT_END_NAME) as target:
            save_file(front_end, target)
            target.chmod(0o644)
    with replacing(folder / MANIFEST_NAME) as target:
        target.write_text(json.dumps(_manifest(codec, parts, int8), indent=2) + "\n")
    return folder


def write_graph(graph: Graph, frame_size: int, path: Path) -> None:
    """Trace a part and write it as one ONNX file.

    Args:
        graph: The part.
        frame_size: Samples in a frame, of which audio that goes in has a whole number.
        path: Where to.

    Raises:
        ImportError: The extra `export` is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch.onnx translates with)
    except ImportError as error:
        raise ImportError(
            f"export needs more than is installed ({error}): pip install 'flexicodec-lab[export]'"
        ) from error
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch's own exporter uses what PyTorch has deprecated.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
        program = torch.export.export(
            graph.module,
            graph.example,
            dynamic_shapes=tuple(_free_axes(port, frame_size) for port in graph.inputs),
            strict=False,
            # Guards on derived lengths ("one block or more?") concern memory layouts, of which ONNX knows nothing.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        traced: Any = torch.onnx.export(
            program,
            (),
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = traced.model_proto
    for values, ports in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
        for value, port in zip(values, ports, strict=True):
            name_axes(value, port)
    del model.graph.value_info[:]  # these shapes are under the names of the trace
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def name_axes(value: Any, port: TensorSpec) -> None:
    """Give the axes of a graph's input or output the names of its port; fixed ones must have the size they are said to.

    Raises:
        ValueError: A free axis came out fixed, or another size.
    """
    dims = value.type.tensor_type.shape.dim
    if len(dims) != len(port.axes):
        raise ValueError(f"{port.name} came out with {len(dims)} axes, expected {port.axes}")
    for dim, axis in zip(dims, port.axes, strict=True):
        if isinstance(axis, int) != dim.HasField("dim_value") or (isinstance(axis, int) and dim.dim_value != axis):
            raise ValueError(
                f"an axis of {port.name} came out as {dim.dim_value or dim.dim_param!r}, expected {axis!r}"
            )
        if isinstance(axis, str):
            dim.dim_param = axis


def _free_axes(port: TensorSpec, frame_size: int) -> dict[int, Any]:
    """Say which axes of an input are free; samples come in whole frames where a port's axis is `SAMPLES`."""
    free = torch.export.Dim
    sizes = {SAMPLES: frame_size * free("whole_frames", min=1)}
    return {i: sizes.get(a, free.DYNAMIC) if isinstance(a, str) else free.STATIC for i, a in enumerate(port.axes)}


def _manifest(codec: Codec, parts: list[Graph], int8: bool) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "model_type": codec.model_type,
        "name": codec.format.model,
        "fingerprint": codec.fingerprint,
        "flexicodec_lab_version": flexicodec.__version__,
        "int8": int8,
        "config": codec.config_dict(),
        "graphs": {
            graph.name: {
                "file": f"{graph.name}.onnx",
                "inputs": [_describe(port) for port in graph.inputs],
                "outputs": [_describe(port) for port in graph.outputs],
            }
            for graph in parts
        },
    }


def _describe(port: TensorSpec) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "axes": list(port.axes)}
