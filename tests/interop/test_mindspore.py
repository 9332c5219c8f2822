"""MindSpore's checkpoints: what is read, and what is refused with a reason."""

import numpy as np
import pytest

from crnn.errors import CheckpointError
from crnn.interop.mindspore import read_checkpoint

RNG = np.random.default_rng(0)
TENSORS = {
    "conv.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "half": RNG.normal(size=(200,)).astype(np.float16),
    "double": RNG.normal(size=(2, 1)),
    "moments.conv.weight": np.zeros((4, 3, 3, 3), np.float32),
    "learning_rate": np.float32(0.1),
    "global_step": np.array(7, np.int32),
    "empty": np.zeros((0,), np.float32),
}


@pytest.mark.parametrize("crc", [False, True])
def test_every_tensor_comes_back(crc, make_checkpoint):
    found = read_checkpoint(make_checkpoint(TENSORS, crc), "some.ckpt")
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_tensor_in_several_parts_is_joined(make_value):
    array = TENSORS["conv.weight"]
    data = array.tobytes()
    parts = [make_value("w", array, content=part) for part in (data[:100], data[100:300], data[300:])]
    np.testing.assert_array_equal(read_checkpoint(b"".join(parts), "some.ckpt")["w"], array)


def test_bfloat16_becomes_float32_and_other_types_are_left_out(make_value):
    upper = np.array([1.5, -2.0, 0.0], np.float32).view(np.uint32) >> 16
    data = make_value("b", upper.astype("<u2"), "BFloat16") + make_value("s", np.zeros(3, np.int32), "str")
    found = read_checkpoint(data, "some.ckpt")
    assert found.keys() == {"b"}
    np.testing.assert_array_equal(found["b"], np.array([1.5, -2.0, 0.0], np.float32))


@pytest.mark.parametrize("crc", [False, True])
def test_a_file_that_is_cut_anywhere_is_refused(crc, make_checkpoint, make_value):
    data = make_checkpoint({"a": TENSORS["conv.weight"]}, crc)
    for end in (*range(1, 60), len(data) // 2, len(data) - 18 if crc else len(data) - 1):
        with pytest.raises(CheckpointError, match=r"^x\.ckpt: is cut short or damaged") as caught:
            read_checkpoint(data[:end], "x.ckpt")
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_found_by_the_checksum_or_where_the_form_breaks(make_checkpoint):
    data = make_checkpoint(TENSORS, crc=True)
    for place in range(0, len(data) - 17, 97):
        spoiled = bytearray(data)
        spoiled[place] ^= 4
        with pytest.raises(CheckpointError, match=r"checksum does not fit|is encrypted, or no file of MindSpore"):
            read_checkpoint(bytes(spoiled), "x.ckpt")
    plain = make_checkpoint({"a": TENSORS["conv.weight"]})
    for place in range(1, 24):  # names and sizes; of a number itself nothing is known without the checksum
        spoiled = bytearray(plain)
        spoiled[place] ^= 0x80
        try:
            found = read_checkpoint(bytes(spoiled), "x.ckpt")
        except CheckpointError:
            continue
        assert found.keys() != {"a"} or found["a"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    "dims", [(2**62, 2**62), (4, 3, 3, 4), (1,) * 9, (108, 0)], ids=["huge", "more", "many", "none"]
)
def test_sizes_that_do_not_fit_the_content_are_refused_before_memory_is_spent(dims, make_value):
    with pytest.raises(CheckpointError, match="432 bytes for a tensor of shape"):
        read_checkpoint(make_value("a", TENSORS["conv.weight"], dims=dims), "x.ckpt")


@pytest.mark.parametrize("data", [b"", b"\x93" + bytes(64), b"hello"])
def test_what_is_encrypted_or_something_else_is_refused(data):
    with pytest.raises(
        CheckpointError, match=r"^x\.ckpt: is encrypted, or no file of MindSpore, PyTorch or safetensors"
    ):
        read_checkpoint(data, "x.ckpt")


@pytest.mark.parametrize(
    "data", [b"\x0a\x00", b"\x0a\x02\x12\x00", b"\x0a" + b"\xff" * 20, b"\x0a\x04\x0a\x02\xff\xfe"]
)
def test_messages_that_are_no_tensors_are_refused(data):
    with pytest.raises(CheckpointError, match="is cut short or damaged"):
        read_checkpoint(data, "x.ckpt")


def test_a_map_parameter_is_left_out(make_value):
    data = b"\x0a\x05\x0a\x01m\x1a\x00" + make_value("a", TENSORS["half"])
    assert read_checkpoint(data, "x.ckpt").keys() == {"a"}
