"""The look at all labels before training: which samples can be used, and why the others cannot."""

import pickle

import numpy as np
import pytest

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig, ImageConfig, time_steps
from crnn.data.dataset import describe_skipped, scan_labels
from crnn.errors import CharsetError, DataError
from crnn.image import target_width

KEEP_RATIO = {"resize": "keep_ratio", "width_step": 16, "min_width": 32, "max_width": 128}


class Labels:
    """A store of labels alone, for what is decided without looking at an image."""

    path = "memory"

    def __init__(self, *labels: str | None, sizes: list[tuple[int, int]] | None = None) -> None:
        self._labels, self._sizes = labels, sizes

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, index: int) -> str:
        return f"key-{index}"

    def label(self, index: int) -> str:
        label = self._labels[index]
        if label is None:
            raise DataError("no such record")
        return label

    def image_bytes(self, index: int) -> bytes:
        raise AssertionError(f"image {index} is not needed")

    def stored_size(self, index: int) -> tuple[int, int] | None:
        assert self._sizes is not None
        return self._sizes[index]


def scan(*labels, rules=None, image=None, sizes=None, charset="36"):
    rules = rules or CharsetConfig(characters=charset).rules()
    return scan_labels(Labels(*labels, sizes=sizes), Charset(charset), rules, image or ImageConfig())


def test_usable_labels_are_found_and_the_others_counted_by_reason():
    found = scan("ok", "Fine7", "", "x" * 26, None, "?!", "ok", "!", "¡")
    assert found.indices.tolist() == [0, 1, 6]
    assert found.skipped == {"empty_label": 4, "too_long": 1, "unreadable_record": 1}
    assert found.examples == {
        "empty_label": ["key-2", "key-5", "key-7"],
        "too_long": ["key-3"],
        "unreadable_record": ["key-4"],
    }
    assert describe_skipped(found) == (
        "empty_label: 4 (key-2, key-5, key-7, ...); too_long: 1 (key-3); unreadable_record: 1 (key-4)"
    )
    assert (found.changed, found.lost, found.widths) == (0, {}, None)


def test_what_is_found_is_held_in_few_bytes():
    found = scan(*["word"] * 5000)
    assert isinstance(found.indices, np.ndarray)
    assert (found.indices.dtype, found.indices.nbytes) == (np.uint32, 4 * 5000)
    found = scan(*["a"] * 5000, image=ImageConfig(**KEEP_RATIO), sizes=[(50, 32)] * 5000)
    assert (found.widths.dtype, found.widths.nbytes) == (np.uint16, 2 * 5000)
    assert len(pickle.dumps(found)) < 7 * 5000
    assert scan("").indices.shape == (0,)


def test_lost_characters_are_counted():
    found = scan("it's", "IT-IS", "e-mail-s", "x", "caf\u00e9", "a b", "\u65e5", "a\u65e5\u65e5")
    assert found.indices.tolist() == [0, 1, 2, 3, 4, 5, 7]
    # The accent and the space are gone by normalisation, which is no loss; nothing is left of the last label.
    assert found.changed == 4
    assert found.lost == {"-": 3, "'": 1, "\u65e5": 2}
    assert found.skipped == {"empty_label": 1}


def test_a_digest_changes_with_what_can_be_trained_on():
    words = ["one", "two", "three"]
    digest = scan(*words).digest
    assert scan(*words).digest == digest
    others = ["one", "two"], ["one", "two", "three", "four"], ["two", "one", "three"], ["one", "two", "thre"]
    assert len({digest, *(scan(*other).digest for other in others)}) == 5
    assert scan(*words, "").digest == digest  # left out, and behind all others: batches are the same


def test_samples_with_unknown_characters_are_left_out_where_the_rules_say_so():
    rules = CharsetConfig(unknown="drop_sample").rules()
    found = scan("it's", "its", rules=rules)
    assert found.indices.tolist() == [1]
    assert found.skipped == {"unknown_character": 1}
    assert (found.changed, found.lost) == (0, {})


def test_an_unknown_character_may_be_an_error_that_names_the_sample():
    with pytest.raises(CharsetError, match=r"^memory, key-1: label \"it's\" has characters that are not in .*: \"'\""):
        scan("its", "it's", rules=LabelRules(unknown="error"))


@pytest.mark.parametrize(
    ("label", "usable"),
    [
        ("abcdefg", True),  # seven characters, seven steps
        ("abcdefgh", False),
        ("aaaa", True),  # a blank between each: seven steps
        ("aaaaa", False),
        ("aabbc", True),
        ("aabbccd", False),
        ("ababab", True),
    ],
)
def test_a_label_must_fit_the_time_steps_doubled_letters_counted(label, usable):
    image = ImageConfig(image_width=32)
    assert time_steps(image.image_width) == 7
    found = scan(label, image=image)
    assert len(found.indices) == usable
    assert found.skipped == ({} if usable else {"too_long_for_width": 1})


def test_with_ratios_kept_every_image_has_its_own_width_and_time_steps():
    sizes = [(64, 32), (100, 64), (10, 32), (900, 32), (70, 32), (64, 32), (24, 32)]
    labels = ["a", "b", "abcdefg", "c", "d", "ab" * 8, "aaaaa"]
    image = ImageConfig(**KEEP_RATIO)
    found = scan(*labels, image=image, sizes=sizes)
    # An image of 64 has 15 steps, one stretched to 32 seven: too few for 16 letters, and for five equal ones.
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert found.widths.tolist() == [64, 48, 32, 128, 64]
    assert found.widths.tolist() == [target_width(sizes[index], image) for index in found.indices]
    assert found.skipped == {"too_long_for_width": 2}


def test_progress_adds_up_to_the_number_of_labels():
    for count in (1, 1023, 1024, 1025, 3000):
        told = []
        scan_labels(Labels(*["a"] * count), Charset("36"), LabelRules(), ImageConfig(), told.append)
        assert sum(told) == count
        assert max(told) <= 1024
