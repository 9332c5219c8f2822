"""``crnn data inspect`` and ``crnn data lexicon`` as they are typed: output, files, exit status, wrong arguments."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from crnn.cli import main
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore

Run = Callable[..., tuple[int, str, str]]
WordList = Callable[..., Path]

GOOD = [f"word{n}" for n in range(20)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs ``crnn data ...`` and gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


# ---------------------------------------------------------------------------------------------------------------------
# inspect


def test_a_good_set(run: Run, word_list: WordList) -> None:
    path = word_list(labels=GOOD)
    status, out, err = run("inspect", path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}: 20 samples; measured by 36 characters")
    assert "faults: none" in out


def test_the_share_of_faults_is_the_exit_status(run: Run, word_list: WordList) -> None:
    path = word_list(labels=[*GOOD[:-1], ""])  # 5 %
    status, out, err = run("inspect", path)
    assert status == 1
    assert "faults: 1 sample, 5.00 %\n          1  empty_label: images/20.png\n" in out
    assert err == (
        f"crnn data inspect: {path}: 1 of 20 samples have faults, a larger share than --max-fault-share 0.01\n"
    )
    assert run("inspect", path, "--max-fault-share", 0.05)[::2] == (0, "")
    assert run("inspect", path, "--max-fault-share", 0.049)[0] == 1
    assert run("inspect", word_list(labels=GOOD, name="good"), "--max-fault-share", 0)[0] == 0


def test_settings_come_from_a_config_with_flags_on_top(run: Run, word_list: WordList, tmp_path: Path) -> None:
    path = word_list(labels=["abcdefghij", "Ab&"])
    (tmp_path / "own.toml").write_text('[image]\nimage_width = 32\n[charset]\ncharacters = "62"\n')

    def found(*flags: object) -> dict[str, object]:
        return json.loads(run("inspect", path, "--json", *flags)[1])

    assert found()["faults"] == {}
    values = found("--config", tmp_path / "own.toml")
    assert values["settings"]["image_width"] == 32
    assert len(values["settings"]["characters"]) == 62
    assert values["faults"] == {"too_long_for_width": {"count": 1, "examples": ["images/1.png"]}}
    assert found("--config", tmp_path / "own.toml", "--image-width", 100)["faults"] == {}
    assert found("--config", tmp_path / "own.toml", "--resize", "keep_ratio")["settings"]["resize"] == "keep_ratio"
    assert found("--charset", "94")["outside_charset"] == {}
    assert found()["outside_charset"] == {"&": 1}
    assert found("--max-text-length", 5)["faults"]["too_long"]["count"] == 1
    # A preset that says class_num is measured by with another charset, too.
    assert found("--config", "modelzoo", "--charset", "62")["settings"]["max_text_length"] == 23
    assert found("--tiny-below", 33)["remarks"]["tiny"]["count"] == 2
    assert found("--huge-above", 100)["remarks"]["huge"]["count"] == 1


def test_against_another_set_and_writing_what_is_clean(run: Run, word_list: WordList, tmp_path: Path) -> None:
    train = word_list(labels=[*GOOD, "leak", ""], name="train")
    test = word_list(labels=["leak", "new"], name="test")
    clean = tmp_path / "clean"
    status, out, _ = run("inspect", train, "--against", test, "--write", clean, "--workers", 0)
    assert status == 1
    assert f"overlap with {test} (2 samples): 1 sample here, 1 of them byte by byte" in out
    assert "  images/21.png 'leak' = images/1.png 'leak' there" in out
    assert f"{clean}: 20 samples written" in out
    assert "  skipped 1: empty_label (images/22.png)\n  skipped 1: overlap (images/21.png)" in out
    with LmdbStore(clean) as store:
        assert [store.label(n) for n in range(len(store))] == GOOD
    assert run("inspect", clean, "--against", test, "--against", test)[0] == 0
    status, out, _ = run("inspect", train, "--write", tmp_path / "list", "--to", "list", "--json", "--workers", 0)
    values = json.loads(out)
    assert (values["written"]["written"], values["written"]["complete"], values["faulty"]) == (21, True, 1)
    assert len(ListFile(tmp_path / "list" / "labels.tsv")) == 21


def test_the_sheet(run: Run, word_list: WordList, tmp_path: Path) -> None:
    path = word_list(labels=["", "字", *GOOD])
    sheet = tmp_path / "sheet.png"
    assert run("inspect", path, "--sheet", sheet, "--max-fault-share", 1)[0] == 0
    assert Image.open(sheet).size == (8 * 184, 3 * 118)
    first = sheet.read_bytes()
    assert run("inspect", path, "--sheet", sheet, "--sheet-samples", 4, "--seed", 3)[0] == 1
    assert Image.open(sheet).size == (8 * 184, 118)
    assert run("inspect", path, "--sheet", sheet)[0] == 1
    assert sheet.read_bytes() == first


def test_json_is_one_object(run: Run, word_list: WordList) -> None:
    status, out, err = run("inspect", word_list(labels=GOOD), "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    values = json.loads(out)
    assert (values["samples"], values["faulty"], values["written"]) == (20, 0, None)


def test_a_terminal_that_has_no_blocks(run: Run, word_list: WordList, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["data", "inspect", str(word_list(labels=["字", *GOOD])), "--max-fault-share", "1"]) == 0
    text = stdout.buffer.getvalue().decode("ascii")
    assert "####" in text
    assert "\\u5b57" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DATA"),
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["x", "y"], r"\(y\)"),
        (["x", "--against", "nowhere"], "nowhere: there is no such file or folder"),
        (["x", "--config", "nothing"], "config 'nothing' is neither a file nor a preset"),
        (["x", "--charset", "aa"], "charset has 'a' twice"),
        (["x", "--charset", ""], "the charset is empty"),
        (["x", "--image-width", "7"], "image.image_width is 7"),
        (["x", "--max-text-length", "0"], "charset.max_text_length is 0"),
        (["x", "--resize", "crop"], "'crop' is not one of .*keep_ratio"),
        (["x", "--max-fault-share", "1.5"], "--max-fault-share is 1.5; expected a share from 0 to 1"),
        (["x", "--tiny-below", "99", "--huge-above", "5"], "tiny below 99 and huge above 5"),
        (["x", "--workers", "-2"], "workers is -2; expected 0 or more"),
        (["x", "--sheet", "none/sheet.png"], "--sheet none/sheet.png: there is no such folder to write it in"),
        (["x", "--sheet", "."], r"--sheet \.: is a folder; expected a file"),
        (["x", "--sheet", "s.png", "--sheet-samples", "0"], "--sheet-samples is 0; expected at least 1"),
        (["x", "--sheet", "s.png", "--sheet-font", "no.ttf"], r"font no\.ttf: cannot be read"),
        (["x", "--write", "x"], "x: exists already; expected a new or empty folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_clear_line(
    run: Run, word_list: WordList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    word_list(labels=["a"], name="x")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("inspect", *arguments)
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_ends_it_at_once_with_one_line(word_list: WordList, tmp_path: Path) -> None:
    path = word_list(labels=["word"])
    # So many samples of one image that it is still at work when the signal comes.
    path.write_text("images/1.png\tword\n" * 400_000)
    command = [
        sys.executable,
        "-m",
        "crnn",
        "data",
        "inspect",
        str(path),
        "--workers",
        "2",
        "--write",
        str(tmp_path / "c"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ}
    )
    time.sleep(4)
    assert process.poll() is None
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert process.returncode == 130
    assert (out, err) == ("", "crnn data inspect: stopped before the end; nothing is kept\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["words"]


# ---------------------------------------------------------------------------------------------------------------------
# lexicon


def test_a_full_lexicon(run: Run, word_list: WordList, tmp_path: Path) -> None:
    one, two = word_list(labels=["Door", "zoo", "door", "?"], name="one"), word_list(labels=["apple"], name="two")
    out_path = tmp_path / "words.txt"
    status, out, err = run("lexicon", one, two, out_path, "--from", "labels")
    assert (status, err) == (0, "")
    assert out == f"{out_path}: 3 words from 5 labels\n  left out 1: empty_label\n"
    assert out_path.read_text() == "apple\ndoor\nzoo\n"
    status, out, _ = run("lexicon", one, tmp_path / "94.txt", "--charset", "94")
    assert (status, out) == (0, f"{tmp_path}/94.txt: 4 words from 4 labels and 0 words of lexicons\n")
    assert (tmp_path / "94.txt").read_text() == "?\nDoor\ndoor\nzoo\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"DATA ... OUT\.txt"),
        (["x"], "x: expected DATA and OUT.txt"),
        (["x", "x/labels.tsv"], "x/labels.tsv: exists already"),
        (["x", "none/out.txt"], "OUT.txt none/out.txt: there is no such folder"),
        (["nowhere", "out.txt"], "nowhere: there is no such file or folder"),
        (["x", "out.txt", "--from", "kept"], "no lexicons are kept with the samples"),
        (["x", "out.txt", "--from", "all"], "'all' is not one of 'labels', 'kept', 'both'"),
        (["x", "out.txt", "--charset", "ж"], "has no word for a lexicon .empty_label: 1"),
        (["x", "out.txt", "--charset", "жж"], "charset has 'ж' twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_lexicon_that_cannot_be_written_is_one_clear_line(
    run: Run, word_list: WordList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    word_list(labels=["a"], name="x")
    status, out, err = run("lexicon", *arguments)
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
