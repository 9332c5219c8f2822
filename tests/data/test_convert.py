"""Conversions: what is written, counted and kept, whatever the number of workers and however often they are killed."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import crnn.data.convert as convert_module
from crnn.data.convert import convert
from crnn.data.crops import CropOptions
from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Box, Record, Skipped
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import ConfigError, DataError


def test_samples_are_written_in_order_and_the_rest_is_counted(mixed_words, tmp_path):
    done = convert(mixed_words, str(tmp_path / "new" / "store"), expected=36)
    assert (done.complete, done.written, done.total, done.expected, done.begun_at) == (True, 37, 40, 36, 0)
    assert {reason: (skips.count, skips.examples) for reason, skips in done.skipped.items()} == {
        "missing": (1, ("gone.png",)),
        "no_label": (1, ("nobody",)),
        "outside_image": (1, ("scene.png#6",)),
    }
    assert "gone.png: cannot be read: No such file" in done.skipped["missing"].message
    used = [
        item for item in mixed_words.items if isinstance(item, Record) and item.key not in ("gone.png", "scene.png#6")
    ]
    with LmdbStore(tmp_path / "new" / "store") as store:
        assert [store.label(i) for i in range(len(store))] == [record.label for record in used]
        for index, record in enumerate(used):
            image = Image.open(io.BytesIO(store.image_bytes(index)))
            assert store.stored_size(index) == image.size
            if record.region is None:
                assert store.image_bytes(index) == (mixed_words.root / record.path).read_bytes()
                assert store.lexicon(index) == ("one", "two")
                assert store.large_lexicon(index) == ("one", "two", "three")
            else:
                assert (image.format, image.size) == ("PNG", (40, 20))
                assert store.lexicon(index) is None
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["store"]
    assert json.loads(json.dumps(done.as_dict()))["skipped"]["missing"]["count"] == 1


def test_the_number_of_workers_changes_nothing(mixed_words, tmp_path, records_of):
    convert(mixed_words, str(tmp_path / "alone"), workers=0)
    done = convert(mixed_words, str(tmp_path / "many"), workers=3)
    assert records_of(tmp_path / "alone") == records_of(tmp_path / "many")
    assert done.skipped["missing"].count == 1


def test_a_list_is_written_too(mixed_words, tmp_path):
    done = convert(mixed_words, str(tmp_path / "folder"), to="list", workers=0)
    assert (done.written, done.lexicons_left_out) == (37, 32)
    store = ListFile(tmp_path / "folder" / "labels.tsv")
    assert len(store) == 37
    assert store.label(0) == "wörd0"
    assert store.image_bytes(0) == (mixed_words.root / "a folder/wörd 0.jpg").read_bytes()
    assert {Path(store.key(i)).suffix for i in range(37)} == {".jpg", ".png"}
    assert sorted(entry.name for entry in (tmp_path / "folder").iterdir()) == ["images", "labels.tsv"]


def test_too_many_bad_samples_stop_with_examples(mixed_words, tmp_path):
    for number in range(10, 20):
        (mixed_words.root / f"a folder/wörd {number}.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(DataError, match=r"13 of 40 samples cannot be used, more than the share of 0.1") as caught:
        convert(mixed_words, str(tmp_path / "store"), workers=0)
    assert "10 not_an_image (a folder/wörd 10.jpg: image bytes: not an image" in str(caught.value)
    assert "--max-bad-share" in str(caught.value)
    assert "\n" not in str(caught.value)
    done = convert(mixed_words, str(tmp_path / "store"), workers=0, max_bad_share=0.4)
    assert (done.written, done.skipped["not_an_image"].count, done.begun_at) == (27, 10, 40)
    assert done.skipped["not_an_image"].examples == tuple(f"a folder/wörd {n}.jpg" for n in range(10, 15))


def test_what_is_not_wanted_is_not_bad(mixed_words, tmp_path):
    mixed_words.items[5:25] = [Skipped(f"no {number}", "not_in_variant") for number in range(20)]
    done = convert(mixed_words, str(tmp_path / "store"), workers=0)
    assert done.left_out["not_in_variant"].count == 20
    assert "not_in_variant" not in done.skipped


def test_a_bad_beginning_of_a_long_set_does_not_stop_it(tmp_path, image_of, given_reader):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "good.png").write_bytes(image_of("good"))
    good = [Record(f"good {n}", "good", "good.png") for n in range(1500)]
    bad: list[Record | Skipped] = [Skipped(f"bad {n}", "no_label") for n in range(90)]
    assert convert(given_reader(tmp_path / "set", bad + good), str(tmp_path / "a"), workers=0).written == 1500
    bad += [Skipped("one", "no_label")] * 11
    with pytest.raises(DataError, match=r"101 of \d{3} samples"):
        convert(given_reader(tmp_path / "set", bad + good), str(tmp_path / "b"), workers=0)


def test_when_nothing_can_be_used_nothing_is_kept(tmp_path, given_reader):
    items = [Record("a.png", "a", "a.png"), Skipped("b", "no_label")]
    with pytest.raises(DataError, match=r"none of 2 samples can be written: .*1 missing \(a.png: cannot be read"):
        convert(given_reader(tmp_path, items), str(tmp_path / "store"), max_bad_share=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="none of 0 samples"):
        convert(given_reader(tmp_path, []), str(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


def test_several_readers_make_one_store(mixed_words, tmp_path, image_of, given_reader):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(image_of("x"))
    second = given_reader(other, [Record("x.png", "x", "x.png"), Record("gone", "y", "a folder/wörd 0.jpg")])
    done = convert([mixed_words, second], str(tmp_path / "both"), workers=0)
    assert (done.written, done.total, done.skipped["missing"].count) == (38, 42, 2)
    with LmdbStore(tmp_path / "both") as store:
        assert store.image_bytes(37) == image_of("x")


def test_a_store_is_copied_by_worker_processes(mixed_words, tmp_path, records_of):
    convert(mixed_words, str(tmp_path / "one"), workers=0)
    convert(StoreReader(tmp_path / "one"), str(tmp_path / "two"), workers=2)
    assert records_of(tmp_path / "one") == records_of(tmp_path / "two")


def test_the_source_is_not_changed_and_links_do_not_lead_out_of_it(mixed_words, tmp_path, image_of):
    outside = tmp_path / "outside.png"
    outside.write_bytes(image_of("secret"))
    (mixed_words.root / "link.png").symlink_to(outside)
    (mixed_words.root / "folder").symlink_to(tmp_path)
    (mixed_words.root / "inside.png").symlink_to(mixed_words.root / "scene.png")
    paths = ["link.png", "folder/outside.png", "../outside.png", str(outside), "inside.png", "a folder", "", "x\0y"]
    mixed_words.items = [Record(f"{n}", "label", path) for n, path in enumerate(paths)]
    before = {path: path.lstat() for path in mixed_words.root.rglob("*")}
    done = convert(mixed_words, str(tmp_path / "store"), max_bad_share=1)
    assert done.written == 1
    assert done.skipped["outside_root"].examples == ("0", "1", "2", "3")
    assert done.skipped["missing"].examples == ("5", "6", "7")
    after = {path: path.lstat() for path in mixed_words.root.rglob("*")}
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in after.items()
    }
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outside.png", "set", "store"]


def test_labels_and_words_that_cannot_be_stored_are_counted(tmp_path, image_of, given_reader):
    (tmp_path / "x.png").write_bytes(image_of("x"))
    labels = ["good", "half \ud800", "two\nlines", ""]
    items = [
        Record(f"{n}", label, "x.png", lexicon=("fine", "New York", "", "\ud800", "ok"))
        for n, label in enumerate(labels)
    ]
    done = convert(given_reader(tmp_path, items), str(tmp_path / "store"), max_bad_share=1)
    assert (done.written, done.skipped["encoding"].count, done.lexicon_words_left_out) == (3, 1, 9)
    with LmdbStore(tmp_path / "store") as store:
        assert [store.label(i) for i in range(3)] == ["good", "two\nlines", ""]
        assert store.lexicon(0) == ("fine", "ok")
    done = convert(given_reader(tmp_path, items), str(tmp_path / "list"), to="list", max_bad_share=1)
    assert {reason: skips.count for reason, skips in done.skipped.items()} == {"encoding": 1, "line_break": 1}
    with ListFile(tmp_path / "list" / "labels.tsv") as listed:
        assert [listed.label(i) for i in range(len(listed))] == ["good", ""]


def test_progress_adds_up(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    counts: list[int] = []
    convert(mixed_words, str(tmp_path / "store"), workers=0, progress=counts.append)
    assert sum(counts) == 40
    assert max(counts) < 10


def test_few_samples_are_in_memory_at_a_time(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 4)
    monkeypatch.setattr(convert_module, "_JOB_ITEMS", 8)
    taken = done = most = 0
    record = Record("a folder/wörd 1.jpg", "one", "a folder/wörd 1.jpg")

    class Endless(type(mixed_words)):
        def __iter__(self):
            nonlocal taken, most
            for number in range(2000):
                taken += 1
                most = max(most, taken - done)
                yield record if number % 100 == 0 or number > 1800 else Skipped("x", "not_in_variant")

    def progress(count: int) -> None:
        nonlocal done
        done += count

    done_all = convert(
        Endless(mixed_words.root, [record] * 2000), str(tmp_path / "store"), workers=2, progress=progress
    )
    assert done_all.written == 18 + 200
    assert most <= 2 * 4 * 12 + 12  # jobs per worker times what is taken for a job


def test_impossible_settings_are_refused(mixed_words, tmp_path):
    path = str(tmp_path / "store")
    for changes, message in (
        ({"to": "csv"}, "to is 'csv'"),
        ({"max_bad_share": 1.5}, "max_bad_share is 1.5"),
        ({"workers": -1}, "workers is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(mixed_words, path, **changes)
    for changes, message in (
        ({"check": "none"}, "check is 'none'"),
        ({"max_height": 0}, "max_height is 0"),
        ({"encoding": "gif"}, "encoding is 'gif'"),
        ({"quality": 101}, "quality is 101"),
    ):
        with pytest.raises(ConfigError, match=message):
            CropOptions(**changes)
    assert not (tmp_path / "store.partial").exists()


def test_jobs_end_where_work_and_memory_say():
    words = [Record(f"s#{n}", "x", "scene.png", Box(n, 0, 5, 5)) for n in range(200)]
    others = [Record(f"t{n}", "x", f"t{n}.png", Box(0, 0, 5, 5)) for n in range(150)]
    wholes = [Record(f"w{n}", "x", f"w{n}.png") for n in range(300)]
    lexicons = [Record(f"l{n}", "x", f"l{n}.png", None, ("x", "y")) for n in range(130)]
    sizes = [
        [len(job) for job in convert_module._jobs((0, record) for record in records)]
        for records in (words, others, wholes, lexicons)
    ]
    # A scene is not divided, other words and lexicons come in small parts, whole images in large ones.
    assert sizes == [[200], [64, 64, 22], [128, 128, 44], [64, 64, 2]]


def test_labels_that_would_break_a_list_fit_none(tmp_path, barcode):
    with LmdbWriter(tmp_path / "words") as writer:
        for label in ("one", "two\r", "th\rree", "fo\0ur"):
            writer.add(barcode("one"), label)
    done = convert(StoreReader(tmp_path / "words"), str(tmp_path / "list"), to="list", workers=0, max_bad_share=0.5)
    store = ListFile(tmp_path / "list" / "labels.tsv")
    assert [store.label(i) for i in range(len(store))] == ["one", "th\rree"]
    assert done.skipped["line_break"].count == 2
