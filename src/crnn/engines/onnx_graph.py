"""Network as an ONNX graph, built from a weights file without torch or an exporter.

``images (N, C, 32, W) uint8 -> log_probs (N, T, V) float32``, N and W free; batch normalisation is folded into the
convolutions in float64. Opset 17 (2022): older engines read it. Shape letters: N batch, C image channels, W width,
T time steps, D feature depth, V classes with the blank. Reference: ONNX specification, LSTM (version 14: gates in the
order input, output, forget, cell; the two biases apart) and LogSoftmax (version 13).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from crnn.config.model import BACKBONE_CHANNELS, ImageConfig, ReaderConfig
from crnn.errors import CheckpointError
from crnn.model.backbones import BACKBONES, BATCH_NORM, ConvLayer, pool_of
from crnn.model.weights import Weights

INPUT_NAME = "images"
OUTPUT_NAME = "log_probs"
OPSET = 17
_IR_VERSION = 8  # of the opset; older engines refuse newer ones

_NORM_EPSILON = 1e-5  # of torch's ``nn.BatchNorm2d``, with which the weights were trained

_Floats = npt.NDArray[np.floating[Any]]


class Lengths(NamedTuple):
    """Names of what keeps images of several widths apart in one batch, in which zeros follow the narrower ones."""

    columns: str  # (N, 1, 1, W) float, 1 where the image is, 0 behind it
    steps: str  # (N) int32, time steps of each image


class Graph:
    """Graph under construction; values are named.

    With ``lengths``, an image gives the logits that it gives alone, unpadded; those of later steps mean nothing.
    """

    lengths: Lengths | None = None

    def __init__(self, given: onnx.ValueInfoProto, result: onnx.ValueInfoProto) -> None:
        # Grown in its place: onnx's own functions would copy all weights at each step from tensors to a model.
        self.model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="crnn")
        self.model.opset_import.append(helper.make_opsetid("", OPSET))
        graph = self.model.graph
        graph.name = "crnn"
        graph.input.append(given)
        graph.output.append(result)

    def constant(self, name: str, values: npt.NDArray[Any] | np.float32) -> str:
        """Add a constant of the graph, float32 where it is a float, and return its name."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output of the same name, and return it."""
        self.model.graph.node.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output


def network_graph(weights: Weights[Any]) -> onnx.ModelProto:
    """Build the graph of a network, without metadata; float16 and float64 weights become float32.

    ``CheckpointError`` if the tensors do not fit the network of the settings.
    """
    config = weights.config
    graph = Graph(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", config.image.image_channels, 32, "W"]),
        helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", "T", config.charset.charset().num_classes]),
    )
    pixels = graph.add("Cast", [INPUT_NAME], "pixels", to=TensorProto.FLOAT)
    logits = add_network(graph, add_normalization(graph, pixels, config.image), weights)
    graph.add("LogSoftmax", [logits], OUTPUT_NAME, axis=-1)
    return graph.model


def add_normalization(graph: Graph, pixels: str, image: ImageConfig) -> str:
    """Add the step from pixels, 0 to 255, to what the network takes."""
    # The difference is exact and the division rounded once, as in ``crnn.data.dataset.network_input``.
    centred = graph.add("Sub", [pixels, graph.constant("middle", np.float32(image.mean))], "centred")
    return graph.add("Div", [centred, graph.constant("half_range", np.float32(image.std))], "normalised")


def add_network(graph: Graph, values: str, weights: Weights[Any]) -> str:
    """Add a network: normalised images ``(N, C, 32, W)`` -> logits ``(N, T, V)``; ``CheckpointError`` as above."""
    try:
        return _network(graph, values, weights.config, dict(weights.tensors))
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"weights {weights.path}: tensors do not fit the network of its settings ({error})"
        ) from error


def _network(graph: Graph, values: str, config: ReaderConfig, arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Add the network from arrays, each of which is taken out of them."""
    values = _convolutions(graph, values, config, arrays)  # ....................................... (N, D, 1, T)
    rows = graph.add("Squeeze", [values, graph.constant("height_axis", np.array([2]))], "rows")  # . (N, D, T)
    steps = graph.add("Transpose", [rows], "steps", perm=[2, 0, 1])  # ............................. (T, N, D)
    # OpenVINO asks for N, to start an LSTM, where it first finds it: behind the first convolution, which then is joined
    # to neither bias nor ReLU (2026.4; a sixth of the time in int8). Written like this, N is found here.
    flat = graph.add("Reshape", [steps, graph.constant("flat_shape", np.array([0, -1]))], "flat")  # (T, N * D)
    depth = BACKBONE_CHANNELS[config.model.backbone]
    steps = graph.add("Reshape", [flat, graph.constant("steps_shape", np.array([0, -1, depth]))], "features")
    hidden = config.model.lstm_size
    values = _lstm(graph, "rnn1", steps, arrays, hidden, batch_first=False)  # ..................... (T, N, 2 * hidden)
    if config.model.neck == "linear":
        values = _linear(graph, "neck", values, arrays, hidden)  # ................................. (T, N, hidden)
    both = config.model.rnn2 == "both"
    values = _lstm(graph, "rnn2", values, arrays, hidden, batch_first=True, both=both)  # .......... (N, T, 2 * hidden)
    logits = _linear(graph, "head", values, arrays, config.charset.charset().num_classes)
    # torch counts the batches of running averages; nothing reads that.
    if surplus := [name for name in arrays if not name.endswith(".num_batches_tracked")]:
        raise ValueError(f"too many: {', '.join(surplus[:3])}")
    return logits


def _convolutions(graph: Graph, values: str, config: ReaderConfig, arrays: dict[str, npt.NDArray[Any]]) -> str:
    columns = graph.lengths.columns if graph.lengths else ""
    for number, layer in enumerate(BACKBONES[config.model.backbone], start=1):
        kernel, bias = _folded(arrays, number, layer, number in BATCH_NORM[config.model.batch_norm])
        inputs = [values, graph.constant(f"conv{number}.weight", kernel), graph.constant(f"conv{number}.bias", bias)]
        sizes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": [layer.padding] * 4}
        values = graph.add("Conv", inputs, f"conv{number}", **sizes)
        # ReLU first: engines join it to the convolution. The maximum afterwards gives the same, bit for bit.
        values = graph.add("Relu", [values], f"relu{number}")
        if (pool := pool_of(layer, config.model.pooling)) is not None:
            sizes = {"kernel_shape": list(pool.kernel), "strides": list(pool.stride)}
            if any(pool.padding):
                sizes["pads"] = [*pool.padding] * 2
            values = graph.add("MaxPool", [values], f"pool{number}", **sizes)
        if columns and layer.padding:  # what the next convolution finds behind an image is its padding, 0
            if layer.stride * (layer.pool or (1, 1))[1] == 2:  # of two columns the second decides
                places = {"start": 1, "end": 1 << 31, "axis": 3, "step": 2}
                slices = [graph.constant(f"{part}{number}", np.array([place])) for part, place in places.items()]
                columns = graph.add("Slice", [columns, *slices], f"columns{number}")
            values = graph.add("Mul", [values, columns], f"masked{number}")
    return values


def _folded(
    arrays: dict[str, npt.NDArray[Any]], number: int, layer: ConvLayer, normalised: bool
) -> tuple[_Floats, _Floats]:
    """Return kernel and bias of a convolution with its normalisation folded in."""

    def vector(name: str) -> _Floats:
        return arrays.pop(f"backbone.{name}").astype(np.float64).reshape(layer.channels)

    kernel: _Floats = arrays.pop(f"backbone.conv{number}.weight").astype(np.float64)
    kernel = kernel.reshape(layer.channels, -1, layer.kernel, layer.kernel)
    if not normalised:
        return kernel, vector(f"conv{number}.bias")
    factor = vector(f"norm{number}.weight") / np.sqrt(vector(f"norm{number}.running_var") + _NORM_EPSILON)
    bias = vector(f"norm{number}.bias") - vector(f"norm{number}.running_mean") * factor
    return kernel * factor[:, None, None, None], bias


def _lstm(
    graph: Graph, name: str, values: str, arrays: dict[str, npt.NDArray[Any]], hidden: int, *, batch_first: bool,
    both: bool = True,
) -> str:  # fmt: skip
    """Add a layer of one or both directions: ``(T, N, D)`` -> ``(T, N, 2 x hidden)``, or ``(N, T, 2 x hidden)``."""
    directions = ("", "_reverse") if both else ("",)

    def each(part: str) -> list[_Floats]:
        return [_gates(arrays.pop(f"{name}.{part}_l0{direction}"), hidden) for direction in directions]

    biases = [np.concatenate(pair) for pair in zip(each("bias_ih"), each("bias_hh"), strict=True)]
    inputs = [
        values,
        graph.constant(f"{name}.input_weight", np.stack(each("weight_ih"))),  # .... (2, 4 * hidden, D)
        graph.constant(f"{name}.recurrent_weight", np.stack(each("weight_hh"))),  #  (2, 4 * hidden, hidden)
        graph.constant(f"{name}.bias", np.stack(biases)),  # ....................... (2, 8 * hidden)
        *([graph.lengths.steps] if graph.lengths else []),
    ]
    direction = "bidirectional" if both else "forward"
    outputs = graph.add("LSTM", inputs, name, hidden_size=hidden, direction=direction)  # (T, 2, N, hidden)
    order = [2, 0, 1, 3] if batch_first else [0, 2, 1, 3]
    outputs = graph.add("Transpose", [outputs], f"{name}.directions_last", perm=order)
    shape = graph.constant(f"{name}.shape", np.array([0, 0, len(directions) * hidden]))  # 0: as it is
    return graph.add("Reshape", [outputs, shape], f"{name}.joined")


def _gates(values: npt.NDArray[Any], hidden: int) -> _Floats:
    """Reorder rows from torch (input, forget, cell, output) to ONNX (input, output, forget, cell)."""
    blocks: _Floats = values.astype(np.float32).reshape(4, hidden, *values.shape[1:])
    return blocks[[0, 3, 1, 2]].reshape(values.shape)


def _linear(graph: Graph, name: str, values: str, arrays: dict[str, npt.NDArray[Any]], size: int) -> str:
    weight, bias = arrays.pop(f"{name}.weight").reshape(size, -1), arrays.pop(f"{name}.bias").reshape(size)
    product = graph.add("MatMul", [values, graph.constant(f"{name}.weight", weight.T)], f"{name}.product")
    return graph.add("Add", [product, graph.constant(f"{name}.bias", bias)], name)
