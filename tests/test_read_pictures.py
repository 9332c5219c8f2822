"""``crnn read`` on a folder of images of every kind, good and bad: each has its line, and all that can be read is."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn.cli import main
from crnn.recognizer import Recognizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, barcode_reader: Callable[..., Recognizer]
) -> Run:
    """A function that runs ``crnn read`` with a reader of barcodes, and gives status, stdout and stderr."""

    def make(model: str, *, batch_size: int, threads: int | None, **_: object) -> Recognizer:
        return barcode_reader(batch_size=batch_size, threads=threads)

    monkeypatch.setattr("crnn.recognizer.load", make)

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["read", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def write_good(folder: Path, barcode: Callable[..., bytes], encode_image: Callable[..., bytes]) -> dict[str, str]:
    """Images of every mode and format that Pillow writes without loss; by name what they say."""
    said: dict[str, str] = {}

    def write(name: str, text: str, image: Image.Image, form: str = "PNG", **options: object) -> None:
        (folder / name).write_bytes(encode_image(image, form, **options))
        said[name] = text

    def drawn(text: str) -> Image.Image:
        return Image.open(io.BytesIO(barcode(text)))

    write("1 bit.png", "aaa", drawn("aaa").convert("1", dither=Image.Dither.NONE))
    write("1 bit.tif", "aa", drawn("aa").convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4")
    write("palette.png", "pal", drawn("pal").convert("P"))
    write("palette.gif", "g1f", drawn("g1f"), "GIF")
    write("16 bit.png", "deep", Image.fromarray(np.asarray(drawn("deep")).astype(np.uint16) * 257))
    write("16 bit.tiff", "tiff16", Image.fromarray(np.asarray(drawn("tiff16")).astype(np.uint16) * 257), "TIFF")
    write("cmyk.tif", "cmyk", drawn("cmyk").convert("RGB").convert("CMYK"), "TIFF")
    write("cmyk.jpg", "aba", drawn("aba").convert("CMYK"), "JPEG", quality=100)
    write("colour.JPG", "jpeg", drawn("jpeg").convert("RGB"), "JPEG", quality=100)
    write("a png.jpeg", "wrongname", drawn("wrongname"))
    write("rows.bmp", "bmp", drawn("bmp"), "BMP")
    write("rows.webp", "webp", drawn("webp").convert("RGB"), "WEBP", lossless=True)
    write("rows.pgm", "pgm", drawn("pgm"), "PPM")

    # White only where it is not seen; what is seen is upright when it has been turned.
    grey = np.asarray(drawn("clear"))
    clear = np.stack([np.where(grey == 255, 0, grey)] * 3 + [np.where(grey == 255, 0, 255)], axis=2).astype(np.uint8)
    write("transparent.png", "clear", Image.fromarray(clear))
    write("transparent grey.png", "clear", Image.fromarray(clear).convert("LA"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = drawn("turned").transpose(Image.Transpose.ROTATE_90)
    write("turned.png", "turned", turned, exif=exif)
    write("turned.tif", "turned", turned, "TIFF", tiffinfo=exif)

    first, second = drawn("first"), drawn("other")
    for name, form in [("moves.gif", "GIF"), ("moves.png", "PNG"), ("pages.tif", "TIFF")]:
        write(name, "first", first, form, save_all=True, append_images=[second])
    write("moves.webp", "first", first, "WEBP", save_all=True, append_images=[second], lossless=True)
    return said


def write_bad(
    folder: Path, barcode: Callable[..., bytes], encode_image: Callable[..., bytes], png_by_hand: Callable[..., bytes]
) -> dict[str, str]:
    """What looks like images and is none; by name what must be said of it."""
    whole = Image.open(io.BytesIO(barcode("whole"))).convert("RGB").resize((400, 200))
    unknown = "not an image that can be read, or cut short"
    bitmap = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
    files = {
        "0 bytes.png": (b"", "empty (0 bytes)"),
        "text.png": (b"this is not an image\n", "not an image that can be read"),
        "page.jpg": (b"<!doctype html><title>404</title>", "not an image that can be read"),
        "drawing.gif": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        "zip.webp": (b"PK\x03\x04" + bytes(60), "not an image that can be read"),
        "only the beginning.png": (b"\x89PNG\r\n\x1a\n", "not an image that can be read, or cut short"),
        "bomb.png": (png_by_hand(60_000, 60_000), "too large to decode"),
        "bomb.bmp": (bitmap, "too large to decode"),
    }
    for form, suffix in [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp")]:
        data = encode_image(whole, form)
        cut = unknown if form == "WEBP" else "cut short"
        files[f"cut.{suffix}"] = (data[: len(data) * 2 // 3], cut)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
        data = encode_image(whole, "TIFF", compression=compression)
        # The header of a TIFF says where its tags are: before the pixels here, as scanners write it, or behind them.
        cut = "cut short" if compression == "raw" else unknown  # their directories are at the end
        files[f"cut {compression}.tif"] = (data[: len(data) * 2 // 3], cut)
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    (folder / "leads nowhere.png").symlink_to(folder / "gone.png")
    return {**{name: said for name, (_, said) in files.items()}, "leads nowhere.png": "no such file"}


@pytest.mark.parametrize("options", [(), ("--threads", "1"), ("--batch-size", "1"), ("--batch-size", "3")])
def test_every_image_of_a_folder_has_its_line(
    options: tuple[str, ...],
    run: Run,
    tmp_path: Path,
    barcode: Callable[..., bytes],
    encode_image: Callable[..., bytes],
    png_by_hand: Callable[..., bytes],
) -> None:
    good = write_good(tmp_path, barcode, encode_image)
    bad = write_bad(tmp_path, barcode, encode_image, png_by_hand)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "._word.png").write_bytes(b"\0\5\x16\7")  # what macOS writes beside word.png on other disks
    (tmp_path / "a folder.png").mkdir()
    (tmp_path / "a folder.png" / "within.png").write_bytes(barcode("within"))
    good["a folder.png/within.png"] = "within"
    names = sorted([*good, *bad], key=lambda name: Path(tmp_path, name))

    status, out, err = run(tmp_path, *options)
    assert status == 1
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [(str(tmp_path / name), good[name]) for name in names if name in good]
    passed_over, *lines = sorted(err.splitlines(), key=lambda line: "passed over" not in line)
    assert passed_over == f"crnn read: {tmp_path}: 2 files passed over, not images: ._word.png, notes.txt"
    for name, line in zip([name for name in names if name in bad], lines, strict=True):
        assert line.startswith(f"crnn read: {tmp_path / name}: {bad[name]}"), name
        assert "expected" in line

    status, out, err = run(tmp_path, "--json", *options)
    assert (status, err) == (1, passed_over + "\n")
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in found] == [str(tmp_path / name) for name in names]
    assert [line.get("text") for line in found] == [good.get(name) for name in names]
    assert [f"crnn read: {line['error']}" for line in found if "error" in line] == lines


def test_what_was_given_by_name_and_cannot_be_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    long = "x" * 5000
    given = f"{folder}\n{image}/below.png\n{long}\na\0b\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    status, out, err = run("-", "gone.png", long)
    assert (status, out) == (1, "")
    expected = [
        f"crnn read: {folder}: is a folder; expected the path of an image",
        f"crnn read: {image}/below.png: cannot be opened (Not a directory); expected the path of an image that you ",
        f"crnn read: {long}: cannot be opened (File name too long); expected",
        "crnn read: a\0b: cannot be opened (embedded null byte); expected",
        "crnn read: gone.png: no such file; expected the path of an image",
        f"crnn read: {long}: cannot be opened (File name too long); expected",
    ]
    for line, beginning in zip(err.splitlines(), expected, strict=True):
        assert line.startswith(beginning)


def test_what_may_not_be_read(
    run: Run, tmp_path: Path, barcode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so the system's answer is made up.
    for name in ("a.png", "b.png", "locked/c.png", "open/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(barcode("ok"))
    real_open, real_scandir = open, os.scandir

    def refuse_file(path: object, *rest: object, **options: object) -> object:
        if path == str(tmp_path / "a.png"):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *rest, **options)

    def refuse_folder(path: str) -> object:
        if path == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr("builtins.open", refuse_file)
    monkeypatch.setattr("os.scandir", refuse_folder)
    status, out, err = run(tmp_path)
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(tmp_path / name) for name in ("b.png", "open/d.png")
    ]
    assert err.splitlines() == [
        f"crnn read: {tmp_path}/locked: folder cannot be opened (Permission denied); left out",
        f"crnn read: {tmp_path}/a.png: cannot be opened (Permission denied); "
        "expected the path of an image that you may read",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_not_waited_for(run: Run, tmp_path: Path, barcode: Callable[..., bytes]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "word.png").write_bytes(barcode("ok"))
    status, out, err = run(tmp_path)
    assert (status, out.split("\t")[1]) == (0, "ok")
    assert err == f"crnn read: {tmp_path}: 1 files passed over, not images: pipe.png\n"


@pytest.mark.parametrize("command", [["data", "inspect", "LIST"], ["data", "convert", "list", "LIST", "OUT"]])
def test_commands_say_once_what_is_wrong_with_an_image(
    command: list[str], tmp_path: Path, encode_image: Callable[..., bytes], noise: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "bad.png").write_bytes(encode_image(Image.fromarray(noise(40, 120)))[:900])
    (tmp_path / "labels.tsv").write_text("bad.png\tword\n", encoding="utf-8")
    paths = {"LIST": str(tmp_path / "labels.tsv"), "OUT": str(tmp_path / "out")}
    arguments = [sys.executable, "-m", "crnn", *(paths.get(word, word) for word in command)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr


class Terminal(io.StringIO):
    """What is written to it, by something that takes it for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stdin", [False, True])
def test_a_bar_counts_on_stderr_where_results_go_elsewhere(
    stdin: bool, run: Run, tmp_path: Path, barcode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(barcode(f"w{number}"))
    (tmp_path / "bad.png").write_bytes(b"")
    given = "".join(f"{path}\n" for path in sorted(tmp_path.iterdir())).encode()
    quiet, expected, _ = run(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    status, out, _ = run("-" if stdin else tmp_path)
    assert (status, out) == (quiet, expected)  # nothing of the bar, and all results
    shown = terminal.getvalue()
    assert re.search(r"reading .* 41 ", shown)
    assert "bad.png: empty (0 bytes)" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    monkeypatch.setattr("sys.stdout", both := Terminal())
    terminal.truncate(0)
    run(tmp_path)
    assert both.getvalue() == expected  # on a terminal the results are what one sees
    assert "reading" not in terminal.getvalue()
