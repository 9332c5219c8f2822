"""Conversions that are stopped, killed or fail: what was done is kept, and going on gives what never stopping gives."""

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

import crnn.data.convert as convert_module
from crnn.data.convert import convert
from crnn.data.crops import CropOptions
from crnn.data.formats.files import ListReader
from crnn.data.formats.records import Box, Record
from crnn.data.store import LmdbStore
from crnn.errors import DataError


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stopped_at(limit: int):
    """Progress that ends the process, in effect, once ``limit`` samples are done; and what asks to stop then."""
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count

    return progress, lambda: done >= limit


@pytest.mark.parametrize("to", ["lmdb", "list"])
@pytest.mark.parametrize("how", ["asked", "killed"])
def test_a_stopped_conversion_goes_on_and_gives_the_same(mixed_words, tmp_path, monkeypatch, to, how, records_of):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    monkeypatch.setattr(convert_module, "_COMMIT_SAMPLES", 5)
    convert(mixed_words, str(tmp_path / "whole"), to=to, workers=0)
    path = tmp_path / "parts"
    begun_at = []
    for limit in range(4, 44, 4):
        progress, stop = stopped_at(limit)

        def die_at_limit(count: int, progress=progress, stop=stop) -> None:
            progress(count)
            if count and stop():
                raise KeyboardInterrupt

        try:
            if how == "asked":
                done = convert(mixed_words, str(path), to=to, workers=0, progress=progress, stop=stop)
            else:
                done = convert(mixed_words, str(path), to=to, workers=0, progress=die_at_limit)
        except KeyboardInterrupt:
            continue
        begun_at.append(done.begun_at)
        if done.complete:
            break
        assert not path.exists()
        with pytest.raises(DataError):
            LmdbStore(f"{path}.partial")
    else:
        done = convert(mixed_words, str(path), to=to, workers=0)
        begun_at.append(done.begun_at)
    assert done.complete
    assert begun_at[-1] > 20
    read = records_of if to == "lmdb" else files_of
    assert read(path) == read(tmp_path / "whole")
    whole = {reason: skips.count for reason, skips in done.skipped.items()}
    assert whole == {"missing": 1, "no_label": 1, "outside_image": 1}
    assert done.written == 37


KILLED = """
import os, signal, sys
import crnn.data.convert as module
from crnn.data.formats.files import ListReader

if __name__ == "__main__":
    module._JOB_RECORDS, module._COMMIT_SAMPLES = 3, 5
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


def test_other_settings_or_another_source_do_not_go_on(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    monkeypatch.setattr(convert_module, "_HEAVIER", 1)
    path = str(tmp_path / "store")
    progress, stop = stopped_at(1)
    assert not convert(mixed_words, path, workers=0, origin={"format": "given"}, progress=progress, stop=stop).complete
    with pytest.raises(
        DataError, match=r"begun with max_height None \(now 20\), encoding png \(now jpeg\)\. .*--restart"
    ):
        convert(mixed_words, path, origin={"format": "given"}, images=CropOptions(max_height=20, encoding="jpeg"))
    with pytest.raises(DataError, match=r"begun with format given \(now other\)"):
        convert(mixed_words, path, origin={"format": "other"})
    before = mixed_words.items[1]
    mixed_words.items[1] = Record("a folder/wörd 1.jpg", "changed", "a folder/wörd 1.jpg")
    with pytest.raises(DataError, match="first 3 samples of the source are not what they were"):
        convert(mixed_words, path, origin={"format": "given"})
    mixed_words.items[1] = before
    with pytest.raises(DataError, match=r"has 'data\.mdb' in it, which no writer of this form left"):
        convert(mixed_words, path, origin={"format": "given"}, to="list")
    done = convert(mixed_words, path, origin={"format": "given"}, max_bad_share=0.5)  # may change: it decides nothing
    assert (done.complete, done.begun_at) == (True, 3)


def test_restart_throws_away_only_what_a_conversion_left(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    path = tmp_path / "store"
    progress, stop = stopped_at(1)
    convert(mixed_words, str(path), workers=0, progress=progress, stop=stop)
    mine = tmp_path / "store.partial" / "mine.txt"
    mine.write_text("precious")
    with pytest.raises(DataError, match=r"has 'mine.txt' in it.*nothing was removed"):
        convert(mixed_words, str(path), restart=True)
    assert mine.read_text() == "precious"
    mine.unlink()
    done = convert(mixed_words, str(path), images=CropOptions(max_height=16), restart=True)
    assert (done.complete, done.begun_at, done.written) == (True, 0, 37)
    with LmdbStore(path) as store:
        assert {store.stored_size(i)[1] for i in range(len(store))} == {16}
    with pytest.raises(DataError, match="exists already"):
        convert(mixed_words, str(path), restart=True)


def test_two_conversions_to_one_place_are_kept_apart(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    path = str(tmp_path / "store")

    def second(_: int) -> None:
        for restart in (False, True):
            with pytest.raises(DataError, match=r"store\.partial: another process is writing there"):
                convert(mixed_words, path, workers=0, restart=restart)

    assert convert(mixed_words, path, workers=0, progress=second).written == 37


def test_an_error_of_the_reader_keeps_what_was_done(mixed_words, tmp_path, monkeypatch, records_of):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)

    class Breaking(type(mixed_words)):
        def __iter__(self):
            for number, item in enumerate(self.items):
                if number == 30:
                    raise DataError("gt.txt, line 31: is broken")
                yield item

    with pytest.raises(DataError, match="line 31"):
        convert(Breaking(mixed_words.root, mixed_words.items), str(tmp_path / "store"), workers=0)
    assert convert(mixed_words, str(tmp_path / "store"), workers=0).begun_at >= 20
    convert(mixed_words, str(tmp_path / "whole"), workers=0)
    assert records_of(tmp_path / "store") == records_of(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("to", ["lmdb", "list"])
def test_a_full_disk_is_an_error_and_the_rest_goes_on(word_list, tmp_path, to, records_of):
    source = word_list(30)
    code = f"""
import resource, signal
import crnn.data.convert as module
from crnn.data.formats.files import ListReader
from crnn.errors import DataError
module._JOB_RECORDS, module._COMMIT_SAMPLES = 3, 5
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


def test_a_partial_result_of_another_version_is_refused(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    path = tmp_path / "store"
    progress, stop = stopped_at(1)
    convert(mixed_words, str(path), workers=0, progress=progress, stop=stop)
    for state in (b'3 {"version": 0}', b"3 nonsense", b"3 []", b'3 {"version": 1, "settings": {}, "tally": {"x": 1}}'):
        with lmdb.open(f"{path}.partial", lock=False) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"conversion-state", state)
        with pytest.raises(DataError, match=r"store\.partial: was left by another version .*--restart"):
            convert(mixed_words, str(path), workers=0)


def test_dead_workers_are_one_clear_line_and_what_was_done_stays(mixed_words, tmp_path, monkeypatch, records_of):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 1)

    def kill_all(count: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(DataError, match="a worker process died"):
        convert(mixed_words, str(tmp_path / "store"), workers=2, progress=kill_all)
    done = convert(mixed_words, str(tmp_path / "store"), workers=0)
    assert done.begun_at >= 1
    convert(mixed_words, str(tmp_path / "whole"), workers=0)
    assert records_of(tmp_path / "store") == records_of(tmp_path / "whole")


def test_another_region_is_another_source(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    path, done = str(tmp_path / "store"), []
    assert not convert(mixed_words, path, workers=0, progress=done.append, stop=lambda: sum(done) > 15).complete
    number = next(n for n, i in enumerate(mixed_words.items) if isinstance(i, Record) and i.region is not None)
    item = mixed_words.items[number]
    mixed_words.items[number] = Record(item.key, item.label, item.path, region=Box(1, 2, 3, 4))
    with pytest.raises(DataError, match="of the source are not what they were"):
        convert(mixed_words, path, workers=0)
