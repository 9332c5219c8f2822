#!/usr/bin/env python3
"""Make what ships in ``src/crnn/languages``: ``en.lm`` from lists with permissive licences, and ``numbers``.

    pip install symspellpy
    python tools/make_language.py

The words of SCOWL (``src/crnn/synth/words.txt.gz``, made by ``tools/word_list.py``) and symspellpy's English
dictionary (MIT; its frequencies are those of Google Books Ngrams, CC BY 3.0, its words SCOWL's): the likeliest of both,
some of them with ``'s``, and words that books have too rarely for signs and forms. The numbers are those of the
renderer's lines and figures.
"""

from __future__ import annotations

import importlib.resources
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crnn.charset import Charset, LabelRules
from crnn.decoding.language import train_language, train_numbers
from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.templates import FORM_TERMS, FigureWriter, LineWriter
from crnn.synth.word_list import LabelCheck, read_word_list

OUT = Path(__file__).resolve().parents[1] / "src" / "crnn" / "languages"
SCOWL_SHARE, WORDS, POWER = 0.3, 90_000, 0.9
"""Weight of SCOWL's frequencies beside those of books, words that are kept, the power of frequencies. All are within
a crop of each other in the words read of 257; fewer words make the file smaller (docs/log/experiments.md,
2026-11-29)."""

POSSESSIVES, POSSESSIVE_SHARE = (200, 20_000), 0.03
"""Ranks of the words that also end in ``'s``, and the weight of these beside the word's own: behind function words, to
which no ``'s`` belongs (own)."""

SIGN_SHARE, FORM_SHARE = 0.05, 0.05
"""Weight of the words of signs and of forms beside all others, each alike (docs/log/experiments.md, 2026-11-30)."""

SIGN_WORDS = """
inn hotel motel hostel lodge suites resort spa house home homes hall court plaza place square tower towers center
centre mall market markets supermarket grocery store stores shop shops shopping outlet boutique gallery museum theater
theatre cinema library school college university church chapel temple hospital clinic pharmacy drugs dental dentist
doctor optical vision eye hair salon beauty nails barber barbershop tattoo laundry cleaners cleaning dry tailor
alterations shoes shoe repair keys lock locksmith jewelry jewelers gold diamond watch watches gifts toys books
bookstore news records music guitar video photo camera copy print printing computer computers phone phones mobile
wireless electronics electric hardware lumber paint tools supply furniture mattress carpet flooring kitchen bath
appliances garden flowers florist pet pets veterinary animal auto car cars motors tire tires service station gas fuel
diesel oil lube wash parking garage valet towing rental rent lease sale sales clearance discount bargain thrift save
special specials free new open closed hours today welcome enter entrance exit push pull stop yield slow caution danger
warning no smoking private keep out restrooms toilet toilets men women ladies gentlemen staff only employees office
offices information reception tickets ticket admission box bus train metro subway rail airport terminal gate platform
taxi street st avenue ave road rd boulevard blvd drive lane way park north south east west highway bridge river beach
lake bay harbor island hill hills valley view gardens restaurant cafe coffee tea espresso bakery bread cake cakes
donuts bagels pastry ice cream yogurt juice smoothie pizza pizzeria pasta italian chinese japanese thai indian mexican
greek french korean vietnamese sushi noodle noodles rice curry kebab taco tacos burrito grill grille barbecue bbq
steak steakhouse steaks burger burgers shake shakes chicken wings fish seafood oyster crab lobster ham sandwich
sandwiches subs deli delicatessen diner cuisine buffet lunch dinner breakfast brunch bar pub tavern brewery beer wine
wines liquor liquors spirits lounge club night live dance casino bowl bowling billiards pool fitness gym yoga golf
tennis sports sport bike bikes bicycle ski surf bank trust savings credit union insurance realty properties apartments
condos mortgage loan loans cash check checks atm exchange post mail shipping storage moving travel tours agency law
attorney attorneys tax accounting consulting engineering construction design studio art arts group company co inc ltd
llc corp plc pty pte gmbh sdn bhd international national american america united city county state federal police fire
department courthouse public health care medical family kids children child baby day nursery academy institute
learning fashion clothing clothes dress wear men's women's bridal formal tuxedo leather jeans factory warehouse
wholesale depot works world king queen royal star sun moon blue red green black white golden silver crown eagle lion
tiger dragon hut corner village town country old original famous best great fresh natural organic foods food meat
meats produce fruit vegetables farm farms ranch
"""
"""Words of shops, streets and public buildings (own)."""

COMMAS = 0.1
"""Share of numbers with points and commas changed for each other, as most of Europe writes them."""

CLOSED = 0.05
"""Share of figures with a closing mark behind."""

DRAWS, LEAST = 150_000, 8
"""Lines and figures drawn for the numbers, and the times that a form of number must occur: rarer ones change no
reading."""

FIGURES = {"number": 2.0, "price": 2.0, "date": 1.0, "time": 1.0, "telephone": 1.0, "quantity": 1.0, "code": 1.0}


def scowl() -> dict[str, float]:
    """Return the shipped words with the frequencies estimated from their size classes."""
    found = read_word_list("shipped")
    return dict(zip(found.words, found.frequencies.tolist(), strict=True))


def symspell() -> dict[str, float]:
    """Return symspellpy's words with their counts in books."""
    path = importlib.resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    pairs = (line.split() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {word: float(count) for word, count in pairs}


def shares(words: dict[str, float]) -> dict[str, float]:
    """Return the words in lower case with frequencies that add up to 1."""
    total = sum(words.values())
    folded: dict[str, float] = {}
    for word, frequency in words.items():
        folded[word.casefold()] = folded.get(word.casefold(), 0.0) + frequency / total
    return folded


def numbers() -> Iterator[str]:
    """Yield the tokens with digits of lines and figures as the renderer draws them."""
    choices = Choices(np.random.default_rng(0))
    check = LabelCheck(Charset("95"), LabelRules(), 400)
    words = sorted(scowl())
    figures = FigureWriter(check, string.ascii_lowercase, lambda chosen: chosen.pick(words))
    lines, kinds = LineWriter(check, lambda chosen: chosen.pick(words), figures), WeightedChoice(FIGURES)
    for _ in range(DRAWS):
        # The first and the last token of a line may be cut.
        line = lines.draw(choices, choices.between(16, 64)).split()[1:-1]
        figure = figures.draw(kinds.draw(choices), choices) + (choices.pick("!?.,;:") if choices.chance(CLOSED) else "")
        for token in [*line, figure]:
            if any(map(str.isdecimal, token)):
                yield token.translate({44: ".", 46: ","}) if choices.chance(COMMAS) else token


def main() -> None:
    """Write the files."""
    first, second = shares(scowl()), shares(symspell())
    words = {
        word: SCOWL_SHARE * first.get(word, 0.0) + (1.0 - SCOWL_SHARE) * second.get(word, 0.0)
        for word in first | second
    }
    kept = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS]
    weights = [(word, (1e6 * share) ** POWER) for word, share in kept]
    total = sum(weight for _, weight in weights)
    plain = [(word, weight) for word, weight in weights if len(word) > 2 and word.isalpha()]
    weights += [(f"{word}'s", weight * POSSESSIVE_SHARE) for word, weight in plain[slice(*POSSESSIVES)]]
    forms = {word.strip(".#()%").casefold() for term in FORM_TERMS for word in term.split()}
    for listed, share in ((set(SIGN_WORDS.split()), SIGN_SHARE), (forms, FORM_SHARE)):
        alphabetic = sorted(word for word in listed if word.replace("'", "").isalpha())
        weights += [(word, total * share / len(alphabetic)) for word in alphabetic]
    OUT.mkdir(exist_ok=True)
    for language, file in ((train_language(weights, "en"), "en.lm"), (train_numbers(numbers(), LEAST), "numbers")):
        size = language.save(OUT / file)
        print(
            f"{OUT / file}: {language.num_words:,} words, {language.arrays['symbols'].size:,} n-grams, {size:,} bytes",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
