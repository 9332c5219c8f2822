"""Checking font files in processes, and remembering what was found."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont

from crnn.synth import font_check
from crnn.synth.font_check import ALNUM, CheckedFile, cache_folder, check_file, scan_files, shipped_folder

CHARACTERS = "abcABC123"  # and all letters and digits


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crnn"


@pytest.fixture
def fonts(tmp_path: Path) -> list[Path]:
    paths = []
    for name in ("anton/anton-latin-400-normal.ttf", "oswald/oswald-latin-400-normal.ttf"):
        path = tmp_path / Path(name).name
        shutil.copy(shipped_folder() / name, path)
        paths.append(path)
    return paths


def scanned(paths: list[Path]) -> list[CheckedFile]:
    return scan_files(paths, CHARACTERS, workers=0, quiet=True)


def test_what_was_found_is_remembered(cache: Path, fonts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = scanned(fonts)
    assert [result.fonts[0].family for result in first] == ["Anton", "Oswald"]
    assert [path.name for path in cache.iterdir()] == [next(cache.glob("fonts-*.json")).name]
    with monkeypatch.context() as patch:
        patch.delattr(font_check, "check_file")
        assert scanned(fonts) == first
        assert scanned(fonts[::-1]) == first[::-1]
    # Other characters and changed files are checked anew.
    assert "é" not in first[0].fonts[0].characters
    assert "é" in scan_files(fonts, "é", workers=0, quiet=True)[0].fonts[0].characters
    shutil.copy(fonts[1], fonts[0])
    os.utime(fonts[0], ns=(1, 1))
    assert [result.fonts[0].family for result in scanned(fonts)] == ["Oswald", "Oswald"]


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', "\x00\xff", '{"KEY": {"fonts": [{}], "problems": []}}'])
def test_a_damaged_cache_is_ignored_and_made_anew(cache: Path, fonts: list[Path], damage: str) -> None:
    first = scanned(fonts)
    (file,) = cache.iterdir()
    key = next(iter(json.loads(file.read_text())))
    file.write_text(damage.replace("KEY", key.replace("\\", "\\\\")), encoding="latin-1")
    assert scanned(fonts) == first
    assert key in json.loads(file.read_text())


def test_it_works_where_no_cache_can_be_kept(
    tmp_path: Path, fonts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [len(result.fonts) for result in scanned(fonts)] == [1, 1]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the user is not in the system's list
    assert cache_folder().name == "crnn"


def test_processes_find_what_this_one_finds_and_survive_what_ends_one(
    cache: Path, fonts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"\0" * 100)
    deadly = tmp_path / "deadly.ttf"
    shutil.copy(fonts[0], deadly)
    # An interpreter that dies of a signal when it is told to check this file, as by FreeType.
    interpreter = tmp_path / "python"
    interpreter.write_text(
        f"#!{sys.executable}\n"
        "import os, signal\n"
        "from crnn.synth import font_check\n"
        "check = font_check.check_file\n"
        "def check_or_die(path, characters):\n"
        "    if 'deadly' in path.name:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return check(path, characters)\n"
        "font_check.check_file = check_or_die\n"
        "font_check.main()\n"
    )
    interpreter.chmod(0o755)
    here = [check_file(path, ALNUM) for path in (fonts[0], tmp_path / "broken.ttf", fonts[1])]
    assert here[1].problems[0][0] == "not_a_font"
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(font_check, "_FILES_PER_PROCESS", 3)
    paths = [fonts[0], tmp_path / "broken.ttf", deadly, fonts[1]]
    results = scan_files(paths, CHARACTERS, workers=2, quiet=True)
    assert results[2].problems[0][0] == "crashed"
    assert [*results[:2], results[3]] == here
    # What crashed may have been the machine's fault: it is tried again.
    (file,) = cache.iterdir()
    assert not any("deadly" in key for key in json.loads(file.read_text()))


def test_named_styles_of_a_variable_font_are_faces(cache: Path, fonts: list[Path]) -> None:
    font = TTFont(fonts[0])
    builder = FontBuilder(font=font)
    names = ["Thin", "Light", "Regular", "Medium", "Bold", "Black"]
    weights = [100, 300, 400, 500, 700, 900]
    builder.setupFvar(
        axes=[("wght", 100, 400, 900, "Weight")],
        instances=[
            {"location": {"wght": weight}, "stylename": name} for name, weight in zip(names, weights, strict=True)
        ],
    )
    builder.setupGvar({})
    font.save(fonts[0])
    fonts = check_file(fonts[0], CHARACTERS).fonts
    assert [(font.style, font.weight, font.axes) for font in fonts] == [
        ("Thin", 100, (100.0,)), ("Regular", 400, (400.0,)), ("Medium", 500, (500.0,)), ("Black", 900, (900.0,)),
    ]  # fmt: skip
