"""ONNX export of codecs (`onnx`), inference with it (`runtime`), and comparison with the model (`compare`)."""
