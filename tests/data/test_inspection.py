"""Inspection: sets made to have each finding, with exact counts; equal images; the set without its faults."""

import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crnn.cli.inspection_text import inspection_text, sample_sheet
from crnn.config.model import CharsetConfig, ImageConfig
from crnn.data.dataset import scan_labels
from crnn.data.inspection import (
    FAULTS,
    FLAGS,
    MAX_BINS,
    REMARKS,
    Groups,
    Histogram,
    Inspection,
    InspectionSettings,
    Member,
    check_destination,
    equal_groups,
    in_common,
    inspect_store,
    write_clean,
)  # fmt: skip
from crnn.data.list_file import ListFile
from crnn.data.source import open_source
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import ConfigError, DataError


def image(seed: int, width: int = 40, height: int = 20, kind: str = "PNG") -> bytes:
    """An image that is like no other, in grey; kinds of one seed have the same pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def list_of(folder: Path, samples: list[tuple[bytes | None, str]]) -> ListFile:
    """A list file of images ``0.png``, ``1.png``, ...; a sample without bytes has no file."""
    folder.mkdir()
    for number, (data, _) in enumerate(samples):
        if data is not None:
            (folder / f"{number}.png").write_bytes(data)
    lines = [f"{number}.png\t{label}\n" for number, (_, label) in enumerate(samples)]
    (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    return ListFile(folder / "labels.tsv")


def store_of(folder: Path, samples: list[tuple[bytes, str, tuple[int, int] | None]]) -> LmdbStore:
    with LmdbWriter(folder) as writer:
        for data, label, size in samples:
            writer.add(data, label, size=size)
    return LmdbStore(folder)


def counts(found: Inspection) -> dict[str, int]:
    return {name: finding.count for name, finding in {**found.faults, **found.remarks}.items()}


def settings(**values: object) -> InspectionSettings:
    charset = {name: values.pop(name) for name in list(values) if name in CharsetConfig.model_fields}
    image = {name: values.pop(name) for name in list(values) if name in ImageConfig.model_fields}
    return InspectionSettings(
        image=ImageConfig.model_validate(image), charset=CharsetConfig.model_validate(charset), **values
    )


# ---- One sample, one finding


def test_a_set_without_faults(tmp_path: Path) -> None:
    store = list_of(tmp_path / "set", [(image(n, 30 + n), label) for n, label in enumerate(["one", "Two", "3"])])
    found = inspect_store(store)
    assert (found.samples, found.faulty, found.fault_share, counts(found)) == (3, 0, 0.0, {})
    assert (found.label_lengths.minimum, found.label_lengths.maximum, found.label_lengths.counts) == (1, 3, (1, 0, 2))
    assert (found.widths.minimum, found.widths.median, found.widths.maximum) == (30, 31, 32)
    assert found.heights.counts == (3,)
    assert (found.ratios.minimum, found.ratios.maximum) == (1.5, 1.6)
    assert found.characters == {"o": 2, "3": 1, "T": 1, "e": 1, "n": 1, "w": 1}
    assert list(found.characters)[:2] == ["o", "3"]
    assert found.outside_charset == {}
    assert found.unseen == "abcdfghijklmpqrsuvxyz012456789"
    assert found.same_bytes == found.same_pixels == found.contradictions == Groups(0, 0, ())
    assert (found.overlaps, found.flags.tolist()) == ((), [0, 0, 0])


@pytest.mark.parametrize(
    ("data", "label", "values", "name"),
    [
        (None, "word", {}, "missing"),
        (b"", "word", {}, "empty"),
        (b"<html>", "word", {}, "not_an_image"),
        (image(0, 60, 60, "JPEG")[:-900], "word", {}, "truncated"),
        (image(1), "", {}, "empty_label"),
        (image(1), "&", {}, "empty_label"),
        (image(1), "a" * 26, {}, "too_long"),
        (image(1), "abcd", {"max_text_length": 3}, "too_long"),
        (image(1), "a&b", {"unknown": "drop_sample"}, "unknown_character"),
        (image(1), "a&b", {"unknown": "error"}, "unknown_character"),
        (image(1), "abcdef", {"image_width": 24}, "too_long_for_width"),  # 5 time steps
        (image(1, 20, 40), "abcdefgh", {"resize": "keep_ratio"}, "too_long_for_width"),  # 32 pixels wide, 7 steps
        (image(1), "a&b", {}, "changed_label"),
        (image(1, 40, 7), "word", {}, "tiny"),
        (image(1, 40, 9), "word", {"tiny_below": 10}, "tiny"),
        (image(1, 2001, 10), "word", {}, "huge"),
        (image(1, 10, 41), "word", {"huge_above": 40}, "huge"),
    ],
)
def test_each_finding_is_made_in_its_sample_alone(
    tmp_path: Path, data: bytes | None, label: str, values: dict[str, object], name: str
) -> None:
    store = list_of(tmp_path / "set", [(image(100), "ab"), (data, label), (image(101), "b")])
    found = inspect_store(store, settings(**values))
    assert counts(found) == {name: 1}
    assert {**found.faults, **found.remarks}[name].examples == ("1.png",)
    assert found.flags.tolist() == [0, FLAGS[name], 0]
    assert found.faulty == (name in FAULTS)
    assert [found.fault(index) for index in range(3)] == ["", name if name in FAULTS else "", ""]


def test_damaged_records_of_a_store(tmp_path: Path) -> None:
    store = store_of(tmp_path / "set", [(image(n), "word", (40, 20)) for n in range(6)])
    store.close()
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 24) as environment, environment.begin(write=True) as records:
        records.put(b"label-000000001", b"\xff")
        records.delete(b"image-000000002")
        records.put(b"image-000000003", b"")
        records.put(b"wh-000000004", b"20_40")
        records.put(b"wh-000000005", b"40x20")
    found = inspect_store(LmdbStore(tmp_path / "set"))
    assert counts(found) == {"unreadable_label": 1, "missing": 1, "empty": 1, "wrong_stored_size": 2}
    assert found.faults["unreadable_label"].examples == ("image-000000001",)
    # Under keep_ratio training goes by the stored size, and cannot use the last one.
    found = inspect_store(LmdbStore(tmp_path / "set"), settings(resize="keep_ratio"))
    assert counts(found) == {
        "unreadable_label": 1, "missing": 1, "empty": 1, "wrong_stored_size": 2, "unreadable_image": 1
    }  # fmt: skip
    assert found.fault(4) == "unreadable_image"


# ---- As training sees it


@pytest.mark.parametrize("resize", ["squash", "keep_ratio"])
@pytest.mark.parametrize("unknown", ["drop_character", "drop_sample"])
def test_what_is_faulty_is_what_training_leaves_out(tmp_path: Path, resize: str, unknown: str) -> None:
    rng = random.Random(5)
    samples: list[tuple[bytes | None, str]] = []
    for seed in range(150):
        label = "".join(rng.choices("aabcdefg-é字 ", k=rng.randint(0, 12)))
        samples.append((image(seed, rng.choice([16, 40, 90]), 20), label))
    store = list_of(tmp_path / "set", samples)
    measured = settings(resize=resize, image_width=32, unknown=unknown, max_text_length=9)
    found = inspect_store(store, measured)
    scan = scan_labels(store, measured.charset.charset(), measured.charset.rules(), measured.image)
    assert [n for n in range(len(samples)) if not found.fault(n)] == scan.indices.tolist()
    assert {name: finding.count for name, finding in found.faults.items()} == dict(scan.skipped)
    assert 20 < found.faulty < 130
    assert len(found.faults) == (4 if unknown == "drop_sample" else 3)


# ---- Equal images


def test_equal_files_equal_pixels_and_contradictions(tmp_path: Path) -> None:
    samples: list[tuple[bytes | None, str]] = [
        (image(1), "cat"),
        (image(2), "dog"),
        (image(1), "Cat"),  # the same label, once it is brought into form
        (image(3), "owl"),
        (image(3, kind="BMP"), "owl"),  # the same pixels in another file
        (image(2, kind="BMP"), "fog"),  # and with another label
        (image(4, kind="TIFF"), "bee"),
        (image(2), "dog"),
        (image(5), "elk"),
        (image(5), ""),  # has its own fault, and contradicts nobody
        (b"<html>", "one"),
        (b"<html>", "two"),  # no images, so no equal ones
    ]
    found = inspect_store(list_of(tmp_path / "set", samples))

    def members(*indices: int) -> tuple[Member, ...]:
        return tuple(Member(f"{index}.png", samples[index][1]) for index in indices)

    assert found.same_bytes == Groups(3, 6, (members(0, 2), members(1, 7), members(8, 9)))
    assert found.same_pixels == Groups(2, 5, (members(1, 5, 7), members(3, 4)))
    assert found.contradictions == Groups(1, 3, (members(1, 5, 7),))
    assert counts(found) == {"contradiction": 3, "empty_label": 1, "not_an_image": 2}
    assert found.faults["contradiction"].examples == ("1.png", "5.png", "7.png")
    assert found.faulty == 6
    # In a charset with capitals the first two differ.
    found = inspect_store(ListFile(tmp_path / "set" / "labels.tsv"), settings(characters="62"))
    assert found.contradictions.groups == 2


def test_overlap_with_other_sets(tmp_path: Path) -> None:
    test = list_of(tmp_path / "test", [(image(n), f"w{n}") for n in range(6)] + [(None, "gone"), (image(0), "w0")])
    train = store_of(
        tmp_path / "train",
        [(image(50), "x", None), (image(3), "w3", None), (image(0, kind="BMP"), "w0", None), (b"?", "w1", None)],
    )
    clean = list_of(tmp_path / "clean", [(None, "gone"), (image(60), "x")])
    found = inspect_store(test, against=[train, clean])
    first, second = found.overlaps
    assert (first.path, first.samples, first.unreadable) == (str(tmp_path / "train"), 4, 1)
    assert (first.same_bytes, first.same_pixels) == (1, 3)
    assert first.examples == (
        (Member("0.png", "w0"), Member("image-000000003", "w0")),
        (Member("3.png", "w3"), Member("image-000000002", "w3")),
        (Member("7.png", "w0"), Member("image-000000003", "w0")),
    )
    assert (second.samples, second.unreadable, second.same_bytes, second.same_pixels) == (2, 1, 0, 0)
    assert counts(found) == {"overlap": 3, "missing": 1}
    assert (found.faulty, found.fault(3), found.fault(6)) == (4, "overlap", "missing")
    assert found.widths.counts == (7,)  # of the set itself


# ---- Processes, JSON, text


def everything(folder: Path) -> tuple[ListFile, ListFile]:
    """A set of 127 samples with faults of several kinds, and another one that has some of its images."""
    rng = random.Random(1)
    samples: list[tuple[bytes | None, str]] = [
        (image(n % 110, 20 + n % 110 % 90, kind=rng.choice(["PNG", "BMP"])), rng.choice(["a", "b", "c-d", "Tür", ""]))
        for n in range(120)
    ]
    samples += [(None, "gone"), (b"?", "no"), (image(9000, 3, 3), "t"), (image(9001, 2500, 9), "h")]
    samples += [(image(9002), "字" * 3), (image(9003), "\x07bell  x"), (image(9004), "a" * 40)]
    return list_of(folder / "set", samples), list_of(folder / "other", samples[50:60])


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn.data.inspection._JOB_SAMPLES", 50)
    store, other = everything(tmp_path)
    done: list[int] = []
    alone = inspect_store(store, against=[other], workers=0, progress=done.append)
    assert sum(done) == 127 + 10
    together = inspect_store(store, against=[other], workers=2)
    assert together.as_dict() == alone.as_dict()
    assert (together.flags == alone.flags).all()
    assert {"contradiction", "overlap", "empty_label"} < set(alone.faults)


def test_json_has_the_keys_that_are_documented(tmp_path: Path) -> None:
    store, other = everything(tmp_path)
    found = inspect_store(store, against=[other])
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for key in values:
        assert f"`{key}`" in text, key
    for name in (*FAULTS, *REMARKS):
        assert f"`{name}`" in text, name
    assert values["samples"] == 127
    assert values["faulty"] == np.count_nonzero(found.flags & sum(FLAGS[name] for name in FAULTS))
    assert values["fault_share"] == values["faulty"] / 127
    assert values["faults"]["missing"] == {"count": 1, "examples": ["120.png"]}
    assert set(values["widths"]) == {"minimum", "median", "maximum", "edges", "unit", "counts"}
    assert sum(values["widths"]["counts"]) == 125
    assert sum(values["label_lengths"]["counts"]) == 127
    assert values["characters"]["\x07"] == 1
    assert values["outside_charset"]["字"] == 3
    assert set(values["contradictions"]["examples"][0][0]) == {"key", "label"}
    assert values["overlaps"][0]["examples"][0][1]["key"] == "0.png"
    assert values["settings"] == {
        "characters": "abcdefghijklmnopqrstuvwxyz0123456789", "max_text_length": 25, "resize": "squash",
        "image_width": 100, "tiny_below": 8, "huge_above": 2000,
    }  # fmt: skip


def test_the_text_says_all_of_it_in_lines_that_fit(tmp_path: Path) -> None:
    store, other = everything(tmp_path)
    found = inspect_store(store, against=[other])
    text = inspection_text(found, "█")
    for name, finding in {**found.faults, **found.remarks}.items():
        assert f"{finding.count:>9,}  {name}" in text
    assert f"faults: {found.faulty} samples, {100 * found.fault_share:.2f} %" in text
    assert "127 samples; measured by 36 characters, a width of 100 pixels (24 time steps), labels of up to 25" in text
    assert f"contradictions: {found.contradictions.groups} groups" in text
    assert f"overlap with {other.path} (10 samples): {found.overlaps[0].same_pixels} samples here" in text
    assert "U+0007 1" in text
    assert "a side below 8 pixels" in text
    charts, _, _ = text.partition("different characters")
    assert max(len(line) for line in charts.splitlines()[1:]) <= 100
    assert charts.count("█") > 50


def test_bounds_that_exclude_every_size() -> None:
    for bounds in ({"tiny_below": 9, "huge_above": 8}, {"tiny_below": -1}):
        with pytest.raises(
            ConfigError, match=f"tiny below {bounds['tiny_below']} and huge above .*; expected 0 <= tiny <= huge"
        ):
            InspectionSettings(**bounds)


# ---- the set without its faults


@pytest.fixture
def faulty_set(tmp_path: Path, image_of: Callable[..., bytes]) -> LmdbStore:
    """Eight samples with lexicons: 1 and 5 contradict each other, 2 has no label, 6 no image, 7 is in ``other``."""
    with LmdbWriter(tmp_path / "set") as writer:
        for number, label in enumerate(["zero", "one", "", "three", "four", "five", "six", "seven"]):
            image = b"?" if number == 6 else image_of(str(1 if number == 5 else number))
            writer.add(image, label, lexicon=("a", label or "b"), large_lexicon=("x", "y", "z"), size=(16, 32))
    with LmdbWriter(tmp_path / "other") as writer:
        writer.add(image_of("7"), "seven")
    return LmdbStore(tmp_path / "set")


def test_a_store_without_its_faults(tmp_path: Path, faulty_set: LmdbStore, image_of: Callable[..., bytes]) -> None:
    found = inspect_store(faulty_set, against=[open_source(str(tmp_path / "other"))])
    done: list[int] = []
    written = write_clean(faulty_set, found, str(tmp_path / "clean"), progress=done.append)
    assert (written.complete, written.written, written.total, sum(done)) == (True, 3, 8, 8)
    assert {reason: (skips.count, skips.examples) for reason, skips in written.skipped.items()} == {
        "contradiction": (2, ["image-000000002", "image-000000006"]),
        "empty_label": (1, ["image-000000003"]),
        "not_an_image": (1, ["image-000000007"]),
        "overlap": (1, ["image-000000008"]),
    }
    with LmdbStore(tmp_path / "clean") as clean:
        assert [clean.label(n) for n in range(len(clean))] == ["zero", "three", "four"]
        assert [clean.image_bytes(n) for n in range(3)] == [image_of(name) for name in "034"]
        assert clean.lexicon(1) == ("a", "three")
        assert clean.lexicon(2, large=True) == ("x", "y", "z")
        assert clean.stored_size(0) == (20, 32)  # the right one, where the set had a wrong one
        assert inspect_store(clean, against=[open_source(str(tmp_path / "other"))]).faulty == 0


def test_a_list_without_its_faults(tmp_path: Path, faulty_set: LmdbStore, image_of: Callable[..., bytes]) -> None:
    written = write_clean(faulty_set, inspect_store(faulty_set), str(tmp_path / "clean"), to="list")
    assert (written.written, written.lexicons_left_out) == (4, 4)
    clean = ListFile(tmp_path / "clean" / "labels.tsv")
    assert [clean.label(n) for n in range(4)] == ["zero", "three", "four", "seven"]
    assert clean.image_bytes(3) == image_of("7")
    # And the other way round.
    again = write_clean(clean, inspect_store(clean), str(tmp_path / "again"), workers=2)
    assert (again.written, again.skipped) == (4, {})
    assert LmdbStore(tmp_path / "again").label(2) == "four"


@pytest.mark.parametrize("to", ["lmdb", "list"])
def test_nothing_is_left_of_what_was_stopped(tmp_path: Path, faulty_set: LmdbStore, to: str) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clean(faulty_set, inspect_store(faulty_set), str(tmp_path / "clean"), to=to, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "set"]


def test_what_is_refused(tmp_path: Path, faulty_set: LmdbStore) -> None:
    found = inspect_store(faulty_set)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "half.partial").mkdir()
    for path, message in (("full", "exists already; expected a new or empty folder"), ("half", "left by a conversion")):
        with pytest.raises(DataError, match=message):
            check_destination(tmp_path / path)
        with pytest.raises(DataError, match=message):
            write_clean(faulty_set, found, str(tmp_path / path))
    assert (tmp_path / "full" / "file").exists()
    assert (tmp_path / "half.partial").exists()
    check_destination(tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_a_sheet_shows_samples_in_order_and_marks_the_faulty_ones(faulty_set: LmdbStore) -> None:
    found = inspect_store(faulty_set)
    sheet = sample_sheet(faulty_set, found, 96, seed=0, font_path=None)
    assert sheet.shape == (118, 8 * 184, 3)
    corners = sheet[::118, ::184].reshape(-1, 3)
    assert [(corner == (208, 0, 0)).all() for corner in corners] == [False, True, True, False, False, True, True, False]
    assert (sheet[4, 6 * 184 + 4 : 6 * 184 + 60] == 224).all()  # the image that cannot be read is a box
    assert (sheet[4:60, 4:30] < 128).any()


# ---- groups and histograms, each against the obvious slow way

HASHES = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 3)), max_size=20)
LARGEST = 2**64 - 1


def hashes_of(values: list[int]) -> np.ndarray:
    # Far apart, and the largest and the smallest of all among them.
    return np.array([(0, 7, 2**63, LARGEST, 1, 2**40)[value] for value in values], np.uint64)


@given(HASHES)
def test_groups_are_those_of_a_dictionary(samples: list[tuple[int, bool, int]]) -> None:
    hashes = hashes_of([value for value, _, _ in samples])
    among = np.array([has for _, has, _ in samples], bool)
    expected: dict[int, list[int]] = defaultdict(list)
    for index, (value, has, _) in enumerate(samples):
        if has:
            expected[value].append(index)
    groups = sorted(group for group in expected.values() if len(group) > 1)
    found = equal_groups(hashes, among)
    assert [group.tolist() for group in found] == groups


@given(HASHES, HASHES)
def test_what_two_sets_have_in_common(ours: list[tuple[int, bool, int]], theirs: list[tuple[int, bool, int]]) -> None:
    arrays = [
        (hashes_of([value for value, _, _ in part]), np.array([has for _, has, _ in part], bool))
        for part in (ours, theirs)
    ]
    there = {value: index for index, (value, has, _) in reversed(list(enumerate(theirs))) if has}
    expected = [there.get(value, -1) if has else -1 for value, has, _ in ours]
    assert in_common(*arrays[0], *arrays[1]).tolist() == expected


@given(st.dictionaries(st.integers(0, 100_000), st.integers(0, 50), max_size=40), st.sampled_from([1, 10]))
def test_histograms_count_every_number_once(numbers: dict[int, int], parts: int) -> None:
    spread = Histogram.of(numbers, parts=parts)
    every = sorted(Counter(numbers).elements())
    assert sum(spread.counts) == len(every)
    assert len(spread.counts) <= MAX_BINS
    if not every:
        assert (spread.minimum, spread.median, spread.maximum, spread.edges, spread.counts) == (0, 0, 0, (), ())
        return
    assert len(spread.edges) == len(spread.counts) + 1
    assert (spread.minimum, spread.maximum) == (every[0] / parts, every[-1] / parts)
    assert spread.median == every[(len(every) - 1) // 2] / parts
    for low, high, count in zip(spread.edges, spread.edges[1:], spread.counts, strict=False):
        assert low < high
        assert count == sum(low <= number / parts < high for number in every)
    widths = {round(high - low, 3) for low, high in zip(spread.edges[:-1], spread.edges[1:-1], strict=False)}
    assert len(widths) <= 1  # all but the last are as wide


def test_a_few_large_numbers_do_not_leave_one_bin_for_the_others() -> None:
    spread = Histogram.of({**dict.fromkeys(range(10, 60), 20), 9000: 1})
    assert spread.edges == (10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 9001)
    assert spread.counts == (100,) * 10 + (1,)
