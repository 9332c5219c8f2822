"""Words of a wanted length: from the lists, pseudowords after them, or strings of letters missing from the lists."""

from collections.abc import Callable, Iterable

from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError
from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.word_list import LabelCheck, LetterChain, LetterStrings, WordTable, is_text, read_word_list, script

_CHAIN_WORDS = 25_000  # Models of pseudowords: enough for every usual sequence of letters, counted in 0.1 s

_NO_LENGTHS = (0.0, 1.0, 2.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0)  # Where neither settings nor lists have any

_PLAIN_TRIES = 4  # Draws for a word without marks inside before one is made up
_SHOWN = 40  # Letters named in a note


class Vocabulary:
    """Words for one charset."""

    def __init__(self, config: CorpusConfig, check: LabelCheck) -> None:
        self._check, self._balance = check, config.balance
        lists = [read_word_list(name) for name in config.words]
        ratios = config.word_ratios or [1.0] * len(lists)
        self.table = WordTable(lists, ratios, config.frequency_power, check, as_listed=config.only_words)
        self.notes = list(dict.fromkeys(self.table.notes))  # For the user
        # Letters and combining marks
        self.letters = tuple(c for c in check.charset.characters if is_text(c) and not c.isdecimal())
        self._prepare_strings(config.only_words)
        self._chain: LetterChain | None = None
        own = self.table.length_weights if len(self.table) else _NO_LENGTHS
        weights = (config.length_weights or own)[: check.longest]
        self.lengths = WeightedChoice(enumerate(weights, start=1))  # By the settings, regardless of the lists
        # Longer words of the user's lists, such as codes, keep their share in the lists.
        share = sum(self.table.length_weights[: len(weights)])
        unit = sum(weights) / share if share else 1.0
        longer = [unit * weight for weight in self.table.own_length_weights[len(weights) :]]
        pairs = enumerate([*weights, *longer], start=1)
        self._listed = WeightedChoice((length, weight) for length, weight in pairs if length in self.table.lengths)
        if not len(self.lengths):
            raise ConfigError(
                f"corpus.length_weights: all 0 up to {check.longest}, the longest label that fits; expected one above 0"
            )
        self.characters = self.table.characters | (frozenset() if config.only_words else self._strings.characters)

    def length(self, choices: Choices) -> int:
        """Draw a label length by the settings among those in the lists."""
        # Lists of some lengths only, say of six-letter codes, are drawn with these lengths alone.
        return (self._listed if len(self._listed) else self.lengths).draw(choices)

    def word(self, choices: Choices, length: int) -> str:
        """Draw a word of a label length, a pseudoword where the lists have none, or a string of rare letters."""
        if self._string_share and choices.chance(self._string_share):
            return self._strings.draw(choices, length)
        if length in self.table.lengths:
            return self.table.draw(choices, length, self._balance)
        return self.pseudoword(choices, length)

    def plain(self, choices: Choices, length: int) -> str:
        """Draw a word to be joined with others, without marks like the apostrophe of ``isn't``."""
        if length in self.table.lengths:
            for _ in range(_PLAIN_TRIES):
                word = self.table.draw(choices, length)
                if word.isalnum() or all(map(is_text, word)):
                    return word
        return self.plain_pseudoword(choices, length)

    def pseudoword(self, choices: Choices, length: int) -> str:
        """Draw a lower-case pseudoword, or a string of letters missing from the lists."""
        if self._string_share and choices.chance(self._string_share):
            return self._strings.draw(choices, length)
        return self.plain_pseudoword(choices, length)

    def plain_pseudoword(self, choices: Choices, length: int) -> str:
        """Draw a pseudoword to be joined with others, or a string where there are no lists."""
        if self._chain is None:
            # Made on first use, in the process that needs it: it is larger than the lists.
            self._chain = LetterChain(self.table.most_frequent(_CHAIN_WORDS))
        return self._chain.draw(choices, length) if len(self._chain) else self._strings.draw(choices, length)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_chain": None}

    def _prepare_strings(self, only_words: bool) -> None:
        """Find the charset's scripts that no word has; strings are made of them in proportion to their share."""
        shown = self.table.characters
        held = {part for c in shown for part in self._check.kept(c) + ("" if only_words else c + c.lower() + c.upper())}
        scripts = {script(c) for c in held if is_text(c)}
        lacking = [c for c in self.letters if c not in held]
        missing = [c for c in lacking if script(c) not in scripts and script(c) != "COMBINING"]
        drawable = [c for c in self._check.charset.characters if not c.isspace()]
        self._strings = LetterStrings(self.letters or [c for c in drawable if is_text(c)] or drawable, missing)
        # Of the letters; of all characters where the lists have no letter, as plates and meters may have.
        known = self.letters if len(missing) < len(self.letters) else drawable
        self._string_share = len(missing) / len(known) if len(self.table) else 1.0
        if only_words:
            self._note(lacking, "no image shows them")
        elif not len(self.table):
            self.notes.append("no list has a word for this charset: strings of its own characters are drawn as words")
        else:
            share = f"{self._string_share:.0%} of the words"
            self._note(missing, f"{share} are strings of them. Add a list that has some to corpus.words")
            self._note([c for c in lacking if c not in missing], "codes and single characters alone have them")

    def _note(self, letters: list[str], what: str) -> None:
        more = f" and {len(letters) - _SHOWN} more" if len(letters) > _SHOWN else ""
        if letters:
            self.notes.append(f"no list has a word with {''.join(letters[:_SHOWN])}{more}: {what}")


def _table(text: str) -> dict[str, float]:
    """Parse marks and their weights from ``weight mark weight mark ...``."""
    parts = text.split()
    return {mark: float(weight) for weight, mark in zip(parts[::2], parts[1::2], strict=True)}


_TRAILING = _table(  # Behind a word; the first eight as in labels of the training parts of IIIT5K-Words and SVT
    """60 . 22 , 18 ! 12 ? 6 : 5 " 3 ' 2 ; 2 ... 1.5 - 1.5 ) 1 * 1 ® 1 % 0.5 / 0.5 + 0.5 & 1 !! 0.5 ?! 1 ." 1 !" 0.5 ?"
    0.5 … 0.5 ’ 1.5 ”"""
)

_LEADING = _table("""14 " 4 ' 4 ( 3 # 3 @ 3 - 2 . 2 & 2 $ 1.5 * 1 + 2 • 1 / 2 “ 0.5 ‘ 0.5 ...""")  # Before a word

# On both sides of a word: the mark before and the one behind
_AROUND = _table("""30 "" 10 “” 10 '' 20 () 4 [] 6 -- 4 ** 1 <> 2 «» 1 {} 2 ~~ 1 // 0.5 __ 0.5 || 0.5 ¿? 0.5 ¡! 1 ••""")

_INNER = _table("55 - 12 & 8 / 10 . 6 ' 3 + 2 _ 1 : 1 @ 1 · 1 ,")  # Marks between two words that are written as one

# Marks that differ little in an image. One left out of labels is not drawn where they keep another of its row, as they
# could not be told apart
_LOOK_ALIKE = ('"“”«»״', "'‘’`", ".…·•。", ":։", "?¿؟", "!¡", ",،、", ";؛")

# Places of marks (the same labels: behind 149, before 31, inside 60)
_PLACES = WeightedChoice({"trailing": 55.0, "leading": 11.0, "around": 13.0, "inner": 21.0})

_OF_SCRIPT = {  # Marks behind the words of some scripts, beside those of all
    "ARABIC": "؟،؛", "DEVANAGARI": "।", "BENGALI": "।", "GREEK": "·", "ARMENIAN": "։", "HEBREW": "״", "CJK": "。、",
    "HIRAGANA": "。、",
}  # fmt: skip

_OTHERS = 1.5  # Weight of each mark of the charset missing from the tables, behind or before a word, to learn all


def case_choice(config: CorpusConfig, letters: Iterable[str], check: LabelCheck) -> WeightedChoice[str]:
    """Return the cases of words that labels keep, with their weights: lower, upper, capitalised, mixed."""
    cased = [letter for letter in letters if letter.lower() != letter.upper()]
    lower = all(check.allows(letter.lower()) for letter in cased)
    upper = all(check.allows(letter.upper()) for letter in cased)
    weights = {
        "lower": config.case_lower * lower,
        "upper": config.case_upper * upper,
        "capitalised": config.case_capitalised * (lower and upper),
        "mixed": config.case_mixed * (lower and upper),
    }
    if not any(weights.values()):
        # The charset lacks the case in the settings, or some letters in both.
        weights.update(lower=float(lower or not upper), upper=float(upper or not lower))
    return WeightedChoice(weights)


def in_case(choices: Choices, word: str, case: str) -> str:
    """Return a word in a case; scripts without case stay as they are."""
    if case == "upper":
        return word.upper()
    if case == "lower":
        return word.lower()
    if case == "capitalised":
        return word[:1].title() + word[1:]
    if len(word) > 2 and choices.chance(0.5):
        # One capital inside, as in eBay and McKay.
        place = choices.between(1, min(3, len(word) - 1))
        head = word[:place].lower() if choices.chance(0.5) else word[:1].title() + word[1:place].lower()
        return head + word[place].title() + word[place + 1 :].lower()
    return "".join([letter.upper() if choices.chance(0.5) else letter.lower() for letter in word])


class Marks:
    """Punctuation around words, kept by labels or left out."""

    def __init__(self, characters: Iterable[str], check: LabelCheck) -> None:
        trailing, leading = dict(_TRAILING), dict(_LEADING)
        distinct = dict.fromkeys(characters)
        for name in dict.fromkeys(script(character) for character in distinct if is_text(character)):
            trailing.update(dict.fromkeys(_OF_SCRIPT.get(name, ""), 12.0))
        for character in distinct:
            if character in check.charset and not is_text(character) and character != " ":
                trailing.setdefault(character, _OTHERS)
                leading.setdefault(character, _OTHERS)
        tables = [
            WeightedChoice((mark, weight) for mark, weight in table.items() if _may_be_drawn(mark, check))
            for table in (trailing, leading, _AROUND, _INNER)
        ]
        self._trailing, self._leading, self._around, self._inner = tables
        self._counted = {mark: len(check.kept(mark)) for mark in self._inner.items}
        self.characters = frozenset("".join(mark for table in tables for mark in table.items))

    def add(self, choices: Choices, length: int, word: Callable[[int], str], part: Callable[[int], str]) -> str:
        """Draw a word with marks; ``part`` makes words beside a mark inside."""
        place = _PLACES.draw(choices)
        if place == "inner" and length > 4 and len(self._inner):
            mark = self._inner.draw(choices)
            rest = length - self._counted[mark]
            first = choices.between(2, rest - 2)
            return part(first) + mark + part(rest - first)
        if place == "around" and len(self._around):
            pair = self._around.draw(choices)
            return pair[0] + word(length) + pair[1]
        if place == "leading" and len(self._leading):
            return self._leading.draw(choices) + word(length)
        return word(length) + self.trailing(choices)

    def trailing(self, choices: Choices) -> str:
        """Draw a mark behind a word, or nothing where none may be drawn."""
        return self._trailing.draw(choices) if len(self._trailing) else ""


def _may_be_drawn(mark: str, check: LabelCheck) -> bool:
    """Return whether labels keep a mark, or leave it out and keep nothing like it."""
    if not check.allows(mark):
        return False
    lost = [character for character in mark if not check.kept(character)]
    return not any(check.kept(other) for row in _LOOK_ALIKE if any(c in row for c in lost) for other in row)
