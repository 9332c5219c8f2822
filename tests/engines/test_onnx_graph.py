"""The network as an ONNX graph: the same numbers as torch's, for every kind of network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from crnn.config.model import ReaderConfig, parse_reader_config, time_steps
from crnn.data.dataset import network_input
from crnn.engines.onnx_engine import import_onnxruntime
from crnn.engines.onnx_graph import INPUT_NAME, OPSET, OUTPUT_NAME, network_graph
from crnn.errors import CheckpointError
from crnn.model.checkpoint import save_weights
from crnn.model.crnn import CRNN, build_model
from crnn.model.weights import Weights, read_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**model: Any) -> ReaderConfig:
    image = {"image_channels": model.pop("channels", 1), **model.pop("image", {})}
    values = {"model": {"hidden_size": 8, **model}, "image": image, "charset": {"characters": "abcde"}}
    return parse_reader_config(values, "test")


def lively_network(config: ReaderConfig, seed: int = 0) -> CRNN:
    """A network none of whose tensors is as it was initialised: with ones and zeros in them, errors would not show."""
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.startswith("backbone.norm") and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.2))
        elif name.endswith("bias"):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    with torch.no_grad():
        for tensor in (*network.rnn1.parameters(), *network.rnn2.parameters(), network.head.weight):
            tensor.mul_(3.0)
    return network.eval()


@pytest.fixture
def weights_of(tmp_path: Path) -> Callable[..., tuple[CRNN, Weights[Any]]]:
    """A function that gives a network and its weights file as it is read without torch."""

    def make(**model: Any) -> tuple[CRNN, Weights[Any]]:
        config = settings(**model)
        network = lively_network(config)
        save_weights(tmp_path / "w.safetensors", network.state_dict(), config, {})
        return network, read_weights(tmp_path / "w.safetensors")

    return make


def run(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = import_onnxruntime().InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run([OUTPUT_NAME], {INPUT_NAME: images})
    return result


def by_torch(network: CRNN, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(network_input(torch.from_numpy(images), network.image)).log_softmax(-1).numpy()


def random_images(count: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (count, channels, 32, width), dtype=np.uint8)


@pytest.mark.parametrize(
    ("backbone", "batch_norm", "channels", "others"),
    [
        ("vgg", "paper", 1, {}), ("small", "all", 3, {}), ("small", "paper", 1, {}),
        ("small", "dtrb", 1, {"pooling": "paper", "neck": "none"}), ("small", "all", 3, {"rnn2": "forward"}),
        ("vgg", "all", 1, {"pooling": "paper", "neck": "none", "rnn2": "forward", "image": {"mean": 127, "std": 64.5}}),
    ],
)  # fmt: skip
def test_it_says_what_torch_says(
    backbone: str, batch_norm: str, channels: int, others: dict[str, Any], weights_of: Any
) -> None:
    network, weights = weights_of(backbone=backbone, batch_norm=batch_norm, channels=channels, **others)
    graph = network_graph(weights)
    onnx.checker.check_model(graph, full_check=True)
    for count, width in ((1, 100), (3, 100), (2, 16), (1, 117), (2, 8)):
        images = random_images(count, width, channels)
        expected = by_torch(network, images)
        found = run(graph, images)
        assert found.dtype == np.float32
        assert found.shape == expected.shape == (count, time_steps(width, weights.config.model.pooling), 6)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    # The distributions differ from image to image and from step to step, or the comparison would say little.
    spread = np.exp(by_torch(network, random_images(4, 100, channels)))
    assert spread.std(axis=(0, 1)).max() > 0.01


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    config = settings(backbone="small")
    network = lively_network(config).half()
    save_weights(tmp_path / "half", network.state_dict(), config, {})
    weights = read_weights(tmp_path / "half")
    assert weights.tensors["head.weight"].dtype == np.float16
    graph = network_graph(weights)
    assert {onnx.numpy_helper.to_array(t).dtype for t in graph.graph.initializer} == {
        np.dtype(np.float32),
        np.dtype(np.int64),
    }
    images = random_images(2, 48)
    np.testing.assert_allclose(run(graph, images), by_torch(network.float(), images), atol=1e-4)


def test_the_form_that_other_programs_rely_on(weights_of: Any) -> None:
    _, weights = weights_of(backbone="small")
    graph = network_graph(weights)
    (images,), (log_probs,) = graph.graph.input, graph.graph.output
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (images, log_probs)]
    assert (images.name, images.type.tensor_type.elem_type, dims[0]) == (
        "images", onnx.TensorProto.UINT8, ["N", 1, 32, "W"],
    )  # fmt: skip
    assert (log_probs.name, log_probs.type.tensor_type.elem_type, dims[1]) == (
        "log_probs", onnx.TensorProto.FLOAT, ["N", "T", 6],
    )  # fmt: skip
    # ONNX Runtime 1.17 reads up to opset 20 and file format 9.
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)] == [("", 17)]
    assert graph.ir_version == 8
    assert network_graph(weights).SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda arrays: arrays.pop("neck.bias"), "neck.bias"),
        (lambda arrays: arrays.update(extra=np.zeros(1, np.float32)), "extra"),
        (lambda arrays: arrays.update({"rnn1.weight_hh_l0": np.zeros((3, 3), np.float32)}), "reshape"),
        (lambda arrays: arrays.update({"backbone.conv2.weight": np.zeros((3, 3), np.float32)}), "reshape"),
        (lambda arrays: arrays.update({"head.bias": np.zeros(7, np.float32)}), "reshape"),
    ],
    ids=["missing", "one-more", "recurrent", "kernel", "other-classes"],
)
def test_tensors_that_do_not_fit_are_refused(change: Callable[..., Any], named: str, weights_of: Any) -> None:
    _, weights = weights_of(backbone="small")
    arrays = dict(weights.tensors)
    change(arrays)
    with pytest.raises(CheckpointError, match=rf"tensors do not fit the network of its settings \(.*{named}") as caught:
        network_graph(replace(weights, tensors=arrays))
    assert "\n" not in str(caught.value)
