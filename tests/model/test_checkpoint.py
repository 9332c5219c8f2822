"""Weights files: what is written is read back whole, what is not whole is refused, nothing is unpickled."""

import errno
import os
import pickle
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from crnn.charset import Charset
from crnn.config.model import ReaderConfig, parse_reader_config
from crnn.engines.exported_file import read_engine_file
from crnn.errors import CheckpointError
from crnn.files import atomic_write
from crnn.model.checkpoint import build_network, load_weights, read_tensors, save_weights, warm_start, write_tensors
from crnn.model.crnn import CRNN, build_model
from crnn.model.weights import DEFAULT_MODEL, read_weights, resolve_weights, tensor_digest

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(characters: str = "abcdef", **sections: dict[str, Any]) -> ReaderConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"backbone": "small", "hidden_size": 16},
        "charset": {"characters": characters},
    }
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    return parse_reader_config(values, "test")


def network_of(config: ReaderConfig, seed: int = 7) -> CRNN:
    """With running statistics that are not those of a new network."""
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network.eval()


def saved(path: Path, config: ReaderConfig | None = None, seed: int = 7, dtype: torch.dtype = torch.float32) -> Path:
    config = config or settings()
    save_weights(path, network_of(config, seed).to(dtype).state_dict(), config, {"step": 12})
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(path: Path) -> str:
    """The message of ``load_weights``, which has to be one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# ---- Written and read


@pytest.mark.parametrize(
    "config",
    [
        settings(),
        settings(model={"batch_norm": "paper", "use_dropout": True, "dropout": 0.4, "class_num": 7, "blank": 6}),
        settings("åb ç字", image={"image_channels": 3, "image_width": 64}),
        settings("94", image={"resize": "keep_ratio", "interpolation": "bilinear"}, charset={"characters": "94"}),
        settings("95", image={"resize": "keep_ratio"}),
    ],
    ids=["plain", "paper", "colour", "keep_ratio", "space"],
)
def test_a_weights_file_alone_rebuilds_its_network(tmp_path: Path, config: ReaderConfig) -> None:
    network = network_of(config)
    info = {"step": 3, "accuracy": 0.25, "note": "Ä\n", "nested": {"list": [1, None, True]}}
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), config, info)
    weights = load_weights(path)
    assert (weights.config, weights.info, weights.path) == (config, info, path)
    rebuilt = build_network(weights)
    assert not rebuilt.training
    images = torch.rand(2, config.image.image_channels, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(images), network(images))


def test_tensors_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "channels_last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
        "transposed": torch.arange(6).reshape(2, 3).t(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(2**40),
        "grad": torch.ones(2, requires_grad=True),
        "ä.β": torch.tensor([1, 2], dtype=torch.uint8),
    }
    write_tensors(tmp_path / "t", tensors, {"format": "test", "text": "ß", "list": [1, {"a": None}]})
    found, metadata = read_tensors(tmp_path / "t")
    assert metadata == {"format": "test", "text": "ß", "list": [1, {"a": None}]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())
    assert names_in(tmp_path) == ["t"]


def test_a_run_folder_means_its_best_weights_and_else_its_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a folder without best\.safetensors or last\.safetensors"):
        resolve_weights(tmp_path)
    last = saved(tmp_path / "last.safetensors")
    assert resolve_weights(str(tmp_path)) == last
    best = saved(tmp_path / "best.safetensors")
    assert resolve_weights(tmp_path) == best
    assert load_weights(tmp_path).path == best
    assert resolve_weights(last) == last


# ---- Damaged


def test_every_bit_counts(tmp_path: Path) -> None:
    """Each bit of a small file is flipped, header and all: never is anything but ``CheckpointError`` raised."""
    path = tmp_path / "small"
    write_tensors(path, {"a": torch.arange(5.0), "b": torch.tensor([3, 4])}, {"format": "test", "step": 3})
    good = path.read_bytes()
    assert len(good) < 600
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            path.write_bytes(bad)
            with pytest.raises(CheckpointError) as caught:
                read_tensors(path)
            assert str(path) in str(caught.value)
    path.write_bytes(good)
    assert read_tensors(path)[1]["step"] == 3


def test_a_file_that_is_cut_short_or_longer_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.safetensors")
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for length in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert "not a safetensors file, or cut short" in refused(path)
    path.write_bytes(good + b"\0")
    refused(path)


# ---- Foreign


class _Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    marker, path = tmp_path / "exploded", tmp_path / "weights.safetensors"
    bomb = pickle.dumps(_Bomb(marker))
    pickle.loads(bomb)
    assert marker.exists()  # the bomb works
    marker.unlink()
    path.write_bytes(bomb)
    refused(path)
    torch.save({"head.weight": _Bomb(marker)}, path)
    refused(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"hello, world\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(64), b"\xff" * 100, b"{}"])
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert "expected one written by crnn" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "is a Git LFS pointer; expected"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "is an HTML or XML page; .*Download the file itself"),
        (b"PK\x03\x04" + bytes(60), "is a pickle or zip archive, as PyTorch's .pth files are; .*Nothing is unpickled"),
        (pickle.dumps([1.5] * 20), "is a pickle or zip archive"),
    ],
    ids=["lfs", "html", "zip", "pickle"],
)
def test_what_is_given_in_place_of_weights_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert re.search(message, refused(path))
    path = path.with_suffix(".onnx")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_engine_file(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"sha256": '"00"'}])
def test_safetensors_of_another_program_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"head.weight": torch.zeros(3, 2)}, path, metadata=metadata)
    assert "without crnn's metadata" in refused(path)


# ---- Whole, and yet not to be used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crnn-checkpoint"}, "is a 'crnn-checkpoint' file; expected crnn-weights"),
        ({"format_version": 2, "crnn_version": "9.1"}, "has format version 2; expected at most 1. Upgrade"),
        ({"format_version": "1"}, "has format version '1'"),
        ({"config": {"model": {"backbone": "small", "class_num": 40}}}, "model.class_num is 40 but must be 37"),
        ({"config": {"model": {"hiden_size": 16}}}, "did you mean 'model.hidden_size'"),
        ({"config": [1, 2]}, "settings in the file cannot be used"),
        ({"characters": "fedcba"}, "the charset's name and its characters in the file contradict each other"),
        ({"calibration": {"temperature": -1}}, "Make it anew with crnn calibrate"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "w")
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {**metadata, **changes})
    assert message in refused(path)


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000, "{"], ids=["deep", "long", "cut"])
def test_metadata_that_are_no_json(value: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    texts = {"format": '"crnn-weights"', "config": value}
    tensors = {"head.weight": torch.zeros(3, 2)}
    save_file(tensors, path, metadata={**texts, "sha256": tensor_digest(safetensors.torch.save(tensors), texts)})
    assert "metadata is not JSON" in refused(path)


def test_a_header_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_file({"head.weight": torch.zeros(3, 2)}, path, metadata={"format": "x" * (17 << 20)})
    assert "header too large" in refused(path)


@pytest.mark.parametrize(
    ("name", "dtype", "value"),
    [
        ("head.weight", torch.float32, float("nan")),
        ("head.weight", torch.float16, float("inf")),
        ("rnn2.bias_hh_l0_reverse", torch.bfloat16, float("-inf")),
        ("neck.weight", torch.float64, 1e39),  # inf in float32
        ("backbone.norm1.running_var", torch.float32, -0.01),  # its root is nan
    ],
)
def test_values_that_are_no_numbers_are_refused(name: str, dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    config, path = settings(), tmp_path / "w"
    state = network_of(config).state_dict()
    save_weights(path, {**state, name: state[name].to(dtype)}, config, {})
    assert load_weights(path).tensors[name].dtype == dtype
    state[name] = state[name].to(dtype)
    state[name].view(-1)[-1] = value
    save_weights(path, state, config, {})
    for read in (load_weights, read_weights)[: 1 if dtype == torch.bfloat16 else 2]:  # numpy has no bfloat16
        with pytest.raises(CheckpointError, match=f"w: tensor {name} has nan, inf or a variance below 0"):
            read(path)


def test_tensors_that_are_not_those_of_the_settings_are_refused(tmp_path: Path) -> None:
    config, path = settings(), tmp_path / "w"
    state = network_of(config).state_dict()
    for changed, name in (
        ({**state, "head.weight": state["head.weight"][:-1]}, "head.weight"),
        ({n: t for n, t in state.items() if n != "rnn1.weight_ih_l0"}, "rnn1.weight_ih_l0"),
        ({**state, "head.scale": torch.ones(1)}, "head.scale"),
    ):
        save_weights(path, changed, config, {})
        with pytest.raises(CheckpointError, match=rf"tensors do not fit the network of its settings: {name}"):
            build_network(load_weights(path))
    save_weights(path, {"a": torch.ones(1)}, config, {})
    with pytest.raises(CheckpointError, match=r"settings: .*, .*, .*"):
        build_network(load_weights(path))


# ---- Without torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_same_as_with_torch(dtype: torch.dtype, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", dtype=dtype)
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


def test_a_type_that_numpy_has_not_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", dtype=torch.bfloat16)
    assert load_weights(path).tensors["head.bias"].dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="has tensors of type BF16, which numpy has not") as caught:
        read_weights(path)
    assert "--engine torch" in str(caught.value)


def test_an_exported_file_is_no_weights_file(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"w\.onnx: is an exported file; expected weights"):
        read_weights(tmp_path / "w.onnx")


# ---- Writing that fails


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    # The partial file is a link to the device on which every write fails as on a full disk.
    path = saved(tmp_path / "weights.safetensors")
    content = path.read_bytes()
    (tmp_path / "weights.safetensors.partial").symlink_to("/dev/full")
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors: the disk is full; what was there before is untouched"
    ):
        saved(path, seed=8)
    assert path.read_bytes() == content
    assert names_in(tmp_path) == [path.name]


def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    atomic_write(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


# ---- Warm start


@pytest.mark.parametrize(
    ("new", "kept", "words"),
    [
        ("abcdef", "abcdef", "6 characters and the blank kept"),
        ("fedcba", "fedcba", "6 characters and the blank kept"),
        ("xfa9", "fa", "2 characters and the blank kept, new: 'x9', left behind: 'bcde'"),
        ("xyz", "", "0 characters and the blank kept, new: 'xyz', left behind: 'abcdef'"),
        ("0abcdef1", "abcdef", "6 characters and the blank kept, new: '01'"),
    ],
)
def test_a_warm_start_keeps_exactly_the_rows_of_shared_characters(
    tmp_path: Path, new: str, kept: str, words: str
) -> None:
    path = saved(tmp_path / "old")
    old = load_weights(path)
    config, charset = settings(new), Charset(new)
    network = build_model(config.model, config.image, charset.num_classes, seed=99)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert warm_start(network, charset, old) == f"warm start from {path}: {words}"
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, old.tensors[name]), name
            continue
        assert torch.equal(tensor[charset.blank], old.tensors[name][6])
        for character in new:
            (row,) = charset.encode(character)
            source = old.tensors[name]["abcdef".index(character)] if character in kept else fresh[name][row]
            assert torch.equal(tensor[row], source), (name, character)


@pytest.mark.parametrize(
    ("old_characters", "new", "sources", "words"),
    [
        ("abcdef", "ABÄ-b", "aba b", "1 characters and the blank kept, {}: 'ABÄ', new: '-', left behind: 'cdef'"),
        ("ABCDEF", "aé", "AE", "0 characters and the blank kept, {}: 'aé', left behind: 'BCDF'"),
        ("abcdeF", "fA\ufb00", "   ", "0 characters and the blank kept, new: 'fA\ufb00', left behind: 'abcdeF'"),
        ("äbcdef", "aÄ", " ä", "0 characters and the blank kept, {}: 'Ä', new: 'a', left behind: 'bcdef'"),
    ],
    ids=["folded", "folded to capitals", "case and ligatures told apart", "accents told apart"],
)
def test_a_warm_start_begins_a_character_as_what_it_was_read_as(
    tmp_path: Path, old_characters: str, new: str, sources: str, words: str
) -> None:
    charset = Charset(new)
    path = saved(tmp_path / "old", settings(old_characters))
    old = load_weights(path)
    network = network_of(settings(new), seed=99)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    words = words.format("begun as their other case or base letter")
    assert warm_start(network, charset, old) == f"warm start from {path}: {words}"
    for name in ("head.weight", "head.bias"):
        for row, source in enumerate(sources):
            expected = fresh[name][row] if source == " " else old.tensors[name][old_characters.index(source)]
            assert torch.equal(network.state_dict()[name][row], expected), (name, new[row])


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"backbone": "vgg"}},
        {"model": {"hidden_size": 24}},
        {"model": {"batch_norm": "paper"}},
        {"image": {"image_channels": 3}},
        {"model": {"neck": "none"}},
        {"model": {"rnn2": "forward"}},
        {"model": {"pooling": "paper"}},
        {"image": {"mean": 127.0}},
    ],
    ids=["backbone", "hidden_size", "batch_norm", "image_channels", "neck", "rnn2", "pooling", "mean"],
)
def test_a_warm_start_from_another_network_is_refused(tmp_path: Path, changes: dict[str, dict[str, Any]]) -> None:
    old = load_weights(saved(tmp_path / "old"))
    config = settings("abc", **changes)
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=99)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"backbone small, .*hidden_size 16") as caught:
        warm_start(network, config.charset.charset(), old)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
