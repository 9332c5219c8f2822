"""What computes: pixels to log-probabilities, in torch, ONNX Runtime or OpenVINO."""
