"""The vision side as other runtimes read it: plain ONNX, made and checked by optimum."""
