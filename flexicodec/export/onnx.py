"""`export`: a codec to a folder of ONNX files.

`export.json` is written last and describes the other files; `runtime.load_exported` loads the folder. With `int8`,
products of activations with weights inside transformer blocks are quantised to 8 bits (weights per output channel,
activations dynamically). Attention scores, norms, convolutions and everything that chooses codes stay in float32.
"""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import flexicodec
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.export.graphs import SAMPLES, Graph, TensorSpec, graphs
from flexicodec.io_utils import needed_for, replacing
from flexicodec.models.codec import Codec
from flexicodec.weights import save_tensors, unloaded_modules

MANIFEST_NAME = "export.json"
FRONT_END_NAME = "front_end.safetensors"
LAYOUT = 1  # of the folder
OPSET = 18

# Modules of transformer blocks in the traced parts: semantic encoders, aggregators, bottleneck.
BLOCKS = re.compile(r"(^part(\.encoder)?\.layers|_aggregator\.transformer\.layers|\.bottleneck\.layers)\.\d+")


def export(codec: Codec, folder: str | Path, *, int8: bool = False) -> Path:
    """Write a codec as ONNX graphs, the constants of its front end, and `export.json`; takes a minute or two.

    Args:
        codec: In eval mode, on the CPU, with all its parts.
        folder: Created if missing.
        int8: Store the weights of transformer blocks in 8 bits and multiply in integers; the rest stays in float32.

    Returns:
        The folder.

    Raises:
        ImportError: The extra `export` is not installed.
        ValueError: The codec has parts that cannot be exported, or no transformer blocks for int8.
    """
    if missing := unloaded_modules(codec):
        raise ValueError(f"a model without its {', '.join(missing)} cannot be exported; load it with parts='all'")
    if codec.device.type != "cpu" or codec.training:
        mode = "train" if codec.training else "eval"
        raise ValueError(f"the model is on {codec.device} and in {mode} mode; export needs codec.cpu().eval()")
    parts = graphs(codec)
    if int8 and not any(graph.has_blocks for graph in parts):
        raise ValueError(f"int8 is for transformer blocks, and a {type(codec).__name__} has none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # an older export is incomplete from here on
    for graph in parts:
        with replacing(folder / f"{graph.name}.onnx") as target:
            write_graph(graph, codec.frame_size, target)
            if int8 and graph.has_blocks:
                quantize_blocks(target)
    encoder = getattr(codec, "semantic_encoder", None)
    if isinstance(encoder, SanmEncoder):
        front_end = {"shift": encoder.front_end.shift, "scale": encoder.front_end.scale}
        save_tensors(front_end, folder / FRONT_END_NAME)
    with replacing(folder / MANIFEST_NAME) as target:
        target.write_text(json.dumps(_manifest(codec, parts, int8), indent=2) + "\n")
    return folder


def _manifest(codec: Codec, parts: list[Graph], int8: bool) -> dict[str, Any]:
    described = {}
    for graph in parts:
        described[graph.name] = {
            "file": f"{graph.name}.onnx",
            "inputs": [_describe(spec) for spec in graph.inputs],
            "outputs": [_describe(spec) for spec in graph.outputs],
        }
    return {
        "layout": LAYOUT,
        "model_type": codec.model_type,
        "name": codec.format.model,
        "fingerprint": codec.fingerprint,
        "flexicodec_lab_version": flexicodec.__version__,
        "int8": int8,
        "config": codec.config_dict(),
        "graphs": described,
    }


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "type": spec.type, "axes": list(spec.axes)}


def write_graph(graph: Graph, frame_size: int, path: Path) -> None:
    """Trace a part and write it as one ONNX file; `frame_size` is that of axes of `SAMPLES`."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch.onnx translates with)
    except ImportError as error:
        raise ImportError(
            f"export needs more than is installed ({error}): pip install 'flexicodec-lab[export]'"
        ) from error
    with torch.no_grad(), warnings.catch_warnings(), _errors_only("torch.onnx"):
        # PyTorch's exporter uses functions that PyTorch has deprecated.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
        program = torch.export.export(
            graph.module,
            graph.example,
            dynamic_shapes=tuple(_dynamic_axes(spec, frame_size) for spec in graph.inputs),
            strict=False,
            # Guards on derived lengths ("one block or more?") are about memory layouts, which ONNX does not have.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        traced: Any = torch.onnx.export(
            program,
            (),
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = traced.model_proto
    for value, spec in zip(model.graph.input, graph.inputs, strict=True):
        name_axes(value, spec)
    for value, spec in zip(model.graph.output, graph.outputs, strict=True):
        name_axes(value, spec)
    del model.graph.value_info[:]  # these shapes use the trace's names of axes
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Silence a logger's warnings: PyTorch's exporter names every package that it could have used and is missing."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dynamic_axes(spec: TensorSpec, frame_size: int) -> dict[int, Any]:
    """Map the axes of an input to dynamic or static sizes, `SAMPLES` to multiples of the frame size."""
    sizes: dict[int, Any] = {}
    for i, axis in enumerate(spec.axes):
        if axis == SAMPLES:
            sizes[i] = frame_size * torch.export.Dim("whole_frames", min=1)
        elif isinstance(axis, str):
            sizes[i] = torch.export.Dim.DYNAMIC
        else:
            sizes[i] = torch.export.Dim.STATIC
    return sizes


def name_axes(value: Any, spec: TensorSpec) -> None:
    """Give the dynamic axes of a graph's input or output the names of its spec; check the size of static ones."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != len(spec.axes):
        raise ValueError(f"{spec.name} was traced with {len(dims)} axes, expected {spec.axes}")
    for dim, axis in zip(dims, spec.axes, strict=True):
        if isinstance(axis, int) != dim.HasField("dim_value") or (isinstance(axis, int) and dim.dim_value != axis):
            traced = dim.dim_value or dim.dim_param
            raise ValueError(f"an axis of {spec.name} was traced as {traced!r}, expected {axis!r}")
        if isinstance(axis, str):
            dim.dim_param = axis


# -------------------------------------------------------------------------------------------------------------- 8 bits


def quantize_blocks(path: Path) -> int:
    """Quantise the transformer blocks of an ONNX file, in place; return the number of matrix products."""
    import onnx

    with needed_for("int8", "onnxruntime", "'flexicodec-lab[export]'"):
        from onnxruntime.quantization import QuantType, quantize_dynamic

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
    """Name the nodes in transformer blocks that multiply activations with weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        # The modules that the node was traced in, as in "['', 'part', 'part.encoder.layers.0']".
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        scopes = re.findall(r"'([^']*)'", metadata.get("pkg.torch.onnx.name_scopes", ""))
        if any(map(BLOCKS.search, scopes)):
            names.append(node.name)
    return names
