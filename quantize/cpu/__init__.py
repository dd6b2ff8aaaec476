"""The CPU's files: matrices in groups of 4 or 8 bits, in ONNX graphs."""
