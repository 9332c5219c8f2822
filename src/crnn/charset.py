"""Characters and class ids: ``Charset`` maps them, ``LabelRules`` turn labels into text that a charset can write."""

import itertools
import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from crnn.errors import CharsetError
from crnn.reading_order import has_right_to_left, mirrored, reorder

NAMED_CHARSETS = {
    "36": string.ascii_lowercase + string.digits,
    "62": string.digits + string.ascii_letters,
    "94": string.digits + string.ascii_letters + string.punctuation,
}
"""The character sets of the field. The order of 36 is the ModelZoo's (letters first); 62 and 94 are PARSeq's."""

_NAMES = {**NAMED_CHARSETS, "95": NAMED_CHARSETS["94"] + " "}  # 95 for lines; published figures compare words

Case = Literal["keep", "lower", "upper"]
Unicode = Literal["keep", "NFC", "NFD", "NFKC", "NFKD", "ascii"]
Whitespace = Literal["keep", "collapse", "remove"]
Unknown = Literal["drop_character", "drop_sample", "error"]


@dataclass(frozen=True, slots=True)
class Charset:
    """An ordered set of characters (Unicode code points), each with a class id; the CTC blank is the last class.

    Texts are in reading order, class ids in that of the image, from left to right (``crnn.reading_order``).

    Args:
        characters: The characters in the order of their class ids, or the name of a set: ``36``, ``62``, ``94``,
            or ``95`` (94 and the space).

    Raises:
        CharsetError: There is no character, one occurs twice, one cannot be drawn (a control character), or, beside
            letters written from right to left, a bracket lacks its counterpart.

    Example:
        >>> charset = Charset("36")
        >>> charset.blank, charset.num_classes
        (36, 37)
        >>> charset.decode(charset.encode("book7"))
        'book7'
    """

    characters: str
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)
    reordered: bool = field(init=False, repr=False, compare=False)  # there are letters written from right to left

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str):
            raise CharsetError(f"characters are {self.characters!r:.100}; expected a text, such as 'abc'")
        characters = _NAMES.get(self.characters, self.characters)
        if not characters:
            raise CharsetError("the charset is empty; expected at least one character, or the name 36, 62, 94 or 95")
        ids: dict[str, int] = {}
        for position, character in enumerate(characters):
            if unicodedata.category(character) in ("Cc", "Cs"):
                raise CharsetError(
                    f"charset position {position} holds the control character {character!r}; expected drawable ones"
                )
            if character in ids:
                raise CharsetError(
                    f"charset has {character!r} twice, at positions {ids[character]} and {position}; remove one"
                )
            ids[character] = position
        reordered = has_right_to_left(characters)
        if reordered and (alone := [c for c in characters if mirrored(c) not in ids]):
            raise CharsetError(
                f"charset has {alone[0]!r} without {mirrored(alone[0])!r}, as which it is seen between letters written "
                "from right to left; add it"
            )
        object.__setattr__(self, "characters", characters)
        object.__setattr__(self, "reordered", reordered)
        object.__setattr__(self, "_ids", ids)

    @property
    def blank(self) -> int:
        """Class id of the CTC blank: the last one, as in the ModelZoo (36 for the 36 characters)."""
        return len(self.characters)

    @property
    def num_classes(self) -> int:
        """Number of classes V of the network: the characters and the blank."""
        return len(self.characters) + 1

    def __contains__(self, character: object) -> bool:
        return character in self._ids

    def encode(self, label: str) -> list[int]:
        """Return the class ids of a label; ``CharsetError`` names characters that are not in the charset."""
        try:
            return [self._ids[character] for character in (reorder(label) if self.reordered else label)]
        except KeyError:
            raise CharsetError(
                f"label {label!r} has {self.unknown(label)!r}, which charset.characters lacks; see charset.unknown"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of class ids in [0, blank); ``crnn.decoding.ctc`` has removed blanks and repeats."""
        text = "".join(self.characters[i] for i in ids)
        return reorder(text) if self.reordered else text

    def unknown(self, label: str) -> str:
        """Return the characters of ``label`` that the charset lacks, each once, in order of appearance."""
        return "".join(dict.fromkeys(character for character in label if character not in self._ids))


class LabelSkip(Exception):  # noqa: N818 - not an error: it says that the rules leave a sample out
    """Signal that the rules leave a sample out; ``reason`` is its name for counting.

    Reasons: ``empty_label``, ``too_long``, ``too_short``, ``unknown_character``, ``not_alphanumeric``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """Normalization of labels, in PARSeq's order: white space, Unicode, length, case, unknown characters.

    Attributes:
        whitespace: ``remove`` removes all white space, ``collapse`` makes each run one space and strips the ends.
        unicode: A normalization form, or ``ascii``: NFKD with everything outside ASCII removed.
        case: Change of case.
        unknown: Handling of characters outside the charset, or of the sample that has them.
        max_length: Longest label, in characters; longer ones are skipped. ``None``: no limit.
        truncate: Cut labels to ``max_length`` instead of skipping the sample (the ModelZoo's training does).
    """

    whitespace: Whitespace = "keep"
    unicode: Unicode = "keep"
    case: Case = "keep"
    unknown: Unknown = "error"
    max_length: int | None = None
    truncate: bool = False

    def form(self, label: str) -> str:
        """Return the label after white space, Unicode form, length limit (else ``LabelSkip``) and case."""
        if self.whitespace == "remove":
            label = "".join(label.split())
        elif self.whitespace == "collapse":
            label = " ".join(label.split())
        if self.unicode == "ascii":
            label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode("ascii")
        elif self.unicode != "keep":
            label = unicodedata.normalize(self.unicode, label)
        if self.max_length is not None and len(label) > self.max_length and not self.truncate:
            raise LabelSkip("too_long")
        if self.case == "lower":
            label = label.lower()
        elif self.case == "upper":
            label = label.upper()
        return label

    def apply(self, label: str, charset: Charset) -> str:
        """Return the label in characters of the charset, or raise ``LabelSkip``, or ``CharsetError`` (``unknown``)."""
        if charset.reordered and has_right_to_left(label) and self.unknown != "error":
            # In the order of the image, which is that of the whole label, also of what the rules leave out.
            whole = replace(self, whitespace="keep", case="keep", max_length=None).form(label)
            return reorder(replace(self, unicode="keep")._applied(reorder(whole), charset))
        return self._applied(label, charset)

    def _applied(self, label: str, charset: Charset) -> str:
        label = self.form(label)
        if any(character not in charset for character in label):
            if self.unknown == "drop_sample":
                raise LabelSkip("unknown_character")
            if self.unknown == "error":
                charset.encode(label)  # raises, naming the characters
            label = "".join(character for character in label if character in charset)
        if self.whitespace == "collapse":  # "a & b" without "&" must not keep two spaces
            label = " ".join(label.split())
        if self.truncate and self.max_length is not None:
            label = label[: self.max_length]
            if self.whitespace == "collapse":
                label = label.rstrip()
        if not label:
            raise LabelSkip("empty_label")
        return label


def characters_outside(label: str, charset: Charset, rules: LabelRules) -> list[str]:
    """Return the lost characters of a label, but for accents and white space that the rules remove."""
    lost = []
    if rules.unicode == "ascii":
        lost = [
            c for c in label
            if not (c.isascii() or c.isspace() or unicodedata.category(c).startswith("M"))
            and not unicodedata.normalize("NFKD", c).encode("ascii", "ignore")
        ]  # fmt: skip
    formed = replace(rules, max_length=None).form(label)  # what is too long is looked at, too
    return lost + [character for character in formed if character not in charset]


def check_own_form(charset: Charset, rules: LabelRules) -> None:
    """Raise ``CharsetError`` if the label rules change characters of the charset: classes that no label would have."""
    rules = replace(rules, max_length=None)
    changed = {c: form for c in charset.characters if (form := rules.form(f"0{c}0")[1:-1]) != c}  # amid a label
    for pair in map("".join, itertools.pairwise(charset.characters)):
        if changed.keys().isdisjoint(pair) and len(form := rules.form(f"0{pair}0")[1:-1]) == 1 and form not in charset:
            changed[pair] = form  # a letter and its mark, as some editors write "é"
    if rules.case == "lower" and "σ" in charset and "ς" not in charset:
        changed["Σ at the end of a word"] = "ς"

    def named(text: str) -> str:  # with code points, which tell apart those that look alike
        return f"{text} ({' '.join(f'U+{ord(c):04X}' for c in text)})" if 0 < len(text) < 9 else text

    lines = [f"{named(text)} becomes {named(form) or 'nothing'}" for text, form in changed.items()]
    if lines:
        raise CharsetError(
            f"charset.characters has what its own label rules (unicode {rules.unicode}, case {rules.case}, whitespace "
            f"{rules.whitespace}) change: {', '.join(lines[:8])}{', ...' if len(lines) > 8 else ''}. Put in what they "
            "become, or set charset.unicode (NFD: marks of their own), case or whitespace"
        )


def min_time_steps(target: Sequence[int]) -> int:
    """Return the number of time steps that CTC needs for class ids without blanks.

    It is S plus the number of equal neighbours, which a blank must separate: 3 for ``[1, 1]``, 2 for ``[1, 2]``.
    Reference: Graves et al. 2006, "Connectionist Temporal Classification", section 3.1 (the many-to-one map B).
    """
    return len(target) + sum(a == b for a, b in itertools.pairwise(target))


def fits_steps(label: str, charset: Charset, max_steps: int) -> bool:
    """Return whether CTC can write a label, in characters of the charset, in that many time steps."""
    # Most labels fit even with a blank between all characters.
    return 2 * len(label) - 1 <= max_steps or min_time_steps(charset.encode(label)) <= max_steps
