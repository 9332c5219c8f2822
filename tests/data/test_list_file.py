"""List files: every line is read as it is written, no image is read outside of the list's folder; their writer."""

import contextlib
import multiprocessing
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from crnn import files as image_folder
from crnn.data.formats.files import ListReader
from crnn.data.formats.records import Skipped
from crnn.data.list_file import ListFile, ListWriter
from crnn.data.source import open_source, split_name
from crnn.errors import DataError, ImageError


def write(folder: Path, content: str | bytes, name: str = "labels.tsv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[tuple[str, str]]:
    samples = ListFile(path)
    return [(samples.key(i), samples.label(i)) for i in range(len(samples))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.png\tone\nb.png\ttwo\n", [("a.png", "one"), ("b.png", "two")]),
        ("a.png\tone\r\nb.png\ttwo\r", [("a.png", "one"), ("b.png", "two")]),
        ("\ufeffa.png\tone\n", [("a.png", "one")]),
        ("\n\na.png\tone\n\r\n   \nb.png\ttwo\n\n", [("a.png", "one"), ("b.png", "two")]),
        ("a.png\t\nb.png\t\r\nc.png\t", [("a.png", ""), ("b.png", ""), ("c.png", "")]),
        ("my images/a 1.png\ttwo words \n", [("my images/a 1.png", "two words ")]),
        ("größe.png\tMaß 日本 😀\n", [("größe.png", "Maß 日本 😀")]),
        ("a.png\tline\u2028sep\x85\x0b\n", [("a.png", "line\u2028sep\x85\x0b")]),
    ],
)
def test_lines_are_read_as_written(tmp_path, content, expected):
    assert read(write(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a.png\tone\n\nb.png two\n", 3, "'b.png two' has no tab; expected path<TAB>label"),
        (b"\n\n\n\na.png\tone\n\r\n\n\n\nb.png", 10, "'b.png' has no tab"),
        (b"\xef\xbb\xbfa.png,one\n", 1, "'a.png,one' has no tab"),
        (b"a.png\tone\n\ttwo\n", 2, "has no path before the tab"),
        (b"a.png\tone\nb.png\ttwo\ten\n", 2, r"'b.png\ttwo\ten' has a second tab; expected path<TAB>label, with one"),
        (b"a.png\tone\t\n", 1, "has a second tab"),
        (b"a.png\tone\n" + b"b" * 500 + b"\n", 2, "'" + "b" * 57 + "...' has no tab"),
        (b"a.png\tone\nb.png\tcaf\xe9\r\nc.png\tx\n", 2, r"is not UTF-8 (byte 0xe9). Save the file as UTF-8"),
        (b"a.png\t\xc3\xa9\n\nb.png\t\xc3", 3, "is not UTF-8 (byte 0xc3)"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, line, message):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        ListFile(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


def test_unusable_files_are_refused(tmp_path):
    for content in (b"", b"\xef\xbb\xbf", b"\n \r\n\t\n"):
        with pytest.raises(DataError, match=r"labels\.tsv: has no samples; expected"):
            ListFile(write(tmp_path, content))
    for content in ("a.png\tone\n".encode("utf-16"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        with pytest.raises(DataError, match="is not text in UTF-8"):
            ListFile(write(tmp_path, content))
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read: No such file"):
        ListFile(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="is not a file"):
        ListFile(tmp_path)


def test_images_are_read_from_the_list_s_folder(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "sub dir").mkdir(parents=True)
    (root / "sub dir" / "ä.png").write_bytes(b"\x89PNG\0\r\n")
    (root / "link.png").symlink_to(root / "sub dir" / "ä.png")
    inside = root / "sub dir" / "ä.png"
    path = write(root, f"sub dir/ä.png\tx\nsub dir/../sub dir/ä.png\tx\nlink.png\tx\n{inside}\tx\n")
    (tmp_path / "alias").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "root/labels.tsv", "alias/labels.tsv"):
        with ListFile(name) as samples:
            assert samples.path == name
            monkeypatch.chdir(root)  # a relative path stays what it was
            assert [samples.image_bytes(i) for i in range(4)] == [b"\x89PNG\0\r\n"] * 4
            assert (samples.lexicon(0), samples.stored_size(0)) == (None, None)
            samples.close()
            assert samples.label(3) == "x"
            monkeypatch.chdir(tmp_path)
    for index in (-1, 4):
        for method in (samples.key, samples.label, samples.image_bytes, samples.lexicon, samples.stored_size):
            with pytest.raises(IndexError, match=f"sample {index} of 4"):
                method(index)


def test_nothing_is_read_outside_of_the_list_s_folder(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "a.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(secret)
    (root / "up").symlink_to(tmp_path)
    (root / "chain.png").symlink_to(root / "link.png")
    paths = [
        str(secret),
        "../secret.png",
        "link.png",
        "up/secret.png",
        "chain.png",
        "../root2/a.png",
        "x/../../secret.png",
    ]
    opened = []
    real_open = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest, **named: (opened.append(path), real_open(path, *rest, **named))[1]
    )
    samples = ListFile(write(root, "".join(f"{path}\tx\n" for path in paths)))
    for index, image in enumerate(paths):
        with pytest.raises(ImageError) as caught:
            samples.image_bytes(index)
        assert caught.value.reason == "outside_root"
        assert f"labels.tsv: {image}: lies outside of " in str(caught.value)
    assert not [path for path in opened if "secret" in str(path) or "root2" in str(path)]


def test_a_link_that_replaces_the_image_after_the_check_is_not_followed(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    samples = ListFile(write(root, "a.png\tx\n"))
    (root / "a.png").write_bytes(b"image")
    real_open = os.open

    def swap_and_open(path, *rest):
        (root / "a.png").unlink()
        (root / "a.png").symlink_to(tmp_path / "secret.png")
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", swap_and_open)
    with pytest.raises(ImageError) as caught:
        samples.image_bytes(0)
    assert caught.value.reason == "outside_root"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_bad_images_are_counted_by_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_IMAGE_BYTES", 20_000)
    (tmp_path / "empty.png").touch()
    (tmp_path / "large.png").write_bytes(bytes(20_001))
    (tmp_path / "fits.png").write_bytes(bytes(20_000))
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    expected = {
        "none.png": "missing",
        "empty.png": "empty",
        "large.png": "too_large",
        "folder.png": "missing",
        "pipe.png": "missing",
        "loop.png": "missing",
        "n" * 400: "missing",
        "fits.png/a.png": "missing",
    }
    samples = ListFile(write(tmp_path, "".join(f"{path}\tx\n" for path in [*expected, "fits.png"])))
    for index, (path, reason) in enumerate(expected.items()):
        with pytest.raises(ImageError) as caught:
            samples.image_bytes(index)
        assert caught.value.reason == reason
        assert f"labels.tsv: {path}: " in str(caught.value)
    assert len(samples.image_bytes(len(expected))) == 20_000


def test_labels_are_not_held_as_objects(tmp_path):
    num_lines = 50_000
    path = write(tmp_path, "".join(f"images/{i:08d}.png\tlabel {i}\n" for i in range(num_lines)))
    size = path.stat().st_size
    tracemalloc.start()
    samples = ListFile(path)
    for index in range(0, num_lines, 50):
        assert samples.label(index) == f"label {index}"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * (size + 8 * num_lines) + 100_000  # a string per label alone would be 3 MB
    assert len(pickle.dumps(samples)) < 1000


def test_workers_read_the_file_again_and_notice_a_change(tmp_path):
    path = write(tmp_path, "a.png\tone\nb.png\tzwö\n")
    samples = ListFile(path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(samples.label, range(2)) == ["one", "zwö"]
        with pytest.raises(ImageError) as caught:
            pool.apply(samples.image_bytes, (1,))
        pool.close()
        pool.join()
    assert caught.value.reason == "missing"
    samples.close()
    assert samples.label(0) == "one"
    twin = pickle.loads(pickle.dumps(samples))
    path.write_text("a.png\ttwo\nb.png\tzwo!\n")  # as long as before
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="was changed while in use"):
        twin.label(0)
    assert samples.label(1) == "zwö"  # it holds what it read


def test_a_source_may_be_a_list_or_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "crops"
    folder.mkdir()
    with pytest.raises(DataError, match=r"crops: has no data.mdb and no list file .*crnn data convert"):
        open_source(str(folder))
    path = write(folder, "a.png\tone\n")
    (folder / "._labels.tsv").write_bytes(b"\0")
    (folder / "notes.txt").write_text("no list")
    (folder / "folder.tsv").mkdir()
    for spec in (str(folder), f"{folder}/", str(path), f"crops={path}"):
        samples = open_source(spec)
        assert isinstance(samples, ListFile)
        assert (samples.label(0), samples.path) == ("one", str(path))
    write(folder, "a.png\ttwo\n", "labels.txt")
    with pytest.raises(DataError, match=r"has 2 list files \(labels\.tsv, labels\.txt\); expected one"):
        open_source(str(folder))
    assert open_source(str(folder / "labels.txt")).label(0) == "two"
    for spec in ("nowhere", "mj=nowhere", "n" * 400):
        with pytest.raises(DataError, match=r"^(nowhere: there is no such file or folder|n+: )"):
            open_source(spec)
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=r"^\.: has 2 list files"):
        open_source(".")


def test_names_of_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_name("svt=sets/SVT/test") == ("svt", "sets/SVT/test")
    assert split_name("sets/IIIT5k/") == ("IIIT5k", "sets/IIIT5k/")
    assert split_name("svt_train/labels.tsv") == ("svt_train", "svt_train/labels.tsv")
    assert split_name("lists/svt.tsv") == ("svt", "lists/svt.tsv")
    assert split_name("sets/IC13_v1.0") == ("IC13_v1.0", "sets/IC13_v1.0")
    assert split_name("labels.tsv") == (tmp_path.name, "labels.tsv")
    assert split_name("/") == ("/", "/")
    assert split_name("runs/lr=0.1/words") == ("words", "runs/lr=0.1/words")
    assert split_name("a=b") == ("a", "b")
    (tmp_path / "a=b").mkdir()
    assert split_name("a=b") == ("a=b", "a=b")
    assert split_name("x=a=b") == ("x", "a=b")
    for spec in ("", "svt="):
        with pytest.raises(DataError, match="expected"):
            split_name(spec)


# ---- writing


def test_what_is_written_is_read_back(tmp_path, encode_image, smooth_image):
    images = [encode_image(smooth_image(), form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    images.append(b"something else")
    labels = ["one", "zwei", "três quatro", "", " five ", "six\rseven", "日本", "8"]
    with ListWriter(tmp_path / "new" / "set") as writer:
        for image, label in zip(images, labels, strict=True):
            writer.add(image, label, lexicon=("one",), size=(1, 1))
        assert not (tmp_path / "new" / "set").exists()
    with open_source(str(tmp_path / "new" / "set")) as store:
        assert isinstance(store, ListFile)
        assert [store.label(i) for i in range(8)] == labels
        assert [store.image_bytes(i) for i in range(8)] == images
        suffixes = [store.key(i).rpartition(".")[2] for i in range(8)]
    assert suffixes == ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm", "img"]
    assert sorted(p.name for p in (tmp_path / "new" / "set").iterdir()) == ["images", "labels.tsv"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["set"]


def test_folders_hold_a_thousand_images(tmp_path, monkeypatch):
    monkeypatch.setattr("crnn.data.list_file._PER_FOLDER", 3)
    for stop in (4, 6, 10):
        writer = ListWriter(tmp_path / "set").__enter__()
        while writer.num_samples < stop:
            writer.add(b"%d" % writer.num_samples, "x")
        writer.commit(b"")
        writer.__exit__(KeyboardInterrupt, None, None)
    with ListWriter(tmp_path / "set"):
        pass
    counts = [len(list(folder.iterdir())) for folder in sorted((tmp_path / "set" / "images").iterdir())]
    assert counts == [2, 3, 3, 2]
    assert ListFile(tmp_path / "set" / "labels.tsv").image_bytes(9) == b"9"


def test_half_a_list_is_no_set(tmp_path):
    half = tmp_path / "set.partial"
    with contextlib.suppress(KeyboardInterrupt), ListWriter(tmp_path / "set") as writer:
        writer.add(b"1", "one")
        writer.commit(b"")
        raise KeyboardInterrupt
    places = [half, half / "labels.tsv.partial"]
    for place in places:
        for read in (lambda path: open_source(str(path)), ListReader):
            with pytest.raises(DataError, match=rf"{place}: is half a set, .* Give its command again, which goes on"):
                read(place)
    places[1].rename(half / "labels.tsv")  # as after a kill at the end, and as earlier versions called it
    with ListWriter(tmp_path / "set") as writer:
        with pytest.raises(DataError, match="is half a set"):
            open_source(str(half))
        writer.add(b"2", "two")
    with open_source(str(tmp_path / "set")) as store:
        assert [(store.image_bytes(i), store.label(i)) for i in range(2)] == [(b"1", "one"), (b"2", "two")]


PATHS = {
    "a.png": "", "./a.png": "", ".\\a.png": "", "sub\\b.png": "", "sub/../a.png": "", "sub\\..\\a.png": "",
    "{root}/a.png": "", "{root}/sub/../a.png": "", "{alias}/a.png": "", "link/b.png": "", "link/../a.png": "",
    "../root/a.png": "", "{root}/../secret.png": "outside_root", "up/secret.png": "outside_root",
    "{root}2/a.png": "outside_root", "C:\\a.png": "outside_root", "c:b.png": "outside_root", "\\a.png": "outside_root",
    "sub/../../secret.png": "outside_root", "\\\\host\\share\\a.png": "outside_root", "gone.png": "missing",
    "c:a.png": "", "sub/d\\e.png": "", "d:\\f\\..\\g.png": "", "{root}/sub/d\\e.png": "",
    "up/d\\e.png": "outside_root", "../d\\e.png": "outside_root", "d:\\f.png": "outside_root",
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="there a drive is followed, too")
@pytest.mark.parametrize("line", PATHS)
def test_training_and_conversion_read_the_same_images(tmp_path, line):
    root, alias = tmp_path / "root", tmp_path / "alias"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(root / "sub")
    (root / "up").symlink_to(tmp_path)
    alias.symlink_to(root)
    for name in ("root/a.png", "root/sub/b.png", "root/c:a.png", "secret.png", "root/sub/d\\e.png", "d\\e.png"):
        (tmp_path / name).write_bytes(b"image")
    (root / "d:\\f\\..\\g.png").write_bytes(b"image")
    path = write(root, f"{line.format(root=root, alias=alias)}\tx\n")
    found = []
    for read in (ListFile(path).image_bytes, lambda _: image_of_record(ListReader(path))):
        try:
            found.append((read(0) == b"image") * "read")
        except ImageError as error:
            found.append(error.reason)
    assert found == [PATHS[line] or "read"] * 2


def image_of_record(reader: ListReader) -> bytes:
    (sample,) = reader
    if isinstance(sample, Skipped):
        raise ImageError(sample.key, reason=sample.reason)
    return reader.image_source()(sample.path)


def test_what_a_list_cannot_hold_is_refused(tmp_path):
    with ListWriter(tmp_path / "set") as writer:
        for label in ("two\nlines", "end\r", "end\r\n", "two\tcolumns"):
            with pytest.raises(DataError, match="line break or a tab"):
                writer.add(b"P", label)
        writer.add(b"P", "good")
    assert len(ListFile(tmp_path / "set" / "labels.tsv")) == 1
    with pytest.raises(DataError, match="no sample was added"), ListWriter(tmp_path / "none"):
        pass


def test_a_damaged_partial_folder_is_refused(tmp_path):
    for state in ("nonsense", "{}", '{"samples": 1, "list_bytes": 99, "state": ""}'):
        (tmp_path / "set.partial").mkdir(exist_ok=True)
        (tmp_path / "set.partial" / "conversion-state.json").write_text(state)
        with pytest.raises(DataError, match=r"set\.partial: nobody can go on with it.*Remove it"):
            ListWriter(tmp_path / "set").__enter__()
    writer = ListWriter(tmp_path / "set")
    writer.discard_earlier()
    with writer:
        writer.add(b"P", "good")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
