"""The report: the page as a browser's parser sees it."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from crnn.errors import ConfigError, CrnnError, DataError, ImageError
from crnn.evaluation.metrics import TextSums, score_texts
from crnn.evaluation.report import MAX_CONFUSIONS, MAX_ERRORS, ImageLookup, write_report
from crnn.evaluation.results import DatasetResult, Evaluation, SampleResult


def result(
    label: str, prediction: str, score: float = -0.5, *, index: int = 0, key: str = "1", raw: str | None = None
) -> SampleResult:
    return SampleResult(index, key, label if raw is None else raw, label, prediction, score)


def dataset(
    name: str,
    samples: Sequence[SampleResult],
    *,
    skipped: Mapping[str, int] | None = None,
    expected: int | None = None,
    unreadable: tuple[str, ...] = (),
) -> DatasetResult:
    sums = score_texts((s.label, s.prediction) for s in samples)
    return DatasetResult(
        name, f"sets/{name}", "parseq, 36 characters", sums, dict(skipped or {}), expected, tuple(samples), unreadable
    )


def encoded(size: tuple[int, int] = (40, 16), colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def no_image(name: str, index: int) -> bytes | None:
    return None


def red_image(name: str, index: int) -> bytes | None:
    return encoded()


def evaluation(*datasets: DatasetResult) -> Evaluation:
    return Evaluation(model="a model", protocol="parseq", datasets=datasets)


class Page(HTMLParser):
    """The elements and the text of a page, and a check that every element is closed where it should be."""

    VOID = ("meta", "br", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.marks: list[tuple[str | None, str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "mark":
            self.marks.append((self.elements[-1][1].get("class"), data))
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def attributes(self, tag: str, name: str) -> list[str]:
        return [
            attributes[name] or "" for element, attributes in self.elements if element == tag and name in attributes
        ]

    def of_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)


def page(
    tmp_path: Path, shown: Evaluation, lookup: ImageLookup = no_image, details: Sequence[tuple[str, str]] = ()
) -> Page:
    write_report(tmp_path / "report.html", shown, lookup, details)
    return Page(tmp_path / "report.html")


def test_summary_has_the_numbers_of_the_sums(tmp_path: Path) -> None:
    samples = [result("abcd", "abcd"), result("abcd", "abxd"), result("ab", "ab"), result("ab", "ab")]
    shown = dataset("plates", samples, skipped={"too_long": 1200, "empty_label": 2, "missing": 0})
    text = page(tmp_path, evaluation(shown), details=(("decoding", "beam"),)).text
    assert "Evaluation of a model" in text
    assert "Protocol: parseq, 36 characters · decoding: beam" in text
    assert "75.00 %" in text  # 3 of 4
    assert "30.1 to 95.4" in text  # its Wilson interval
    assert "93.75 %" in text  # 1-NED: 1 - (1/4) / 4
    assert "8.33 %" in text  # CER: 1 of 12
    assert "published" not in text  # nobody published such a set
    assert "2 empty label 1,200 too long" in text  # in a fixed order
    assert "missing" not in text  # nothing was skipped for that reason


def test_a_set_with_the_published_number_of_samples_says_so(tmp_path: Path) -> None:
    shown = page(tmp_path, evaluation(dataset("two", [result("a", "a"), result("b", "b")], expected=2)))
    assert "as published" in shown.text
    assert shown.of_class("warn") == 0
    assert shown.of_class("warnings") == 0


def test_several_sets_have_a_combined_row_and_a_mean(tmp_path: Path) -> None:
    large = dataset("large", [result("a", "a")] * 3 + [result("a", "b")])
    small = dataset("small", [result("a", "b")])
    text = page(tmp_path, evaluation(large, small)).text
    assert re.search(r"Combined 60\.00 %", text)  # 3 of 5
    assert re.search(r"Mean 37\.50 %", text)  # of 75 and 0
    assert "Word accuracy 60.00 %" in text
    assert "Mean of the sets 37.50 %" in text
    assert "Combined" not in page(tmp_path, evaluation(large)).text


def test_another_number_of_samples_than_the_published_one_is_marked_and_warned_of(tmp_path: Path) -> None:
    shown = page(tmp_path, evaluation(dataset("CUTE80", [result("a", "a")], expected=1288)))
    assert "published: 1,288" in shown.text
    assert shown.of_class("warn") == 1
    assert "as published" not in shown.text
    assert shown.text.count("CUTE80: 1 samples compared, 1288 published") == 1


def test_warnings_of_all_sets_are_shown_and_name_their_set_once(tmp_path: Path) -> None:
    first = dataset("first", [result("a", "a")], unreadable=("7.png: is empty", "8.png: is cut"))
    second = dataset("second", [result("a", "a")], unreadable=("9.png: is empty",))
    shown = page(tmp_path, evaluation(first, second))
    for line in ("first: unreadable image 7.png", "first: unreadable image 8.png", "second: unreadable image 9"):
        assert shown.text.count(line) == 1
    assert "first: first:" not in shown.text
    assert sum(tag == "li" for tag, _ in shown.elements) == 3


def test_everything_that_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    def evil(place: str) -> str:
        return f"<script>alert('{place}')</script>\"&amp;"

    outside = dataset(
        evil("set"),
        [
            result(evil("label"), evil("label") + "<", key=evil("key"), raw=evil("raw") + "<b>"),
            result("a", "b", raw="\x00\n"),
            result("<", ">"),
        ],
        skipped={evil("reason"): 1},
        unreadable=(evil("warning"),),
    )
    outside = replace(outside, title=evil("title"))
    shown = Evaluation(model=evil("model"), protocol="parseq", datasets=(outside,))
    parsed = page(tmp_path, shown, details=((evil("name"), evil("value")),))
    assert "<script" not in parsed.source
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "iframe", "object", "link"})
    for place in ("set", "label", "key", "raw", "reason", "warning", "model", "title", "name", "value"):
        assert evil(place) in parsed.text, place
    assert evil("raw") + "<b>" in parsed.text
    assert "\x00" not in parsed.source
    assert "␀␊" in parsed.text


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    parsed = page(tmp_path, evaluation(dataset("d", [result("a", "b")])), red_image)
    references = [value for name in ("src", "href", "srcset", "action") for tag in ("img", "a", "link", "form", "use")
                  for value in parsed.attributes(tag, name)]  # fmt: skip
    assert len(references) == 1
    assert references[0].startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?:|url\(|@import", parsed.source)
    assert any("default-src 'none'" in content for content in parsed.attributes("meta", "content"))
    assert "prefers-color-scheme: dark" in parsed.source


def test_differences_are_marked_in_both_texts(tmp_path: Path) -> None:
    parsed = page(tmp_path, evaluation(dataset("d", [result("book", "bo0ks"), result("same", "same")])))
    assert parsed.marks == [("lost", "o"), ("wrong", "0"), ("wrong", "s")]
    assert parsed.of_class("gap") == 1  # where the label has no s


def test_images_are_made_small_and_kept_whole(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    sizes_by_index = {3: (2000, 100), 40: (3, 900), 5: (20, 10)}  # wide, tall, small

    def image(name: str, index: int) -> bytes:
        asked.append((name, index))
        return encoded(sizes_by_index[index], "blue")

    samples = [result("a", "b", -1.0, index=3), result("a", "b", -2.0, index=40), result("a", "b", -3.0, index=5)]
    parsed = page(tmp_path, evaluation(dataset("d", [*samples, result("a", "a", -0.1, index=6)])), image)
    assert asked == [("d", 3), ("d", 40), ("d", 5)]  # the right one is not fetched
    sizes = []
    for source in parsed.attributes("img", "src"):
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        sizes.append(image.size)
        red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        assert (red < 30, green < 30, blue > 225) == (True, True, True)
    assert sizes == [(160, 8), (1, 48), (20, 10)]


def test_images_are_asked_for_by_the_name_of_their_own_set(tmp_path: Path) -> None:
    colours = {("first", 7): "red", ("second", 7): "blue"}
    datasets = [dataset(name, [result("a", "b", index=7)]) for name, _ in colours]
    parsed = page(tmp_path, evaluation(*datasets), lambda name, index: encoded(colour=colours[name, index]))
    shown = []
    for source in parsed.attributes("img", "src"):
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        red, _, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        shown.append("red" if red > blue else "blue")
    assert shown == ["red", "blue"]


def test_images_that_cannot_be_shown_leave_a_placeholder(tmp_path: Path) -> None:
    found: list[bytes | CrnnError | OSError | None] = [
        DataError("record is gone"),
        ImageError("has no bytes", reason="empty"),
        OSError("no such file"),
        None,
        b"",
        b"not an image",
        encoded((90, 90))[:60],
        encoded(),
    ]

    def image(name: str, index: int) -> bytes | None:
        outcome = found[index]
        if isinstance(outcome, CrnnError | OSError):
            raise outcome
        return outcome

    samples = [result("a", "b", index=index) for index in range(len(found))]
    parsed = page(tmp_path, evaluation(dataset("d", samples)), image)
    assert parsed.of_class("image") == 8
    assert parsed.text.count("no image") == 7
    assert len(parsed.attributes("img", "src")) == 1


def test_confused_characters_that_cannot_be_seen_are_named(tmp_path: Path) -> None:
    results = [result("a b", "a\u00a0b"), result("e\u0301", "e"), result("", "\u200d"), result("é", "e")]
    parsed = page(tmp_path, evaluation(dataset("d", results)))
    for name in ("space", "no-break space", "zero width joiner", "nothing"):
        assert re.search(rf"\b{name}\b", parsed.text), name
    assert "\u25cc\u0301" in parsed.text  # a lone accent would sit on the cell's border
    assert "latin small letter e with acute" in parsed.attributes("bdi", "title")


def test_long_reports_are_cut_and_say_so(tmp_path: Path) -> None:
    letters = [chr(0x4E00 + i) for i in range(MAX_ERRORS + 1)]
    parsed = page(tmp_path, evaluation(dataset("d", [result(letter, "x") for letter in letters])))
    assert parsed.of_class("image") == MAX_ERRORS
    assert f"({MAX_ERRORS} of {MAX_ERRORS + 1})" in parsed.text
    assert parsed.of_class("glyph") == 2 * MAX_CONFUSIONS


@pytest.mark.parametrize("datasets", [(), (dataset("empty", []),), (dataset("right", [result("a", "a")]),)])
def test_pages_without_an_error_are_whole(tmp_path: Path, datasets: tuple[DatasetResult, ...]) -> None:
    text = page(tmp_path, evaluation(*datasets)).text
    assert "No reading was wrong." in text
    assert "nan" not in text


def test_scores_are_shown_as_probability_and_logarithm(tmp_path: Path) -> None:
    results = [
        result("a", "b", -0.693147),
        result("a", "b", math.nan),
        result("a", "b", -math.inf),
        result("a", "b", 0.01),
    ]
    text = page(tmp_path, evaluation(dataset("d", results))).text
    assert "50.00 % (log-probability -0.693)" in text
    assert "0.00 % (log-probability -inf)" in text
    assert "100.00 % (log-probability 0.010)" in text  # rounding of the engine
    assert "Score –" in text


def test_any_text_can_be_written(tmp_path: Path) -> None:
    labels = ["שלום עולם", "नमस्ते", "👍🏽", "\u202egnp", "\ud800"]
    parsed = page(tmp_path, evaluation(dataset("d", [result("a", "b", raw=label) for label in labels])))
    for label in labels[:-1]:
        assert label in parsed.source
    assert "\\ud800" in parsed.source  # a lone surrogate has no UTF-8


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    def shown(skipped: Mapping[str, int]) -> Evaluation:
        return evaluation(dataset("d", [result("abc", "abd"), result("xyz", "xxz")], skipped=skipped))

    write_report(tmp_path / "one.html", shown({"b": 1, "a": 2}), red_image)
    write_report(tmp_path / "two.html", shown({"a": 2, "b": 1}), red_image)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fails(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ConfigError, match=r"cannot write .*report\.html: the disk is full"):
        write_report(path, evaluation(dataset("d", [])), no_image)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_report(tmp_path / "none" / "report.html", evaluation(dataset("d", [])), no_image)


def test_the_tables_show_the_counts_of_the_evaluation_and_do_not_count_again(tmp_path: Path) -> None:
    sums = TextSums(samples=1000, correct=900, characters=5000)
    shown = DatasetResult("d", "sets/d", "parseq, 36 characters", sums, {}, None, samples=(), unreadable=())
    assert "90.00 %" in page(tmp_path, evaluation(shown)).text
