"""Lines of text by templates: each can be drawn, lengths are met, charsets decide which there are."""

import re
from typing import Any

import numpy as np
import pytest

from crnn.config.model import CharsetConfig
from crnn.synth import templates
from crnn.synth.rng import Choices
from crnn.synth.templates import FigureWriter, LineWriter
from crnn.synth.word_list import LabelCheck

WORDS = ("open", "the", "harbour", "bakery", "quick", "jam", "internationally")


def word(choices: Choices) -> str:
    return choices.pick(WORDS)


def check(characters: str = "95", **charset: Any) -> LabelCheck:
    section = CharsetConfig.model_validate({"characters": characters, "max_text_length": 150, **charset})
    return LabelCheck(section.charset(), section.rules(), 200)


def writer(own: LabelCheck) -> LineWriter:
    return LineWriter(own, word, FigureWriter(own, own.charset.characters, word))


def choices(*seed: int) -> Choices:
    return Choices(np.random.default_rng(list(seed)))


def test_every_template_can_be_drawn() -> None:
    """With all characters none is left out, and each gives text with nothing of its own syntax left."""
    made = writer(check())
    for kind, (_, table) in templates._LINES.items():
        usable = made._templates[kind].items
        assert len(usable) == len(re.split(r"\s{2,}", table.strip())), kind
        # A letter that stands for nothing would be drawn as a word, without a complaint.
        assert {field for template in usable for field in templates._FIELD.findall(template)} <= set(
            "wWNAitusgmnpdcfqke1\\"
        ), kind
        for number, template in enumerate(usable):
            fixed = choices(7, number)
            text = templates.fill(template, lambda field, fixed=fixed: made._field(field, fixed))
            assert made._check.label(text)
            assert made._check.label(text) == " ".join(text.split()) or not text.isascii()  # a euro is left out


@pytest.mark.parametrize("length", [4, 10, 25, 50, 64])
def test_lines_have_the_wanted_length(length: int) -> None:
    made = writer(check())
    found = [len(" ".join(made.draw(choices(2, length, number), length).split())) for number in range(400)]
    longest = max(map(len, WORDS + templates.FORM_TERMS))
    assert max(found) <= length + longest + 1
    assert abs(float(np.median(found)) - length) <= 3
    assert np.mean(np.abs(np.array(found) - length) <= 6) > 0.85
