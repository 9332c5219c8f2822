"""Exported files: what is in them comes back, and none that is damaged, foreign or too new is opened."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.engines.exported_file import (
    FORMAT_VERSION,
    METADATA_KEY,
    SHA256_KEY,
    UNSEALED,
    read_engine_file,
    sealed,
)
from crnn.engines.loading import open_model
from crnn.engines.onnx_graph import network_graph
from crnn.errors import CheckpointError
from crnn.export import export
from crnn.model.weights import read_weights
from crnn.recognizer import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def exported(trained_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run as a file."""
    path = tmp_path_factory.mktemp("exported") / "words.onnx"
    export(trained_run.folder, path, samples=4)
    return path


@pytest.fixture
def path(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported file, so that it may be spoilt."""
    copy = tmp_path / exported.name
    copy.write_bytes(exported.read_bytes())
    return copy


def rewritten(path: Path, **changes: Any) -> None:
    """The ONNX file with other metadata, and a checksum that fits."""
    model = onnx.load(path)
    metadata = {**json.loads(model.metadata_props[0].value), **changes}
    del model.metadata_props[:]
    for key, value in ((METADATA_KEY, json.dumps(metadata)), (SHA256_KEY, UNSEALED)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(sealed(model.SerializeToString()))


def test_what_was_written_comes_back(exported: Path, trained_run: Any) -> None:
    weights = read_weights(trained_run.folder)
    file = read_engine_file(exported)
    assert file.config == weights.config
    assert file.precision == "fp32"
    assert file.calibration == weights.calibration
    assert len(file.info["source_sha256"]) == 64
    assert file.model == exported.read_bytes()


def test_the_calibration_comes_along(path: Path) -> None:
    assert open_model(path)[2] is None
    both = Calibration(ConfidenceCurve(0.8, 0.1, 30, 0.9), ConfidenceCurve(1.2, -0.1, 30, 0.95), ("a", "b"))
    rewritten(path, calibration=both.as_dict())
    found = open_model(path)[2]
    assert found is not None
    assert found.as_dict() == both.as_dict()


def test_characters_beyond_ascii_come_back(trained_run: Any, path: Path) -> None:
    settings = read_weights(trained_run.folder).config.model_dump(mode="json", exclude_none=True)
    settings["charset"]["characters"] = "äöüßабв語\U0001f600" + "0123456789abcdefghijklmnopqrstuvwxyz"[:27]
    rewritten(path, config=settings, characters=settings["charset"]["characters"])
    assert read_engine_file(path).config.charset.characters == settings["charset"]["characters"]


def test_any_engine_reads_a_file_whole(exported: Path, trained_run: Any) -> None:
    images = [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]
    for engine in ("onnx", "openvino"):
        readings = load(exported, engine=engine, threads=1).read(images)
        assert [reading.text for reading in readings] == trained_run.labels


def test_metadata_of_any_depth_are_refused_in_one_line(path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in ((METADATA_KEY, "[" * 100_000), (SHA256_KEY, UNSEALED)):
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(sealed(model.SerializeToString()))
    with pytest.raises(CheckpointError, match="metadata is no JSON object") as caught:
        read_engine_file(path)
    assert "\n" not in str(caught.value)


def test_a_bit_that_changed_is_found(path: Path) -> None:
    data = path.read_bytes()
    digest = data.index(onnx.load(path).metadata_props[1].value.encode())
    for place in (len(data) // 2, digest):  # a bit of the checksum itself counts too
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"checksum does not fit|no metadata of crnn's"):
            read_engine_file(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut_short_is_refused(share: float, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"cut short|checksum does not fit"):
        read_engine_file(path)


def test_other_files_are_refused(trained_run: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx: cannot be read: No such file"):
        open_model(tmp_path / "none.onnx")
    path = tmp_path / "foreign.onnx"
    onnx.save(network_graph(read_weights(trained_run.folder)), path)
    with pytest.raises(CheckpointError, match="has no metadata of crnn's, or is cut short"):
        open_model(path)
    path = path.with_suffix(".xml")
    path.write_text("<net><rt_info/></net>")
    with pytest.raises(CheckpointError, match=r"foreign\.xml: files of OpenVINO's own format are not read"):
        open_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crnn-weights"}, "is a 'crnn-weights' file; expected crnn-engine, such as a file of crnn export"),
        (
            {"format_version": FORMAT_VERSION + 1, "crnn_version": "9.0"},
            "has format version 2; expected at most 1. Upgrade",
        ),
        ({"precision": "int4"}, "has precision 'int4'; expected one of: fp32, bf16, int8"),
        ({"characters": "abc"}, "the charset's name and its characters in the file contradict each other"),
        ({"config": {"model": {"backbone": "resnet"}}}, "settings in the file cannot be used"),
        ({"calibration": {"temperature": -1}}, "Make it anew with crnn calibrate"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str, path: Path) -> None:
    rewritten(path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 20_000, 3_000_000])
def test_metadata_of_any_length_are_found(size: int, path: Path) -> None:
    """Their length stands in front of them in two bytes, three or four."""
    rewritten(path, info={"note": "x" * size})
    assert len(read_engine_file(path).info["note"]) == size
