r"""A subset of regular expressions, as a tree over the class ids of a charset.

What there is, with the meaning that it has in Python's ``re``:

======================  ===========================================================================================
``a``, ``é``            the character itself; ``\`` before one of ``. * + ? | ( ) [ ] { } ^ $ - \`` and other signs
``.``                   any character of the charset
``[A-Fx_]``, ``[^0-9]`` one of these, none of these
``\d \w \s``            a digit; a letter, digit or ``_``; white space. ``\D \W \S`` the others
``? * +``               at most one, any number, at least one of what stands before
``{3} {2,} {2,4}``      so many of them
``|``, ``( )``          either, a group (``(?: )`` is the same)
======================  ===========================================================================================

An expression always describes a whole text; ``^`` at its start and ``$`` at its end may be written and change nothing.
Characters mean what labels mean by them: where the charset has small letters only, ``[A-Z]`` is any letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crnn.charset import Charset, LabelRules
from crnn.decoding.allowed import written_as
from crnn.errors import CharsetError, ConfigError
from crnn.reader_config import CharsetConfig

__all__ = ["Choice", "Node", "OneOf", "Repeat", "Sequence", "parse_pattern"]

MAX_REPEAT = 1000
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character, of some."""

    ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One part after the other; none: the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part so many times; ``most`` is ``None`` where there is no limit."""

    part: Node
    least: int
    most: int | None


Node = OneOf | Sequence | Choice | Repeat

_KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
    "D": lambda c: not c.isdecimal(),
    "W": lambda c: not (c.isalnum() or c == "_"),
    "S": lambda c: not c.isspace(),
}
_COUNTS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}


def parse_pattern(expression: str, charset: Charset, rules: LabelRules | None = None) -> Node:
    """The tree of an expression; see ``crnn.decoding.pattern.compile_pattern`` for the arguments.

    Raises:
        ConfigError: It is not a regular expression, or has what is not supported; the message names the place.
        CharsetError: It wants a character that the charset does not have; likewise.
    """
    return _Parser(expression, charset, rules or CharsetConfig(characters=charset.characters).rules()).parse()


class _Parser:
    def __init__(self, expression: str, charset: Charset, rules: LabelRules) -> None:
        self._expression = expression
        self._charset = charset
        self._rules = rules
        self._place = 0
        self._end = len(expression)
        self._depth = 0

    def parse(self) -> Node:
        if self._next() == "^":
            self._place = 1
        if self._expression.endswith("$") and not self._is_escaped(self._end - 1):
            self._end -= 1
        tree = self._choice()
        if self._place < self._end:
            raise self._wrong("this ')' closes nothing", "its '(' before it, or \\)")
        return tree

    def _is_escaped(self, place: int) -> bool:
        before = self._expression[:place]
        return (len(before) - len(before.rstrip("\\"))) % 2 == 1

    def _next(self) -> str:
        """The character at the current place; empty at the end."""
        return self._expression[self._place] if self._place < self._end else ""

    def _take(self) -> str:
        character = self._next()
        self._place += 1
        return character

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._next() == "|":
            self._place += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, atom: Node) -> Node:
        sign = self._next()
        if sign == "" or sign not in "?*+{":
            return atom
        start = self._place
        self._place += 1
        least, most = self._braces(start) if sign == "{" else _COUNTS[sign]
        again = self._next()
        if again and again in "?*+{":
            raise self._wrong(
                f"{again!r} follows another count", "one count only (lazy and possessive ones match the same texts)"
            )
        return Repeat(atom, least, most)

    def _braces(self, start: int) -> tuple[int, int | None]:
        close = self._expression.find("}", start, self._end)
        low, comma, high = self._expression[start + 1 : max(close, 0)].partition(",")
        if close < 0 or not _is_number(low or "0") or not _is_number(high or "0") or not (low or high):
            raise self._wrong("this '{' begins no count", "{3}, {2,} or {2,4}; a brace itself is \\{", start)
        self._place = close + 1
        least = int(low or "0")
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > MAX_REPEAT:
            raise self._wrong(f"{max(least, most or 0)} times is too often", f"at most {MAX_REPEAT}", start)
        if most is not None and most < least:
            raise self._wrong(f"from {least} to {most} is no range", "the smaller number first", start)
        return least, most

    def _atom(self) -> Node:
        start = self._place
        sign = self._take()
        if sign == "(":
            return self._group(start)
        if sign == "[":
            return self._set(start)
        if sign == ".":
            return OneOf(frozenset(range(self._charset.blank)))
        if sign == "\\":
            kind = self._escape(start)
            return kind if isinstance(kind, OneOf) else self._literal(kind, start)
        if sign in "?*+{":
            raise self._wrong(f"nothing stands before {sign!r} that it could count", f"\\{sign} for the sign", start)
        if sign in "^$":
            raise self._wrong(
                f"{sign!r} is an anchor", f"\\{sign} for the sign; a pattern is always a whole text", start
            )
        return self._literal(sign, start)

    def _group(self, start: int) -> Node:
        if self._next() == "?":
            if not self._expression.startswith("?:", self._place):
                raise self._wrong("groups with '(?' are not supported", "( ) or (?: )", start)
            self._place += 2
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} groups in one another", "fewer", start)
        inner = self._choice()
        self._depth -= 1
        if self._take() != ")":
            raise self._wrong("this '(' is not closed", "a ')' behind it, or \\( for the sign", start)
        return inner

    def _literal(self, character: str, place: int) -> Node:
        written = written_as(character, self._charset, self._rules)
        if not written:
            raise CharsetError(
                f"pattern {self._expression!r}, position {place}: {character!r} is not in the charset "
                f"{self._charset.characters!r}; expected what the network can write. Leave it out, or use another model"
            )
        parts = tuple(OneOf(frozenset([k])) for k in self._charset.encode(written))
        return parts[0] if len(parts) == 1 else Sequence(parts)

    def _escape(self, start: int) -> OneOf | str:
        """What stands behind a backslash: a kind of character, or a character itself."""
        sign = self._take()
        if sign in _KINDS and sign:
            return self._some(_KINDS[sign], f"\\{sign}", start)
        if not sign or (sign.isascii() and sign.isalnum()):
            raise self._wrong(f"'\\{sign}' has no meaning here", "\\d \\w \\s \\D \\W \\S, or a sign", start)
        return sign

    def _some(self, is_one: Callable[[str], bool], name: str, place: int, *, may_be_none: bool = False) -> OneOf:
        found = frozenset(k for k, character in enumerate(self._charset.characters) if is_one(character))
        if not found and not may_be_none:
            raise CharsetError(
                f"pattern {self._expression!r}, position {place}: {name} is no character of the charset "
                f"{self._charset.characters!r}; expected what the network can write"
            )
        return OneOf(found)

    def _set(self, start: int) -> OneOf:
        negated = self._next() == "^"
        self._place += negated
        first, ids = True, set[int]()
        while first or self._next() != "]":
            if not self._next():
                raise self._wrong("this '[' is not closed", "a ']' behind it, or \\[ for the sign", start)
            first = False
            ids |= self._set_item()
        self._place += 1
        shown = self._expression[start : self._place]
        return self._some(lambda c: (self._charset.encode(c)[0] in ids) is not negated, shown, start)

    def _set_item(self) -> frozenset[int]:
        """A character, a kind, or a range; the characters that the charset lacks are passed over."""
        start = self._place
        low = self._set_character(start)
        follows = self._expression[self._place + 1 : min(self._place + 2, self._end)]
        if self._next() != "-" or follows in ("]", ""):
            if isinstance(low, OneOf):
                return low.ids
            written = written_as(low, self._charset, self._rules)
            return frozenset(self._charset.encode(written)) if len(written) == 1 else frozenset()
        self._place += 1
        high = self._set_character(self._place)
        if isinstance(low, OneOf) or isinstance(high, OneOf) or high < low:
            shown = self._expression[start : self._place]
            raise self._wrong(f"{shown!r} is no range", "two characters, the smaller code point first", start)
        return self._some(
            lambda c: any(low <= x <= high for x in self._written_for(c)), "", start, may_be_none=True
        ).ids

    def _set_character(self, start: int) -> OneOf | str:
        sign = self._take()
        if sign != "\\":
            return sign
        escaped = self._next()
        if escaped in _KINDS and escaped:
            self._place += 1
            return self._some(_KINDS[escaped], "", start, may_be_none=True)
        return self._escape(start)

    def _written_for(self, character: str) -> set[str]:
        """What labels write this character of the charset for: itself, and forms that the charset lacks."""
        forms = {character, character.upper(), character.lower(), character.title()}
        return {x for x in forms if len(x) == 1 and written_as(x, self._charset, self._rules) == character}

    def _wrong(self, what: str, expected: str, place: int | None = None) -> ConfigError:
        place = self._place if place is None else place
        return ConfigError(f"pattern {self._expression!r}, position {place}: {what}; expected {expected}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
