"""What a finished run gives to other tools: its detector as ONNX, its purified images in their layouts."""
