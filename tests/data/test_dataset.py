"""From stored samples to batches: what is in one, what decides it, and what is counted as left out."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig, ImageConfig, time_steps
from crnn.data import dataset
from crnn.data.dataset import StoredBatches, check_training_data, collate, describe_skipped, network_input, scan_labels
from crnn.data.list_file import ListFile
from crnn.data.source import open_source
from crnn.data.store import LmdbWriter
from crnn.errors import CharsetError, DataError
from crnn.image import load_image, resize, target_width

KEEP_RATIO = {"resize": "keep_ratio", "width_step": 16, "min_width": 32, "max_width": 128}
AUGMENT = {"probability": 1.0, "rotate_degrees": 8.0, "noise": 6.0}


def batches_of(make_config, *data, rank=0, world_size=1, **sections) -> StoredBatches:
    return StoredBatches(make_config(*data, **sections), rank, world_size)


def texts(batch, charset="abcdefghij"):
    rows = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
    return [Charset(charset).decode(ids[:length]) for ids, length in rows]


# ---- what is in a batch


def test_a_batch_holds_the_images_labels_and_keys_of_its_samples(word_list, small_config):
    path = word_list(20)
    config = small_config(path)
    source = StoredBatches(config)
    store = open_source(str(path))
    by_key = {f"{path}: {store.key(index)}": index for index in range(20)}
    assert source.num_samples == 20
    assert source.epoch_batches == 2
    for number in range(2):
        batch = source[number]
        assert len(batch) == 8
        assert batch.images.shape == (8, 1, 32, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.targets.dtype == batch.target_lengths.dtype == torch.int64
        assert texts(batch) == [store.label(by_key[key]) for key in batch.keys]
        for image, key in zip(batch.images, batch.keys, strict=True):
            expected = resize(load_image(store.image_bytes(by_key[key]), 1), config.image)
            assert np.array_equal(image.numpy(), expected)


def test_batches_of_kept_ratios_have_one_width_each(word_list, small_config):
    labels = [letter * count for count in (1, 3, 5, 7) for letter in "abcdefgh"]
    path = word_list(labels=labels)
    source = batches_of(small_config, path, image=KEEP_RATIO, data={"bucket_batches": 4})
    widths = {f"{path}: images/{i + 1}.png": int(width) for i, width in enumerate(source.scans[0].widths)}
    found = [source[number] for number in range(4)]
    for batch in found:
        assert batch.images.shape == (8, 1, 32, max(widths[key] for key in batch.keys))
    assert len({batch.images.shape[-1] for batch in found}) == 4
    assert sorted(key for batch in found for key in batch.keys) == sorted(widths)


def test_an_lmdb_folder_and_a_list_file_give_the_same_batches(word_list, small_config, tmp_path):
    path = word_list(16)
    samples = open_source(str(path))
    with LmdbWriter(tmp_path / "store") as writer:
        for index in range(16):
            writer.add(samples.image_bytes(index), samples.label(index))
    one = batches_of(small_config, path, augment=AUGMENT)[3]
    other = batches_of(small_config, tmp_path / "store", augment=AUGMENT)[3]
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.targets, other.targets)
    assert all(key.startswith(f"{tmp_path / 'store'}: image-0000000") for key in other.keys)


def test_targets_are_padded_with_zeros():
    images = [np.full((1, 32, 40), value, np.uint8) for value in (1, 2, 3)]
    batch = collate(images, [[5, 6, 7], [], [4]], ["a", "b", "c"], [("d", "missing")])
    assert batch.targets.tolist() == [[5, 6, 7], [0, 0, 0], [4, 0, 0]]
    assert batch.target_lengths.tolist() == [3, 0, 1]
    assert batch.images.shape[-1] == 40
    assert batch.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (batch.keys, batch.skipped) == (("a", "b", "c"), (("d", "missing"),))
    empty = collate([], [], [], [("d", "missing")])
    assert len(empty) == 0
    assert empty.targets.shape == (0, 0)
    assert empty.skipped == (("d", "missing"),)


def test_a_batch_moves_as_a_whole():
    batch = collate([np.zeros((1, 32, 40), np.uint8)], [[1]], ["a"], [("d", "missing")])
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.images, moved.targets, moved.target_lengths)} == {"meta"}
    assert (moved.keys, moved.skipped) == (batch.keys, batch.skipped)


def test_the_network_gets_the_bits_that_reading_gives_it():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 8, 32)
    images = network_input(torch.from_numpy(pixels), ImageConfig())
    assert images.dtype == torch.float32
    exact = (pixels.astype(np.float64) - 127.5) / 127.5
    assert np.array_equal(images.numpy(), exact.astype(np.float32))  # rounded once
    assert (images.min(), images.max()) == (-1.0, 1.0)
    other = network_input(torch.from_numpy(pixels), ImageConfig(mean=120.0, std=60.0))
    assert np.array_equal(other.numpy(), ((pixels.astype(np.float64) - 120) / 60).astype(np.float32))


# ---- what decides a batch


@pytest.mark.parametrize("image", [{}, KEEP_RATIO])
def test_ranks_see_the_images_that_one_rank_would(word_list, small_config, image):
    path = word_list(40, labels=[letter * (1 + i % 5) for i, letter in enumerate("abcdefghij" * 4)])
    alone = batches_of(small_config, path, image=image, augment=AUGMENT, train={"batch_size": 8})
    ranks = [
        batches_of(small_config, path, rank=rank, world_size=2, image=image, augment=AUGMENT, train={"batch_size": 4})
        for rank in range(2)
    ]
    for number in (0, 3, 17):
        together = alone[number]
        parts = [rank[number] for rank in ranks]
        assert parts[0].keys + parts[1].keys == together.keys
        assert torch.equal(torch.cat([part.images for part in parts]), together.images)
        assert sum((texts(part) for part in parts), []) == texts(together)  # noqa: RUF017 - two short lists
    assert ranks[0].epoch_batches == alone.epoch_batches == 5


def test_augmentation_depends_on_the_draw_alone(word_list, small_config):
    path = word_list(8)
    plain = batches_of(small_config, path)
    changed = batches_of(small_config, path, augment=AUGMENT)
    images = [
        dict(zip(batch.keys, batch.images, strict=True)) for batch in (plain[0], changed[0], changed[1], changed[0])
    ]
    for key, image in images[0].items():
        assert not torch.equal(image, images[1][key])
        assert not torch.equal(images[1][key], images[2][key])  # the next epoch has another change
        assert torch.equal(images[1][key], images[3][key])
    other_seed = batches_of(small_config, path, augment=AUGMENT, train={"seed": 2})
    images = [dict(zip(batch.keys, batch.images, strict=True)) for batch in (changed[0], other_seed[0])]
    assert all(not torch.equal(image, images[1][key]) for key, image in images[0].items())


# ---- what cannot be read


def spoil(path: Path) -> dict[str, str]:
    """Damage three images of a list in three ways, and return the reason of each by its key."""
    images = path.parent / "images"
    (images / "2.png").unlink()
    whole = (images / "5.png").read_bytes()
    (images / "5.png").write_bytes(whole[: len(whole) // 2])
    (images / "7.png").write_bytes(b"no image at all")
    reasons = {"2": "missing", "5": "truncated", "7": "not_an_image"}
    return {f"images/{name}.png": reason for name, reason in reasons.items()}


def test_images_that_cannot_be_read_are_left_out_and_named(word_list, small_config):
    path = word_list(8)
    whole = batches_of(small_config, path, augment=AUGMENT)[0]
    damaged = {f"{path}: {key}": reason for key, reason in spoil(path).items()}
    source = batches_of(small_config, path, augment=AUGMENT)
    assert source.num_samples == 8  # labels are looked at beforehand, images are not
    batch = source[0]
    assert dict(batch.skipped) == damaged
    assert list(batch.keys) == [key for key in whole.keys if key not in damaged]
    assert len(batch) == len(batch.images) == len(batch.targets) == len(batch.target_lengths) == 5
    kept = [row for row, key in enumerate(whole.keys) if key not in damaged]
    assert torch.equal(batch.images, whole.images[kept])  # the others are not changed by it
    assert texts(batch) == [texts(whole)[row] for row in kept]


def test_where_widths_are_needed_unreadable_headers_are_found_beforehand(word_list, small_config):
    path = word_list(8)
    spoil(path)
    source = batches_of(small_config, path, image=KEEP_RATIO, train={"batch_size": 2}, data={"bucket_batches": 3})
    assert source.scans[0].skipped == {"missing": 1, "not_an_image": 1}
    assert source.scans[0].examples == {"missing": ["images/2.png"], "not_an_image": ["images/7.png"]}
    skipped = [pair for number in range(3) for pair in source[number].skipped]
    assert skipped == [(f"{path}: images/5.png", "truncated")]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["abc", "!", "?"], r"2 of 3 labels .*\(left out empty_label: 2 \(images/2\.png, images/3\.png\)\)"),
        (["abc", "a!b", "c?"], r"2 of 3 labels .*\(2 labels lose '!\?'\)"),
        (["XYZ", "!", "1"], r"3 of 3 labels .*\(left out empty_label: 3 .*\)"),
        (["abc", "a!b", "?"], r"2 of 3 labels .*\(left out empty_label: 1 .*; 1 labels lose '!'\)"),
    ],
)
def test_a_charset_that_few_labels_are_written_in_is_refused(word_list, small_config, labels, found):
    path = word_list(labels=labels)
    with pytest.raises(DataError, match=rf"{found}, with data\.max_lost_share 0\.5; check charset"):
        batches_of(small_config, path)
    with pytest.raises(DataError) if "abc" not in labels else contextlib.nullcontext():
        batches_of(small_config, path, data={"train": [str(path)], "max_lost_share": 1.0})


def test_a_list_whose_images_are_elsewhere_is_told_so(word_list, small_config):
    path = word_list(4)
    for number in (1, 2, 4):
        (path.parent / "images" / f"{number}.png").unlink()
    said = r"3 of 4 images are not there, the first is images/1\.png; expected lines of path<TAB>text"
    with pytest.raises(DataError, match=said):
        batches_of(small_config, path, image=KEEP_RATIO)


# ---- before a run


def test_before_a_run_no_more_images_are_read_than_said(word_list, small_config, monkeypatch):
    read = []
    monkeypatch.setattr(dataset, "_LOOKED_AT", 4)
    monkeypatch.setattr(ListFile, "image_bytes", lambda _, index: read.append(index))
    path = word_list(7)
    check_training_data(small_config(path, data={"validation": [str(path)]}).data)
    assert read == [0, 2, 4, 6]


def test_a_validation_set_without_its_images_is_found_before_the_run(word_list, small_config):
    good, bad = word_list(20, "good"), word_list(20, "bad")
    images = sorted((bad.parent / "images").iterdir(), key=lambda path: int(path.stem))
    for image in images[:-1]:
        image.unlink()
    with pytest.raises(DataError, match=r"data\.validation: 19 of 20 images cannot be read: .*1\.png.* below the list"):
        check_training_data(small_config(good, data={"validation": [f"mine={bad}"]}).data)
    for share, missing in ((0.01, 10), (0.5, 10), (0.01, 9)):
        for image in images[missing:-1]:
            shutil.copy(images[-1], image)
        with (
            contextlib.nullcontext() if share * 20 >= 10 or missing < 10 else pytest.raises(DataError, match="10 of 20")
        ):
            check_training_data(small_config(good, data={"validation": [str(bad)], "max_bad_share": share}).data)
    for data in ({"train": ["nowhere"]}, {"train": [str(good)], "validation": ["mine=nowhere"]}):
        with pytest.raises(DataError, match="nowhere: there is no such file"):
            check_training_data(small_config(data=data).data)


# ---- the look at all labels before training


class Labels:
    """A store of labels alone, for what is decided without looking at an image."""

    path, num_unread = "memory", 0

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
    assert (found.indices.dtype, scan("").indices.shape) == (np.uint32, (0,))  # of millions
    told = []
    scan_labels(Labels(*["a"] * 2500), Charset("36"), LabelRules(), ImageConfig(), told.append)
    assert (sum(told), max(told)) == (2500, 1024)


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


def test_an_unknown_character_may_be_an_error_that_names_the_sample():
    with pytest.raises(CharsetError, match=r"^memory, key-1: label \"it's\" has \"'\", which charset"):
        scan("its", "it's", rules=LabelRules(unknown="error"))


@pytest.mark.parametrize(
    ("label", "usable"),
    [
        ("abcdefg", True),  # seven characters, seven steps
        ("abcdefgh", False),
        ("aaaa", True),  # a blank between each: seven steps
        ("aaaaa", False),
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
    # The paper's pooling gives two more.
    found = scan_labels(Labels(label), Charset("36"), LabelRules(), image, pooling="paper")
    assert len(found.indices) == (label != "aabbccd")
    assert time_steps(image.image_width, "paper") == 9


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
