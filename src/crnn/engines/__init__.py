"""Engines that turn pixels into log-probabilities: torch, ONNX Runtime, OpenVINO."""
