"""The table of formats: every one has its reader, and published counts are found by split and name."""

from pathlib import Path

import pytest

from crnn.data.formats import FORMATS, open_reader, published_count
from crnn.errors import ConfigError, DataError


def test_every_format_has_its_reader_and_is_in_the_docs(tmp_path):
    docs = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text("utf-8")
    for name in FORMATS:
        assert f"[`{name}`](#" in docs
        with pytest.raises(DataError, match="none"):  # the reader is there, and says that there is no such set
            open_reader(name, tmp_path / "none")
    with pytest.raises(ConfigError, match="format 'x' is unknown"):
        open_reader("x", tmp_path)


def test_options_are_those_of_the_reader(tmp_path, write):
    path = write(tmp_path / "labels.tsv", "a.png\tone\n")
    assert open_reader("list", path, {"root": "images", "split": None}).root.name == "images"
    with pytest.raises(ConfigError, match=r"--path-column x does not go with list; it is for csv"):
        open_reader("list", path, {"path_column": "x"})


@pytest.mark.parametrize(
    ("name", "source", "split", "count"),
    [
        ("mjsynth", "90kDICT32px", "all", 8_919_273),
        ("mjsynth", "90kDICT32px/annotation_val.txt", None, 802_734),
        ("synthtext", "SynthText/gt.mat", None, 7_266_866),
        ("svt", "svt1/train.xml", None, 257),
        ("iiit5k", "IIIT5K", "train", 2000),
        ("ic13", "Challenge2_Training_Task3_Images_GT", None, 848),
        ("ic13", "Challenge2_Test_Task3_Images/gt.txt", None, 1095),
        ("ic15", "ch4_training_word_images_gt/gt.txt", None, 4468),
        ("ic15", "Challenge4_Test_Task3_GT.txt", None, 2077),
        ("ic15", "words/gt.txt", None, None),
    ],
)
def test_published_counts(tmp_path, write, name, source, split, count):
    path = tmp_path / source
    if path.suffix:
        write(path)
    assert published_count(name, path, split) == count
