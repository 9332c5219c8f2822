"""The report's parts on trust and lexicons, as a browser's parser sees them."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from crnn.evaluation.metrics import score_texts
from crnn.evaluation.report import write_report
from crnn.evaluation.results import DatasetResult, Evaluation, LexiconResult, SampleResult


def dataset(
    name: str, samples: list[tuple[str, str, float, float | None]], lexicons: tuple[LexiconResult, ...] = ()
) -> DatasetResult:
    results = tuple(
        SampleResult(i, str(i), label, label, read, math.log(probability), confidence)
        for i, (label, read, probability, confidence) in enumerate(samples)
    )
    sums = score_texts((s.label, s.prediction) for s in results)
    return DatasetResult(name, f"sets/{name}", "parseq, 36 characters", sums, {}, None, results, (), lexicons)


def page(tmp_path: Path, *datasets: DatasetResult) -> tuple[str, str, list[tuple[str, dict[str, str | None]]]]:
    """Source, text and elements of a report; every element must be closed where it should be."""
    write_report(tmp_path / "r.html", Evaluation("a model", "parseq", datasets), lambda *_: None)
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    texts: list[str] = []
    elements: list[tuple[str, dict[str, str | None]]] = []
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))
            if tag not in ("meta", "br", "img"):
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

        def handle_data(self, data: str) -> None:
            if opened and opened[-1] != "style":
                texts.append(data)

    parser = Parser()
    parser.feed(source)
    parser.close()
    assert opened == []
    return source, re.sub(r"\s+", " ", " ".join(texts)), elements


HALF = [("a", "a", 0.3, 0.9), ("b", "b", 0.3, 0.9), ("c", "c", 0.3, 0.9), ("d", "x", 0.3, 0.6)]


def test_calibration_errors_before_and_after(tmp_path: Path) -> None:
    _, text, elements = page(tmp_path, dataset("d", HALF))
    assert "That of the scores is 45.00 % , that of the confidences 22.50 %" in text
    assert text.count("confidences: 90.00 % sure, 100.00 % right, 3 samples") == 1
    assert text.count("scores: 30.00 % sure, 75.00 % right, 4 samples") == 1
    circles = [a for tag, a in elements if tag == "circle" and a["class"] == "after"]
    assert any(a["cx"] == str(44 + 260 * 0.9) and a["cy"] == "10.0" for a in circles)
    assert "80 % 3 75.00 % 100.00 %" in text  # threshold, read, coverage, accuracy
    assert "0 % 4 100.00 % 75.00 %" in text
    assert "Sure 60.00 %" in text  # of the wrong reading


def test_without_calibration_it_says_what_to_do(tmp_path: Path) -> None:
    _, text, elements = page(tmp_path, dataset("d", [(label, read, p, None) for label, read, p, _ in HALF]))
    assert "That of the scores is 45.00 % . The weights are not calibrated: crnn calibrate fits" in text
    assert "confidences:" not in text
    assert not any(a.get("class") == "before" for _, a in elements)
    assert "Sure" not in text


def test_lexicons_stand_beside_the_free_reading_as_in_the_paper(tmp_path: Path) -> None:
    def lexicon(name: str, words: int | None, right: int, count: int, without: int) -> LexiconResult:
        pairs = [("a", "a")] * right + [("a", "b")] * (count - right)
        return LexiconResult(name, words, score_texts(pairs), without)

    svt = dataset("SVT", HALF, (lexicon("50", None, 4, 4, 0), lexicon("<full>", 1200, 1, 4, 0)))
    own = dataset("own", HALF, (lexicon("50", None, 1, 2, 2), lexicon("<full>", 7, 0, 0, 4)))
    source, text, _ = page(tmp_path, svt, own)
    assert "<full>" not in source
    assert "Dataset 50 <full> None SVT 100.00 % 25.00 % 1,200 words 75.00 % own 50.00 % (2) – 75.00 %" in text


@pytest.mark.parametrize("datasets", [(), (dataset("empty", []),)])
def test_nothing_read_has_neither_part(tmp_path: Path, datasets: tuple[DatasetResult, ...]) -> None:
    source, text, _ = page(tmp_path, *datasets)
    assert "trusted" not in text
    assert "lexicon" not in text
    assert "<svg" not in source


@pytest.mark.parametrize("read", ["a", "b"])
def test_all_right_and_all_wrong_can_be_drawn(tmp_path: Path, read: str) -> None:
    source, text, _ = page(tmp_path, dataset("d", [("a", read, 0.99, 1.0)] * 3))
    assert "nan" not in source
    assert "inf" not in re.sub(r"info\w*", "", text)
    assert not re.search(r'(?:c[xy]|points)="[^"]*-\d', source)  # nothing outside of the frame
