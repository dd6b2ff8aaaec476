"""A variant on a CPU, by onnxruntime."""
