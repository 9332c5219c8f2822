"""The graph in 8 bits: integers where they should be, and outputs near to those of float32, in both engines."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from crnn.config.model import ImageConfig, ModelConfig, ReaderConfig
from crnn.engines.loading import open_model
from crnn.engines.onnx_engine import OnnxEngine
from crnn.engines.onnx_graph import network_graph
from crnn.engines.openvino_engine import OpenVinoEngine
from crnn.errors import DataError
from crnn.export import drawn_images, export, stored_images
from crnn.model.checkpoint import save_weights
from crnn.model.crnn import build_model
from crnn.model.weights import read_weights
from crnn.quantize import quantize_graph
from crnn.recognizer import load
from crnn.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")


def distance(a, b):
    """Mean total variation distance of distributions over classes."""
    return float(0.5 * np.abs(np.exp(a) - np.exp(b)).sum(axis=2).mean())


@pytest.fixture(scope="module")
def weights(trained_run):
    return read_weights(trained_run.folder)


@pytest.fixture(scope="module")
def words(trained_run, weights):
    return stored_images([str(trained_run.words)], weights.config.image, 64)


@pytest.fixture(scope="module")
def quantized(weights, words):
    return quantize_graph(network_graph(weights), words)


def engines(graph):
    data = graph.SerializeToString()
    return {
        "onnx": OnnxEngine(data, channels=1, threads=1),
        "openvino": OpenVinoEngine(data, channels=1, threads=1),
        "openvino int8": OpenVinoEngine(data, channels=1, threads=1, precision="int8"),
    }


def test_both_engines_are_near_to_float32(weights, words, quantized):
    exact = OnnxEngine(network_graph(weights).SerializeToString(), channels=1, threads=1)
    for images in words:
        expected = exact.log_probs(images)
        for name, engine in engines(quantized.graph).items():
            found = engine.log_probs(images)
            assert 0 < distance(found, expected) < 0.02, name
            assert (found.argmax(axis=2) == expected.argmax(axis=2)).mean() > 0.97, name


def test_pixels_themselves_lose_nothing(weights, words, quantized):
    """Inside of the image the first convolution is exact but for its kernel; 128 instead of 127.5 is in the bias."""
    plain = network_graph(weights)
    arrays = {t.name: numpy_helper.to_array(t) for t in quantized.graph.graph.initializer}
    kernel = arrays["conv1.weight.integers"] * arrays["conv1.weight.scale"].reshape(-1, 1, 1, 1)
    for tensor in plain.graph.initializer:
        if tensor.name == "conv1.weight":
            tensor.CopyFrom(numpy_helper.from_array(kernel.astype(np.float32), tensor.name))
    outputs = []
    for model in (plain, quantized.graph):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output[0].name = "conv1"
        for dimension in watched.graph.output[0].type.tensor_type.shape.dim:
            dimension.Clear()
        watched.graph.output[0].type.tensor_type.ClearField("shape")
        engine = OnnxEngine(watched.SerializeToString(), channels=1, threads=1)
        outputs.append(engine.log_probs(words[0])[:, :, 2:-2, 2:-2])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4)


@pytest.mark.slow
def test_a_network_with_all_options_of_others_learns_and_reads_in_int8(word_list, small_config, tmp_path):
    """Words by heart, in every engine and in int8."""
    words = word_list(labels=["cat", "dog", "42", "bird", "tree", "net"] * 2)
    config = small_config(
        words, charset={"characters": "36"},
        model={"hidden_size": 32, "pooling": "paper", "neck": "none", "rnn2": "forward"},
        image={"image_width": 48, "mean": 100.25, "std": 64.0},
        data={"validation": [str(words)]}, eval={"eval_steps": 260},
        optim={"learning_rate": 6e-3, "momentum": 0.7, "warmup": 0.1, "ema_decay": 0.5},
        train={"batch_size": 12, "num_steps": 260}, checkpoint={"save_checkpoint_steps": 260},
    )  # fmt: skip
    report = train(config)
    assert report.best_accuracy == 1.0
    weights = read_weights(report.weights)
    batches = stored_images([str(words)], weights.config.image, 64)
    expected = [open_model(report.weights, engine="torch")[0].log_probs(images) for images in batches]
    plain = network_graph(weights)
    for graph, limit in ((plain, 1e-5), (quantize_graph(plain, batches).graph, 0.02)):
        for name, engine in engines(graph).items():
            for images, wanted in zip(batches, expected, strict=True):
                found = engine.log_probs(images)
                assert found.shape[1] == 48 // 4 + 1, name
                assert distance(found, wanted) < (limit if "int8" not in name else 0.02), name
                assert (found.argmax(axis=2) == wanted.argmax(axis=2)).mean() > 0.97, name
    export(report.weights, tmp_path / "other.onnx", precision="int8", data=[str(words)])
    (first,) = load(tmp_path / "other.onnx", threads=1).read([words.parent / "images" / "5.png"])
    assert first.text == "tree"
    # Ink is from pixel 4 to about 40 of 56: with the places of the other pooling all would stand 4 to the right.
    assert first.characters[0].start < 8
    middles = [(c.start + c.end) / 2 for c in first.characters]
    assert middles == sorted(middles)


def test_what_is_in_integers(weights, quantized):
    arrays = {t.name: numpy_helper.to_array(t) for t in quantized.graph.graph.initializer}
    source = network_graph(weights)
    plain = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
    for name in (f"conv{number}.weight" for number in range(1, 8)):
        integers, scale = arrays[f"{name}.integers"], arrays[f"{name}.scale"].reshape(-1, 1, 1, 1)
        assert integers.dtype == np.int8
        assert len(scale) == len(plain[name])  # one for each channel
        assert np.abs(integers * scale - plain[name]).max() <= 0.501 * scale.max()
        assert (np.abs(integers).reshape(len(scale), -1).max(axis=1) == 127).all()
    for name in ("rnn1.input_weight", "rnn1.recurrent_weight", "rnn2.input_weight", "rnn2.recurrent_weight"):
        assert arrays[f"{name}.integers"].dtype == np.int8
        assert arrays[f"{name}.scale"].shape == (*plain[name].shape[:2], 1)  # one for each row
    assert quantized.kept == ("rnn1", "neck.product", "rnn2", "head.product")
    assert len(quantized.graph.SerializeToString()) < 0.35 * len(source.SerializeToString())


def test_without_images_there_is_nothing_to_go_by(weights):
    with pytest.raises(DataError, match="there are no images to quantise with; expected some hundreds"):
        quantize_graph(network_graph(weights), [])


@pytest.mark.parametrize("backbone", ["vgg", "small"])
def test_any_network_can_be_quantised(backbone, tmp_path):
    """Both backbones, normalised as in the paper, in colour, and a channel that is all zero."""
    config = ReaderConfig(
        model=ModelConfig(backbone=backbone, batch_norm="paper", hidden_size=8), image=ImageConfig(image_channels=3)
    )
    network = build_model(config.model, config.image, 37, seed=1)
    state = network.state_dict()
    state["backbone.conv2.weight"][0] = 0
    save_weights(tmp_path / "any.safetensors", state, config, {})
    graph = network_graph(read_weights(tmp_path / "any.safetensors"))
    images = drawn_images(config, 4)
    quantized = quantize_graph(graph, images)
    expected = OnnxEngine(graph.SerializeToString(), channels=3, threads=1).log_probs(images[0])
    data = quantized.graph.SerializeToString()
    for engine in (OnnxEngine(data, channels=3, threads=1), OpenVinoEngine(data, channels=3, threads=1)):
        assert distance(engine.log_probs(images[0]), expected) < 0.02
