"""Weights and vocabulary of Moonshine Tiny (English, MIT), from the installed wheel of moonshine-voice or as shipped.

The encoder ships with this package as `moonshine-tiny-en`; the decoder and the vocabulary are in the wheel alone. The
wheel's graphs are ONNX Runtime's flatbuffers of a quantised export: every linear layer is uint8 with one scale and one
zero point, convolutions and norms are float32. Nodes kept the names of transformers' modules
(`/layers.0/self_attn/k_proj/MatMul_quant`), so a weight is found by the node that multiplies with it. The graphs are
never run.
"""

import hashlib
from collections.abc import Collection, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexicodec.installed_files import PinnedFile
from flexicodec.io_utils import needed_for
from flexicodec.weights import SCALE, WEIGHTS_NAME, ZERO_POINT, read_weights, unpack

SHIPPED = "moonshine-tiny-en"  # folder of the encoder in the package's assets
SHIPPED_SHA256 = "5a9a8c98aa5abef32ffbeed61689b78a98cd545d58ac0064fbcad0df07528ecb"
WHEEL = "moonshine-voice==0.0.73"  # later wheels hold no weights
FOLDER = "moonshine_voice/assets/tiny-en/"
ENCODER = PinnedFile(
    WHEEL, f"{FOLDER}encoder_model.ort", "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"
)
DECODER = PinnedFile(
    WHEEL, f"{FOLDER}decoder_model_merged.ort", "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0"
)
TOKENIZER = PinnedFile(
    WHEEL, f"{FOLDER}tokenizer.bin", "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d"
)

DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}  # ONNX's TensorProto.DataType
# Operators that multiply with a quantised weight (input 1): the inputs that are its scale and its zero point.
QUANTISED = {"MatMulIntegerToFloat": (3, 5), "DynamicQuantizeMatMul": (2, 3)}


def shipped_state(names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Read the encoder's weights that ship with this package, in float32.

    Args:
        names: Those wanted, as a shorter encoder has fewer; None for all. Names that there are not are left out.

    Raises:
        ValueError: The file was changed or damaged.
    """
    path = Path(str(files("flexicodec") / "assets" / SHIPPED / WEIGHTS_NAME))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHIPPED_SHA256:
        raise ValueError(
            f"{path} has SHA-256 {found[:12]}..., expected {SHIPPED_SHA256[:12]}...; was the installation damaged?"
        )
    state = unpack(read_weights(path))
    return state if names is None else {name: state[name] for name in names if name in state}


def encoder_state() -> dict[str, Tensor]:
    """Read the encoder's weights from the wheel, in float32, for `MoonshineEncoder`."""
    return unpack(packed_encoder_state())


def packed_encoder_state() -> dict[str, Tensor]:
    """Read the encoder's weights from the wheel as it has them.

    Returns:
        Linear layers in uint8, each with `.scale` and `.zero_point` beside its name, and the rest in float32.
    """
    graph = _read_graph(ENCODER)
    held = _initialisers(graph)
    state = {}
    for name, array in held.items():
        plain = name.removesuffix("_add_tensor")  # of convolutions
        if plain.startswith(("conv", "layers.", "layer_norm.")) and plain.endswith((".weight", ".bias")):
            state[plain] = torch.from_numpy(array.copy())
    # The group norm's gain and shift have lost their names; they are the only ones of their shape.
    for parameter, operator in (("weight", "onnx::Mul_"), ("bias", "onnx::Add_")):
        found = [array for name, array in held.items() if name.startswith(operator) and array.shape == (288, 1)]
        assert len(found) == 1, f"{len(found)} tensors {operator}* of shape [288, 1]"
        state[f"groupnorm.{parameter}"] = torch.from_numpy(found[0][:, 0].copy())
    return state | _linear_weights(graph, held)


def decoder_state() -> dict[str, Tensor]:
    """Read the decoder's weights, in float32, for `MoonshineDecoder`."""
    graph = _read_graph(DECODER)
    held = _initialisers(graph)
    prefix = "model.decoder."
    state = {}
    for name, array in held.items():
        plain = name.removesuffix("_merged_0")
        if plain.startswith(prefix) and plain.endswith((".weight", ".bias")):
            state[plain.removeprefix(prefix)] = torch.from_numpy(array.copy())
    # The branch that runs without a cache has all projections, also those of the encoder's features.
    branch = next(branch for name, branch in _branches(graph) if name == "else_branch")
    for name, value in unpack(_linear_weights(branch, held | _initialisers(branch))).items():
        state[name.removeprefix(prefix)] = value
    # Embedding and output are one matrix, quantised apart; the output's copy is kept, as the more sensitive of the two.
    state["embed_tokens.weight"] = state.pop("proj_out.weight")
    return state


def read_pieces() -> list[bytes]:
    """Read the vocabulary: the bytes of each token, with SentencePiece's mark U+2581 for a space.

    The file has a length for every token (one byte, or two if the first has its high bit set) and as many bytes.
    """
    data = TOKENIZER.find().read_bytes()
    pieces = []
    at = 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length = 128 * data[at] + length - 128
            at += 1
        pieces.append(data[at : at + length])
        at += length
    return pieces


def _read_graph(file: PinnedFile) -> Any:
    """Read the main graph of a model in ONNX Runtime's format."""
    data = bytearray(file.find().read_bytes())
    with needed_for("reading Moonshine's weights", "onnxruntime", "flexicodec-lab[instruments]"):
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
    return InferenceSession.GetRootAsInferenceSession(data, 0).Model().Graph()


def _initialisers(graph: Any) -> dict[str, np.ndarray]:
    """Return a graph's constant tensors by name."""
    tensors = {}
    for i in range(graph.InitializersLength()):
        tensor = graph.Initializers(i)
        if tensor.DataType() in DTYPES and tensor.RawDataLength():
            shape = [tensor.Dims(j) for j in range(tensor.DimsLength())]
            tensors[tensor.Name().decode()] = tensor.RawDataAsNumpy().view(DTYPES[tensor.DataType()]).reshape(shape)
    return tensors


def _branches(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the graphs inside a graph's conditional nodes, with the names of their attributes."""
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        for j in range(node.AttributesLength()):
            branch = node.Attributes(j).G()
            if branch is not None:
                yield node.Attributes(j).Name().decode(), branch


def _linear_weights(graph: Any, held: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the weight [out, in] of every quantised linear layer, for `unpack`."""
    state = {}
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        places = QUANTISED.get(node.OpType().decode())
        if places is None:
            continue
        inputs = [node.Inputs(j).decode() for j in range(node.InputsLength())]
        scale, zero_point = (held[inputs[place]] for place in places)
        assert scale.size == zero_point.size == 1, f"{inputs[1]} has {scale.size} scales; expected one"
        name = node.Name().decode().strip("/").removesuffix("/MatMul_quant").replace("/", ".") + ".weight"
        state[name] = torch.from_numpy(held[inputs[1]].T.copy())
        state[name + SCALE] = torch.tensor(float(scale.item()))
        state[name + ZERO_POINT] = torch.tensor(int(zero_point.item()), dtype=state[name].dtype)
    return state
