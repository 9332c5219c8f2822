"""The ways to find texts, by name, with what is known about them: one place that checks options and calls decoders.

===========  =======================================================  ===============================================
method       what it finds                                            options of its own
===========  =======================================================  ===============================================
``greedy``   the text of the best path
``beam``     the likeliest text under network and language            ``beam_width``, ``lm``, ``lm_weight``
``exact``    the likeliest text under the network                     ``pattern``, which the whole text must match
``lexicon``  the likeliest word of a lexicon                          ``lexicon``, ``lexicon_margin``
``near``     of the words near the best path the likeliest            ``lexicon``; the paper's way, for comparison
===========  =======================================================  ===============================================

``auto`` is what the other options ask for; without any it is ``beam`` where the weights have a language, and ``greedy``
where they have none. The score of a text is its CTC log-probability (``ctc.sequence_log_probs``), whatever found it;
its confidence is explained in ``crnn.decoding.confidence``.

Shape letters: N batch, T time steps, V classes with the blank (the last one).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.decoding.allowed import allowed_classes, restrict
from crnn.decoding.beam import beam_search, describe_texts
from crnn.decoding.confidence import UNCALIBRATED, Calibration, ConfidenceCurve, confidences
from crnn.decoding.ctc import DecodedText, decode_greedy
from crnn.decoding.language import Language, load_language
from crnn.decoding.language_prior import DEFAULT_WEIGHT, LanguagePrior
from crnn.decoding.language_search import LanguageReading, search_with_language
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon, decode_near
from crnn.decoding.pattern import compile_pattern
from crnn.decoding.prefix_search import search_exact
from crnn.errors import ConfigError

__all__ = ["Candidate", "DecodeMethod", "Decoded", "Decoder", "DecodingOptions", "lexicon_rules"]

DecodeMethod = Literal["auto", "greedy", "beam", "exact", "lexicon", "near"]

_ALL = frozenset(get_args(DecodeMethod)) - {"auto"}
_TAKERS: dict[str, frozenset[str]] = {
    "lexicon": frozenset({"lexicon", "near"}),
    "lexicon_margin": frozenset({"lexicon"}),
    "lm": frozenset({"beam"}),
    "lm_weight": frozenset({"beam"}),
    "pattern": frozenset({"exact"}),
    "allow": _ALL - {"lexicon", "near"},
    "block": _ALL - {"lexicon", "near"},
    "n_best": _ALL - {"greedy"},
}
"""For each option the methods that it means something to."""

_PREFERENCE = ("greedy", "beam", "lexicon", "exact", "near")  # ``auto``: the first that takes all that is given

_MAX_BEST = 1000

_NONE_OF_THESE = math.log(0.02)
"""What a text that is no word of the lexicon counts beside its words, as users know that they mostly see such words."""

_LEAST = 1e-300

_LOG = logging.getLogger("crnn")

_Floats = npt.NDArray[np.floating[Any]]


class DecodingOptions(TypedDict, total=False):
    """How texts are found; each has a default.

    Keys:
        decode: The method; ``auto``.
        beam_width: Prefixes that a beam holds; 10.
        lexicon: The words: a file with one a line, a sequence of them, or a ``Lexicon``.
        lexicon_margin: The free text is taken where its score exceeds that of the best word by more than this, in nats.
        lm: The language for the beam: ``auto``, that of the weights; ``none``; the name of one that ships, a file of
            ``crnn lm``, or a ``Language``.
        lm_weight: What the log-probabilities of the language are multiplied with; 0.4.
        pattern: A regular expression that the whole text must match.
        allow: The only characters that texts may have.
        block: Characters that they may not have.
        n_best: Number of texts to find; those after the best are ``Reading.alternatives``; 1.
    """

    decode: DecodeMethod
    beam_width: int
    lexicon: str | os.PathLike[str] | Sequence[str] | Lexicon | None
    lexicon_margin: float | None
    lm: str | os.PathLike[str] | Language
    lm_weight: float | None
    pattern: str | None
    allow: str | None
    block: str | None
    n_best: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that was found.

    Attributes:
        ids: Class ids without blanks.
        score: Its CTC log-probability.
        confidence: Probability in [0, 1] that it is right.
    """

    ids: tuple[int, ...]
    score: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was found in one picture.

    Attributes:
        text: The best text, with its places.
        confidence: As for ``Candidate``.
        others: The texts after it, the best first.
    """

    text: DecodedText
    confidence: float
    others: tuple[Candidate, ...]


class Decoder:
    """Finds texts in log-probabilities, in the way that the options ask for.

    Args:
        charset: Of the network.
        rules: Its label rules: the form that words of a lexicon, letters of a pattern and characters of lists get.
        calibration: Of the weights; without one, confidences are probabilities as the network gives them.
        language: Name of the weights' language, or ``none``.
        decode: This and the rest as ``DecodingOptions`` has them.

    Attributes:
        method: What ``auto`` came to, or the method given.
        prior: What the language adds to scores; ``None``: there is none.
        n_best: As given.

    Raises:
        ConfigError: An option is out of range, cannot be used with the method, or contradicts another.
        DataError: The lexicon or the character model cannot be used.
    """

    def __init__(
        self,
        charset: Charset,
        rules: LabelRules,
        *,
        calibration: Calibration | None = None,
        language: str = "none",
        decode: DecodeMethod = "auto",
        beam_width: int = 10,
        lexicon: str | os.PathLike[str] | Sequence[str] | Lexicon | None = None,
        lexicon_margin: float | None = None,
        lm: str | os.PathLike[str] | Language = "auto",
        lm_weight: float | None = None,
        pattern: str | None = None,
        allow: str | None = None,
        block: str | None = None,
        n_best: int = 1,
    ) -> None:
        given = {
            "lexicon": lexicon,
            "lexicon_margin": lexicon_margin,
            "lm": None if lm in ("auto", "none") else lm,
            "lm_weight": lm_weight,
            "pattern": pattern,
            "allow": allow,
            "block": block,
            "n_best": None if n_best == 1 else n_best,
        }
        has_language = language != "none" and lm == "auto"
        self.method = _method(decode, given, has_language)
        _check_numbers(beam_width, lexicon_margin, lm_weight, n_best, self.method)
        self.charset = charset
        self._calibration = calibration or UNCALIBRATED
        self.n_best = n_best
        self.beam_width = beam_width
        self.lexicon_margin = lexicon_margin
        self.lexicon = None if lexicon is None else _lexicon(lexicon, charset, rules)
        self.prior = None
        if self.method == "beam" and (has_language or given["lm"] is not None):
            found = lm if isinstance(lm, Language) else load_language(language if lm == "auto" else lm)
            self.prior = LanguagePrior(found, charset, DEFAULT_WEIGHT if lm_weight is None else lm_weight)
        self.pattern = None if pattern is None else compile_pattern(pattern, charset, rules)
        self._allowed = None
        if allow is not None or block is not None:
            self._allowed = allowed_classes(charset, allow, block or "", rules)

    def decode_groups(self, groups: Sequence[_Floats]) -> list[list[Decoded]]:
        """Return what ``decode`` gives for each group of images; together, groups cost less with a language."""
        if self.prior is None:
            return [self.decode(log_probs) for log_probs in groups]
        return self._in_language([self._restricted(log_probs) for log_probs in groups])

    def _restricted(self, log_probs: _Floats) -> _Floats:
        return log_probs if self._allowed is None else restrict(log_probs, self._allowed)

    def decode(self, log_probs: _Floats) -> list[Decoded]:
        """The texts of pictures.

        Args:
            log_probs: ``(N, T, V)``, normalised over V.

        Returns:
            One for each picture. Where every text that is asked for has probability 0 (a lexicon of words that are too
            long for T steps, a pattern that no text of T steps matches), the empty text with the score -inf.
        """
        if self.lexicon is not None:
            search = decode_lexicon if self.method == "lexicon" else decode_near
            options: dict[str, Any] = {"n_best": self.n_best}
            if self.method == "lexicon":
                options |= {"margin": self.lexicon_margin, "posterior": True}
            return self.matched(log_probs, search(log_probs, self.lexicon, **options))
        allowed = self._restricted(log_probs)
        if self.method == "greedy":
            texts = decode_greedy(allowed)
            values = confidences(np.exp([text.score for text in texts]), self._calibration.greedy).tolist()
            return [Decoded(text, confidence, ()) for text, confidence in zip(texts, values, strict=True)]
        if self.method == "beam" and self.prior is not None:
            return self._in_language([allowed])[0]
        return self._free(allowed, self._searched(allowed))

    @property
    def calibrated(self) -> bool:
        """Whether confidences were fitted on labelled images."""
        return self._calibration is not UNCALIBRATED

    @property
    def curve(self) -> ConfidenceCurve:
        """The curve of free texts that are found in this way."""
        if self.prior is not None and self._calibration.language is not None:
            return self._calibration.language
        return self._calibration.greedy

    def _in_language(self, groups: Sequence[_Floats]) -> list[list[Decoded]]:
        assert self.prior is not None
        found = search_with_language(groups, self.prior, self.beam_width, self.n_best)
        return [self._spoken(log_probs, readings) for log_probs, readings in zip(groups, found, strict=True)]

    def _spoken(self, log_probs: _Floats, readings: list[LanguageReading]) -> list[Decoded]:
        probabilities = [
            reading.probability * math.exp(text.rank - reading.texts[0].rank)
            for reading in readings
            for text in reading.texts
        ]
        values = iter(confidences(probabilities, self.curve).tolist())
        rows = [[Candidate(text.ids, text.score, next(values)) for text in reading.texts] for reading in readings]
        # The best path has its places already.
        changed = [n for n, reading in enumerate(readings) if reading.greedy is None]
        placed = iter(_placed(log_probs[changed], [rows[n] for n in changed]) if changed else [])
        return [
            next(placed) if reading.greedy is None else Decoded(reading.greedy, row[0].confidence, tuple(row[1:]))
            for reading, row in zip(readings, rows, strict=True)
        ]

    def _searched(self, allowed: _Floats) -> list[list[tuple[tuple[int, ...], float]]]:
        if self.method == "exact":
            results = search_exact(allowed, self.pattern, self.n_best)
            unproven = sum(not result.proven for result in results)
            if unproven:
                _LOG.warning(
                    "%d of %d texts are the likeliest that were met, not for certain the likeliest: the search came to "
                    "its limit, as it does in pictures that show nothing clear",
                    unproven,
                    len(results),
                )
            return [list(result.texts) for result in results]
        return [[(h.ids, h.score) for h in row] for row in beam_search(allowed, self.beam_width)]

    def _free(self, log_probs: _Floats, found: list[list[tuple[tuple[int, ...], float]]]) -> list[Decoded]:
        found = [pairs[: self.n_best] for pairs in found]
        probabilities = np.exp([score for pairs in found for _, score in pairs])
        values = iter(confidences(probabilities, self._calibration.greedy).tolist())
        return _placed(log_probs, [[Candidate(ids, score, next(values)) for ids, score in pairs] for pairs in found])

    def matched(self, log_probs: _Floats, found: list[list[LexiconMatch]]) -> list[Decoded]:
        """Words that a lexicon search found, as ``decode`` gives them.

        Args:
            log_probs: ``(N, T, V)``, those that were searched.
            found: For each picture its matches, the best first.
        """
        free = decode_greedy(log_probs)
        candidates = []
        for row, text in zip(found, free, strict=True):
            words = [m for m in row if m.index is not None]
            # Any text that is no word of the lexicon is a rival of all of them: "none of these".
            others = math.exp(text.score + _NONE_OF_THESE) if all(m.ids != text.ids for m in words) else 0.0
            total = math.exp(words[0].score) / max(words[0].posterior or 1.0, _LEAST) if words else 0.0
            inside = total / max(total + others, _LEAST)
            candidates.append(
                [
                    Candidate(
                        m.ids,
                        m.score,
                        float(confidences(math.exp(m.score), self._calibration.greedy))
                        if m.index is None
                        else inside * math.exp(m.score) / max(total, _LEAST),
                    )
                    for m in row
                ]
            )
        return _placed(log_probs, candidates)


def _method(decode: str, given: Mapping[str, object], has_language: bool) -> str:
    """The method for what is given.

    Raises:
        ConfigError: There is no such method, it lacks what it needs, or it cannot use what is given.
    """
    if decode not in get_args(DecodeMethod):
        raise ConfigError(f"decode is {decode!r}; expected one of: {', '.join(get_args(DecodeMethod))}")
    wanted = {name: _TAKERS[name] for name, value in given.items() if value is not None}
    if "lexicon_margin" in wanted and "lexicon" not in wanted:
        raise ConfigError("lexicon_margin is given without a lexicon; expected both, or neither")
    if "lm_weight" in wanted and "lm" not in wanted and not has_language:
        raise ConfigError("lm_weight is given, and there is no language to weigh: expected lm, the language, too")
    if decode in ("lexicon", "near") and "lexicon" not in wanted:
        raise ConfigError(f"decode is {decode!r}, and no lexicon is given; expected one, a file with one word a line")
    if decode != "auto":
        for name, takers in wanted.items():
            if decode not in takers:
                raise ConfigError(
                    f"decode is {decode!r}, which has no use for {name}; leave it out, or take decode {_any_of(takers)}"
                )
        return decode
    fitting = _ALL.intersection(*wanted.values()) if wanted else _ALL
    if "lexicon" not in wanted:
        fitting -= {"lexicon", "near"}
    if not fitting:
        uses = "; ".join(f"{name} goes with decode {_any_of(takers)}" for name, takers in wanted.items())
        raise ConfigError(f"{' and '.join(wanted)} do not go together: {uses}. Leave one of them out")
    if has_language and "beam" in fitting:
        return "beam"
    return next(method for method in _PREFERENCE if method in fitting)


def _any_of(methods: frozenset[str]) -> str:
    return " or ".join(repr(method) for method in _PREFERENCE if method in methods)


def _check_numbers(
    beam_width: int, lexicon_margin: float | None, lm_weight: float | None, n_best: int, method: str
) -> None:
    for name, value in (("beam_width", beam_width), ("n_best", n_best)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; expected 1 or more")
    for name, number in (("lexicon_margin", lexicon_margin), ("lm_weight", lm_weight)):
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ConfigError(f"{name} is {number}; expected a number, 0 or more")
    if n_best > _MAX_BEST:
        raise ConfigError(f"n_best is {n_best}; expected at most {_MAX_BEST}")
    if method == "beam" and n_best > beam_width:
        raise ConfigError(
            f"n_best is {n_best}, and the beam holds {beam_width} prefixes (beam_width); expected no more than these"
        )


def _lexicon(given: str | os.PathLike[str] | Sequence[str] | Lexicon, charset: Charset, rules: LabelRules) -> Lexicon:
    if isinstance(given, Lexicon):
        if given.charset != charset:
            raise ConfigError(
                f"the lexicon is in {given.charset!r}, the network writes {charset!r}; make the lexicon for the latter"
            )
        return given
    rules = lexicon_rules(rules)
    if isinstance(given, str | os.PathLike):
        return Lexicon.load(given, charset, rules=rules)
    return Lexicon.from_words(given, charset, rules=rules)


def lexicon_rules(rules: LabelRules) -> LabelRules:
    """How the words of a lexicon become texts that the network may write: as labels do, but of any length."""
    unknown = "drop_sample" if rules.unknown == "error" else rules.unknown
    return replace(rules, unknown=unknown, max_length=None, truncate=False)


def _placed(log_probs: _Floats, candidates: list[list[Candidate]]) -> list[Decoded]:
    """Candidates with the places of the first of each picture."""
    nothing = Candidate((), -math.inf, 0.0)
    best = [row[0] if row else nothing for row in candidates]
    texts = describe_texts(log_probs, [(candidate.ids, candidate.score) for candidate in best])
    return [
        Decoded(text, first.confidence, tuple(row[1:]))
        for text, first, row in zip(texts, best, candidates, strict=True)
    ]
