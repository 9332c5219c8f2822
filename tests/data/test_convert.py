"""Conversions: what is written, counted and kept, whatever the number of workers and however often they are killed."""

import io
import json
import multiprocessing
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import lmdb
import pytest
from PIL import Image

from crnn.data.convert import convert
from crnn.data.crops import CropOptions
from crnn.data.formats.files import ListReader
from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Record, Skipped
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore
from crnn.errors import ConfigError, DataError


@pytest.fixture
def small_jobs(monkeypatch):
    """Jobs of three images, and a commit every five."""
    monkeypatch.setattr("crnn.data.convert._JOB_SIZE", 3)
    monkeypatch.setattr("crnn.data.convert._HEAVY", 1)
    monkeypatch.setattr("crnn.data.convert._COMMIT_SAMPLES", 5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_samples_are_written_in_order_and_the_rest_is_counted(mixed_words, tmp_path):
    counts: list[int] = []
    mixed_words.items[1:1] = [Skipped(f"no {number}", "not_in_variant") for number in range(20)]
    done = convert(mixed_words, str(tmp_path / "new" / "store"), expected=36, progress=counts.append)
    assert (done.complete, done.written, done.total, done.expected, done.begun_at) == (True, 37, 60, 36, 0)
    assert {reason: (skips.count, skips.examples) for reason, skips in done.skipped.items()} == {
        "missing": (1, ["gone.png"]),
        "no_label": (1, ["nobody"]),
        "outside_image": (1, ["scene.png#6"]),
    }
    assert (done.left_out["not_in_variant"].count, sum(counts)) == (20, 60)  # what is not wanted is not bad
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
                assert store.lexicon(index, large=True) == ("one", "two", "three")
            else:
                assert (image.format, image.size) == ("PNG", (40, 20))
                assert store.lexicon(index) is None
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["store"]
    assert json.loads(json.dumps(asdict(done)))["skipped"]["missing"]["count"] == 1


def test_the_number_of_workers_changes_nothing(mixed_words, tmp_path, records_of):
    convert(mixed_words, str(tmp_path / "alone"), workers=0)
    done = convert(mixed_words, str(tmp_path / "many"), workers=3)
    convert(StoreReader(tmp_path / "many"), str(tmp_path / "copy"), workers=2)
    assert records_of(tmp_path / "alone") == records_of(tmp_path / "many") == records_of(tmp_path / "copy")
    assert done.skipped["missing"].count == 1


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
    assert done.skipped["not_an_image"].examples == [f"a folder/wörd {n}.jpg" for n in range(10, 15)]


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
    assert done.skipped["outside_root"].examples == ["0", "1", "2", "3"]
    assert done.skipped["missing"].examples == ["5", "6", "7"]
    after = {path: path.lstat() for path in mixed_words.root.rglob("*")}
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in after.items()
    }
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outside.png", "set", "store"]


def test_labels_and_words_that_cannot_be_stored_are_counted(tmp_path, image_of, given_reader):
    (tmp_path / "x.png").write_bytes(image_of("x"))
    labels = ["good", "half \ud800", "two\nlines", "", "end\r", "th\rree", "fo\0ur"]
    items = [
        Record(f"{n}", label, "x.png", lexicon=("fine", "New York", "", "\ud800", "ok"))
        for n, label in enumerate(labels)
    ]
    done = convert(given_reader(tmp_path, items), str(tmp_path / "store"), max_bad_share=1)
    assert (done.written, done.skipped["encoding"].count, done.lexicon_words_left_out) == (6, 1, 18)
    with LmdbStore(tmp_path / "store") as store:
        assert [store.label(i) for i in range(6)] == [labels[0], *labels[2:]]
        assert store.lexicon(0) == ("fine", "ok")
    done = convert(given_reader(tmp_path, items), str(tmp_path / "list"), to="list", max_bad_share=1)
    assert {reason: skips.count for reason, skips in done.skipped.items()} == {"encoding": 1, "line_break": 3}
    with ListFile(tmp_path / "list" / "labels.tsv") as listed:
        assert [listed.label(i) for i in range(len(listed))] == ["good", "", "th\rree"]


def test_few_samples_are_in_memory_at_a_time(mixed_words, tmp_path, small_jobs):
    taken = done = most = 0
    record = Record("a folder/wörd 1.jpg", "one", "a folder/wörd 1.jpg")

    class Endless(type(mixed_words)):
        def __iter__(self):
            nonlocal taken, most
            for number in range(1200):
                taken += 1
                most = max(most, taken - done)
                yield record if number % 100 == 0 or number > 1100 else Skipped("x", "not_in_variant")

    def progress(count: int) -> None:
        nonlocal done
        done += count

    done_all = convert(
        Endless(mixed_words.root, [record] * 1200), str(tmp_path / "store"), workers=2, progress=progress
    )
    assert done_all.written == 12 + 99
    assert most <= 2 * 4 * 93 + 93  # jobs per worker times what is taken for a job


def test_impossible_settings_are_refused(mixed_words, tmp_path):
    for name, value in (("max_bad_share", 1.5), ("workers", -1)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            convert(mixed_words, str(tmp_path / "store"), **{name: value})
    for name, value in (("max_height", 0), ("quality", 101)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            CropOptions(**{name: value})
    assert not (tmp_path / "store.partial").exists()


# ---- stopped, killed, failed


def stop_after(count: int) -> dict[str, object]:
    """Arguments that ask to stop once ``count`` more samples are done."""
    counts: list[int] = []
    return {"workers": 0, "progress": counts.append, "stop": lambda: sum(counts[1:]) >= count}


@pytest.mark.parametrize("to", ["lmdb", "list"])
def test_a_stopped_conversion_goes_on_and_gives_the_same(mixed_words, tmp_path, small_jobs, to, records_of):
    convert(mixed_words, str(tmp_path / "whole"), to=to, workers=0)
    path, done, stops = tmp_path / "parts", None, 0
    while done is None or not done.complete:
        assert not path.exists()
        done = convert(mixed_words, str(path), to=to, **stop_after(4))
        stops += 1
    assert (stops > 5, done.begun_at > 20, done.written) == (True, True, 37)
    read = records_of if to == "lmdb" else files_of
    assert read(path) == read(tmp_path / "whole")
    whole = {reason: skips.count for reason, skips in done.skipped.items()}
    assert whole == {"missing": 1, "no_label": 1, "outside_image": 1}


KILLED = """
import os, signal, sys
import crnn.data.convert as module
from crnn.data.formats.files import ListReader

if __name__ == "__main__":
    module._JOB_SIZE, module._COMMIT_SAMPLES = 3, 5
    done = 0
    def progress(count):
        global done
        done += count
        if done >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    module.convert(ListReader(sys.argv[1]), sys.argv[2], workers=2, progress=progress)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_kill_9_in_the_middle_loses_and_doubles_nothing(word_list, tmp_path, records_of):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    source = word_list(40)
    convert(ListReader(source), str(tmp_path / "whole"), workers=0)
    path = tmp_path / "parts"
    for limit in (17, 31):
        done = subprocess.run([sys.executable, script, source, path, str(limit)], timeout=60, capture_output=True)
        assert done.returncode == -signal.SIGKILL
        assert b"Traceback" not in done.stderr  # Python may tell of semaphores that it removes
        assert sorted(entry.name for entry in tmp_path.glob("parts*")) == ["parts.partial"]
        assert b"num-samples" not in records_of(tmp_path / "parts.partial")
    done = convert(ListReader(source), str(path), workers=0)
    assert done.begun_at >= 19  # more than the first had; the last commit of each was still being written
    assert records_of(path) == records_of(tmp_path / "whole")


def test_other_settings_or_another_source_do_not_go_on(mixed_words, tmp_path, small_jobs):
    path = str(tmp_path / "store")
    assert not convert(mixed_words, path, origin={"format": "given"}, **stop_after(1)).complete
    with pytest.raises(
        DataError, match=r"begun with max_height None \(now 20\), encoding png \(now jpeg\)\. .*--restart"
    ):
        convert(mixed_words, path, origin={"format": "given"}, images=CropOptions(max_height=20, encoding="jpeg"))
    with pytest.raises(DataError, match=r"begun with format given \(now other\)"):
        convert(mixed_words, path, origin={"format": "other"})
    before = mixed_words.items[1]
    mixed_words.items[1] = Record("a folder/wörd 1.jpg", "changed", "a folder/wörd 1.jpg")
    with pytest.raises(DataError, match="first 3 samples have changed"):
        convert(mixed_words, path, origin={"format": "given"})
    mixed_words.items[1] = before
    with pytest.raises(DataError, match=r"has 'data\.mdb', which no writer of this form left"):
        convert(mixed_words, path, origin={"format": "given"}, to="list")
    done = convert(mixed_words, path, origin={"format": "given"}, max_bad_share=0.5)  # may change: it decides nothing
    assert (done.complete, done.begun_at) == (True, 3)


def test_restart_throws_away_only_what_a_conversion_left(mixed_words, tmp_path, small_jobs):
    path = tmp_path / "store"
    convert(mixed_words, str(path), **stop_after(1))
    mine = tmp_path / "store.partial" / "mine.txt"
    mine.write_text("precious")
    with pytest.raises(DataError, match=r"has 'mine.txt', which no writer of this form left"):
        convert(mixed_words, str(path), restart=True)
    assert mine.read_text() == "precious"
    mine.unlink()
    done = convert(mixed_words, str(path), images=CropOptions(max_height=16), restart=True)
    assert (done.complete, done.begun_at, done.written) == (True, 0, 37)
    with LmdbStore(path) as store:
        assert {store.stored_size(i)[1] for i in range(len(store))} == {16}
    with pytest.raises(DataError, match="exists already"):
        convert(mixed_words, str(path), restart=True)


def test_two_conversions_to_one_place_are_kept_apart(mixed_words, tmp_path, small_jobs):
    path = str(tmp_path / "store")

    def second(_: int) -> None:
        for restart in (False, True):
            with pytest.raises(DataError, match=r"store\.partial: another process is writing there"):
                convert(mixed_words, path, workers=0, restart=restart)

    assert convert(mixed_words, path, workers=0, progress=second).written == 37


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("to", ["lmdb", "list"])
def test_a_full_disk_is_an_error_and_the_rest_goes_on(word_list, tmp_path, to, records_of):
    source = word_list(30)
    code = f"""
import resource, signal
import crnn.data.convert as module
from crnn.data.formats.files import ListReader
from crnn.errors import DataError
module._JOB_SIZE, module._COMMIT_SAMPLES = 3, 5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = 1 << 15 if {to!r} == "lmdb" else 500
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    module.convert(ListReader({str(source)!r}), {str(tmp_path / "store")!r}, to={to!r}, workers=0)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "store: cannot be written" in done.stdout
    assert "Make room" in done.stdout
    assert done.stdout.count("\n") == 1
    reader = ListReader(source)
    assert convert(reader, str(tmp_path / "store"), to=to, workers=0).written == 30
    convert(reader, str(tmp_path / "whole"), to=to, workers=0)
    read = records_of if to == "lmdb" else files_of
    assert read(tmp_path / "store") == read(tmp_path / "whole")


def test_a_partial_result_of_another_version_is_refused(mixed_words, tmp_path, small_jobs):
    path = tmp_path / "store"
    convert(mixed_words, str(path), **stop_after(1))
    for state in (b'3 {"version": 0}', b"3 nonsense", b"3 []", b'3 {"version": 1, "settings": {}, "tally": {"x": 1}}'):
        with lmdb.open(f"{path}.partial", lock=False) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"conversion-state", state)
        with pytest.raises(DataError, match=r"store\.partial: was left by another version .*--restart"):
            convert(mixed_words, str(path), workers=0)


def test_dead_workers_are_one_clear_line_and_what_was_done_stays(mixed_words, tmp_path, small_jobs, records_of):

    def kill_all(count: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(DataError, match="a worker process died"):
        convert(mixed_words, str(tmp_path / "store"), workers=2, progress=kill_all)
    done = convert(mixed_words, str(tmp_path / "store"), workers=0)
    assert done.begun_at >= 1
    convert(mixed_words, str(tmp_path / "whole"), workers=0)
    assert records_of(tmp_path / "store") == records_of(tmp_path / "whole")
