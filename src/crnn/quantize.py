"""Int8 quantisation of a network's graph, with activation ranges taken from images.

Kernels (int8, a scale per channel), activations (uint8, a scale per layer) and pixels become integers around
``DequantizeLinear``; LSTM matrices are stored in int8 and computed in floating point. References: Jacob et al. 2018,
arXiv 1712.05877 (integers, zero points); Krishnamoorthi 2018, arXiv 1806.08342 (scales per channel).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from crnn.engines.engine import Pixels
from crnn.engines.onnx_engine import import_onnxruntime
from crnn.engines.onnx_graph import INPUT_NAME
from crnn.errors import DataError

_LIMIT = 127  # of weights on both sides: -128 is unused, so that negatives exist
_GROUP = 16  # images whose extremes count once: the mean over groups leaves out rare values

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedGraph:
    """A quantised graph; input and output keep their names."""

    graph: onnx.ModelProto
    ranges: dict[str, tuple[float, float]]  # values of 0 and 255, but for rounding, of each 8-bit activation
    kept: tuple[str, ...]  # names of operators with weights that compute in floating point


def quantize_graph(graph: onnx.ModelProto, batches: Iterable[Pixels]) -> QuantizedGraph:
    """Quantise the convolutions of a graph to int8.

    Args:
        graph: Graph of ``crnn.engines.onnx_graph.network_graph``; not changed.
        batches: Images ``(N, C, 32, W)`` uint8 like those to be read, some hundreds, without labels. Widths may differ.

    Raises:
        DataError: There are no images.
    """
    activations = [node.output[0] for node in graph.graph.node if node.op_type == "Relu"]
    ranges = _activation_ranges(graph, activations, batches)
    builder = _Builder(graph)
    for node in graph.graph.node:
        builder.take(node, ranges)
    kept = tuple(node.name for node in graph.graph.node if node.op_type in ("LSTM", "MatMul"))
    return QuantizedGraph(builder.model(graph), ranges, kept)


class _Builder:
    """Builder of the quantised graph, node by node."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self._constants: dict[str, _Array] = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._instead: dict[str, str] = {}  # values whose readers are to read another one
        self._last_range = ""  # name of the scale of what flows at the moment
        self._mean, self._std = self._constants["middle"], self._constants["half_range"]
        # Zero points are whole numbers, 128 for a mean of 127.5; the bias makes up for the rest.
        self._zero = np.uint8(np.floor(self._mean + np.float32(0.5)))

    def take(self, node: onnx.NodeProto, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Add the next node, in the order of the graph."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = [self._instead.get(name, name) for name in node.input]
        output = node.output[0]
        if node.op_type in ("Cast", "Sub", "Div"):  # the normalization: what scale and zero point of the pixels say
            if node.op_type == "Cast":
                self._scale(INPUT_NAME, np.float32(1) / self._std, self._zero)
                self._dequantized(INPUT_NAME, INPUT_NAME, f"{INPUT_NAME}.values")
            self._instead[output] = f"{INPUT_NAME}.values"
            return
        if node.op_type == "Conv":
            kernel = self._integers(node.input[1])
            if new.input[0] == f"{INPUT_NAME}.values":
                self._shift_bias(node.input[2], kernel)
        elif node.op_type == "LSTM" and len(self._constants[node.input[1]]) == 2:
            # Of one direction, OpenVINO (2026.4) wants matrices that are constants as they stand.
            for name in node.input[1:3]:
                self._kept_small(name)
        self._nodes.append(new)
        if output in ranges:
            # Zero is a whole number: it stands outside of every image, where convolutions are padded.
            least, most = min(ranges[output][0], 0.0), max(ranges[output][1], 0.0)
            scale = np.float32((most - least) / 255) if most > least else np.float32(1)
            self._scale(output, scale, np.uint8(np.clip(np.rint(-least / scale), 0, 255)))
            self._last_range = output
        if output in ranges or node.op_type == "MaxPool":  # the largest of integers is one of them: the scale stays
            range_inputs = [f"{self._last_range}.scale", f"{self._last_range}.zero"]
            self._add("QuantizeLinear", [output, *range_inputs], f"{output}.integers")
            self._instead[output] = self._dequantized(f"{output}.integers", self._last_range, f"{output}.values")

    def model(self, original: onnx.ModelProto) -> onnx.ModelProto:
        """Return the graph, with the constants that its nodes read."""
        model = onnx.ModelProto()
        model.CopyFrom(original)
        used = {name for node in self._nodes for name in node.input}
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self._constants.items() if name in used
        )
        onnx.checker.check_model(model)
        return model

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _scale(self, name: str, scale: _Array | np.generic, zero: _Array | np.generic) -> None:
        self._constants[f"{name}.scale"], self._constants[f"{name}.zero"] = np.asarray(scale), np.asarray(zero)

    def _dequantized(self, integers: str, scale_of: str, output: str, **attributes: Any) -> str:
        return self._add("DequantizeLinear", [integers, f"{scale_of}.scale", f"{scale_of}.zero"], output, **attributes)

    def _shift_bias(self, name: str, kernel: npt.NDArray[np.float32]) -> None:
        """Add what the zero point of the pixels lacks or has too much, a constant over the whole image."""
        # Padding at the edges is 128 instead of 127.5, off by a 255th of the range, as in no other layer.
        missing = (np.float64(self._zero) - self._mean.astype(np.float64)) / self._std.astype(np.float64)
        shift = kernel.sum(axis=(1, 2, 3), dtype=np.float64) * missing
        self._constants[name] = (self._constants[name] + shift).astype(np.float32)

    def _integers(self, name: str) -> npt.NDArray[np.float32]:
        """Round a kernel to int8 with a scale per output channel; return the rounded kernel."""
        integers, scale = _rounded(self._constants.pop(name), axes=(1, 2, 3))
        self._constants[f"{name}.integers"] = integers
        self._scale(name, scale.reshape(-1), np.zeros(len(scale), np.int8))
        self._dequantized(f"{name}.integers", name, name, axis=0)
        return integers * scale

    def _kept_small(self, name: str) -> None:
        """Store a matrix as int8 with a scale per row, multiplied out by engines when they load it."""
        self._constants[f"{name}.integers"], self._constants[f"{name}.scale"] = _rounded(
            self._constants.pop(name), axes=(-1,)
        )
        # No DequantizeLinear: engines keep it for the operator that it belongs to, and an LSTM is none of these.
        self._add("Cast", [f"{name}.integers"], f"{name}.cast", to=TensorProto.FLOAT)
        self._add("Mul", [f"{name}.cast", f"{name}.scale"], name)


def _rounded(weights: _Array, axes: tuple[int, ...]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return integers, and the scale, with as many dimensions, that restores the weights."""
    largest = np.abs(weights).max(axis=axes, keepdims=True)
    scale = (np.where(largest > 0, largest, 1.0) / _LIMIT).astype(np.float32)
    return np.clip(np.rint(weights / scale), -_LIMIT, _LIMIT).astype(np.int8), scale


def _activation_ranges(
    graph: onnx.ModelProto, names: list[str], batches: Iterable[Pixels]
) -> dict[str, tuple[float, float]]:
    """Return the mean extremes of each activation over groups of images."""
    runtime = import_onnxruntime()
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    extremes = [
        [(value.min(), value.max()) for value in session.run(names, {INPUT_NAME: batch[first : first + _GROUP]})]
        for batch in batches
        for first in range(0, len(batch), _GROUP)
    ]
    if not extremes:
        raise DataError("there are no images to quantise with; expected some hundreds like those that will be read")
    means: npt.NDArray[np.float64] = np.mean(np.asarray(extremes, np.float64), axis=0)  # (names, 2)
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, means, strict=True)}
