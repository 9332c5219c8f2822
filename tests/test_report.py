"""The report: its aggregations by hand, and the page as a browser's parser sees it."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from crnn.errors import ConfigError, DataError
from crnn.metrics import TextSums, score_texts
from crnn.report import (
    MAX_CONFUSIONS,
    MAX_ERRORS,
    Confusion,
    DatasetView,
    EvaluationView,
    LengthRow,
    Picture,
    SampleResult,
    accuracy_by_length,
    confusions,
    worst_errors,
    write_report,
)


def result(label: str, prediction: str, score: float = -0.5, key: str = "1", raw: str | None = None) -> SampleResult:
    return SampleResult(key, label, prediction, score, label if raw is None else raw)


def view(name: str, results: Sequence[SampleResult], **more: object) -> DatasetView:
    sums = score_texts((r.label, r.prediction) for r in results)
    return DatasetView(name=name, sums=sums, results=results, **more)  # type: ignore[arg-type]


def encoded(size: tuple[int, int] = (40, 16), colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def no_picture(dataset: str, key: str) -> bytes | None:
    return None


def red_picture(dataset: str, key: str) -> bytes | None:
    return encoded()


def evaluation(
    *datasets: DatasetView, picture: Picture = no_picture, details: Sequence[tuple[str, str]] = ()
) -> EvaluationView:
    return EvaluationView(model="a model", protocol="parseq", datasets=datasets, picture=picture, details=details)


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


def page(tmp_path: Path, shown: EvaluationView) -> Page:
    write_report(tmp_path / "report.html", shown)
    return Page(tmp_path / "report.html")


# -- aggregations -----------------------------------------------------------------------------------------------------


def test_accuracy_by_length_counts_the_label_and_pools_the_longest() -> None:
    results = [
        result("ab", "ab"),
        result("ab", "abc"),  # the length of the label counts, not of the reading
        result("abc", "abc"),
        result("abcd", "abcd"),
        result("abcdef", "x"),
        result("", ""),
    ]
    rows = accuracy_by_length(results, longest=3)
    assert [(row.length, row.or_more, row.sums.samples, row.sums.correct) for row in rows] == [
        (0, False, 1, 1),
        (2, False, 2, 1),
        (3, False, 1, 1),
        (4, True, 2, 1),
    ]
    assert rows[-1].sums == score_texts([("abcd", "abcd"), ("abcdef", "x")])


def test_accuracy_by_length_of_nothing() -> None:
    assert accuracy_by_length([]) == []


def test_labels_of_the_longest_length_have_their_own_row() -> None:
    assert accuracy_by_length([result("a" * 20, "")])[0] == LengthRow(20, False, score_texts([("a" * 20, "")]))
    assert accuracy_by_length([result("a" * 21, "")])[0].or_more


def test_confusions_count_substitutions_insertions_and_deletions() -> None:
    results = [
        result("book", "b0ok"),  # o -> 0
        result("oo", "00"),  # o -> 0, twice
        result("cat", "cart"),  # r too many
        result("door", "dor"),  # one of the two o is missing
        result("good", "good"),  # right: its two o only count as occurrences
    ]
    assert confusions(results) == [
        Confusion("o", "0", 3, 8),
        Confusion("", "r", 1, 0),
        Confusion("o", "", 1, 8),
    ]


def test_equally_frequent_confusions_have_a_fixed_order_and_the_limit_cuts_the_rarest() -> None:
    results = [result("b", "x"), result("a", "y"), result("a", "x"), result("c", "z"), result("c", "z")]
    assert [(c.expected, c.read) for c in confusions(results)] == [("c", "z"), ("a", "x"), ("a", "y"), ("b", "x")]
    assert confusions(reversed(results)) == confusions(results)
    assert [(c.expected, c.read) for c in confusions(results, limit=2)] == [("c", "z"), ("a", "x")]


def test_worst_errors_are_the_wrong_readings_of_highest_score_over_all_datasets() -> None:
    first = view("first", [result("a", "a", -0.01), result("b", "x", -2.0), result("c", "x", -0.5)])
    second = view("second", [result("d", "x", math.nan), result("e", "x", -0.1), result("f", "x", -0.5)])
    worst = worst_errors([first, second])
    assert [(dataset, r.label) for dataset, r in worst] == [
        ("second", "e"),
        ("first", "c"),
        ("second", "f"),
        ("first", "b"),
        ("second", "d"),
    ]
    assert worst_errors([first, second], limit=2) == worst[:2]


# -- the page ---------------------------------------------------------------------------------------------------------


def test_summary_has_the_numbers_of_the_sums(tmp_path: Path) -> None:
    results = [result("abcd", "abcd"), result("abcd", "abxd"), result("ab", "ab"), result("ab", "ab")]
    dataset = view("SVT", results, skipped={"too_long": 1200, "empty_label": 2, "missing": 0}, expected_count=647)
    text = page(tmp_path, evaluation(dataset, details=(("decoding", "beam"),))).text
    assert "Evaluation of a model" in text
    assert "Protocol: parseq · decoding: beam" in text
    assert "75.00 %" in text  # 3 of 4
    assert "30.1 to 95.4" in text  # its Wilson interval
    assert "93.75 %" in text  # 1-NED: 1 - (1/4) / 4
    assert "8.33 %" in text  # CER: 1 of 12
    assert "published: 647" in text
    assert "2 empty label 1,200 too long" in text  # in a fixed order
    assert "missing" not in text  # nothing was skipped for that reason


def test_a_set_with_the_published_number_of_samples_says_so(tmp_path: Path) -> None:
    shown = page(tmp_path, evaluation(view("two", [result("a", "a"), result("b", "b")], expected_count=2)))
    assert "as published" in shown.text
    assert shown.of_class("warn") == 0


def test_several_sets_have_a_combined_row_and_a_mean(tmp_path: Path) -> None:
    large = view("large", [result("a", "a")] * 3 + [result("a", "b")])
    small = view("small", [result("a", "b")])
    text = page(tmp_path, evaluation(large, small)).text
    assert re.search(r"Combined 60\.00 %", text)  # 3 of 5
    assert re.search(r"Mean 37\.50 %", text)  # of 75 and 0
    assert "Combined" not in page(tmp_path, evaluation(large)).text


def test_warnings_name_their_dataset(tmp_path: Path) -> None:
    assert "SVT: no such luck." in page(tmp_path, evaluation(view("SVT", [], warnings=("no such luck.",)))).text


def test_everything_that_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    def evil(place: str) -> str:
        return f"<script>alert('{place}')</script>\"&amp;"

    dataset = view(
        evil("set"),
        [
            result(evil("label"), evil("label") + "<", key=evil("key"), raw=evil("raw") + "<b>"),
            result("a", "b", raw="\x00\n"),
            result("<", ">"),
        ],
        skipped={evil("reason"): 1},
        warnings=(evil("warning"),),
    )
    shown = EvaluationView(
        model=evil("model"),
        protocol=evil("protocol"),
        datasets=[dataset],
        picture=no_picture,
        details=((evil("name"), evil("value")),),
    )
    parsed = page(tmp_path, shown)
    assert "<script" not in parsed.source
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "iframe", "object", "link"})
    for place in ("set", "label", "key", "raw", "reason", "warning", "model", "protocol", "name", "value"):
        assert evil(place) in parsed.text, place
    assert evil("raw") + "<b>" in parsed.text
    assert "\x00" not in parsed.source
    assert "␀␊" in parsed.text


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    parsed = page(tmp_path, evaluation(view("d", [result("a", "b")]), picture=red_picture))
    references = [value for name in ("src", "href", "srcset", "action") for tag in ("img", "a", "link", "form", "use")
                  for value in parsed.attributes(tag, name)]  # fmt: skip
    assert len(references) == 1
    assert references[0].startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?:|url\(|@import", parsed.source)
    assert any("default-src 'none'" in content for content in parsed.attributes("meta", "content"))
    assert "prefers-color-scheme: dark" in parsed.source


def test_differences_are_marked_in_both_texts(tmp_path: Path) -> None:
    parsed = page(tmp_path, evaluation(view("d", [result("book", "bo0ks"), result("same", "same")])))
    assert parsed.marks == [("lost", "o"), ("wrong", "0"), ("wrong", "s")]
    assert parsed.of_class("gap") == 1  # where the label has no s


def test_pictures_are_made_small_and_kept_whole(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def picture(dataset: str, key: str) -> bytes:
        asked.append((dataset, key))
        return encoded({"wide": (2000, 100), "tall": (3, 900), "small": (20, 10)}[key], "blue")

    results = [result("a", "b", -1.0, "wide"), result("a", "b", -2.0, "tall"), result("a", "b", -3.0, "small")]
    parsed = page(tmp_path, evaluation(view("d", [*results, result("a", "a", -0.1, "right")]), picture=picture))
    assert asked == [("d", "wide"), ("d", "tall"), ("d", "small")]  # the right one is not fetched
    sizes = []
    for source in parsed.attributes("img", "src"):
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        sizes.append(image.size)
        red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        assert (red < 30, green < 30, blue > 225) == (True, True, True)
    assert sizes == [(160, 8), (1, 48), (20, 10)]


def test_pictures_that_cannot_be_shown_leave_a_placeholder(tmp_path: Path) -> None:
    def picture(dataset: str, key: str) -> bytes | None:
        if key == "store":
            raise DataError("record is gone")
        if key == "disk":
            raise OSError("no such file")
        return {"none": None, "empty": b"", "text": b"not a picture", "cut": encoded((90, 90))[:60], "good": encoded()}[
            key
        ]

    keys = ("store", "disk", "none", "empty", "text", "cut", "good")
    parsed = page(tmp_path, evaluation(view("d", [result("a", "b", key=key) for key in keys]), picture=picture))
    assert parsed.text.count("no picture") == 6
    assert len(parsed.attributes("img", "src")) == 1


def test_confused_characters_that_cannot_be_seen_are_named(tmp_path: Path) -> None:
    results = [result("a b", "a\u00a0b"), result("e\u0301", "e"), result("", "\u200d"), result("é", "e")]
    parsed = page(tmp_path, evaluation(view("d", results)))
    for name in ("space", "no-break space", "zero width joiner", "nothing"):
        assert re.search(rf"\b{name}\b", parsed.text), name
    assert "\u25cc\u0301" in parsed.text  # a lone accent would sit on the cell's border
    assert "latin small letter e with acute" in parsed.attributes("bdi", "title")


def test_long_reports_are_cut_and_say_so(tmp_path: Path) -> None:
    letters = [chr(0x4E00 + i) for i in range(MAX_ERRORS + 1)]
    parsed = page(tmp_path, evaluation(view("d", [result(letter, "x") for letter in letters])))
    assert parsed.of_class("picture") == MAX_ERRORS
    assert f"({MAX_ERRORS} of {MAX_ERRORS + 1})" in parsed.text
    assert parsed.of_class("glyph") == 2 * MAX_CONFUSIONS


@pytest.mark.parametrize("datasets", [(), (view("empty", []),), (view("right", [result("a", "a")]),)])
def test_pages_without_an_error_are_whole(tmp_path: Path, datasets: tuple[DatasetView, ...]) -> None:
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
    text = page(tmp_path, evaluation(view("d", results))).text
    assert "50.00 % (log-probability -0.693)" in text
    assert "0.00 % (log-probability -inf)" in text
    assert "100.00 % (log-probability 0.010)" in text  # rounding of the engine
    assert "Score –" in text


def test_any_text_can_be_written(tmp_path: Path) -> None:
    labels = ["שלום עולם", "नमस्ते", "👍🏽", "\u202egnp", "\ud800"]
    parsed = page(tmp_path, evaluation(view("d", [result("a", "b", raw=label) for label in labels])))
    for label in labels[:-1]:
        assert label in parsed.source
    assert "\\ud800" in parsed.source  # a lone surrogate has no UTF-8


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    def shown() -> EvaluationView:
        dataset = view("d", [result("abc", "abd"), result("xyz", "xxz")], skipped={"b": 1, "a": 2})
        return evaluation(dataset, picture=red_picture)

    write_report(tmp_path / "one.html", shown())
    write_report(str(tmp_path / "two.html"), shown())
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fails(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ConfigError, match=r"report .*report\.html cannot be written: No space left"):
        write_report(path, evaluation(view("d", [])))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; give a file in a folder that exists"):
        write_report(tmp_path / "none" / "report.html", evaluation(view("d", [])))


def test_sums_need_not_come_from_results(tmp_path: Path) -> None:
    # evaluate may sum over ranks and keep the results of one of them only: the tables follow the sums
    dataset = DatasetView(name="d", sums=TextSums(samples=1000, correct=900, characters=5000), results=[])
    assert "90.00 %" in page(tmp_path, evaluation(dataset)).text
