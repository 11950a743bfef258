"""Exports of a finished run to other tools: its detector as ONNX, its purified images in their layouts."""
