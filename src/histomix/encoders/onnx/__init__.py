"""Encoders that ONNX Runtime runs: the built-in one, and exports of those of torch."""
