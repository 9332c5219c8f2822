"""Conversion to shards and back: the same as to one store, and going on wherever it was killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import crnn.cli
import crnn.data.convert as convert_module
from crnn.data.convert import convert
from crnn.data.formats.lists import ListReader
from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.record import Record, Skipped
from crnn.data.prepare import PictureSettings
from crnn.data.shard_writer import ShardedWriter
from crnn.data.shards import MAX_SHARDS
from crnn.data.source import open_source
from crnn.data.store_writer import LmdbWriter
from crnn.errors import ConfigError, DataError
from crnn.evaluate import evaluate


def shard_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def everything(path: Path, records_of) -> dict[str, object]:
    """All that is in a folder of shards."""
    return {
        "names": sorted(entry.name for entry in path.iterdir()),
        "list": (path / "shards.json").read_text(),
        "records": [records_of(folder) for folder in shard_folders(path)],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_in_shards_and_back_is_the_set(mixed_words, tmp_path, records_of, workers):
    done = convert(mixed_words, str(tmp_path / "dealt"), shards=4, workers=workers)
    one = convert(mixed_words, str(tmp_path / "store"), workers=0)
    assert (done.shards, done.written, one.shards) == (4, 37, None)
    assert (done.skipped, done.total) == (one.skipped, one.total)
    convert(StoreReader(tmp_path / "dealt"), str(tmp_path / "back"), workers=workers)
    assert records_of(tmp_path / "back") == records_of(tmp_path / "store")
    convert(StoreReader(tmp_path / "store"), str(tmp_path / "again"), shards=4, workers=0)
    assert everything(tmp_path / "again", records_of) == everything(tmp_path / "dealt", records_of)
    convert(StoreReader(tmp_path / "dealt"), str(tmp_path / "list"), to="list", workers=0)
    with open_source(str(tmp_path / "list")) as listed, open_source(str(tmp_path / "store")) as store:
        assert [listed.label(i) for i in range(37)] == [store.label(i) for i in range(37)]


def test_the_command_says_what_it_wrote_and_splits_and_joins(word_list, tmp_path, monkeypatch, capsys, records_of):
    word_list(11, "words")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        assert crnn.cli.main(["data", "convert", *arguments]) == 0
        return capsys.readouterr().out

    assert run("list", "words/labels.tsv", "store") == "store: 11 samples written\n"
    assert run("lmdb", "store", "dealt", "--shards", "4") == "dealt: 11 samples written to 4 shards\n"
    assert json.loads(run("lmdb", "dealt", "fewer", "--shards", "2", "--json"))["shards"] == 2
    assert run("lmdb", "fewer", "back") == "back: 11 samples written\n"
    assert records_of(tmp_path / "back") == records_of(tmp_path / "store")
    assert run("lmdb", "dealt", "store", "both").startswith("both: 22 samples")
    for number in ("0", "257"):
        assert crnn.cli.main(["data", "convert", "list", "words/labels.tsv", "none", "--shards", number]) == 2
        assert capsys.readouterr().err == f"crnn data: shards is {number}; expected 1 to 256\n"
    assert not (tmp_path / "none.partial").exists()


def test_shards_are_evaluated_as_one_store_is(barcode, barcode_reader, tmp_path):
    words = ["reading", "words", "in", "shards", "is", "no", "art"]
    for writer in (LmdbWriter(tmp_path / "store" / "w"), ShardedWriter(tmp_path / "shards" / "w", 3)):
        with writer:
            for number, word in enumerate(words):
                writer.add(barcode(word), word if number != 2 else "on")
            writer.add(b"no picture", "lost")
    one, dealt = (evaluate(barcode_reader(), [str(tmp_path / name / "w")]).datasets[0] for name in ("store", "shards"))
    assert dealt.sums == one.sums
    assert dealt.skipped == one.skipped == {"not_an_image": 1}
    readings = [[(s.index, s.label, s.prediction, s.score) for s in found.samples] for found in (dealt, one)]
    assert readings[0] == readings[1]
    assert [s.prediction for s in dealt.samples] == words
    assert dealt.samples[0].key == "shard-00000-of-00003/image-000000001"


@pytest.mark.parametrize("how", ["asked", "killed"])
def test_a_stopped_conversion_goes_on_and_gives_the_same(mixed_words, tmp_path, monkeypatch, how, records_of):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    monkeypatch.setattr(convert_module, "_SHARDS_COMMIT_SAMPLES", 5)
    convert(mixed_words, str(tmp_path / "whole"), shards=3, workers=0)
    path, begun_at, seen, limit = tmp_path / "parts", [], 0, 0

    def progress(count: int) -> None:
        nonlocal seen
        seen += count
        if how == "killed" and count and seen >= limit:
            raise KeyboardInterrupt

    def stop() -> bool:
        return how == "asked" and seen >= limit

    while True:
        seen, limit = 0, limit + 4
        try:
            found = convert(mixed_words, str(path), shards=3, workers=0, progress=progress, stop=stop)
        except KeyboardInterrupt:
            continue
        begun_at.append(found.begun_at)
        if found.complete:
            break
        assert not path.exists()
        with pytest.raises(DataError):
            open_source(f"{path}.partial")
    assert begun_at[-1] > 20
    assert everything(path, records_of) == everything(tmp_path / "whole", records_of)


KILLED = """
import os, signal, sys
import crnn.data.convert as module
from crnn.data.formats.lists import ListReader
from crnn.data.store_file import StoreFile

if __name__ == "__main__":
    module._JOB_RECORDS, module._SHARDS_COMMIT_SAMPLES = 3, 5
    left = int(sys.argv[3])
    def dying(name):
        write = getattr(StoreFile, name)
        def one_more(self, *arguments, **options):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self, *arguments, **options)
        setattr(StoreFile, name, one_more)
    for name in ("commit", "finish", "go_back"):
        dying(name)
    module.convert(ListReader(sys.argv[1]), sys.argv[2], shards=3, workers=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_kill_9_between_any_two_shards_loses_and_doubles_nothing(word_list, tmp_path, records_of):
    """Some commits of all shards, then the end of all shards: the process is killed before every one of them."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    source = word_list(13)
    convert(ListReader(source), str(tmp_path / "whole"), shards=3, workers=0)
    expected = everything(tmp_path / "whole", records_of)
    path, killed = tmp_path / "parts", 0
    for limit in (1, 2, 4, 3, 2, 5, 6, 7, 8, 4, 5, 100):
        done = subprocess.run([sys.executable, script, source, path, str(limit)], timeout=60, capture_output=True)
        assert done.stderr == b""
        if done.returncode == 0:
            break
        killed += 1
        assert done.returncode == -signal.SIGKILL
        assert not path.exists()
    assert killed >= 5
    assert everything(path, records_of) == expected


# ---- what is refused


@pytest.mark.parametrize("shards", [0, -1, MAX_SHARDS + 1])
def test_a_number_of_shards_that_cannot_be_is_refused(mixed_words, tmp_path, shards):
    with pytest.raises(ConfigError, match=f"shards is {shards}; expected 1 to {MAX_SHARDS}"):
        convert(mixed_words, str(tmp_path / "dealt"), shards=shards)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]  # which is what was to be converted


def test_more_shards_than_samples_are_refused(given_reader, word_list, tmp_path):
    source = word_list(3)
    with pytest.raises(ConfigError, match="shards is 4, but there are 3 samples; expected one for each shard at least"):
        convert(ListReader(source), str(tmp_path / "set"), shards=4)
    assert not (tmp_path / "set.partial").exists()
    items = [Record(f"{n}", "word", f"images/{n}.png") for n in (1, 2)] + [Skipped("three", "no_label")]
    reader = given_reader(source.parent, items)
    with pytest.raises(DataError, match=r"set: 2 samples cannot fill 3 shards; .*fewer --shards and --restart"):
        convert(reader, str(tmp_path / "set"), shards=3, max_bad_share=1.0)
    assert not (tmp_path / "set").exists()
    assert convert(reader, str(tmp_path / "set"), shards=2, max_bad_share=1.0, restart=True).written == 2
    assert len(open_source(str(tmp_path / "set"))) == 2


def test_a_list_does_not_come_in_shards(mixed_words, tmp_path):
    with pytest.raises(ConfigError, match="shards is 2 and to is list; expected lmdb with it"):
        convert(mixed_words, str(tmp_path / "dealt"), to="list", shards=2)


def test_a_partial_result_of_another_form_does_not_go_on(mixed_words, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_JOB_RECORDS", 3)
    path = str(tmp_path / "dealt")
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count

    assert not convert(mixed_words, path, shards=3, workers=0, progress=progress, stop=lambda: done >= 5).complete
    for shards in (2, 4):
        with pytest.raises(DataError, match=rf"begun with another number of shards \(shard-0000.*; now {shards}\)\. "):
            convert(mixed_words, path, shards=shards)
    with pytest.raises(DataError, match="has 'shard-00000-of-00003' in it, which no writer of this form left"):
        convert(mixed_words, path)
    with pytest.raises(DataError, match=r"dealt\.partial: was begun with .*max_height None \(now 9\)"):
        convert(mixed_words, path, shards=3, pictures=PictureSettings(max_height=9))
    mine = tmp_path / "dealt.partial" / "shard-notes.txt"
    mine.write_text("precious")
    with pytest.raises(DataError, match=r"has 'shard-notes\.txt' in it.*nothing was removed"):
        convert(mixed_words, path, shards=4, restart=True)
    mine.unlink()
    assert convert(mixed_words, path, shards=4, restart=True).shards == 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_an_error_and_the_rest_goes_on(word_list, tmp_path, records_of):
    source = word_list(60)
    code = f"""
import resource, signal
import crnn.data.convert as module
from crnn.data.formats.lists import ListReader
from crnn.errors import DataError
module._JOB_RECORDS, module._SHARDS_COMMIT_SAMPLES = 3, 5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))
try:
    module.convert(ListReader({str(source)!r}), {str(tmp_path / "set")!r}, shards=2, workers=0)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "set/shard-0000" in done.stdout
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert convert(ListReader(source), str(tmp_path / "set"), shards=2, workers=0).written == 60
    convert(ListReader(source), str(tmp_path / "whole"), shards=2, workers=0)
    assert everything(tmp_path / "set", records_of) == everything(tmp_path / "whole", records_of)
