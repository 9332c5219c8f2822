"""Exporting: every form is read back and compared, and one that is not its source is not written."""

import errno

import numpy as np
import pytest
from onnx import numpy_helper

import crnn.engines.onnx_graph
import crnn.export
import crnn.files
import crnn.interop.runtimes
import crnn.quantize
from crnn.config.model import ImageConfig, ModelConfig, ReaderConfig
from crnn.engines.exported_file import read_engine_file
from crnn.engines.loading import open_model
from crnn.errors import CheckpointError, ConfigError, DataError, ExportMismatchError, MissingExtraError
from crnn.export import LIMITS, drawn_images, export, rendered_images, stored_images
from crnn.model.checkpoint import save_weights
from crnn.model.crnn import build_model
from crnn.recognizer import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def words(trained_run):
    return (str(trained_run.words),)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_each_form_reads_the_words(precision, trained_run, words, tmp_path):
    path = tmp_path / "words.onnx"
    report = export(trained_run.folder, path, precision=precision, data=words)
    assert list(tmp_path.iterdir()) == [path]
    assert report.size == path.stat().st_size
    weights = (trained_run.folder / "best.safetensors").stat().st_size
    assert precision == "fp32" or report.size < 0.5 * weights
    assert report.source == "torch"
    assert [c.engine for c in report.comparisons] == ["onnx", "openvino"]
    assert all(c.problem(LIMITS[precision]) is None for c in report.comparisons)
    assert (report.quantized is not None) == (precision == "int8")
    assert read_engine_file(path).precision == precision
    images = [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]
    for comparison in report.comparisons:
        readings = load(path, engine=comparison.engine, threads=1).read(images)
        assert [reading.text for reading in readings] == trained_run.labels


def test_several_widths_are_compared_where_there_are_some(tmp_path):
    config = ReaderConfig(
        image=ImageConfig(resize="keep_ratio", image_channels=3), model=ModelConfig(backbone="small", hidden_size=8)
    )
    network = build_model(config.model, config.image, 37, seed=0)
    save_weights(tmp_path / "any.safetensors", network.state_dict(), config, {})
    report = export(tmp_path / "any.safetensors", tmp_path / "any.onnx", samples=24)
    assert report.comparisons[0].images > len(report.comparisons[0].widths) > 3


@pytest.fixture
def spoiled(monkeypatch):
    """Graphs have another last bias."""
    build = crnn.engines.onnx_graph.network_graph

    def wrong(weights):
        graph = build(weights)
        for tensor in graph.graph.initializer:
            if tensor.name == "head.bias":
                bias = numpy_helper.to_array(tensor).copy()
                bias[0] += 0.5
                tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
        return graph

    monkeypatch.setattr(crnn.engines.onnx_graph, "network_graph", wrong)


def test_a_file_that_is_not_its_source_is_not_written(trained_run, spoiled, tmp_path, run):
    path = tmp_path / "words.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ExportMismatchError, match=r"not written.*log-probabilities differ by .* at most 0\.001"):
        export(trained_run.folder, path)
    status, out, err = run("export", trained_run.folder, path)
    assert (status, out) == (1, "")
    assert "words.onnx: not written" in err.splitlines()[-1]
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"what was there"]


def test_a_bad_quantization_is_found(trained_run, words, tmp_path, monkeypatch):
    measured = crnn.quantize._activation_ranges

    def narrow(*arguments):
        return {name: (low, 0.05 * high) for name, (low, high) in measured(*arguments).items()}

    monkeypatch.setattr(crnn.quantize, "_activation_ranges", narrow)
    with pytest.raises(ExportMismatchError, match=r"distributions by .*texts, at most 20 %.*--data"):
        export(trained_run.folder, tmp_path / "words.onnx", precision="int8", data=words)
    assert not list(tmp_path.iterdir())


def test_the_full_disk_leaves_nothing(trained_run, tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(crnn.files.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*words\.onnx: the disk is full"):
        export(trained_run.folder, tmp_path / "words.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_command_prints(trained_run, words, tmp_path, run):
    out = tmp_path / "words.onnx"
    status, printed, _ = run(
        "export", trained_run.folder, out, "--precision", "int8", "--data", *words, "--samples", "9"
    )
    assert status == 0
    lines = printed.splitlines()
    assert lines[0].startswith(f"{out}: ")
    assert lines[0].endswith(" MB, int8")
    assert "7 convolutions in int8" in lines[1]
    assert "9 images of" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["onnx", "openvino"]
    assert "of 9 texts differ" in lines[2]
    status, printed, _ = run("read", trained_run.words.parent / "images" / "1.png", "--model", out)
    assert (status, printed.split("\t")[1]) == (0, trained_run.labels[0])


def test_a_file_for_another_runtime(trained_run, tmp_path, monkeypatch, run):
    out = tmp_path / "words"
    status, printed, _ = run("export", trained_run.folder, out, "--for", "opencv", "--width", "64")
    assert status == 0
    first, second = printed.splitlines()
    assert first.startswith(f"{out}: ")
    assert first.endswith(" MB for opencv")
    assert "24 of 24 drawn words" in second
    monkeypatch.setattr(crnn.interop.runtimes, "_blank_first", lambda weights: weights)
    status, printed, err = run("export", trained_run.folder, tmp_path / "b", "--for", "opencv")
    assert (status, printed) == (1, "")
    assert "drawn words differ" in err
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "none/a.onnx"], "expected a file in a folder that exists"),
        (["RUN", "a.onnx", "--samples", "0"], "samples is 0; expected 1 or more"),
        (["b.onnx", "a.onnx"], "is exported already; expected weights"),
        (["RUN", "a.onnx", "--data", "none"], "none: there is no such file or folder"),
        (["RUN", "a", "--for", "opencv", "--precision", "int8"], "--for opencv takes neither --precision nor --data"),
        (["RUN", "a", "--width", "128"], "--width does nothing without --for"),
        (["b.onnx", "a", "--for", "opencv"], "is exported already; expected weights"),
    ],
    ids=str,
)
def test_errors_are_one_line(arguments, message, trained_run, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("export", *(trained_run.folder if word == "RUN" else word for word in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_without_torch_int8_needs_data(trained_run, words, tmp_path, monkeypatch):
    find = crnn.export.find_spec
    monkeypatch.setattr(crnn.export, "find_spec", lambda name: None if name == "torch" else find(name))
    monkeypatch.setattr(crnn.export, "installed_engines", lambda: ["openvino", "onnx"])
    with pytest.raises(MissingExtraError, match="quantising without --data"):
        export(trained_run.folder, tmp_path / "a.onnx", precision="int8")
    assert export(trained_run.folder, tmp_path / "a.onnx", precision="int8", data=words).source == "onnx"
    assert export(trained_run.folder, tmp_path / "b.onnx").source == "onnx"


# ---- the images


def test_stored_images_come_from_all_over_the_sets(trained_run, word_list, tmp_path):
    image = ImageConfig(image_width=48)
    other = word_list(30)
    batches = stored_images([str(trained_run.words), f"more={other}"], image, 21)
    assert sum(len(batch) for batch in batches) == 21
    assert {batch.shape[1:] for batch in batches} == {(1, 32, 48)}
    (other.parent / "images" / "1.png").write_bytes(b"no image")
    said = []
    fewer = stored_images([str(other)], image, 1000, said.append)
    assert sum(len(batch) for batch in fewer) == 29
    (line,) = said
    assert line.startswith("1 of 30 images cannot be read and are left out; the first: ")
    assert f"{other}: images/1.png: " in line


def test_no_stored_image_is_an_error(word_list):
    path = word_list(1)
    (path.parent / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"has no images that can be read \(.*images/1\.png: .*\); expected"):
        stored_images([str(path)], ImageConfig(), 10)


@pytest.mark.parametrize(
    ("make", "image"),
    [
        (rendered_images, ImageConfig(resize="keep_ratio", image_channels=3)),
        (drawn_images, ImageConfig(resize="keep_ratio")),
        (drawn_images, ImageConfig(image_width=64)),
    ],
)
def test_images_that_are_made_are_the_same_at_every_call(make, image):
    config = ReaderConfig(image=image)
    first, second = make(config, 8), make(config, 8)
    assert sum(len(batch) for batch in first) == 8
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.uint8
        assert a.shape[1:3] == (image.image_channels, 32)
        assert a.std() > 5
    widths = {batch.shape[3] for batch in first}
    assert widths == {64} if image.resize == "squash" else len(widths) > 3


def test_characters_that_no_face_has_need_data():
    config = ReaderConfig()
    config = config.model_copy(update={"charset": config.charset.model_copy(update={"characters": "語漢"})})
    with pytest.raises(ConfigError, match=r"cannot be rendered: .*Give images with --data"):
        rendered_images(config, 4)


def test_an_exported_file_opens_with_bf16_on_top(trained_run, tmp_path):
    """A file in fp32 may be computed in bf16 as any weights may; one in int8 may not."""
    export(trained_run.folder, tmp_path / "a.onnx")
    images = drawn_images(open_model(tmp_path / "a.onnx")[1], 2)[0]
    exact = open_model(tmp_path / "a.onnx", engine="openvino")[0].log_probs(images)
    rough = open_model(tmp_path / "a.onnx", engine="openvino", precision="bf16")[0].log_probs(images)
    np.testing.assert_allclose(np.exp(rough), np.exp(exact), atol=0.1)
