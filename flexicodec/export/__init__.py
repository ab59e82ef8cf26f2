"""Codecs as ONNX graphs: written, checked, run by onnxruntime, and with transformer blocks in 8 bits if so wished."""
