"""Folders with a list: what goes in comes out, and what is not whole has another name."""

import pytest

from crnn.data.list_file import ListFile, ListWriter
from crnn.data.source import open_source
from crnn.errors import DataError


def test_what_is_written_is_read_back(tmp_path, encode_image, smooth_image):
    images = [encode_image(smooth_image(), form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    images.append(b"something else")
    labels = ["one", "zwei", "três\tquatro", "", " five ", "six\rseven", "日本", "8"]
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


def test_a_writer_goes_on_behind_the_last_commit(tmp_path):
    def write(numbers, end) -> None:
        with ListWriter(tmp_path / "set") as writer:
            assert writer.num_samples == numbers[0]
            for number in numbers:
                writer.add(b"P%d" % number, f"wörd {number}")
                if number == end:
                    writer.commit(f"bis {end} ü".encode())
            raise KeyboardInterrupt

    for numbers, end in (([0, 1, 2, 3], 1), ([2, 3], 2), ([3], 9)):
        with pytest.raises(KeyboardInterrupt):
            write(numbers, end)
    with ListWriter(tmp_path / "set") as writer:
        assert (writer.num_samples, writer.state) == (3, "bis 2 ü".encode())
        writer.add(b"P3", "end")
    with ListFile(tmp_path / "set" / "labels.tsv") as store:
        assert [store.label(i) for i in range(len(store))] == ["wörd 0", "wörd 1", "wörd 2", "end"]
        assert [store.image_bytes(i) for i in range(4)] == [b"P0", b"P1", b"P2", b"P3"]


def test_what_a_list_cannot_hold_is_refused(tmp_path):
    with ListWriter(tmp_path / "set") as writer:
        for label in ("two\nlines", "end\r", "end\r\n"):
            with pytest.raises(DataError, match="line break"):
                writer.add(b"P", label)
        with pytest.raises(DataError, match="surrogate"):
            writer.add(b"P", "\ud800")
        writer.add(b"P", "good")
    assert len(ListFile(tmp_path / "set" / "labels.tsv")) == 1
    with pytest.raises(RuntimeError, match="with statement"):
        writer.add(b"P", "late")
    with pytest.raises(DataError, match="no sample was added"), ListWriter(tmp_path / "none"):
        pass
    with pytest.raises(DataError, match="exists already"):
        ListWriter(tmp_path / "set").__enter__()


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
