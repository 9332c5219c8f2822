"""Exported files: what is in them comes back, and none that is damaged, foreign or too new is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.engines.engine_file import (
    ENGINE_FORMAT,
    FORMAT_VERSION,
    METADATA_KEY,
    SHA256_KEY,
    UNSEALED,
    read_engine_file,
    sealed,
)
from crnn.engines.network_graph import network_graph
from crnn.engines.opening import open_model
from crnn.errors import CheckpointError
from crnn.export import export
from crnn.reader_config import ReaderConfig
from crnn.recognizer import load
from crnn.weights_file import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SUFFIXES = (".onnx", ".xml")


@pytest.fixture(scope="module")
def exported(trained_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained run as files, by suffix."""
    folder = tmp_path_factory.mktemp("exported")
    files = {suffix: folder / f"words{suffix}" for suffix in SUFFIXES}
    for path in files.values():
        export(trained_run.folder, path, samples=4)
    return files


@pytest.fixture
def copied(exported: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies an exported file, so that it may be spoilt."""

    def copy(suffix: str) -> Path:
        for part in exported[suffix].parent.glob(f"{exported[suffix].stem}.*"):
            (tmp_path / part.name).write_bytes(part.read_bytes())
        return tmp_path / exported[suffix].name

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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_comes_back(suffix: str, exported: dict[str, Path], trained_run: Any) -> None:
    weights = read_weights(trained_run.folder)
    file = read_engine_file(exported[suffix])
    assert file.config == weights.config
    assert file.precision == "fp32"
    assert file.calibration == weights.calibration
    assert len(file.info["source_sha256"]) == 64
    assert (file.model is None) == (suffix == ".xml")


def test_the_calibration_comes_along(exported: dict[str, Path], copied: Callable[[str], Path]) -> None:
    path = copied(".onnx")
    assert open_model(path).calibration is None
    values = {
        "temperature": 1.5,
        "samples": 9,
        "accuracy": 0.9,
        "error_before": 0.1,
        "error_after": 0.05,
        "data": ["a"],
    }
    rewritten(path, calibration=values)
    old = open_model(path).calibration  # of files of before, which had a temperature
    assert old is not None
    assert (old.greedy.slope, old.greedy.offset, old.language) == (pytest.approx(1 / 1.5), 0.0, None)
    both = Calibration(ConfidenceCurve(0.8, 0.1, 30, 0.9), ConfidenceCurve(1.2, -0.1, 30, 0.95), ("a", "b"))
    rewritten(path, calibration=both.as_dict())
    found = open_model(path).calibration
    assert found is not None
    assert found.as_dict() == both.as_dict()


def test_characters_beyond_ascii_come_back(trained_run: Any, copied: Callable[[str], Path]) -> None:
    path = copied(".onnx")
    settings = read_weights(trained_run.folder).config.model_dump(mode="json", exclude_none=True)
    settings["charset"]["characters"] = "äöüßабв語\U0001f600" + "0123456789abcdefghijklmnopqrstuvwxyz"[:27]
    rewritten(path, config=settings, characters=settings["charset"]["characters"])
    assert read_engine_file(path).config.charset.characters == settings["charset"]["characters"]


def test_any_engine_reads_a_file_whole(exported: dict[str, Path], trained_run: Any) -> None:
    pictures = [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]
    for path, engine in ((exported[".onnx"], "onnx"), (exported[".onnx"], "openvino"), (exported[".xml"], "openvino")):
        readings = load(path, engine=engine, threads=1).read(pictures)  # type: ignore[arg-type]
        assert [reading.text for reading in readings] == trained_run.labels


@pytest.mark.parametrize(
    ("suffix", "part", "names"),
    [(".onnx", ".onnx", "it is damaged"), (".xml", ".xml", "damaged"), (".xml", ".bin", "it or words.bin is damaged")],
)
def test_a_bit_that_changed_is_found(suffix: str, part: str, names: str, copied: Callable[[str], Path]) -> None:
    path = copied(suffix)
    spoilt = path.with_suffix(part)
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"checksum does not fit, .*{names}"):
        read_engine_file(path)


def test_a_bit_of_the_checksum_itself_counts_too(copied: Callable[[str], Path]) -> None:
    path = copied(".onnx")
    data = path.read_bytes()
    digest = onnx.load(path).metadata_props[1].value.encode()
    other = (b"1" if digest[:1] == b"0" else b"0") + digest[1:]
    path.write_bytes(data.replace(digest, other))
    with pytest.raises(CheckpointError, match="checksum does not fit"):
        read_engine_file(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut_short_is_refused(suffix: str, share: float, copied: Callable[[str], Path]) -> None:
    path = copied(suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"cut short|checksum does not fit"):
        read_engine_file(path)


def test_weights_that_are_cut_short_are_refused(copied: Callable[[str], Path]) -> None:
    path = copied(".xml")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"it or words\.bin is damaged"):
        read_engine_file(path)


def test_an_xml_without_its_bin_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied(".xml")
    path.with_suffix(".bin").unlink()
    with pytest.raises(
        CheckpointError, match=r"words\.bin: no such file; expected the weights that belong to words\.xml"
    ):
        read_engine_file(path)


@pytest.mark.parametrize("name", ["none.onnx", "none.xml"])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file; expected an exported file"):
        open_model(tmp_path / name)


def test_a_graph_of_another_program_is_refused(trained_run: Any, tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(network_graph(read_weights(trained_run.folder)), path)
    with pytest.raises(CheckpointError, match="has no metadata of crnn's, or is cut short"):
        open_model(path)
    (tmp_path / "foreign.xml").write_text("<net><rt_info/></net>")
    (tmp_path / "foreign.bin").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError, match="has no metadata of crnn's, or is cut short"):
        open_model(tmp_path / "foreign.xml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crnn-weights"}, "is a 'crnn-weights' file; expected one written by crnn export"),
        ({"format_version": FORMAT_VERSION + 1, "crnn_version": "9.0"}, "has format version 2 of crnn 9.0; .* Upgrade"),
        ({"format_version": None}, "has format version None"),
        ({"precision": "int4"}, "has precision 'int4'; expected one of: fp32, bf16, int8"),
        ({"characters": "abc"}, "the charset's name and its characters in the file contradict each other"),
        ({"config": {"model": {"backbone": "resnet"}}}, "settings in the file cannot be used"),
        ({"config": 5}, "settings in the file cannot be used"),
        ({"calibration": {"temperature": -1}}, "Make it anew with crnn calibrate"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str, copied: Callable[[str], Path]
) -> None:
    path = copied(".onnx")
    rewritten(path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 20_000, 3_000_000])
def test_metadata_of_any_length_are_found(size: int, tmp_path: Path) -> None:
    """Their length stands in front of them in one byte, two, three or four."""
    config = ReaderConfig()
    metadata = {
        "format": ENGINE_FORMAT, "format_version": FORMAT_VERSION, "precision": "fp32", "info": {"note": "x" * size},
        "config": config.model_dump(mode="json", exclude_none=True), "characters": config.charset.charset().characters,
    }  # fmt: skip
    model = onnx.ModelProto()
    for key, value in ((METADATA_KEY, json.dumps(metadata)), (SHA256_KEY, UNSEALED)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path = tmp_path / "long.onnx"
    path.write_bytes(sealed(model.SerializeToString()))
    assert len(read_engine_file(path).info["note"]) == size


def test_a_file_is_sealed_with_its_weights() -> None:
    empty = f'<{SHA256_KEY} value="{UNSEALED}"/>'.encode()
    assert len({sealed(empty, weights) for weights in (b"", b"a", b"b")}) == 3
    assert all(UNSEALED.encode() not in sealed(empty, weights) for weights in (b"", b"a"))


def test_metadata_are_read_without_the_packages_of_engines(exported: dict[str, Path]) -> None:
    """They cost a good part of a second, and what reads need not be what runs."""
    code = (
        "import sys\n"
        "from crnn.engines.engine_file import read_engine_file\n"
        f"assert all(read_engine_file(path).precision == 'fp32' for path in {[str(p) for p in exported.values()]})\n"
        "print(sorted({'onnx', 'onnxruntime', 'openvino', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
