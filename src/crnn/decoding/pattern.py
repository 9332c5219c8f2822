"""Patterns that a reading must match: regular expressions, compiled to automata over class ids.

A number plate, a meter or a serial number has a form that is known before. ``compile_pattern`` makes of it the smallest
automaton that accepts the same texts; ``crnn.decoding.prefix_search`` finds the likeliest of these in a picture,
exactly. What an expression may have in it is said in ``crnn.decoding.pattern_syntax``.

Shape letters: S states, V classes with the blank (the last one, V - 1). Numpy only.

References:
    Thompson 1968, "Regular expression search algorithm" (from the tree to states); Rabin and Scott 1959, "Finite
    automata and their decision problems" (one state for each set of them); Moore 1956, "Gedanken-experiments on
    sequential machines" (states that nothing tells apart become one).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.decoding.pattern_syntax import Choice, Node, OneOf, Repeat, Sequence, parse_pattern
from crnn.errors import ConfigError

__all__ = ["MAX_STATES", "Pattern", "compile_pattern"]

_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

MAX_STATES = 10_000
"""States that an automaton may have on the way, before equal ones become one."""

_MAX_PARTS = 100_000  # states before sets of them are made: characters with their repeats written out


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """An automaton that reads a text from left to right, beginning in state 0.

    Every state can be reached, and from every one an accepting state can.

    Attributes:
        expression: What it was made of; empty for ``Pattern.everything``.
        following: ``(S, V - 1)``, the state that each character leads to, -1 where no text of the pattern goes on so.
        accepting: ``(S,)``, true where a text may end.
    """

    expression: str
    following: npt.NDArray[np.int32]
    accepting: _Mask

    @classmethod
    def everything(cls, num_classes: int) -> Pattern:
        """The pattern that every text matches."""
        return cls("", np.zeros((1, num_classes - 1), dtype=np.int32), np.ones(1, dtype=np.bool_))

    @property
    def num_classes(self) -> int:
        """V of the log-probabilities that it can be used with."""
        return int(self.following.shape[1]) + 1

    def matches(self, ids: Iterable[int]) -> bool:
        """Whether the text of these class ids is one of the pattern's."""
        state = 0
        for k in ids:
            state = int(self.following[state, k])
            if state < 0:
                return False
        return bool(self.accepting[state])


def compile_pattern(expression: str, charset: Charset, rules: LabelRules | None = None) -> Pattern:
    """The automaton of a regular expression; texts must match as a whole.

    Args:
        expression: See ``crnn.decoding.pattern_syntax``.
        charset: What texts are written in; letters mean what labels mean by them, so that ``[A-Z]{2}`` are any two
            letters where the charset has small ones only.
        rules: The label rules that say so. Default: those that follow from the charset (``CharsetConfig.rules``).

    Raises:
        ConfigError: The expression is wrong, has what is not supported, or would need too many states; the message
            names the place.
        CharsetError: It wants a character that the charset does not have; likewise.

    Example:
        >>> pattern = compile_pattern("[A-Z]{2}[0-9]{4}", Charset("36"))
        >>> pattern.matches(Charset("36").encode("ab1234")), len(pattern.accepting)
        (True, 7)
    """
    machine = _Machine(expression)
    last = machine.add(parse_pattern(expression, charset, rules), machine.state())
    symbol_of, members = _symbols(machine.sets, charset.blank)
    following, accepting = _deterministic(machine, members, last)
    following, accepting = _smallest(following, accepting)
    return Pattern(expression, following[:, symbol_of].astype(np.int32), accepting)


@dataclass(slots=True)
class _Machine:
    """States, steps between them that read one of a set of characters, and steps that read nothing."""

    expression: str
    free: list[list[int]] = field(default_factory=list)
    reading: list[tuple[int, int] | None] = field(default_factory=list)  # number of the set, state behind it
    sets: dict[frozenset[int], int] = field(default_factory=dict)

    def state(self) -> int:
        if len(self.free) >= _MAX_PARTS:
            raise self.too_large()
        self.free.append([])
        self.reading.append(None)
        return len(self.free) - 1

    def too_large(self) -> ConfigError:
        return ConfigError(
            f"pattern {self.expression!r}: needs more than {MAX_STATES} states; expected a simpler one, with smaller "
            "counts or without alternatives before them"
        )

    def add(self, node: Node, start: int) -> int:
        """Put the texts of ``node`` behind a state.

        Returns:
            The state where they end; nothing leads out of it yet.
        """
        if isinstance(node, OneOf):
            end = self.state()
            step = self.state()  # a state reads once at most
            self.free[start].append(step)
            self.reading[step] = (self.sets.setdefault(node.ids, len(self.sets)), end)
            return end
        if isinstance(node, Sequence):
            for part in node.parts:
                start = self.add(part, start)
            end = self.state()  # never the given one, which others may lead out of
            self.free[start].append(end)
            return end
        if isinstance(node, Choice):
            ends = [self.add(part, self._behind(start)) for part in node.parts]
            end = self.state()
            for each in ends:
                self.free[each].append(end)
            return end
        return self._add_repeat(node, start)

    def _add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.part, start)
        if node.most is None:
            loop = self._behind(start)
            self.free[self.add(node.part, loop)].append(loop)
            return self._behind(loop)
        end = self.state()
        for _ in range(node.most - node.least):
            self.free[start].append(end)
            start = self.add(node.part, start)
        self.free[start].append(end)
        return end

    def _behind(self, start: int) -> int:
        state = self.state()
        self.free[start].append(state)
        return state

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """The reading states, and those that nothing leads out of, which can be reached without reading."""
        found, waiting = set(states), list(states)
        while waiting:
            for state in self.free[waiting.pop()]:
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return frozenset(s for s in found if self.reading[s] is not None or not self.free[s])


def _symbols(sets: dict[frozenset[int], int], num_characters: int) -> tuple[_Indices, _Mask]:
    """Characters that no set tells apart are one symbol: ``(V - 1,)``, and which sets have it, ``(symbols, sets)``."""
    has = np.zeros((num_characters, len(sets)), dtype=np.bool_)
    for ids, number in sets.items():
        has[list(ids), number] = True
    members, symbol_of = np.unique(has, axis=0, return_inverse=True)
    return symbol_of.reshape(-1), members


def _deterministic(machine: _Machine, members: _Mask, last: int) -> tuple[npt.NDArray[Any], _Mask]:
    """One state for each set of states that a text leads to; state -1 for the empty set."""
    sets_of = [np.flatnonzero(row).tolist() for row in members]  # of each symbol
    first = machine.closure([0])
    numbers, waiting, rows = {first: 0}, [first], []
    closures: dict[int, frozenset[int]] = {}
    for states in waiting:
        behind: dict[int, list[int]] = {}
        for state in states:
            step = machine.reading[state]
            if step is not None:
                behind.setdefault(step[0], []).append(step[1])
        row = []
        for numbers_of_sets in sets_of:
            reached: set[int] = set()
            for number in numbers_of_sets:
                for state in behind.get(number, ()):
                    if state not in closures:
                        closures[state] = machine.closure([state])
                    reached |= closures[state]
            following = frozenset(reached)
            if following and following not in numbers:
                if len(numbers) >= MAX_STATES:
                    raise machine.too_large()
                numbers[following] = len(numbers)
                waiting.append(following)
            row.append(numbers[following] if following else -1)
        rows.append(row)
    return np.array(rows, dtype=np.int32), np.array([last in states for states in waiting])


def _smallest(following: npt.NDArray[Any], accepting: _Mask) -> tuple[npt.NDArray[Any], _Mask]:
    """The same texts in as few states as can be; the first stays the first, the others are in order of their finding.

    The parts of an expression are never empty, so that every state leads to an accepting one.
    """
    groups = np.append(np.where(accepting == accepting[0], 1, 2), 0)  # the last one is that of state -1
    count = 0
    while groups.max() > count:
        count = groups.max()
        rows = np.concatenate([groups[:-1, None], groups[following]], axis=1)
        found, firsts, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        rank = np.empty(len(found), dtype=np.intp)
        rank[np.argsort(firsts)] = np.arange(len(found))
        groups = np.append(rank[which.reshape(-1)] + 1, 0)
    firsts = np.unique(groups[:-1], return_index=True)[1]
    return groups[following[firsts]] - 1, accepting[firsts]
