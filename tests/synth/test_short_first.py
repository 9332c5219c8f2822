"""Short words first: how long they may be, what is drawn, and what never changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crnn.config.model import CharsetConfig
from crnn.config.run import Config
from crnn.config.synth import CorpusConfig
from crnn.synth.corpus import Corpus
from crnn.synth.renderer import Renderer


def corpus(**settings: object) -> Corpus:
    charset = CharsetConfig()
    return Corpus(CorpusConfig.model_validate(settings), charset.charset(), charset.rules(), max_steps=24)


@pytest.fixture(scope="module")
def shipped() -> Corpus:
    return corpus(short_first=1000)


def lengths(source: Corpus, number: int, count: int = 300) -> Counter[int]:
    longest = source.longest(number)
    random = (source.draw(np.random.default_rng([number, seed]), None, longest) for seed in range(count))
    return Counter(len(text.label) for text in random)


def test_the_longest_grows_by_one_with_every_tenth(shipped: Corpus) -> None:
    assert [shipped.longest(number) for number in (0, 99, 100, 550, 999)] == [3, 3, 4, 8, 12]
    assert shipped.longest(1000) is None
    assert corpus().longest(0) is None


def test_the_first_words_are_short(shipped: Corpus) -> None:
    first, later, last = (lengths(shipped, number) for number in (0, 350, 1000))
    assert max(first) == 3
    assert len(first) > 1
    assert max(later) == 6
    assert max(last) > 9


def test_lists_without_short_words_give_their_shortest(tmp_path: Path) -> None:
    path = tmp_path / "codes.txt"
    path.write_text("abcdefgh\nabcdefghij\nabcdefghijkl\n", encoding="utf-8")
    weights = {name: 0.0 for name in CorpusConfig.model_fields if name.endswith("_weight")}
    source = corpus(
        words=[str(path)], short_first=100, length_weights=[], punctuation=0.0, **{**weights, "word_weight": 1.0}
    )
    assert set(lengths(source, 0, 50)) == {8}
    assert set(lengths(source, 100, 50)) == {8, 10, 12}


def test_words_by_number_are_short_at_first_and_the_others_as_they_were(synth_config: Callable[..., Config]) -> None:
    plain, short = (
        Renderer(synth_config(corpus={"words": ["shipped"], "short_first": count})).writer for count in (0, 60)
    )
    first, after = np.arange(0, 12), np.arange(60, 72)
    texts = short.write(first).texts
    assert max(map(len, texts)) <= 4
    assert max(plain.write(first).lengths) > 4
    assert short.write(after).texts == plain.write(after).texts
    assert short.write(first).texts == texts  # whatever was written in between
