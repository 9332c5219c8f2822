"""``crnn data convert`` and the ModelZoo's scripts: arguments, what is printed, exit status, signals."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import crnn.cli
from crnn.data.formats import FORMATS, FormatName, open_reader, published_count
from crnn.data.formats.icdar import NUM_SAMPLES
from crnn.data.formats.subsets import ShareReader, parse_share
from crnn.data.list_file import ListFile
from crnn.data.store import LmdbStore
from crnn.errors import ConfigError, CrnnError


def run(*arguments: object) -> int:
    return crnn.cli.main(["data", *map(str, arguments)])


def svt(folder: Path) -> Path:
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


def test_a_set_is_converted_and_told_of(tmp_path, capsys):
    source = svt(tmp_path / "svt1")
    (source / "img/2.jpg").unlink()
    assert run("convert", "svt", source, tmp_path / "SVT", "--max-bad-share", 0.5) == 0
    out, err = capsys.readouterr()
    assert out == (
        f"{tmp_path}/SVT: 2 samples written; the published set has 647, 645 fewer\n  skipped 1: missing (img/2.jpg#1)\n"
    )
    assert err == ""
    with LmdbStore(tmp_path / "SVT") as store:
        assert [store.label(i) for i in range(2)] == ["ONE", "TWO"]
        assert store.lexicon(1) == ("ONE", "TWO", "THREE")
        assert store.stored_size(0) == (30, 20)
        assert store.image_bytes(0)[1:4] == b"PNG"


def test_json(tmp_path, capsys, word_list):
    source = word_list(labels=["a", "b", "c"])
    assert run("convert", "list", source, tmp_path / "IC03_867", "--json", "--workers", 0, "--max-height", 16) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["written"], out["expected"], out["complete"], out["skipped"]) == (3, 867, True, {})
    with LmdbStore(tmp_path / "IC03_867") as store:
        assert [store.stored_size(i)[1] for i in range(3)] == [16] * 3


def test_variants_shares_and_merging(tmp_path, capsys, word_list):
    labels = ["abc", "de", "f-g", "hij", "KLM", "nop!"]
    source = word_list(labels=labels)
    assert run("convert", "list", source, tmp_path / "a", "--variant", "IC13_857") == 0
    out = capsys.readouterr().out
    assert "3 samples written; the published set has 857, 854 fewer" in out
    assert "left out 3: not_in_variant (images/2.png, images/3.png, images/6.png)" in out
    assert run("convert", "list", source, tmp_path / "b", "--share", "0:0.5", "--max-bad-share", 0) == 0
    assert run("convert", "list", source, tmp_path / "c", "--share", "0.5:1") == 0
    assert run("convert", "lmdb", tmp_path / "b", tmp_path / "c", tmp_path / "both") == 0
    with LmdbStore(tmp_path / "both") as store, LmdbStore(tmp_path / "b") as part:
        assert 0 < len(part) < len(store) == 6
        assert sorted(store.label(i) for i in range(6)) == sorted(labels)


def test_like_another_store(tmp_path, capsys, word_list):
    source = word_list(labels=["abc", "de", "fgh"])
    assert run("convert", "list", source, tmp_path / "all") == 0
    assert run("convert", "list", source, tmp_path / "some", "--share", "0:0.7") == 0
    assert run("convert", "list", source, tmp_path / "like", "--like", tmp_path / "some") == 0
    with LmdbStore(tmp_path / "some") as some, LmdbStore(tmp_path / "like") as like:
        assert [like.label(i) for i in range(len(like))] == [some.label(i) for i in range(len(some))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "list", "only"], "only: expected SRC and DST"),
        (["convert", "svt", "x", "y", "--crop", "box"], "--crop box does not go with format svt; it is for synthtext"),
        (["convert", "list", "x", "y", "--path-column", "z"], "--path-column z does not go with format list"),
        (["convert", "nothing", "x", "y"], "'nothing' is not one of 'mjsynth', "),
        (["convert", "list", "x", "y", "--share", "1"], "'1'; expected START:STOP"),
        (["inspekt"], "'inspekt'"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path, monkeypatch, capsys, word_list, arguments, message):
    monkeypatch.chdir(tmp_path)
    word_list(labels=["a"]).rename(tmp_path / "x")
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("crnn data: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "y").exists()


def test_every_format_has_its_reader(tmp_path):
    assert set(typing.get_args(FormatName)) == set(FORMATS)
    for name in FORMATS:
        with pytest.raises(CrnnError):  # the reader is there, and says that there is no such set
            open_reader(name, tmp_path / "none")
    with pytest.raises(ConfigError, match="format 'x' is unknown"):
        open_reader("x", tmp_path)


def test_published_counts(tmp_path):
    assert published_count("mjsynth", tmp_path, None) == 7_224_612
    assert published_count("mjsynth", tmp_path, "all") == 8_919_273
    assert published_count("svt", tmp_path, None) == 647
    assert published_count("list", tmp_path, None) is None
    (tmp_path / "train.xml").touch()
    assert published_count("svt", tmp_path / "train.xml", None) == 257
    assert published_count("iiit5k", tmp_path, "train") == 2000
    assert published_count("ic03", tmp_path, None) is None


def test_published_counts_of_the_icdar_words_follow_their_names(tmp_path):
    for form, names in (
        ("ic13", ["Challenge2_Training_Task3_Images_GT", "Challenge2_Test_Task3_Images"]),
        ("ic15", ["ch4_training_word_images_gt", "ch4_test_word_images_gt"]),
    ):
        for split, name in zip(("train", "test"), names, strict=True):
            (tmp_path / name).mkdir()
            (tmp_path / name / "gt.txt").touch()
            expected = NUM_SAMPLES[f"{form}_{split}"]
            assert published_count(form, tmp_path / name, None) == expected
            assert published_count(form, tmp_path / name / "gt.txt", None) == expected
    (tmp_path / "Challenge4_Test_Task3_GT.txt").touch()
    assert published_count("ic15", tmp_path / "Challenge4_Test_Task3_GT.txt", None) == 2077
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "gt.txt").touch()
    assert published_count("ic15", tmp_path / "words" / "gt.txt", None) is None
    assert published_count("ic13", tmp_path / "words", None) is None


def test_shares_do_not_meet_and_cover_everything(given_reader, tmp_path):
    from crnn.data.formats.records import Record, Skipped

    records = [Record(f"{n}#{w}", "x", f"scenes/{n}.jpg") for n in range(500) for w in range(2)]
    reader = given_reader(tmp_path, [*records, Skipped("bad", "no_label")])
    shares = [ShareReader(reader, *parse_share(text)) for text in (":0.1", "0.1:0.9", "0.9:")]
    found = [[item.key for item in share if isinstance(item, Record)] for share in shares]
    assert sorted(key for keys in found for key in keys) == sorted(record.key for record in records)
    assert 60 < len(found[0]) < 140
    assert 720 < len(found[1]) < 880
    for keys in found:
        scenes = {key.split("#")[0] for key in keys}
        assert len(keys) == 2 * len(scenes)  # no scene is divided
    reader.notes = ("a word about the set",)
    assert ShareReader(reader, 0, 0.5).notes == ("a word about the set",)
    for share in shares:
        assert share.notes == ()
        assert len(share) == len(reader)
        assert sum(isinstance(item, Skipped) and item.reason == "no_label" for item in share) == 1
    for start, stop in ((0.5, 0.5), (-0.1, 1), (0, 1.1), (float("nan"), 1)):
        with pytest.raises(ConfigError, match="START < STOP"):
            ShareReader(reader, start, stop)


SIGNALLED = """
import sys
import crnn.cli
if __name__ == "__main__":
    sys.exit(crnn.cli.main())
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_what_was_done(tmp_path, word_list, number):
    (tmp_path / "main.py").write_text(SIGNALLED)
    source = word_list(labels=["a"])
    source.write_text("images/1.png\ta\n" * 60_000)
    command = [sys.executable, tmp_path / "main.py", "data", "convert", "list", source, tmp_path / "store"]
    process = subprocess.Popen(
        [*command, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "store.partial" / "data.mdb").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (128 + number, ""), err
    *answer, line = err.splitlines()
    assert answer == ["stopping, and saving what is done; Ctrl-C again ends at once"] * (number == signal.SIGINT)
    assert line.startswith("crnn data convert: stopped; ")
    assert line.endswith("store.partial, and the same command goes on with them")
    assert not (tmp_path / "store").exists()


def script(name: str):
    path = Path(__file__).parents[2] / "examples" / "modelzoo" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_modelzoo_s_convert_svt(tmp_path, monkeypatch, capsys):
    source = svt(tmp_path / "svt1")
    monkeypatch.chdir(tmp_path)
    assert script("convert_svt.py")(["-d", "svt1", "-x", "test.xml", "-o", "processed"]) == 0
    with ListFile(tmp_path / "processed" / "labels.tsv") as store:
        assert [store.label(i) for i in range(len(store))] == ["ONE", "TWO", "THREE"]
        crop = Image.open(io.BytesIO(store.image_bytes(1)))
    scene = Image.open(source / "img/1.jpg")
    np.testing.assert_array_equal(crop, np.asarray(scene)[12:32, 15:45])
    assert script("convert_svt.py")(["--dataset_dir", "svt1", "-x", "svt1/test.xml", "-o", "lmdb", "--to", "lmdb"]) == 0
    assert len(LmdbStore(tmp_path / "lmdb")) == 3
    with pytest.raises(SystemExit):
        script("convert_svt.py")(["-d", ".", "-x", "svt1/test.xml"])
    assert "is not in --dataset_dir" in capsys.readouterr().err


def test_the_modelzoo_s_convert_ic03(tmp_path, monkeypatch):
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.JPG", "JPEG")
    (tmp_path / "words.xml").write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><tagset><image><imageName>a.JPG</imageName>'
        '<resolution x="60" y="40" /><taggedRectangles><taggedRectangle x="5.0" y="6.0" width="30.0" height="20.0" '
        'offset="0.0" rotation="0.0" userName="admin"><tag>ARE</tag></taggedRectangle></taggedRectangles></image>'
        "</tagset>"
    )
    monkeypatch.chdir(tmp_path)
    assert script("convert_ic03.py")(["--variant", "IC03_867"]) == 0
    with ListFile(tmp_path / "processed" / "labels.tsv") as store:
        assert store.label(0) == "ARE"
        assert Image.open(io.BytesIO(store.image_bytes(0))).size == (30, 20)


def test_the_modelzoo_s_convert_iiit5k(tmp_path, image_of):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1_1.png").write_bytes(image_of("PRIVATE"))
    row = np.zeros((1, 1), [(name, object) for name in ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")])
    cells = np.empty((1, 2), object)
    cells[0, :] = ["PRIVATE", "PUBLIC"]
    row[0, 0] = ("test/1_1.png", "PRIVATE", cells, cells)
    scipy.io.savemat(tmp_path / "testdata.mat", {"testdata": row})
    out = tmp_path / "processed"
    assert script("convert_iiit5k.py")(["-m", str(tmp_path / "testdata.mat"), "-o", str(out), "--to", "lmdb"]) == 0
    with LmdbStore(out) as store:
        assert store.image_bytes(0) == image_of("PRIVATE")
        assert (store.label(0), store.lexicon(0), store.large_lexicon(0)) == ("PRIVATE", *[("PRIVATE", "PUBLIC")] * 2)
