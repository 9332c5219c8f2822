"""Decoding options, their checks, and the decoder of each method: greedy, beam or lexicon.

``auto`` is the method for which the other options ask; without any it is ``beam`` if the weights have a language, else
``greedy``. Scores are CTC log-probabilities (``ctc.sequence_log_probs``).
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from crnn.charset import Charset, LabelRules
from crnn.config.section import no_such
from crnn.decoding.beam import Hypothesis, beam_search
from crnn.decoding.confidence import UNCALIBRATED, Calibration, ConfidenceCurve, confidences
from crnn.decoding.constraints import Pattern, allowed_classes, restrict
from crnn.decoding.ctc import Alternative, DecodedText, Floats, decode_greedy, describe_texts
from crnn.decoding.language import Language, load_language
from crnn.decoding.language_prior import DEFAULT_WEIGHT, MAX_WEIGHT, LanguagePrior
from crnn.decoding.language_search import LanguageReading, search_with_language
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon
from crnn.errors import ConfigError

DecodeMethod = Literal["auto", "greedy", "beam", "lexicon"]

_TAKES = {
    "greedy": {"allow", "block"},
    "beam": {"allow", "block", "beam_width", "lm", "lm_weight", "pattern", "n_best"},
    "lexicon": {"lexicon", "lexicon_margin", "n_best"},
}  # options of each method

# Types of each option's values, bounds of numbers, and what messages say of both.
_VALUES: dict[str, tuple[tuple[type, ...], tuple[float, float] | None, str]] = {
    "beam_width": ((numbers.Integral,), (1, math.inf), "a whole number, 1 or more"),
    "lexicon": ((str, os.PathLike, Iterable, Lexicon), None, "a file with one word a line, or a list of words"),
    "lexicon_margin": ((numbers.Real,), (0, float(np.finfo(float).max)), "a number, 0 or more"),
    "lm": ((str, os.PathLike, Language), None, "the name of a language, or a file of crnn lm"),
    "lm_weight": ((numbers.Real,), (0, MAX_WEIGHT), f"a number, 0 to {MAX_WEIGHT:g}"),
    "pattern": ((str, re.Pattern), None, "a text, or what re.compile makes of one"),
    "allow": ((str,), None, "a text"),
    "block": ((str,), None, "a text"),
    "n_best": ((numbers.Integral,), (1, 1000), "a whole number, 1 to 1000"),
}

# Weight of a text outside the lexicon or the allowed characters: users mostly restrict texts correctly.
_NONE_OF_THESE = math.log(0.02)

_LEAST = 1e-300

_Candidate = tuple[tuple[int, ...], float, float]  # class ids without blanks, score, confidence


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """Options of decoding.

    Attributes:
        decode: ``greedy``: text of the best path; ``beam``: likeliest text under network and language; ``lexicon``:
            likeliest word of a lexicon; or ``auto``.
        beam_width: Prefixes that a beam holds; with a language, at least 60 where the network hardly reads.
        lexicon: Words: a file with one per line, a sequence, or a ``Lexicon``.
        lexicon_margin: The free text is taken if its score exceeds that of the best word by more than this, in nats.
        lm: Language of the beam: ``auto``, the one of the weights; ``none``; the name of a shipped one; a file of
            ``crnn lm``; or a ``Language``.
        lm_weight: Factor of the language's log-probabilities; ``None`` is 0.6.
        pattern: Regular expression that the whole text must match, as a text or compiled.
        allow: Only characters that texts may have.
        block: Characters that texts may not have.
        n_best: Number of texts to find; all but the best become ``Reading.alternatives``.
    """

    decode: DecodeMethod = "auto"
    beam_width: int = 10
    lexicon: str | os.PathLike[str] | Sequence[str] | Lexicon | None = None
    lexicon_margin: float | None = None
    lm: str | os.PathLike[str] | Language = "auto"
    lm_weight: float | None = None
    pattern: str | re.Pattern[str] | None = None
    allow: str | None = None
    block: str | None = None
    n_best: int = 1

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            kinds, bounds, expected = _VALUES[field.name]
            value: Any = getattr(self, field.name)
            fits = isinstance(value, kinds) and not isinstance(value, bool | bytes | bytearray)
            if value is not field.default and not (fits and (bounds is None or bounds[0] <= value <= bounds[1])):
                raise ConfigError(f"{field.name} is {value!r:.100}; expected {expected}")

    def changed(self, options: Mapping[str, Any], also: Iterable[str] = ()) -> DecodingOptions:
        """Return a copy with other values (``None``: the default). ``also``: names suggested for unknown ones."""
        defaults: dict[str, Any] = {field.name: field.default for field in fields(self)}
        if unknown := [name for name in options if name not in defaults]:
            raise ConfigError("; ".join(no_such(name, [*defaults, *also]) for name in unknown))
        return replace(self, **{n: defaults[n] if value is None else value for n, value in options.items()})

    def given(self) -> list[str]:
        """Return the names of options, but ``decode``, that ask for something."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)[1:]}
        given = {n: v for n, (v, default) in values.items() if (v is not None if default is None else v != default)}
        return [n for n, value in given.items() if (n, value) != ("lm", "none")]


class Decoder:
    """Decoder of log-probabilities into texts by ``method``, which is ``options.decode`` with ``auto`` resolved.

    The label rules of the charset apply to words of a lexicon, letters of a pattern and characters of lists. Without a
    calibration, confidences are the network's probabilities. ``language`` is the name of the weights' language, or
    ``none``.

    Raises:
        ConfigError: An option is out of range, does not go with the method, or contradicts another.
        CharsetError: The network can write no text that is asked for.
        DataError: The lexicon or the language cannot be used.
    """

    def __init__(
        self,
        charset: Charset,
        rules: LabelRules,
        options: DecodingOptions | None = None,
        *,
        calibration: Calibration | None = None,
        language: str = "none",
    ) -> None:
        self.options = options = options or DecodingOptions()
        lm = language if options.lm == "auto" else options.lm
        self.method = resolve_method(options, has_language=lm != "none")
        if self.method == "beam" and options.n_best > options.beam_width:
            raise ConfigError(f"n_best is {options.n_best}; expected no more than beam_width, {options.beam_width}")
        self.charset = charset
        self._calibration = calibration or UNCALIBRATED
        self.lexicon = None if options.lexicon is None else _lexicon(options.lexicon, charset, rules)
        self.prior = None
        if self.method == "beam" and lm != "none":
            found = lm if isinstance(lm, Language) else load_language(lm)
            weight = DEFAULT_WEIGHT if options.lm_weight is None else options.lm_weight
            self.prior = LanguagePrior(found, charset, weight)
        self._allowed = allowed_classes(charset, rules, options.allow, options.block or "")
        self.pattern = None if options.pattern is None else Pattern(options.pattern, charset, rules, self._allowed)

    def decode_groups(self, groups: Sequence[Floats]) -> list[list[DecodedText]]:
        """Return ``decode`` of each group of images; with a language, groups cost less together."""
        if self.prior is None or self.pattern is not None:
            return [self.decode(log_probs) for log_probs in groups]
        allowed = [restrict(log_probs, self._allowed) for log_probs in groups]
        found = search_with_language(allowed, self.prior, self.options.beam_width, self.options.n_best)
        return [self._with_language(*group) for group in zip(groups, allowed, found, strict=True)]

    def decode(self, log_probs: Floats) -> list[DecodedText]:
        """Return the text of each image of ``(N, T, V)``; if there is none, the empty text with the score -inf.

        There is none if all words need more than T steps, or no text of the beam matches the pattern. ``ConfigError``
        if the pattern takes too long to match.
        """
        if self.lexicon is not None:
            n_best, margin = self.options.n_best, self.options.lexicon_margin
            return self.matched(log_probs, decode_lexicon(log_probs, self.lexicon, n_best, margin, posterior=True))
        if self.prior is not None and self.pattern is None:  # words may be searched apart
            return self.decode_groups([log_probs])[0]
        if self.pattern is not None:
            self.pattern.restart()
        allowed = restrict(log_probs, self._allowed)
        if self.method == "greedy":
            texts = decode_greedy(allowed)
            values = confidences(np.exp([text.score for text in texts]), self._calibration.greedy).tolist()
            return [replace(text, confidence=value) for text, value in zip(texts, values, strict=True)]
        return self._free(allowed, beam_search(allowed, self.options.beam_width, self.prior, self.pattern))

    @property
    def calibrated(self) -> bool:
        """True if confidences were fitted on labelled images."""
        return self._calibration is not UNCALIBRATED

    @property
    def curve(self) -> ConfidenceCurve:
        """Confidence curve of free texts."""
        with_language = self.prior is not None and self.pattern is None
        return (with_language and self._calibration.language) or self._calibration.greedy

    def _with_language(self, free: Floats, log_probs: Floats, readings: list[LanguageReading]) -> list[DecodedText]:
        best = [reading.probability for reading in readings]
        if not self._allowed.all():  # these are shares of the texts that may be, which may all be unlikely
            for n, (reading, rival) in enumerate(zip(readings, decode_greedy(free), strict=True)):
                if not self._allowed[list(rival.ids)].all():
                    best[n] *= _share_of_these(math.exp(reading.texts[0].score) / max(best[n], _LEAST), rival.score)
        probabilities = [
            probability * math.exp(text.rank - reading.texts[0].rank)
            for probability, reading in zip(best, readings, strict=True)
            for text in reading.texts
        ]
        values = iter(confidences(probabilities, self.curve).tolist())
        rows = [[(text.ids, text.score, next(values)) for text in reading.texts] for reading in readings]
        return self._placed(log_probs, rows, [reading.greedy for reading in readings])

    def _free(self, log_probs: Floats, found: list[list[Hypothesis]]) -> list[DecodedText]:
        """Return texts of a beam; a language divides their joint probability under the network by rank."""
        probabilities = []
        for row in found:
            scores, ranks = (np.logaddexp.reduce([h[k] for h in row], initial=-np.inf) for k in (1, 2))
            probabilities += [math.exp(h.rank + (scores - ranks)) for h in row[: self.options.n_best]]
        values = iter(confidences(probabilities, self._calibration.greedy).tolist())
        rows = [[(h.ids, h.score, next(values)) for h in row[: self.options.n_best]] for row in found]
        return self._placed(log_probs, rows)

    def matched(self, log_probs: Floats, found: list[list[LexiconMatch]]) -> list[DecodedText]:
        """Return words that were found in ``log_probs`` ``(N, T, V)``, best first, in the form of ``decode``."""
        free = decode_greedy(log_probs)
        rows: list[list[_Candidate]] = []
        for row, text in zip(found, free, strict=True):
            words = [m for m in row if m.index is not None]
            # Of the whole lexicon: score over posterior.
            total = math.exp(words[0].score) / max(words[0].posterior or 1.0, _LEAST) if words else 0.0
            is_word = any(m.ids == text.ids for m in words)
            inside = _share_of_these(total, -math.inf if is_word else text.score)
            rows.append([])
            for m in row:
                confidence = inside * math.exp(m.score) / max(total, _LEAST)
                if m.index is None:  # the free text
                    confidence = float(confidences(math.exp(m.score), self._calibration.greedy))
                rows[-1].append((m.ids, m.score, confidence))
        return self._placed(log_probs, rows)

    def _placed(
        self, log_probs: Floats, rows: list[list[_Candidate]], known: Sequence[DecodedText | None] | None = None
    ) -> list[DecodedText]:
        """Return the first candidate of each image with its spans, unless they are ``known``, and the others."""
        rows = [row or [((), -math.inf, 0.0)] for row in rows]
        best = list(known or [None] * len(rows))
        missing = [n for n, text in enumerate(best) if text is None]
        described = iter(describe_texts(log_probs[missing], [rows[n][0][:2] for n in missing]) if missing else [])
        return [
            replace(
                text or next(described),
                confidence=row[0][2],
                others=tuple(Alternative(self.charset.decode(ids), *numbers) for ids, *numbers in row[1:]),
            )
            for text, row in zip(best, rows, strict=True)
        ]


def resolve_method(options: DecodingOptions, *, has_language: bool) -> str:
    """Return the method that options ask for, or raise ``ConfigError`` if they do not go together."""
    decode, given = options.decode, options.given()
    if decode not in get_args(DecodeMethod):
        raise ConfigError(f"decode is {decode!r}; expected one of: {', '.join(get_args(DecodeMethod))}")
    if "lexicon_margin" in given and "lexicon" not in given:
        raise ConfigError("lexicon_margin is given without a lexicon; expected both, or neither")
    if "lm_weight" in given and not has_language:
        raise ConfigError("lm_weight is given, and there is no language to weigh: expected lm, the language, too")
    if decode == "lexicon" and "lexicon" not in given:
        raise ConfigError("decode is 'lexicon', and no lexicon is given; expected one, a file with one word a line")
    method: str = decode
    if decode == "auto":
        beam = has_language or not _TAKES["greedy"].issuperset(given)
        method = "lexicon" if "lexicon" in given else "beam" if beam else "greedy"
    if unfit := [name for name in given if name not in _TAKES[method]]:
        what = "lexicon" if decode == "auto" else f"decode {decode!r}"
        raise ConfigError(f"{what} and {' and '.join(unfit)} do not go together; leave one of them out")
    return method


def _share_of_these(total: float, rival: float) -> float:
    """Return the probability that a text is one of those allowed: total / (total + 0.02 exp(rival))."""
    return total / max(total + math.exp(rival + _NONE_OF_THESE), _LEAST)


def _lexicon(given: str | os.PathLike[str] | Sequence[str] | Lexicon, charset: Charset, rules: LabelRules) -> Lexicon:
    if isinstance(given, Lexicon):
        if given.charset != charset:
            raise ConfigError(
                f"the lexicon is in {given.charset!r}, the network writes {charset!r}; make the lexicon for the latter"
            )
        return given
    make = Lexicon.load if isinstance(given, str | os.PathLike) else Lexicon.from_words
    return make(given, charset, rules=lexicon_rules(rules))  # type: ignore[arg-type]


def lexicon_rules(rules: LabelRules) -> LabelRules:
    """Return the label rules without a limit of length, for words of a lexicon."""
    unknown = "drop_sample" if rules.unknown == "error" else rules.unknown
    return replace(rules, unknown=unknown, max_length=None, truncate=False)
