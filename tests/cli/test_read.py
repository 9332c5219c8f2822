"""``crnn read``: every image has its line, every option its effect, and what is passed over is named."""

import io
import json
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn.errors import printable
from crnn.image import IMAGE_SUFFIXES


@pytest.fixture
def images(trained_run):
    """The folder with an image of each word of ``trained_run``."""
    return trained_run.words.parent / "images"


@pytest.fixture
def read_bars(run, monkeypatch, barcode_reader):
    """``run`` of ``crnn read`` with a reader of barcodes."""

    def load(model, *, batch_size, threads, **_):
        return barcode_reader(batch_size=batch_size, threads=threads)

    monkeypatch.setattr("crnn.recognizer.load", load)
    return lambda *arguments: run("read", *arguments)


# ---- what is printed


def test_read_prints_path_text_and_confidence(run, trained_run, images):
    given = [images / f"{n}.png" for n in (2, 1, 3)]
    status, out, err = run("read", *given, "--model", trained_run.folder)
    assert (status, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [[str(given[0]), "dog"], [str(given[1]), "cat"], [str(given[2]), "ten"]]
    assert all(re.fullmatch(r"[01]\.\d{3}", row[2]) and 0.5 < float(row[2]) <= 1.0 for row in rows)


def test_read_json_has_a_line_for_every_image_in_order(run, trained_run, images, tmp_path):
    (tmp_path / "wörd.png").write_bytes((images / "2.png").read_bytes())
    given = [images / "1.png", "gone.png", tmp_path / "wörd.png"]
    status, out, err = run("read", *given, "--model", trained_run.folder, "--json", "--batch-size", "1")
    assert (status, err) == (1, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in given]
    assert [line.get("text") for line in lines] == ["cat", None, "dog"]
    assert sorted(lines[0]) == ["characters", "confidence", "image", "score", "text", "warning"]
    assert [sorted(c) for c in lines[0]["characters"]] == [["end", "score", "start", "text"]] * 3
    assert lines[1]["error"] == "gone.png: No such file or directory; expected the path of an image"


class Terminal(io.StringIO):
    """What is written to it, by something that takes it for a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stdin", [False, True])
def test_a_bar_counts_on_stderr_where_results_go_elsewhere(stdin, read_bars, tmp_path, barcode, monkeypatch):
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(barcode(f"w{number}"))
    (tmp_path / "bad.png").write_bytes(b"")
    given = "".join(f"{path}\n" for path in sorted(tmp_path.iterdir())).encode()
    quiet, expected, _ = read_bars(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    status, out, _ = read_bars("-" if stdin else tmp_path)
    assert (status, out) == (quiet, expected)  # nothing of the bar, and all results
    shown = terminal.getvalue()
    assert re.search(r"reading .* 41 ", shown)
    assert "bad.png: empty (0 bytes)" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    monkeypatch.setattr("sys.stdout", both := Terminal())
    terminal.truncate(0)
    read_bars(tmp_path)
    assert both.getvalue() == expected  # on a terminal the results are what one sees
    assert "reading" not in terminal.getvalue()


# ---- what is read


def drawings(barcode):
    """Images of several modes and formats: name, text, image, format and options of Pillow."""

    def drawn(text):
        return Image.open(io.BytesIO(barcode(text)))

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = drawn("turned").transpose(Image.Transpose.ROTATE_90)
    grey = np.asarray(drawn("clear"))
    clear = np.stack([np.where(grey == 255, 0, grey)] * 3 + [np.where(grey == 255, 0, 255)], axis=2).astype(np.uint8)
    return [
        ("1 bit.tif", "aa", drawn("aa").convert("1", dither=Image.Dither.NONE), "TIFF", {"compression": "group4"}),
        ("palette.gif", "g1f", drawn("g1f"), "GIF", {}),
        ("16 bit.png", "deep", Image.fromarray(np.asarray(drawn("deep")).astype(np.uint16) * 257), "PNG", {}),
        ("cmyk.jpg", "aba", drawn("aba").convert("CMYK"), "JPEG", {"quality": 100}),
        ("a png.JPEG", "wrongname", drawn("wrongname"), "PNG", {}),
        ("transparent.png", "clear", Image.fromarray(clear), "PNG", {}),
        ("turned.png", "turned", turned, "PNG", {"exif": exif}),
        ("moves.gif", "first", drawn("first"), "GIF", {"save_all": True, "append_images": [drawn("other")]}),
    ]


@pytest.mark.parametrize("options", [(), ("--threads", "1"), ("--batch-size", "1"), ("--batch-size", "3")])
def test_every_image_of_a_folder_has_its_line(options, read_bars, tmp_path, barcode, encode_image, png_by_hand):
    good, whole = {}, barcode("whole")
    for name, text, image, form, settings in drawings(barcode):
        (tmp_path / name).write_bytes(encode_image(image, form, **settings))
        good[name] = text
    bitmap = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
    bad = {
        "0 bytes.png": (b"", "empty (0 bytes)"),
        "page.jpg": (b"<!doctype html><title>404</title>", "not an image that can be read"),
        "drawing.gif": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        "bomb.png": (png_by_hand(60_000, 60_000), "too large to decode"),
        "bomb.bmp": (bitmap, "too large to decode"),
        "cut.png": (whole[: len(whole) * 2 // 3], "cut short"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "leads nowhere.png").symlink_to(tmp_path / "gone.png")
    bad["leads nowhere.png"] = b"", "No such file"
    told = {**{name: cause for name, (_, cause) in bad.items()}, "moves.gif": "has several pages or frames"}
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "._word.png").write_bytes(b"\0\5\x16\7")  # what macOS writes beside word.png on other disks
    (tmp_path / "a folder.png").mkdir()
    (tmp_path / "a folder.png" / "within.png").write_bytes(barcode("within"))
    good["a folder.png/within.png"] = "within"
    names = sorted([*good, *bad], key=lambda name: Path(tmp_path, name))

    status, out, err = read_bars(tmp_path, *options)
    assert status == 1
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [(str(tmp_path / name), good[name]) for name in names if name in good]
    passed_over, *lines = sorted(err.splitlines(), key=lambda line: "passed over" not in line)
    assert passed_over == f"crnn read: {tmp_path}: 2 files passed over, not images: ._word.png, notes.txt"
    for name, line in zip([name for name in names if name in told], lines, strict=True):
        assert line.startswith(f"crnn read: {tmp_path / name}: {told[name]}"), name
    lines = [line for line in lines if "moves.gif" not in line]

    status, out, err = read_bars(tmp_path, "--json", *options)
    assert (status, [line for line in err.splitlines() if "moves.gif" not in line]) == (1, [passed_over])
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in found] == [str(tmp_path / name) for name in names]
    assert [line.get("text") for line in found] == [good.get(name) for name in names]
    assert [f"crnn read: {line['error']}" for line in found if "error" in line] == lines


def test_read_takes_every_suffix_that_the_readers_of_data_take(read_bars, barcode, tmp_path):
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"image{suffix}").write_bytes(barcode("ok"))
    status, out, err = read_bars(tmp_path)
    assert (status, len(out.splitlines()), err) == (0, len(IMAGE_SUFFIXES), "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_links_and_pipes_are_passed_over_and_a_line_stays_a_line(read_bars, barcode, tmp_path):
    folder, name = tmp_path / "some", "a\tb\nc.png"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / name).write_bytes(barcode("ok"))
    (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    status, out, err = read_bars(folder)
    assert (status, out.split("\t")) == (0, [str(folder / r"a\tb\nc.png"), "ok", out.split("\t")[2]])
    assert err.splitlines() == [
        f"crnn read: {folder}: 1 files passed over, not images: pipe.png",
        f"crnn read: {folder}: 1 linked folders passed over: elsewhere",
    ]
    assert json.loads(read_bars(folder, "--json")[1])["image"] == str(folder / name)


def test_paths_that_cannot_be_read(read_bars, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    causes = {
        str(tmp_path): "Is a directory",
        f"{tmp_path}/a.png/below.png": "Not a directory",
        "x" * 5000: "File name too long",
        "a\0b": "embedded null byte",
        "gone.png": "No such file or directory",
    }
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(causes).encode())))
    status, out, err = read_bars("-")
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        printable(f"crnn read: {p}: {cause}; expected the path of an image") for p, cause in causes.items()
    ]


def test_a_folder_that_may_not_be_opened(read_bars, tmp_path, barcode, monkeypatch):
    # Root may read everything, so the system's answer is made up.
    for name in ("b.png", "locked/c.png", "open/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(barcode("ok"))
    scandir = os.scandir

    def refusing(path):
        if path == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    status, out, err = read_bars(tmp_path)
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [f"{tmp_path}/b.png", f"{tmp_path}/open/d.png"]
    assert err == f"crnn read: {tmp_path}/locked: folder cannot be opened (Permission denied); left out\n"


# ---- stdin


@pytest.fixture
def stdin(monkeypatch):
    """A function that puts bytes on stdin."""
    return lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_read_takes_paths_from_stdin(run, trained_run, images, stdin):
    stdin(f"{images}/1.png\n\n{images}/2.png\r\n{images}/3.png".encode("utf-8-sig"))  # as Windows writes it
    status, out, err = run("read", "-", "--model", trained_run.folder)
    assert (status, err) == (0, "")
    assert [line.split("\t")[1] for line in out.splitlines()] == trained_run.labels[:3]


def test_read_says_that_an_image_on_stdin_is_no_list(read_bars, barcode, stdin):
    stdin(barcode("ok"))
    status, out, err = read_bars("-")
    assert (status, out) == (2, "")
    assert "stdin holds no paths; expected one on each line" in err


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape"])
def test_read_takes_file_names_of_any_bytes(encoding, trained_run, images, tmp_path, in_process):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes((images / "1.png").read_bytes())
    command = ["-m", "crnn", "read", "-", "--model", trained_run.folder, "--json"]
    done = in_process(*command, input=name + b"\n", text=False, env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    line = json.loads(done.stdout)
    assert (os.fsencode(line["image"]), line["text"]) == (name, "cat")


# ---- options


def test_read_with_each_option(run, trained_run, images, tmp_path):
    (tmp_path / "words.txt").write_text("cut\ncot\n")

    def read(*options):
        status, out, err = run("read", images / "1.png", "--model", trained_run.folder, "--json", *options)
        assert (status, err) == (0, "")
        return json.loads(out)

    free = read()
    assert free["text"] == "cat"
    word = read("--lexicon", tmp_path / "words.txt")
    assert word["text"] in ("cut", "cot")
    assert word["score"] < free["score"]
    assert 0.0 <= word["confidence"] < 0.01  # the image shows neither
    (tmp_path / "animals.txt").write_text("cut\ncat\n")
    assert read("--lexicon", tmp_path / "animals.txt")["confidence"] > 0.99
    assert read("--lexicon", tmp_path / "words.txt", "--lexicon-margin", 0.5)["text"] == "cat"
    assert read("--pattern", "c[^a]t")["text"] != "cat"
    assert read("--pattern", "[A-Z]{3}")["text"] == "cat"
    assert "a" not in read("--block", "a")["text"]
    assert set(read("--allow", "CT")["text"]) <= set("ct")
    assert read("--pattern", "[A-Z]+", "--allow", "abct", "--lm", "en")["text"] == "cat"
    some = read("--n-best", 3)
    assert (some["text"], len(some["alternatives"])) == ("cat", 2)
    assert [sorted(a) for a in some["alternatives"]] == [["confidence", "score", "text"]] * 2
    assert some["score"] >= some["alternatives"][0]["score"] >= some["alternatives"][1]["score"]
    nothing = read("--pattern", "[0-9]{40}")
    assert (nothing["text"], nothing["score"], nothing["characters"]) == ("", None, [])


def test_words_that_are_left_out_are_said(run, trained_run, images, tmp_path):
    (tmp_path / "words.txt").write_text("cat\nдом\nCAT\n")
    status, out, err = run("read", images / "1.png", "--model", trained_run.folder, "--lexicon", tmp_path / "words.txt")
    assert (status, out.split("\t")[1]) == (0, "cat")
    assert err == f"crnn read: lexicon {tmp_path / 'words.txt'}: 1 words; left out empty_label: 1 ('дом')\n"


def test_read_explains_what_it_read(run, trained_run, images, tmp_path):
    (tmp_path / "bad.png").write_text("nothing")
    given = [images / "1.png", tmp_path / "bad.png", images / "2.png"]
    one = tmp_path / "one.png"
    status, out, err = run("read", images / "1.png", "--model", trained_run.folder, "--explain", one)
    assert (status, out.count("\n"), err) == (0, 1, f"crnn read: explained in {one}\n")
    both = tmp_path / "both.png"
    status, out, _ = run("read", *given, "--model", trained_run.folder, "--explain", both)
    assert (status, out.count("\n")) == (1, 2)
    with Image.open(one) as alone, Image.open(both) as stacked:
        assert stacked.height > 1.7 * alone.height
        assert stacked.crop((0, 0, *alone.size)).tobytes() == alone.convert(stacked.mode).tobytes()
    status, _, err = run("read", tmp_path / "bad.png", "--model", trained_run.folder, "--explain", tmp_path / "no.png")
    assert status == 1
    assert "no.png is not written: no image could be read" in err
    assert not (tmp_path / "no.png").exists()


# ---- whole photos


@pytest.fixture
def photo(tmp_path, barcode, monkeypatch):
    """A photo with two barcodes, that a detector finds, the lower one first; and a white one."""
    image = Image.new("L", (300, 200), 255)
    boxes = []
    for text, (x, y) in (("below", (40, 120)), ("above", (60, 30))):
        bars = Image.open(io.BytesIO(barcode(text)))
        image.paste(bars, (x, y))
        boxes.append([(x, y), (x + bars.width, y), (x + bars.width, y + 32), (x, y + 32)])
    image.save(tmp_path / "photo.png")
    Image.new("L", (300, 200), 255).save(tmp_path / "white.png")
    threads = []

    def load_detector(name, count):
        assert name == "rapidocr"
        threads.append(count)
        return lambda pixels: np.array(boxes if pixels.min() < 255 else []).reshape(-1, 4, 2)

    monkeypatch.setattr("crnn.page.load_detector", load_detector)
    return tmp_path / "photo.png"


def test_detect_prints_a_row_for_each_line(read_bars, photo):
    status, out, err = read_bars("--detect", "rapidocr", photo, "gone.png", photo.parent / "white.png")
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 1
    assert [row[:2] for row in rows] == [[str(photo), "above"], [str(photo), "below"]]
    assert all(re.fullmatch(r"[01]\.\d{3}", row[2]) for row in rows)
    gone = "crnn read: gone.png: No such file or directory; expected the path of an image"
    assert err.splitlines() == [gone, f"crnn read: {photo.parent / 'white.png'}: no text found"]


def test_detect_json_has_an_object_for_each_photo(read_bars, photo):
    given = [photo, "gone.png", photo.parent / "white.png"]
    status, out, err = read_bars("--detect", "rapidocr", "--json", *given)
    first, second, third = (json.loads(line) for line in out.splitlines())
    assert (status, err) == (1, "")
    assert (first["image"], first["width"], first["height"]) == (str(photo), 300, 200)
    assert [line["text"] for line in first["lines"]] == ["above", "below"]
    assert first["lines"][0]["box"] == [[60, 30], [156, 30], [156, 62], [60, 62]]
    assert [c["text"] for c in first["lines"][0]["characters"]] == list("above")
    assert second == {
        "image": "gone.png",
        "error": "gone.png: No such file or directory; expected the path of an image",
    }
    assert third == {"image": str(given[2]), "width": 300, "height": 200, "lines": []}


def test_the_sheet_shows_photos_below_one_another(read_bars, photo):
    sheet = photo.parent / "sheet.png"
    status, _, err = read_bars("--detect", "rapidocr", "--sheet", sheet, photo, photo.parent / "white.png")
    assert status == 0
    assert f"drawn in {sheet}" in err
    with Image.open(sheet) as image:
        assert image.size == (600, 138 + 200)  # boxes of 32 pixels shrink to 22
        # The texts stand beside the first photo, and nothing beside the second.
        beside, below = image.convert("L").crop((210, 0, 600, 138)), image.convert("L").crop((0, 138, 600, 338))
        assert beside.getextrema()[0] < 128
        assert below.getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--explain", "why.png"], "--explain is for images of one line; expected it without --detect"),
        (["--n-best", "3", "--json"], "--n-best is for images of one line; expected it without --detect"),
    ],
)
def test_what_whole_photos_have_not(read_bars, photo, flags, told):
    status, _, err = read_bars("--detect", "rapidocr", photo, *flags)
    assert status == 2
    assert told in err


def test_a_sheet_needs_a_detector(read_bars, photo):
    status, _, err = read_bars("--sheet", photo.parent / "sheet.png", photo)
    assert status == 2
    assert "--sheet does nothing without --detect; expected both, or neither" in err


def test_without_the_package_detect_says_what_to_install(read_bars, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    status, _, err = read_bars("--detect", "rapidocr", "photo.jpg")
    assert status != 0
    needed = "finding the lines of a photo needs the package 'rapidocr'. Install it with: pip install 'crnn[detect]'"
    assert err == f"crnn read: {needed}\n"
