"""Make utmos22_strong.onnx and sig_bak_ovr.onnx: the inputs and outputs of the real ones, with simple sums inside.

python tests/evaluation/metrics/data/make_onnx.py
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

HERE = Path(__file__).parent


def save(name, nodes, inputs, outputs, constants):
    """Write a model of these nodes; inputs and outputs by name and axes."""
    values = [
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, axes) for key, axes in each.items()]
        for each in (inputs, outputs)
    ]
    held = [helper.make_tensor(key, TensorProto.FLOAT, [len(value)], value) for key, value in constants.items()]
    graph = helper.make_graph(nodes, Path(name).stem, *values, initializer=held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / name)


def main():
    """Write both models."""
    mean = [
        helper.make_node("Abs", ["wave"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["level"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["level", "four"], ["part"]),
        helper.make_node("Add", ["part", "one"], ["mos"]),
    ]
    save(
        "utmos22_strong.onnx",
        mean,
        {"wave": ["batch", "time"]},
        {"mos": ["batch"]},
        {"four": [4.0], "one": [1.0]},
    )
    three = [
        helper.make_node("Abs", ["input_1"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("ReduceMax", ["size"], ["peak"], axes=[1], keepdims=1),
        helper.make_node("ReduceMean", ["input_1"], ["offset"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "peak", "offset"], ["Identity:0"], axis=1),
    ]
    save("sig_bak_ovr.onnx", three, {"input_1": ["N", 144160]}, {"Identity:0": ["N", 3]}, {})


if __name__ == "__main__":
    main()
