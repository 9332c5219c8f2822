"""``crnn data`` as it is typed, and the ModelZoo's converters: output, files, exit status, signals, wrong arguments."""

import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
import scipy.io
from PIL import Image

from crnn.charset import Charset, LabelRules
from crnn.cli import main
from crnn.config.model import ImageConfig
from crnn.data.dataset import describe_skipped, scan_labels
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.evaluation.evaluate import evaluate

needs_process_groups = pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups")

GOOD = [f"word{n}" for n in range(20)]


@pytest.fixture
def run(run):
    """A function that runs ``crnn data ...`` and gives status, stdout and stderr."""
    return lambda *arguments: run("data", *arguments)


@pytest.fixture
def at_work(tmp_path, word_list):
    """A function that starts ``crnn data ...`` on a long list, and returns when images are being read."""

    def start(command, *arguments):
        path = word_list(labels=["word"])
        pipe, line = path.parent / "images" / "pipe.png", "images/1.png\tword\n"
        os.mkfifo(pipe)
        path.write_text(line * 999 + "images/pipe.png\tword\n" + line * 200_000)
        process = subprocess.Popen(
            [sys.executable, "-m", "crnn", "data", *command.split(), path, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        os.close(os.open(pipe, os.O_WRONLY))  # waits until the other side opens it, to find that it is no file
        return process

    return start


def labels(store):
    with store:
        return [store.label(i) for i in range(len(store))]


def test_every_command_counts_what_num_samples_leaves_out(run, tmp_path, barcode_reader, image_of):
    path = tmp_path / "words"
    with LmdbWriter(path) as writer:
        for _ in range(3):
            writer.add(image_of("cat"), "cat")
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"2")
    assert "1  beyond_num_samples (there are more records" in run("inspect", path, "--max-fault-share", 1)[1]
    status, out, _ = run("convert", "lmdb", path, tmp_path / "copy", "--max-bad-share", 0)
    assert (status, "left out 1: beyond_num_samples (image-000000003)" in out) == (0, True)
    assert evaluate(barcode_reader(), path).datasets[0].skipped == {"beyond_num_samples": 1}
    with LmdbStore(path) as store:
        scan = scan_labels(store, Charset("36"), LabelRules(), ImageConfig())
    assert describe_skipped(scan) == "beyond_num_samples: 1 (number 3)"


def svt(folder):
    """A set of two scenes in the layout of Street View Text."""
    (folder / "img").mkdir(parents=True)
    images = []
    for name, words in (("img/1.jpg", ["ONE", "TWO"]), ("img/2.jpg", ["THREE"])):
        pixels = np.random.default_rng(len(words)).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        boxes = "".join(
            f'<taggedRectangle height="20" width="30" x="{10 + 5 * n}" y="12"><tag>{word}</tag></taggedRectangle>'
            for n, word in enumerate(words)
        )
        images.append(
            f"<image><imageName>{name}</imageName><address>?</address><lex>ONE,TWO,THREE</lex>"
            f'<Resolution x="90" y="60"/><taggedRectangles>{boxes}</taggedRectangles></image>'
        )
    (folder / "test.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?><tagset>{"".join(images)}</tagset>')
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# convert


def test_a_set_is_converted_and_told_of(run, tmp_path):
    source = svt(tmp_path / "svt1")
    (source / "img/2.jpg").unlink()
    assert run("convert", "svt", source, tmp_path / "SVT", "--max-bad-share", 0.5) == (
        0,
        f"{tmp_path}/SVT: 2 samples written; the published set has 647, 645 fewer\n"
        "  skipped 1: missing (img/2.jpg#1)\n",
        "",
    )
    with LmdbStore(tmp_path / "SVT") as store:
        assert [store.label(i) for i in range(2)] == ["ONE", "TWO"]
        assert store.lexicon(1) == ("ONE", "TWO", "THREE")
        assert store.stored_size(0) == (30, 20)
        assert store.image_bytes(0)[1:4] == b"PNG"


def test_json_and_the_count_of_the_set_that_dst_is_named_after(run, tmp_path, word_list):
    source = word_list(labels=["a", "b", "c"])
    out = run("convert", "list", source, tmp_path / "IC03_867", "--json", "--workers", 0, "--max-height", 16)[1]
    found = json.loads(out)
    assert (found["written"], found["expected"], found["complete"], found["skipped"]) == (3, 867, True, {})
    with LmdbStore(tmp_path / "IC03_867") as store:
        assert [store.stored_size(i)[1] for i in range(3)] == [16] * 3


def test_variants_shares_merging_and_references(run, tmp_path, word_list):
    words = ["abc", "de", "f-g", "hij", "KLM", "nop!"]
    source = word_list(labels=words)
    out = run("convert", "list", source, tmp_path / "a", "--variant", "IC13_857")[1]
    assert "3 samples written; the published set has 857, 854 fewer" in out
    assert "left out 3: not_in_variant (images/2.png, images/3.png, images/6.png)" in out
    assert run("convert", "list", source, tmp_path / "b", "--share", "0:0.5", "--max-bad-share", 0)[0] == 0
    assert run("convert", "list", source, tmp_path / "c", "--share", "0.5:1")[0] == 0
    assert run("convert", "lmdb", tmp_path / "b", tmp_path / "c", tmp_path / "both")[0] == 0
    assert 0 < len(labels(LmdbStore(tmp_path / "b"))) < 6
    assert sorted(labels(LmdbStore(tmp_path / "both"))) == sorted(words)
    err = run("convert", "list", source, tmp_path / "like", "--like", tmp_path / "b")[2]
    assert "were found by their images" in err
    assert labels(LmdbStore(tmp_path / "like")) == labels(LmdbStore(tmp_path / "b"))


@needs_process_groups
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_what_was_done(at_work, tmp_path, number):
    process = at_work("convert list", tmp_path / "store", "--workers", 1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (128 + number, ""), err
    *answer, line = err.splitlines()
    assert answer == ["stopping, and saving what is done; Ctrl-C again ends at once"] * (number == signal.SIGINT)
    assert line.startswith("crnn data convert: stopped; ")
    assert line.endswith("store.partial, and the same command goes on with them")
    assert not (tmp_path / "store").exists()


# ---------------------------------------------------------------------------------------------------------------------
# inspect


def test_the_share_of_faults_is_the_exit_status(run, word_list):
    good = word_list(labels=GOOD, name="good")
    status, out, err = run("inspect", good, "--max-fault-share", 0)
    assert (status, err) == (0, "")
    assert out.startswith(f"{good}: 20 samples; measured by 36 characters")
    assert "faults: none" in out
    path = word_list(labels=[*GOOD[:-1], ""])  # 5 %
    status, out, err = run("inspect", path)
    assert status == 1
    assert "faults: 1 sample, 5.00 %\n          1  empty_label: images/20.png\n" in out
    assert err == (
        f"crnn data inspect: {path}: 1 of 20 samples have faults, a larger share than --max-fault-share 0.01\n"
    )
    assert run("inspect", path, "--max-fault-share", 0.05)[::2] == (0, "")


def test_settings_come_from_a_config_with_flags_on_top(run, word_list, tmp_path):
    path = word_list(labels=["abcdefghij", "Ab&"])
    (tmp_path / "own.toml").write_text('[image]\nimage_width = 32\n[charset]\ncharacters = "62"\n')

    def found(*flags):
        status, out, err = run("inspect", path, "--json", "--max-fault-share", 1, *flags)
        assert (status, err, out.count("\n")) == (0, "", 1)
        return json.loads(out)

    values = found()
    assert (values["samples"], values["faults"], values["written"]) == (2, {}, None)
    assert values["outside_charset"] == {"&": 1}
    values = found("--config", tmp_path / "own.toml")
    assert values["settings"]["image_width"] == 32
    assert len(values["settings"]["characters"]) == 62
    assert values["faults"] == {"too_long_for_width": {"count": 1, "examples": ["images/1.png"]}}
    assert found("--config", tmp_path / "own.toml", "--image-width", 100)["faults"] == {}
    assert found("--config", tmp_path / "own.toml", "--resize", "keep_ratio")["settings"]["resize"] == "keep_ratio"
    assert found("--charset", "94")["outside_charset"] == {}
    assert found("--max-text-length", 5)["faults"]["too_long"]["count"] == 1
    # A preset that says class_num is measured by with another charset, too.
    assert found("--config", "modelzoo", "--charset", "62")["settings"]["max_text_length"] == 23
    assert found("--tiny-below", 33)["remarks"]["tiny"]["count"] == 2
    assert found("--huge-above", 100)["remarks"]["huge"]["count"] == 1


def test_against_another_set_and_writing_what_is_clean(run, word_list, tmp_path):
    train = word_list(labels=[*GOOD, "leak", ""], name="train")
    test = word_list(labels=["leak", "new"], name="test")
    clean = tmp_path / "clean"
    status, out, _ = run("inspect", train, "--against", test, "--write", clean, "--workers", 0)
    assert status == 1
    assert f"overlap with {test} (2 samples): 1 sample here, 1 of them byte by byte" in out
    assert "  images/21.png 'leak' = images/1.png 'leak' there" in out
    assert f"{clean}: 20 samples written" in out
    assert "  skipped 1: empty_label (images/22.png)\n  skipped 1: overlap (images/21.png)" in out
    assert labels(LmdbStore(clean)) == GOOD
    assert run("inspect", clean, "--against", test, "--against", test)[0] == 0
    out = run("inspect", train, "--write", tmp_path / "list", "--to", "list", "--json", "--workers", 0)[1]
    values = json.loads(out)
    assert (values["written"]["written"], values["written"]["complete"], values["faulty"]) == (21, True, 1)
    assert len(ListFile(tmp_path / "list" / "labels.tsv")) == 21


def test_the_sheet(run, word_list, tmp_path):
    path = word_list(labels=["", "字", *GOOD])
    sheet = tmp_path / "sheet.png"
    assert run("inspect", path, "--sheet", sheet, "--max-fault-share", 1)[0] == 0
    assert Image.open(sheet).size == (8 * 184, 3 * 118)
    first = sheet.read_bytes()
    assert run("inspect", path, "--sheet", sheet, "--sheet-samples", 4, "--seed", 3)[0] == 1
    assert Image.open(sheet).size == (8 * 184, 118)
    assert run("inspect", path, "--sheet", sheet)[0] == 1
    assert sheet.read_bytes() == first


def test_a_terminal_that_has_no_blocks(word_list, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["data", "inspect", str(word_list(labels=["字", *GOOD])), "--max-fault-share", "1"]) == 0
    text = stdout.buffer.getvalue().decode("ascii")
    assert "####" in text
    assert "\\u5b57" in text


@needs_process_groups
def test_ctrl_c_ends_it_at_once_with_one_line(at_work, tmp_path):
    process = at_work("inspect", "--workers", 2, "--write", tmp_path / "c")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (130, "", "crnn data inspect: stopped before the end; nothing is kept\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["words"]


# ---------------------------------------------------------------------------------------------------------------------
# lexicon


def test_a_full_lexicon(run, word_list, tmp_path):
    one, two = word_list(labels=["Door", "zoo", "door", "?"], name="one"), word_list(labels=["apple"], name="two")
    path = tmp_path / "words.txt"
    out = f"{path}: 3 words from 5 labels\n  left out 1: empty_label\n"
    assert run("lexicon", one, two, path, "--from", "labels") == (0, out, "")
    assert path.read_text() == "apple\ndoor\nzoo\n"
    out = f"{tmp_path}/94.txt: 4 words from 4 labels and 0 words of lexicons\n"
    assert run("lexicon", one, tmp_path / "94.txt", "--charset", "94") == (0, out, "")
    assert (tmp_path / "94.txt").read_text() == "?\nDoor\ndoor\nzoo\n"


# ---------------------------------------------------------------------------------------------------------------------
# Wrong arguments


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert list only", "only: expected SRC and DST"),
        ("convert svt x y --crop box", "--crop box does not go with svt; it is for synthtext"),
        ("convert nothing x y", "format 'nothing' is unknown; expected one of: mjsynth, "),
        ("convert list x y --share 1", "'1'; expected START:STOP"),
        ("inspekt", "'inspekt'"),
        ("inspect", "DATA"),
        ("inspect nowhere", "nowhere: there is no such file or folder"),
        ("inspect x --against nowhere", "nowhere: there is no such file or folder"),
        ("inspect x --image-width 7", "image.image_width is 7"),
        ("inspect x --max-fault-share 1.5", "--max-fault-share is 1.5; expected a share from 0 to 1"),
        ("inspect x --sheet none/sheet.png", "--sheet none/sheet.png: there is no such folder to write it in"),
        ("inspect x --sheet s.png --sheet-samples 0", "'--sheet-samples': Input should be greater than or equal to 1"),
        ("inspect x --sheet s.png --sheet-font no.ttf", r"font no\.ttf: cannot be read"),
        ("inspect x --write x", "x: exists already; expected a new or empty folder"),
        ("lexicon", r"DATA ... OUT\.txt"),
        ("lexicon x", "x: expected DATA and OUT.txt"),
        ("lexicon x x/labels.tsv", "x/labels.tsv: exists already"),
        ("lexicon x out.txt --charset ж", "has no word for a lexicon .empty_label: 1"),
    ],
)
def test_wrong_arguments_are_one_clear_line(run, word_list, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    word_list(labels=["a"], name="x")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert err.startswith("crnn data")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------------------------------
# The ModelZoo's converters


@pytest.fixture
def script(monkeypatch):
    """A function that runs one of the scripts and gives its exit status."""

    def call(name, *arguments):
        path = Path(__file__).parents[2] / "examples" / "modelzoo" / name
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])  # as where a script is run
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(path), run_name="__main__")
        return caught.value.code

    return call


def test_convert_svt(script, tmp_path, monkeypatch, capsys):
    source = svt(tmp_path / "svt1")
    monkeypatch.chdir(tmp_path)
    assert script("convert_svt.py", "-d", "svt1", "-x", "test.xml", "-o", "processed") == 0
    with ListFile(tmp_path / "processed" / "labels.tsv") as store:
        assert [store.label(i) for i in range(len(store))] == ["ONE", "TWO", "THREE"]
        crop = Image.open(io.BytesIO(store.image_bytes(1)))
    np.testing.assert_array_equal(crop, np.asarray(Image.open(source / "img/1.jpg"))[12:32, 15:45])
    assert script("convert_svt.py", "--dataset_dir", "svt1", "-x", "svt1/test.xml", "-o", "lmdb", "--to", "lmdb") == 0
    assert len(labels(LmdbStore(tmp_path / "lmdb"))) == 3
    assert script("convert_svt.py", "-d", ".", "-x", "svt1/test.xml") == 2
    assert "is not in --dataset_dir" in capsys.readouterr().err


def test_convert_ic03_and_iiit5k(script, tmp_path, monkeypatch, image_of):
    monkeypatch.chdir(svt(tmp_path / "scenes"))
    Path("test.xml").rename("words.xml")  # the elements are those of IC03
    assert script("convert_ic03.py", "--variant", "IC03_867") == 0
    assert labels(ListFile(Path("processed", "labels.tsv"))) == ["ONE", "TWO", "THREE"]

    Path("1_1.png").write_bytes(image_of("PRIVATE"))
    row = np.zeros((1, 1), [(name, object) for name in ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")])
    cells = np.empty((1, 2), object)
    cells[0, :] = ["PRIVATE", "PUBLIC"]
    row[0, 0] = ("1_1.png", "PRIVATE", cells, cells)
    scipy.io.savemat("testdata.mat", {"testdata": row})
    assert script("convert_iiit5k.py", "-m", "testdata.mat", "-o", "lmdb", "--to", "lmdb") == 0
    with LmdbStore("lmdb") as store:
        assert store.image_bytes(0) == image_of("PRIVATE")
        assert (store.label(0), store.lexicon(0), store.lexicon(0, large=True)) == (
            "PRIVATE",
            *[("PRIVATE", "PUBLIC")] * 2,
        )
