"""``crnn compare``: tables, JSON, files; the counts are tested in ``tests/evaluation/test_compare.py``."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def files(word_list, tmp_path, monkeypatch):
    """A set of thirty words, and readings of it in the current folder: A has the first two wrong, B all but these."""
    words = word_list(labels=[f"w{n}" for n in range(1, 31)])
    monkeypatch.chdir(tmp_path)
    for name, right in (("a.tsv", range(3, 31)), ("b.tsv", range(1, 3))):
        lines = [f"images/{n}.png\t{f'w{n}' if n in right else 'x'}\n" for n in range(1, 31)]
        (tmp_path / name).write_text("".join(lines))
    return "a.tsv", "b.tsv", words


def cells(line):
    return re.split(r"\s*[│┃]\s*", line)[1:-1]


def test_compare_shows_both_and_some_of_the_samples(run, files):
    status, out, err = run("compare", *files)
    assert (status, err) == (0, "")
    rows = [cells(line) for line in out.splitlines() if line.startswith("│")]
    assert rows[0][:4] == ["words", "93.33", "6.67", "-86.67"]
    assert rows[0][5:] == ["< 0.0001", "0", "28", "2", "0", "30"]
    assert rows[1] == ["only A is right", "images/3.png", "w3", "w3", "x"]
    assert [row[0] for row in rows[1:]] == ["only A is right"] * 10 + ["only B is right"] * 2
    assert out.endswith("and 18 more: --json, --tsv and --sheet have them\n")


def test_a_model_in_the_place_of_readings_is_told_how_to_make_them(run, files):
    status, out, err = run("compare", "crnn-small", *files[1:])
    assert (status, out) == (2, "")
    assert "crnn-small is a model; expected a file of readings" in err
    assert "crnn evaluate crnn-small DATA --readings FILE" in err


@pytest.mark.parametrize("target", ["a.tsv", "labels.tsv"])
def test_what_is_read_is_not_written_over(run, files, target):
    path = files[2] if target == "labels.tsv" else target
    before = Path(path).read_text()
    status, out, err = run("compare", *files, "--tsv", path)
    assert (status, out) == (2, "")
    assert "is read by this command; expected another file to write" in err
    assert Path(path).read_text() == before


def test_compare_writes_all_of_them(run, files, tmp_path):
    status, out, err = run("compare", *files, "--json", "--tsv", "d.tsv", "--sheet", "s.png")
    assert (status, err) == (0, "")
    differing = json.loads(out)["differing"]
    assert len(differing) == 30
    rows = [line.split("\t") for line in (tmp_path / "d.tsv").read_text().splitlines()]
    assert rows == [["dataset", "image", "label", "a", "b", "right"], *(list(row.values()) for row in differing)]
    assert rows[1] == ["words", "images/1.png", "w1", "x", "w1", "b"]
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.size == (5 * 220, 6 * 110)
    assert all(np.asarray(sheet)[row * 110 : (row + 1) * 110, :220].min() < 100 for row in range(6))


def test_compare_adds_up_several_sets(run, files, tmp_path):
    (files[2].parent / "two.tsv").write_text("images/1.png\tw1\ncrops/2.png\tw2\n")
    for name in files[:2]:
        lines = (tmp_path / name).read_text().replace("images/", "words=images/")
        (tmp_path / name).write_text(lines + "two=images/1.png\tw1\ntwo=crops/2.png\tw2\n")
    status, out, err = run("compare", *files, files[2].parent / "two.tsv")
    assert (status, err) == (0, "")
    rows = [cells(line) for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows[:3]] == ["words", "two", "combined"]
    assert rows[1][1:4] == ["100.00", "100.00", "+0.00"]
    assert rows[2][-5:] == ["2", "28", "2", "0", "32"]
    assert rows[3][1] == "words=images/3.png"
