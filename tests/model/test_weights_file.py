"""Weights files read without torch: the same tensors and the same refusals as with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crnn.config.model import parse_reader_config
from crnn.errors import CheckpointError
from crnn.model.checkpoint import load_weights, read_tensors, save_weights, write_tensors
from crnn.model.crnn import build_model
from crnn.model.weights import DEFAULT_MODEL, read_weights


def saved(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    values = {"model": {"backbone": "small", "hidden_size": 8}, "charset": {"characters": "abc"}}
    config = parse_reader_config(values, "test")
    state = build_model(config.model, config.image, 4, seed=0).to(dtype).state_dict()
    save_weights(path, state, config, {"step": 7})
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_same_as_with_torch(dtype: torch.dtype, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", dtype)
    found, expected = read_weights(path), load_weights(path)
    assert (found.config, found.info, found.path) == (expected.config, expected.info, expected.path)
    assert found.calibration is None
    assert found.tensors.keys() == expected.tensors.keys()
    for name, array in found.tensors.items():
        assert array.dtype == expected.tensors[name].numpy().dtype
        np.testing.assert_array_equal(array, expected.tensors[name].numpy())


def test_shipped_weights_and_their_calibration() -> None:
    found, expected = read_weights(DEFAULT_MODEL), load_weights(DEFAULT_MODEL)
    assert found.path == expected.path
    assert found.calibration == expected.calibration is not None
    assert found.tensors["head.bias"].dtype == np.float16


def test_a_run_folder_gives_its_best(tmp_path: Path) -> None:
    saved(tmp_path / "last.safetensors")
    assert read_weights(tmp_path).path.name == "last.safetensors"
    saved(tmp_path / "best.safetensors")
    assert read_weights(str(tmp_path)).path.name == "best.safetensors"


@pytest.mark.parametrize("read", [read_weights, load_weights])
def test_what_is_no_weights_file_at_all_is_said(read: Any, tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"w\.onnx: is an exported file; expected weights"):
        read(tmp_path / "w.onnx")
    with pytest.raises(CheckpointError, match="the model's name is empty"):
        read("")


def test_a_type_that_numpy_has_not_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", torch.bfloat16)
    assert load_weights(path).tensors["head.bias"].dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="has tensors of type BF16, which numpy has not") as caught:
        read_weights(path)
    assert "--engine torch" in str(caught.value)


@pytest.mark.parametrize("place", [0, 9, 2000, -1])
def test_a_changed_byte_is_refused(place: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors")
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: "):
        read_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crnn-checkpoint"}, "is a 'crnn-checkpoint' file; expected weights"),
        ({"format_version": 2}, "has format version 2 of crnn"),
        ({"config": {"model": {"backbone": "huge"}}}, "settings in the file cannot be used"),
        ({"characters": "abd"}, "the charset's name and its characters in the file contradict each other"),
        ({"calibration": {"temperature": -1}}, "Make it anew with crnn calibrate"),
    ],
    ids=["format", "version", "config", "characters", "calibration"],
)
def test_metadata_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors")
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {**metadata, **changes})
    for read in (read_weights, load_weights):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_program_s_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="without crnn's metadata"):
        read_weights(tmp_path / "other.safetensors")
    (tmp_path / "short.safetensors").write_bytes(saved(tmp_path / "w.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="not a safetensors file, or cut short"):
        read_weights(tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match="is no weights file, run folder or shipped name"):
        read_weights(tmp_path / "nothing")
