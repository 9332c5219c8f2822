"""Subsets: rules keep what papers keep, a reference is followed only where it leaves no doubt, shares do not meet."""

import io
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crnn.data.formats.files import ListReader
from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Box, Reader, Record, Skipped
from crnn.data.formats.subsets import VARIANTS, _in_order, find_variant, samples_like, share_of, variant_of
from crnn.data.store import LmdbWriter
from crnn.errors import ConfigError, DataError

OUT = "!not_in_variant"


def image(seed: int, size: tuple[int, int] | None = None) -> bytes:
    """An image of noise, different for each seed."""
    rng = random.Random(seed)
    width, height = size or (20 + rng.randrange(60), 16 + rng.randrange(30))
    buffer = io.BytesIO()
    Image.frombytes("L", (width, height), rng.randbytes(width * height)).save(buffer, "PNG")
    return buffer.getvalue()


def reencoded(data: bytes, size: tuple[int, int] | None = None) -> bytes:
    found = Image.open(io.BytesIO(data))
    buffer = io.BytesIO()
    (found.resize(size) if size else found).save(buffer, "JPEG")
    return buffer.getvalue()


def write_words(folder: Path, labels: list[str], images: list[bytes] | None = None) -> ListReader:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.tsv").write_text("".join(f"{number}.png\t{label}\n" for number, label in enumerate(labels)))
    for number, data in enumerate(images or []):
        (folder / f"{number}.png").write_bytes(data)
    return ListReader(folder)


def write_store(folder: Path, samples: list[tuple[str, bytes]]) -> Path:
    with LmdbWriter(folder) as writer:
        for label, data in samples:
            writer.add(data, label)
    return folder


def labels(reader: Reader) -> list[str]:
    found = [sample.label if isinstance(sample, Record) else f"!{sample.reason}" for sample in reader]
    assert len(reader) == len(found)
    return found


def method(reader: Reader) -> str:
    return reader.notes[-1].rpartition("by their ")[2]


LABELS = ["Tiredness", "a", "It", "62-03", "KILLS!", "100%", "the", "3pm", "café", "x_y", "two words", "007"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("IC13_1095", LABELS),
        ("IC13_1015", ["Tiredness", "a", "It", "the", "3pm", "007"]),
        ("IC13_857", ["Tiredness", "the", "3pm", "007"]),
        ("ic03 867", ["Tiredness", "the", "3pm", "007"]),
    ],
)
def test_a_rule_keeps_what_papers_keep(tmp_path, name, kept):
    reader = variant_of(write_words(tmp_path, LABELS), name)
    assert labels(reader) == [label if label in kept else OUT for label in LABELS]
    assert reader.root == tmp_path


def test_variants_are_found_by_the_names_that_papers_give_them():
    for name in ("IC13_857", "ic13_857", "ic13-857", "IC13 857", "IC13857"):
        assert find_variant(name) is VARIANTS["IC13_857"]
    with pytest.raises(DataError, match=r"'IC13_1016': is no variant that is known; expected one of IC03_867, IC03"):
        find_variant("IC13_1016")
    assert all(variant.name == name and name.endswith(f"_{variant.num_samples}") for name, variant in VARIANTS.items())


def test_where_no_rule_gives_a_variant_its_reference_is_needed(tmp_path):
    reader = write_words(tmp_path / "set", LABELS)
    for name, reason in (("IC15_1811", "chosen by eye"), ("IC03_860", "7 words")):
        with pytest.raises(DataError, match=rf"{name}: no rule gives it .*{reason}.*; name an LMDB .* --like LMDB"):
            variant_of(reader, name)
    reference = write_store(tmp_path / "like", [("a", image(1))])
    with pytest.raises(DataError, match=r"like: has 1 samples; IC15_1811 has 1811\. Name its LMDB"):
        variant_of(reader, "IC15_1811", like=reference)


def test_a_variant_without_a_rule_follows_a_reference(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "IC15_1811", type(VARIANTS["IC15_1811"])("IC15_1811", 3, beyond_rule="some"))
    words = ["one", "the!", "the", "Two", "the", "three"]
    images = [image(seed) for seed in range(6)]
    reader = write_words(tmp_path / "set", words, images)
    reference = write_store(tmp_path / "like", [("one", images[0]), ("THE", images[4]), ("three", images[5])])
    variant = variant_of(reader, "IC15_1811", like=reference)
    assert labels(variant) == ["one", OUT, OUT, OUT, "the", "three"]
    assert variant.notes == (f"the 3 samples of {reference} were found by their images",)
    # What the rule leaves out is not taken from a reference either.
    reference = write_store(tmp_path / "more", [(words[i], images[i]) for i in (0, 1, 5)])
    with pytest.raises(DataError, match="2 of its 3 images are in the set byte by byte, and its labels are not among"):
        variant_of(reader, "IC15_1811", like=reference)


def test_images_decide_before_labels_do(tmp_path):
    images = [image(seed) for seed in range(5)]
    images[1] = images[0]  # taken as often as the reference has it
    reader = write_words(tmp_path / "set", ["the", "the", "the", "end", "the"], images)
    # In another order, with other labels: the same bytes are the same sample.
    reference = write_store(tmp_path / "like", [("END", images[3]), ("other", images[1])])
    like = samples_like(reader, reference)
    assert (method(like), labels(like)) == ("images", ["the", OUT, OUT, "end", OUT])


def test_labels_and_sizes_decide_where_crops_were_encoded_anew(tmp_path):
    sizes = [(30, 20), (31, 20), (30, 20), (40, 20), (30, 21)]
    images = [image(seed, size) for seed, size in enumerate(sizes)]
    words = ["the", "the", "End", "the", "the"]
    kept = {1: "the", 2: "END", 4: "THE"}
    store = write_store(tmp_path / "like", [(word, reencoded(images[i])) for i, word in kept.items()])
    like = samples_like(write_words(tmp_path / "set", words, images), store)
    assert (method(like), labels(like)) == ("labels and sizes", [OUT, "the", "End", OUT, "the"])
    # Neighbors that differ in nothing leave a doubt.
    images[3] = image(9, (30, 21))
    with pytest.raises(DataError, match=r"like: 0 of its 3 images are .* byte by byte, and 2 of its labels fit"):
        samples_like(write_words(tmp_path / "set", words, images), store)


def test_labels_decide_where_sizes_differ(tmp_path):
    images = [image(seed) for seed in range(6)]
    reader = write_words(tmp_path / "set", ["one", "two", "one", "three", "four", "two"], images)
    kept = [("Two", 1), ("one", 2), ("FOUR", 4)]
    store = write_store(tmp_path / "like", [(word, reencoded(images[i], (100, 32))) for word, i in kept])
    like = samples_like(reader, store)
    assert (method(like), labels(like)) == ("labels", [OUT, "two", "one", OUT, "four", OUT])


def test_words_of_scenes_are_found_by_their_labels(tmp_path, given_reader):
    words = ["CAMDEN", "TOWN", "a-b", "TOWN", "HALL"]
    scene = image(1)
    (tmp_path / "a.jpg").write_bytes(scene)
    boxes = [Record(f"a.jpg#{n}", word, "a.jpg", Box(0, 0, 10, 10)) for n, word in enumerate(words)]
    reader = given_reader(tmp_path, boxes)
    store = write_store(tmp_path / "one", [("camden", scene), ("town", scene), ("hall", scene)])
    with pytest.raises(DataError, match=r"and 1 of its labels fit at several places \(town\); expected one way"):
        samples_like(reader, store)
    store = write_store(tmp_path / "two", [("camden", image(1)), ("town", image(2)), ("town", image(3))])
    like = samples_like(reader, store)
    assert (method(like), labels(like)) == ("labels", ["CAMDEN", "TOWN", OUT, "TOWN", OUT])
    # What the rule leaves out is no candidate, and so no doubt.
    reader = given_reader(tmp_path, [Record("a.jpg#9", "town-", "a.jpg", Box(0, 0, 10, 10)), *boxes])
    assert labels(samples_like(reader, store, candidate=str.isalpha))[0] == OUT


@pytest.mark.parametrize("words", [["one", "four"], ["two", "one"], ["one", "two", "three", "three"]])
def test_a_reference_of_another_set_is_refused(tmp_path, words):
    reader = write_words(tmp_path / "set", ["one", "two", "three"], [image(seed) for seed in range(3)])
    store = write_store(tmp_path / "like", [(word, image(100 + n)) for n, word in enumerate(words)])
    with pytest.raises(DataError, match=r"like: 0 of its \d images .* its labels are not among those of the set"):
        samples_like(reader, store)


def test_images_that_cannot_be_read_or_lie_outside_are_no_evidence(tmp_path):
    images = [image(seed) for seed in range(3)]
    reader = write_words(tmp_path / "set", ["one", "two", "three"], images)
    (tmp_path / "set" / "0.png").unlink()
    (tmp_path / "set" / "2.png").write_bytes(b"not an image")
    like = samples_like(reader, write_store(tmp_path / "like", [("one", b"not an image"), ("two", images[1])]))
    assert (method(like), labels(like)) == ("labels", ["one", "two", OUT])
    (tmp_path / "secret.png").write_bytes(image(7))
    (tmp_path / "set" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"0 of its 1 images are in the set"):
        samples_like(reader, write_store(tmp_path / "other", [("other", image(7))]))


def test_a_store_may_be_the_set(tmp_path):
    samples = [(word, image(seed)) for seed, word in enumerate(["one", "a", "two!", "three"])]
    full = StoreReader(write_store(tmp_path / "full", samples))
    variant = variant_of(full, "IC13_857")
    assert labels(variant) == ["one", OUT, OUT, "three"]
    like = samples_like(full, write_store(tmp_path / "part", [samples[1], samples[3]]))
    assert (method(like), labels(like)) == ("images", [OUT, "a", OUT, "three"])
    for reader in (variant, like):
        assert reader.image_source()("image-000000001") == samples[0][1]


def test_shares_do_not_meet_and_cover_everything(given_reader, tmp_path):
    records = [Record(f"{n}#{w}", "x", f"scenes/{n}.jpg") for n in range(500) for w in range(2)]
    reader = given_reader(tmp_path, [*records, Skipped("bad", "no_label")])
    reader.notes = ("a word about the set",)
    shares = [share_of(reader, text) for text in (":0.1", "0.1:0.9", "0.9:")]
    found = [[item.key for item in share if isinstance(item, Record)] for share in shares]
    assert sorted(key for keys in found for key in keys) == sorted(record.key for record in records)
    assert 60 < len(found[0]) < 140
    assert 720 < len(found[1]) < 880
    for share, keys in zip(shares, found, strict=True):
        assert len(keys) == 2 * len({key.split("#")[0] for key in keys})  # no scene is divided
        assert share.notes == reader.notes
        assert {item.reason for item in share if isinstance(item, Skipped)} == {"no_label", "other_share"}
    for text in ("0.5:0.5", "-0.1:1", "0:1.1", "nan:1", "0.5", "a:b", "0:0.5:1"):
        with pytest.raises(ConfigError, match=f"--share is '{text}'; expected START:STOP with 0 <= START < STOP <= 1"):
            share_of(reader, text)


@settings(max_examples=200)
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
