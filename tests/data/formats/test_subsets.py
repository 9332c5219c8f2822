"""Variants of the test sets: rules keep what papers keep, and a reference is followed only where it leaves no doubt."""

import io
import itertools
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crnn.data.formats.files import ListReader
from crnn.data.formats.icdar import IcdarReader
from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Box, Reader, Record, Skipped
from crnn.data.formats.subsets import VARIANTS, LikeReader, VariantReader, _in_order, find_variant
from crnn.errors import DataError


def image(seed: int, size: tuple[int, int] | None = None, kind: str = "PNG") -> bytes:
    """An image of noise, different for each seed."""
    rng = random.Random(seed)
    width, height = size or (20 + rng.randrange(60), 16 + rng.randrange(30))
    image = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def reencoded(data: bytes, size: tuple[int, int] | None = None) -> bytes:
    image = Image.open(io.BytesIO(data))
    buffer = io.BytesIO()
    (image.resize(size) if size else image).save(buffer, "JPEG")
    return buffer.getvalue()


def write_words(folder: Path, labels: list[str], images: list[bytes] | None = None) -> IcdarReader:
    """A word set in the layout of ICDAR."""
    folder.mkdir(parents=True, exist_ok=True)
    quoted = [label.replace("\\", "\\\\").replace('"', '\\"') for label in labels]
    lines = [f'word_{number}.png, "{label}"\r\n' for number, label in enumerate(quoted, 1)]
    (folder / "gt.txt").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    for number, data in enumerate(images or [], 1):
        (folder / f"word_{number}.png").write_bytes(data)
    return IcdarReader(folder)


def write_store(folder: Path, samples: list[tuple[str, bytes]]) -> Path:
    """A reference store as the field's tools write it."""
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"%d" % len(samples))
        for number, (label, data) in enumerate(samples, 1):
            transaction.put(b"label-%09d" % number, label.encode())
            transaction.put(b"image-%09d" % number, data)
    return folder


class Boxes:
    """A reader of words that are parts of scenes."""

    def __init__(self, labels: list[str], root: Path) -> None:
        self.root = root
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Record | Skipped]:
        for number, label in enumerate(self.labels):
            yield Record(f"a.jpg#{number}", label, "a.jpg", region=Box(0, 0, 10, 10))


def labels(reader: Reader) -> list[str]:
    return [sample.label if isinstance(sample, Record) else f"!{sample.reason}" for sample in reader]


LABELS = ["Tiredness", "a", "It", "62-03", "KILLS!", "100%", "the", "3pm", "café", "x_y", "two words", "007"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("IC13_1095", LABELS),
        ("IC15_2077", LABELS),
        ("IC13_1015", ["Tiredness", "a", "It", "the", "3pm", "007"]),
        ("IC13_857", ["Tiredness", "the", "3pm", "007"]),
        ("IC03_867", ["Tiredness", "the", "3pm", "007"]),
    ],
)
def test_a_rule_keeps_what_papers_keep(tmp_path, name, kept):
    reader = VariantReader(write_words(tmp_path, LABELS), name)
    assert [label for label in labels(reader) if label != "!not_in_variant"] == kept
    assert labels(reader).count("!not_in_variant") == len(LABELS) - len(kept)
    assert (len(reader), reader.root) == (len(LABELS), tmp_path)
    assert reader.variant.num_samples == int(name.partition("_")[2])
    assert labels(pickle.loads(pickle.dumps(reader))) == labels(reader)
    assert not hasattr(reader, "read_image")


@given(st.text(max_size=6))
def test_the_shorter_variant_is_part_of_the_longer(label):
    kept = [VARIANTS[name].keeps(label) for name in ("IC13_857", "IC13_1015", "IC13_1095")]
    assert kept == sorted(kept)
    assert VARIANTS["IC13_1015"].keeps(label) == (label != "" and label.isascii() and label.isalnum())


def test_variants_are_found_by_the_names_that_papers_give_them():
    for name in ("IC13_857", "ic13_857", "ic13-857", "IC13 857", "IC13857"):
        assert find_variant(name) is VARIANTS["IC13_857"]
    with pytest.raises(
        DataError, match=r"'IC13_1016': is no variant that is known; expected one of IC03_867, IC03_860"
    ):
        find_variant("IC13_1016")
    assert all(variant.name == name and name.endswith(f"_{variant.num_samples}") for name, variant in VARIANTS.items())


@pytest.mark.parametrize(("name", "reason"), [("IC15_1811", "chosen by eye"), ("IC03_860", "and 7 more")])
def test_where_no_rule_gives_a_variant_that_is_said(tmp_path, name, reason):
    with pytest.raises(DataError, match=rf"{name}: no rule gives it \(.*{reason}.*\); .* Name one with --like LMDB"):
        VariantReader(write_words(tmp_path, LABELS), name)


def test_a_reference_of_another_size_is_not_that_variant(tmp_path):
    reader = write_words(tmp_path / "set", ["a"], [image(1)])
    reference = write_store(tmp_path / "like", [("a", image(1))])
    with pytest.raises(DataError, match=r"like: has 1 samples; IC15_1811 has 1811\. Name its LMDB"):
        VariantReader(reader, "IC15_1811", like=reference)


@pytest.fixture
def small_variant(monkeypatch):
    """IC15_1811 with 3 samples."""
    variant = VARIANTS["IC15_1811"]
    small = type(variant)("IC15_3", variant.source, 3, variant.rule, variant.min_length, True, False)
    monkeypatch.setattr("crnn.data.formats.subsets._ALL", (small,))
    return small.name


def test_a_variant_without_a_rule_follows_a_reference(tmp_path, small_variant):
    words = ["one", "the!", "the", "Two", "the", "three"]
    images = [image(seed) for seed in range(6)]
    reader = write_words(tmp_path / "set", words, images)
    reference = write_store(tmp_path / "like", [("one", images[0]), ("THE", images[4]), ("three", images[5])])
    variant = VariantReader(reader, small_variant, like=reference)
    out = "!not_in_variant"
    assert labels(variant) == ["one", out, out, out, "the", "three"]
    assert variant.notes == (*reader.notes, f"the 3 samples of {reference} were found by their images")
    assert labels(pickle.loads(pickle.dumps(variant))) == labels(variant)


def test_what_the_rule_leaves_out_is_not_taken_from_a_reference_either(tmp_path, small_variant):
    words = ["one", "the!", "two", "three"]
    images = [image(seed) for seed in range(4)]
    reader = write_words(tmp_path / "set", words, images)
    reference = write_store(tmp_path / "like", [(words[i], images[i]) for i in (0, 1, 3)])
    with pytest.raises(DataError, match="2 of its 3 images are in the set byte by byte, and its labels are not among"):
        VariantReader(reader, small_variant, like=reference)


def test_images_decide_before_labels_do(tmp_path):
    images = [image(seed) for seed in range(5)]
    reader = write_words(tmp_path / "set", ["the", "the", "the", "end", "the"], images)
    # In another order, with other labels: the same bytes are the same sample.
    reference = write_store(tmp_path / "like", [("END", images[3]), ("other", images[1])])
    like = LikeReader(reader, reference)
    out = "!not_in_variant"
    assert (like.matched_by, labels(like)) == ("images", [out, "the", out, "end", out])
    assert (len(like), like.root) == (5, reader.root)


def test_the_same_image_twice_is_taken_as_often_as_the_reference_has_it(tmp_path):
    same, other = image(1), image(2)
    reader = write_words(tmp_path / "set", ["a", "a", "a", "b"], [same, same, same, other])
    like = LikeReader(reader, write_store(tmp_path / "like", [("a", same), ("b", other), ("a", same)]))
    assert (like.matched_by, labels(like)) == ("images", ["a", "a", "!not_in_variant", "b"])


def test_labels_and_sizes_decide_where_crops_were_encoded_anew(tmp_path):
    sizes = [(30, 20), (31, 20), (30, 20), (40, 20), (30, 21)]
    images = [image(seed, size) for seed, size in enumerate(sizes)]
    reader = write_words(tmp_path / "set", ["the", "the", "End", "the", "the"], images)
    kept = [1, 2, 4]
    words = ["the", "END", "THE"]
    store = write_store(tmp_path / "like", [(w, reencoded(images[i])) for w, i in zip(words, kept, strict=True)])
    like = LikeReader(reader, store)
    out = "!not_in_variant"
    assert (like.matched_by, labels(like)) == ("labels and sizes", [out, "the", "End", out, "the"])
    # Neighbours that differ in nothing leave a doubt.
    images[3] = image(9, (30, 21))
    reader = write_words(tmp_path / "set", ["the", "the", "End", "the", "the"], images)
    with pytest.raises(
        DataError, match=r"like: 0 of its 3 images are in the set byte by byte, and 2 of its labels fit "
    ):
        LikeReader(reader, store)


def test_labels_decide_where_sizes_differ(tmp_path):
    words = ["one", "two", "one", "three", "four", "two"]
    images = [image(seed) for seed in range(6)]
    reader = write_words(tmp_path / "set", words, images)
    kept = [("Two", 1), ("one", 2), ("FOUR", 4)]
    store = write_store(tmp_path / "like", [(word, reencoded(images[i], (100, 32))) for word, i in kept])
    like = LikeReader(reader, store)
    out = "!not_in_variant"
    assert (like.matched_by, labels(like)) == ("labels", [out, "two", "one", out, "four", out])


def test_words_of_scenes_are_found_by_their_labels(tmp_path):
    words = ["CAMDEN", "TOWN", "a-b", "TOWN", "HALL"]
    scene = image(1)
    (tmp_path / "a.jpg").write_bytes(scene)
    store = write_store(tmp_path / "one", [("camden", scene), ("town", scene), ("hall", scene)])
    with pytest.raises(DataError, match=r"and 1 of its labels fit at several places \(town\); expected one way"):
        LikeReader(Boxes(words, tmp_path), store)
    store = write_store(tmp_path / "two", [("camden", image(1)), ("town", image(2)), ("town", image(3))])
    like = LikeReader(Boxes(words, tmp_path), store)
    assert (like.matched_by, labels(like)) == (
        "labels",
        ["CAMDEN", "TOWN", "!not_in_variant", "TOWN", "!not_in_variant"],
    )
    # What the rule leaves out is no candidate, and so no doubt.
    like = LikeReader(Boxes(["town-", *words], tmp_path), store, candidate=lambda label: label.isalpha())
    assert labels(like)[0] == "!not_in_variant"


def test_a_reference_of_another_set_is_refused(tmp_path):
    reader = write_words(tmp_path / "set", ["one", "two", "three"], [image(seed) for seed in range(3)])
    for name, words in (
        ("other", ["one", "four"]),
        ("order", ["two", "one"]),
        ("more", ["one", "two", "three", "three"]),
    ):
        store = write_store(tmp_path / name, [(word, image(100 + n)) for n, word in enumerate(words)])
        with pytest.raises(
            DataError, match=rf"{name}: 0 of its \d images .* its labels are not among those of the set"
        ):
            LikeReader(reader, store)
    with pytest.raises(DataError, match=r"there is no data\.mdb"):
        LikeReader(reader, tmp_path / "nowhere")


def test_images_that_cannot_be_read_are_no_evidence(tmp_path):
    images = [image(seed) for seed in range(3)]
    reader = write_words(tmp_path / "set", ["one", "two", "three"], images)
    (tmp_path / "set" / "word_1.png").unlink()
    (tmp_path / "set" / "word_3.png").write_bytes(b"not an image")
    store = write_store(tmp_path / "like", [("one", b"not an image"), ("two", images[1])])
    like = LikeReader(reader, store)
    assert (like.matched_by, labels(like)) == ("labels", ["one", "two", "!not_in_variant"])


def test_images_are_not_read_outside_of_the_set(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(image(1))
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "labels.tsv").write_text("a.png\tone\nb.png\ttwo\n")
    store = write_store(tmp_path / "like", [("other", image(1))])
    with pytest.raises(DataError, match=r"0 of its 1 images are in the set"):
        LikeReader(ListReader(tmp_path / "set" / "labels.tsv"), store)


def test_a_store_may_be_the_set(tmp_path):
    samples = [(word, image(seed)) for seed, word in enumerate(["one", "a", "two!", "three"])]
    full = StoreReader(write_store(tmp_path / "full", samples))
    variant = VariantReader(full, "IC13_857")
    out = "!not_in_variant"
    assert labels(variant) == ["one", out, out, "three"]
    record = next(iter(variant))
    assert pickle.loads(pickle.dumps(variant)).read_image(record.path) == samples[0][1]
    like = LikeReader(full, write_store(tmp_path / "part", [samples[1], samples[3]]))
    assert (like.matched_by, labels(like)) == ("images", [out, "a", out, "three"])
    assert like.read_image(record.path) == samples[0][1]


@settings(max_examples=300)
@given(traces=st.lists(st.sampled_from("abc"), max_size=7), wanted=st.lists(st.sampled_from("abc"), max_size=5))
def test_there_is_one_way_exactly_where_the_first_and_the_last_agree(traces, wanted):
    ways = [
        places
        for places in itertools.combinations(range(len(traces)), len(wanted))
        if [traces[place] for place in places] == wanted
    ]
    found = _in_order(traces, wanted)
    if not ways or not wanted:
        assert found == []
    else:
        assert [first for first, _ in found] == [min(way[i] for way in ways) for i in range(len(wanted))]
        assert [last for _, last in found] == [max(way[i] for way in ways) for i in range(len(wanted))]
        assert (len(ways) == 1) == all(first == last for first, last in found)
