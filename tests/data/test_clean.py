"""A set without its faults: what is written, what is left out, and what is refused; sheets of random samples."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn.cli.inspection_text import sample_sheet
from crnn.data.inspection import check_destination, inspect_store, write_clean
from crnn.data.list_file import ListFile
from crnn.data.source import open_source
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import DataError

ImageOf = Callable[..., bytes]


@pytest.fixture
def faulty_set(tmp_path: Path, image_of: ImageOf) -> LmdbStore:
    """Eight samples with lexicons: 1 and 5 contradict each other, 2 has no label, 6 no image, 7 is in ``other``."""
    with LmdbWriter(tmp_path / "set") as writer:
        for number, label in enumerate(["zero", "one", "", "three", "four", "five", "six", "seven"]):
            image = b"?" if number == 6 else image_of(str(1 if number == 5 else number))
            writer.add(image, label, lexicon=("a", label or "b"), large_lexicon=("x", "y", "z"), size=(16, 32))
    with LmdbWriter(tmp_path / "other") as writer:
        writer.add(image_of("7"), "seven")
    return LmdbStore(tmp_path / "set")


def test_a_store_without_its_faults(tmp_path: Path, faulty_set: LmdbStore, image_of: ImageOf) -> None:
    found = inspect_store(faulty_set, against=[open_source(str(tmp_path / "other"))])
    done: list[int] = []
    written = write_clean(faulty_set, found, str(tmp_path / "clean"), progress=done.append)
    assert (written.complete, written.written, written.total, sum(done)) == (True, 3, 8, 8)
    assert {reason: (skips.count, skips.examples) for reason, skips in written.skipped.items()} == {
        "contradiction": (2, ("image-000000002", "image-000000006")),
        "empty_label": (1, ("image-000000003",)),
        "not_an_image": (1, ("image-000000007",)),
        "overlap": (1, ("image-000000008",)),
    }
    with LmdbStore(tmp_path / "clean") as clean:
        assert [clean.label(n) for n in range(len(clean))] == ["zero", "three", "four"]
        assert [clean.image_bytes(n) for n in range(3)] == [image_of(name) for name in "034"]
        assert clean.lexicon(1) == ("a", "three")
        assert clean.large_lexicon(2) == ("x", "y", "z")
        assert clean.stored_size(0) == (20, 32)  # the right one, where the set had a wrong one
        assert inspect_store(clean, against=[open_source(str(tmp_path / "other"))]).faulty == 0


def test_a_list_without_its_faults(tmp_path: Path, faulty_set: LmdbStore, image_of: ImageOf) -> None:
    written = write_clean(faulty_set, inspect_store(faulty_set), str(tmp_path / "clean"), to="list")
    assert (written.written, written.lexicons_left_out) == (4, 4)
    clean = ListFile(tmp_path / "clean" / "labels.tsv")
    assert [clean.label(n) for n in range(4)] == ["zero", "three", "four", "seven"]
    assert clean.image_bytes(3) == image_of("7")
    # And the other way round.
    again = write_clean(clean, inspect_store(clean), str(tmp_path / "again"), workers=2)
    assert (again.written, again.skipped) == (4, {})
    assert LmdbStore(tmp_path / "again").label(2) == "four"


def test_a_lexicon_that_cannot_be_read_costs_its_sample(tmp_path: Path, faulty_set: LmdbStore) -> None:
    import lmdb

    with lmdb.open(str(tmp_path / "set"), map_size=1 << 24) as environment, environment.begin(write=True) as records:
        records.put(b"lexicon-000000001", b"\xff")
    store = LmdbStore(tmp_path / "set")
    written = write_clean(store, inspect_store(store), str(tmp_path / "clean"))
    assert (written.written, written.skipped["bad_record"].examples) == (3, ("image-000000001",))


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
    for path, message in (("full", "exists already; expected a new or empty folder"), ("half", "was stopped: go on")):
        with pytest.raises(DataError, match=message):
            check_destination(tmp_path / path)
        with pytest.raises(DataError, match=message):
            write_clean(faulty_set, found, str(tmp_path / path))
    assert (tmp_path / "full" / "file").exists()
    assert (tmp_path / "half.partial").exists()
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty")
    check_destination(tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_a_set_of_faults_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("a.png\ta\nb.png\tb\n")
    store = ListFile(tmp_path / "labels.tsv")
    with pytest.raises(DataError, match=r"none of 2 samples can be written: 2 missing \(a\.png\)"):
        write_clean(store, inspect_store(store), str(tmp_path / "clean"))
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tsv"]


# ---------------------------------------------------------------------------------------------------------------------
# Sheets


def red(sheet: np.ndarray) -> list[bool]:
    """For each cell whether it is marked."""
    corners = sheet[::118, ::184]
    return [(corner == (208, 0, 0)).all() for corner in corners.reshape(-1, 3)]


def test_a_sheet_shows_samples_in_order_and_marks_the_faulty_ones(faulty_set: LmdbStore) -> None:
    found = inspect_store(faulty_set)
    sheet = sample_sheet(faulty_set, found, 96)
    assert sheet.shape == (118, 8 * 184, 3)
    assert red(sheet) == [False, True, True, False, False, True, True, False]
    assert (sheet[4, 6 * 184 + 4 : 6 * 184 + 60] == 224).all()  # the image that cannot be read is a box
    assert (sheet[4:60, 4:30] < 128).any()


def test_samples_are_drawn_by_the_seed(tmp_path: Path, image_of: ImageOf) -> None:
    with LmdbWriter(tmp_path / "set") as writer:
        for number in range(50):
            writer.add(image_of(str(number)), f"line\nbreak {number}")
    store = LmdbStore(tmp_path / "set")
    found = inspect_store(store)
    first, same, other = (sample_sheet(store, found, 9, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (2 * 118, 8 * 184, 3)
    assert (first == same).all()
    assert (first != other).any()


def test_a_large_image_is_shown_as_a_small_one_would_be(tmp_path: Path) -> None:
    large = Image.new("RGB", (4000, 900), (10, 200, 30))
    with LmdbWriter(tmp_path / "set") as writer:
        for image in (large, large.resize((400, 90))):
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            writer.add(buffer.getvalue(), "x")
    store = LmdbStore(tmp_path / "set")
    sheet = sample_sheet(store, inspect_store(store))
    assert (sheet[4:43, 4:180] == (10, 200, 30)).all()
    assert (sheet[:50, :184] == sheet[:50, 184:368]).all()
