"""The report: the page as a browser's parser sees it."""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crnn.errors import DataError, ImageError
from crnn.evaluation.metrics import score_texts
from crnn.evaluation.report import MAX_CONFUSIONS, MAX_ERRORS, ImageLookup, write_report
from crnn.evaluation.results import DatasetResult, Evaluation, LexiconResult, SampleResult


def result(label: str, prediction: str, score: float = -0.5, **others: Any) -> SampleResult:
    values = {"index": 0, "key": "1", "raw_label": label, **others}
    return SampleResult(label=label, prediction=prediction, score=score, **values)


def dataset(name: str, samples: Sequence[SampleResult], **others: Any) -> DatasetResult:
    sums = score_texts((s.label, s.prediction) for s in samples)
    values = {"title": "parseq, 36 characters", "skipped": {}, "expected": None, "unreadable": (), **others}
    return DatasetResult(name=name, path=f"sets/{name}", sums=sums, samples=tuple(samples), **values)


def encoded(size: tuple[int, int] = (40, 16)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "blue").save(stream, "PNG")
    return stream.getvalue()


def evaluation(*datasets: DatasetResult) -> Evaluation:
    return Evaluation(model="a model", protocol="parseq", datasets=datasets)


class Page(HTMLParser):
    """The elements and the text of a page, and a check that every element is closed where it should be."""

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
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "mark":
            self.marks.append((self.elements[-1][1].get("class"), data))
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [
            attributes[name] or "" for element, attributes in self.elements if element == tag and name in attributes
        ]

    def images(self) -> list[Image.Image]:
        sources = self.attributes("img", "src")
        return [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]

    def of_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)


def page(
    tmp_path: Path, shown: Evaluation, lookup: ImageLookup = lambda *_: None, details: Sequence[tuple[str, str]] = ()
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


def test_several_sets_have_a_combined_row_and_a_mean(tmp_path: Path) -> None:
    large = dataset("large", [result("a", "a")] * 3 + [result("a", "b")])
    small = dataset("small", [result("a", "b")])
    text = page(tmp_path, evaluation(large, small)).text
    assert "Combined 60.00 %" in text  # 3 of 5
    assert "Mean 37.50 %" in text  # of 75 and 0
    assert "Combined" not in page(tmp_path, evaluation(large)).text


def test_warnings_of_all_sets_are_shown_and_name_their_set_once(tmp_path: Path) -> None:
    first = dataset("first", [result("a", "a")], unreadable=("7.png: is empty", "8.png: is cut"))
    second = dataset("CUTE80", [result("a", "a")], expected=1288)
    shown = page(tmp_path, evaluation(first, second))
    for line in ("first: unreadable image 7.png", "first: unreadable image 8.png", "CUTE80: 1 samples compared"):
        assert shown.text.count(line) == 1
    assert "first: first:" not in shown.text
    assert sum(tag == "li" for tag, _ in shown.elements) == 3
    assert "published" not in page(tmp_path, evaluation(dataset("two", [result("a", "a")], expected=1))).text


def test_everything_that_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    def evil(place: str) -> str:
        return f"<script>alert('{place}')</script>\"&amp;"

    outside = dataset(
        evil("set"),
        [
            result(evil("label"), evil("label") + "<", key=evil("key"), raw_label=evil("raw") + "<b>"),
            result("a", "b", raw_label="\x00\n"),
            result("<", ">"),
        ],
        skipped={evil("reason"): 1},
        unreadable=(evil("warning"),),
        title=evil("title"),
    )
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
    parsed = page(tmp_path, evaluation(dataset("d", [result("a", "b")])), lambda *_: encoded())
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


def test_images_of_wrong_readings_are_made_small_and_kept_whole(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    sizes = {("d", 3): (2000, 100), ("d", 40): (3, 900), ("e", 3): (20, 10)}  # wide, tall, small

    def image(name: str, index: int) -> bytes:
        asked.append((name, index))
        return encoded(sizes[name, index])

    first = [result("a", "b", -1.0, index=3), result("a", "b", -2.0, index=40), result("a", "a", -0.1, index=6)]
    second = [result("a", "b", -3.0, index=3)]
    parsed = page(tmp_path, evaluation(dataset("d", first), dataset("e", second)), image)
    assert asked == list(sizes)  # the right one is not fetched
    assert [image.size for image in parsed.images()] == [(160, 8), (1, 48), (20, 10)]
    for shown in parsed.images():
        red, green, blue = shown.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        assert (red < 30, green < 30, blue > 225) == (True, True, True)


def test_images_that_cannot_be_shown_leave_a_placeholder(tmp_path: Path) -> None:
    broken = [None, b"", b"not an image", encoded((90, 90))[:60]]
    errors = [DataError("record is gone"), ImageError("has no bytes", reason="empty"), OSError("no such file")]
    found: list[Any] = [*errors, *broken, encoded()]

    def image(name: str, index: int) -> bytes | None:
        if isinstance(found[index], Exception):
            raise found[index]
        return found[index]

    samples = [result("a", "b", index=index) for index in range(len(found))]
    parsed = page(tmp_path, evaluation(dataset("d", samples)), image)
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
    assert "lexicon" not in text
    assert ("trusted" in text) == any(dataset.samples for dataset in datasets)


def test_any_text_can_be_written(tmp_path: Path) -> None:
    labels = ["שלום עולם", "नमस्ते", "👍🏽", "\u202egnp", "\ud800"]  # the last two are escaped
    parsed = page(tmp_path, evaluation(dataset("d", [result("a", "b", raw_label=label) for label in labels])))
    for label in (*labels[:-2], r"\u202egnp", r"\ud800"):
        assert label in parsed.source


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (
        page(tmp_path, evaluation(dataset("d", [result("abc", "abd")], skipped=skipped)), lambda *_: encoded()).source
        for skipped in ({"b": 1, "a": 2}, {"a": 2, "b": 1})
    )
    assert one == two


def sure(label: str, prediction: str, confidence: float, probability: float = 0.3) -> SampleResult:
    return result(label, prediction, math.log(probability), confidence=confidence)


HALF = [sure("a", "a", 0.9), sure("b", "b", 0.9), sure("c", "c", 0.9), sure("d", "x", 0.6)]


def test_calibration_errors_before_and_after(tmp_path: Path) -> None:
    shown = page(tmp_path, evaluation(dataset("d", HALF)))
    assert "That of the scores is 45.00 % , that of the confidences 22.50 %" in shown.text
    assert shown.text.count("confidences: 90.00 % sure, 100.00 % right, 3 samples") == 1
    assert shown.text.count("scores: 30.00 % sure, 75.00 % right, 4 samples") == 1
    circles = [a for tag, a in shown.elements if tag == "circle" and a["class"] == "after"]
    assert any(a["cx"] == str(260 * 0.9) and a["cy"] == "0.0" for a in circles)
    assert "80 % 3 75.00 % 100.00 %" in shown.text  # threshold, read, coverage, accuracy
    assert "0 % 4 100.00 % 75.00 %" in shown.text
    assert "Sure 60.00 %" in shown.text  # of the wrong reading


def test_without_calibration_it_says_what_to_do(tmp_path: Path) -> None:
    shown = page(tmp_path, evaluation(dataset("d", [replace(s, confidence=None) for s in HALF])))
    assert "That of the scores is 45.00 % . The weights are not calibrated: crnn calibrate fits" in shown.text
    assert "confidences:" not in shown.text
    assert shown.of_class("before") == 0
    assert "Sure" not in shown.text


def test_lexicons_stand_beside_the_free_reading_as_in_the_paper(tmp_path: Path) -> None:
    def lexicon(name: str, words: int | None, right: int, count: int, without: int) -> LexiconResult:
        pairs = [("a", "a")] * right + [("a", "b")] * (count - right)
        return LexiconResult(name, words, score_texts(pairs), without)

    svt = dataset("SVT", HALF, lexicons=(lexicon("50", None, 4, 4, 0), lexicon("<full>", 1200, 1, 4, 0)))
    own = dataset("own", HALF, lexicons=(lexicon("50", None, 1, 2, 2), lexicon("<full>", 7, 0, 0, 4)))
    shown = page(tmp_path, evaluation(svt, own))
    assert "<full>" not in shown.source
    assert "Dataset 50 <full> None SVT 100.00 % 25.00 % 1,200 words 75.00 % own 50.00 % (2) – 75.00 %" in shown.text


@pytest.mark.parametrize("read", ["a", "b"])
def test_all_right_and_all_wrong_can_be_drawn(tmp_path: Path, read: str) -> None:
    shown = page(tmp_path, evaluation(dataset("d", [sure("a", read, 1.0, 0.99)] * 3)))
    assert "nan" not in shown.source
    assert not re.search(r'(?:c[xy]|points)="[^"]*-\d', shown.source)  # nothing outside of the frame
