"""Lines of text by templates: each can be drawn, lengths are met, charsets decide which there are."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from crnn.config.model import CharsetConfig
from crnn.config.synth import CorpusConfig
from crnn.synth import templates as lines
from crnn.synth.corpus import Corpus
from crnn.synth.label_check import LabelCheck
from crnn.synth.rng import Choices
from crnn.synth.templates import LineWriter

WORDS = ("open", "the", "harbour", "bakery", "quick", "jam", "internationally")
FIGURES = {
    "number": "42", "price": "$3.50", "date": "2024-05-01", "time": "9:30", "telephone": "555-0199", "quantity": "5kg",
    "code": "AB12", "web": "a.com",
}  # fmt: skip


def writer(characters: str = "95", **charset: Any) -> LineWriter:
    section = CharsetConfig.model_validate({"characters": characters, "max_text_length": 150, **charset})
    check = LabelCheck(section.charset(), section.rules(), 200)
    return LineWriter(check, lambda choices: choices.pick(WORDS), lambda kind, _: FIGURES[kind])


def choices(*seed: int) -> Choices:
    return Choices(np.random.default_rng(list(seed)))


def templates() -> list[tuple[str, str]]:
    return [
        (kind, line.strip().partition(" ")[2])
        for kind, table in lines._KINDS.items()
        for line in re.split(r"\s{2,}", table.strip())
    ]


def test_every_template_can_be_drawn() -> None:
    """With all characters and the space none is left out, and each gives text with nothing of its own syntax left."""
    made = writer()
    assert set(lines._KINDS) == set(lines._WEIGHTS)
    drawn = 0
    for kind, table in lines._KINDS.items():
        usable = made._templates[kind]
        assert len(usable) == len(re.split(r"\s{2,}", table.strip())), kind
        for number, template in enumerate(usable.items):
            text = made._expand(template, choices(7, number))
            assert text.strip()
            assert made._check.label(text) == " ".join(text.split())
            drawn += 1
    assert drawn == len(templates()) > 150


def test_fields_are_those_that_are_documented() -> None:
    """A letter behind a backslash that nothing stands for would be drawn as a word, without a complaint."""
    documented = set("wWNAitusgmnpdcfqke1\\")
    assert {field for _, text in templates() for field in lines._FIELD.findall(text)} <= documented
    made = writer()
    assert made._field("\\", choices(1)) == "\\"
    assert made._field("W", choices(1)).istitle()
    assert made._field("A", choices(1)).isupper()
    assert len(made._field("m", choices(1)).partition(".")[2]) == 2
    assert made._field("1", choices(1)).isdecimal()
    assert made._field("f", choices(1)) == FIGURES["telephone"]


@pytest.mark.parametrize("length", [4, 10, 25, 50, 64])
def test_lines_have_the_wanted_length(length: int) -> None:
    made = writer()
    found = [len(" ".join(made.draw(choices(2, length, number), length).split())) for number in range(400)]
    longest = max(map(len, WORDS + tuple(lines._TERMS)))
    assert max(found) <= length + longest + 1
    assert abs(float(np.median(found)) - length) <= 3
    assert np.mean(np.abs(np.array(found) - length) <= 6) > 0.85


def test_labels_have_single_spaces_where_images_have_wide_ones() -> None:
    section = CharsetConfig(characters="95", max_text_length=80)
    weights = {name: 0.0 for name in CorpusConfig.model_fields if name.endswith("_weight")}
    corpus = Corpus(
        CorpusConfig.model_validate({**weights, "line_weight": 1.0}),
        section.charset(),
        section.rules(),
        200,
        lines=True,
    )
    texts = [corpus.draw(np.random.default_rng([3, number])) for number in range(800)]
    assert {text.kind for text in texts} == {"line"}
    wide = [text for text in texts if "  " in text.drawn]
    assert 0.05 < len(wide) / len(texts) < 0.3
    for text in texts:
        assert "  " not in text.label
        assert text.label == text.label.strip() != ""
        if text.drawn.isascii():
            assert text.label == " ".join(text.drawn.split())
    # All kinds of characters, in all cases.
    shown = set("".join(text.label for text in texts))
    assert len(shown) > 85
    assert any(a.label.isupper() for a in texts)
    assert any(a.label.islower() for a in texts)


def test_a_charset_decides_which_templates_there_are() -> None:
    digits = writer("0123456789 ", unknown="drop_sample")
    assert all(
        not any(c.isalpha() for c in "".join(literals))
        for table in digits._templates.values()
        for literals, _ in table.items
    )
    without = LineWriter(
        LabelCheck(CharsetConfig(characters="95").charset(), CharsetConfig(characters="95").rules(), 200),
        lambda _: "word",
        lambda *_: None,
    )
    fields = {field for table in without._templates.values() for _, some in table.items for field in some}
    assert not fields & set(lines._FIGURES)
    assert fields >= set("wWNAitgs")


def test_a_line_is_a_function_of_its_seed() -> None:
    one, other = writer(), writer()
    assert [one.draw(choices(4, n), 30) for n in range(50)] == [other.draw(choices(4, n), 30) for n in range(50)]
    drawn = [one.draw(choices(4, n), 30) for n in range(50)]
    assert sum(a == b for a, b in itertools.combinations(drawn, 2)) < 3
