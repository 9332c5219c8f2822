"""Published evaluation protocols: the samples that count, and the compared form of label and reading.

Word accuracies are comparable only with the same samples and forms. References (Apache-2.0; rules theirs, code ours):
``parseq``: baudm/parseq, strhub/data/{dataset,utils}.py, strhub/models/base.py; ``clovaai``: DTRB, clovaai/
deep-text-recognition-benchmark, dataset.py, test.py; ``modelzoo``: mindspore-ai/models, official/cv/CRNN/src/
{ic03,ic13,svt,iiit5k}_dataset.py, metric.py. ``lines``, for whole lines, is ours.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from crnn.charset import NAMED_CHARSETS, Charset, LabelRules, LabelSkip
from crnn.config.training import ProtocolName
from crnn.data.formats import FORMATS
from crnn.data.formats.subsets import VARIANTS
from crnn.errors import ConfigError

CharsetName = Literal["36", "62", "94"]

PUBLISHED_COUNTS = {
    "IIIT5k_3000": FORMATS["iiit5k"].counts["test"],
    "SVT": FORMATS["svt"].counts["test"],
    **{variant.name: variant.num_samples for variant in VARIANTS.values()},
    "SVTP": 645,
    "CUTE80": 288,
}
"""Word images in each benchmark set, in the LMDB releases of DTRB and PARSeq.

Sets in use in several versions have the number in their name; a plain "IC13" could be any of three, and has no count.
"""

_ALIASES = {"IIIT5k": "IIIT5k_3000", "SVT_647": "SVT", "SVTP_645": "SVTP", "CUTE": "CUTE80", "CUTE80_288": "CUTE80"}

_CHARSETS = {"parseq": ("36", "62", "94"), "clovaai": ("36", "94"), "modelzoo": ("36",)}

_SETS_WITH_SPECIALS = ("IC15_2077", "CUTE80")  # for which DTRB asks for --data_filtering_off

_MAX_LENGTH = 25  # DTRB's --batch_max_length and PARSeq's max_label_length
_MODELZOO_MIN_LENGTH = 3  # filter_length of the ModelZoo's IC03 and IC13 readers


@dataclass(frozen=True, slots=True)
class Protocol:
    """Rules for the evaluation of one dataset; made by ``protocol_for`` or ``own_protocol``."""

    name: ProtocolName
    title: str  # the rules in a few words, for tables and reports
    charset: Charset  # the compared characters
    dataset: str
    label_rules: LabelRules
    prediction_rules: LabelRules | None  # None: readings stay unchanged
    min_length: int = 0  # samples with shorter raw labels are left out
    keep_empty: bool = False  # samples whose label has nothing left stay; only an empty reading of them is right

    forms: ClassVar[tuple[tuple[str, Callable[[str], str]], ...]] = ()  # other forms of comparison, by name

    def label(self, raw: str) -> str:
        """Return the compared label, or raise ``LabelSkip`` where the protocol leaves the sample out.

        A ``CharsetError`` comes from a model's own rules alone, if they make an unknown character an error.
        """
        if len(raw) < self.min_length:
            raise LabelSkip("too_short")
        try:
            return self.label_rules.apply(raw, self.charset)
        except LabelSkip as skip:
            if skip.reason == "empty_label" and self.keep_empty:
                return ""
            if skip.reason == "unknown_character" and self.name == "modelzoo":
                raise LabelSkip("not_alphanumeric") from None
            raise

    def prediction(self, text: str) -> str:
        """Return the compared form of a reading; it may be empty."""
        if self.prediction_rules is None:
            return text
        try:
            return self.prediction_rules.apply(text, self.charset)
        except LabelSkip:  # no rule for readings limits their length: nothing was left
            return ""

    @property
    def expected_count(self) -> int | None:
        """Return ``expected_count`` of the dataset under these rules."""
        if self.min_length and _WHOLE_IC13.fullmatch(_key(self.dataset)):
            return PUBLISHED_COUNTS["IC13_857"]  # what the ModelZoo's rules leave of any version of IC13
        return expected_count(self.dataset)


def protocol_for(name: ProtocolName, charset: CharsetName = "36", dataset: str = "") -> Protocol:
    """Return the published rules for one dataset, or raise ``ConfigError`` where the project has no such evaluation.

    ``parseq``: white space and non-ASCII out of the label (NFKD first), longer than 25 left out, case folded under 36,
    all else outside the charset removed; samples go only if nothing remains. Readings: case folded, stripped to the
    charset.

    ``clovaai``: raw labels longer than 25 and labels with a character outside the charset are left out. Of IC15_2077
    and CUTE80 every sample stays and other characters are removed, as that project advises (--data_filtering_off).
    Under 36, readings are folded and stripped too: no change for a model of 36 characters, and the project's
    ``--sensitive --data_filtering_off`` for one of 94. Under 94, readings stay unchanged, and labels with a backslash
    are left out: the project puts its characters into a regular expression unescaped, which loses the backslash.

    ``modelzoo``: lower case. IC03 and IC13 (by name): labels shorter than 3 or not all of a-z and 0-9 are left out. All
    others, like SVT and IIIT5K: every sample stays, other characters are removed.
    """
    if charset not in NAMED_CHARSETS:
        raise ConfigError(f"charset is {charset!r}; expected 36, 62 or 94, or use own_protocol for other characters")
    if name == "lines":
        return LineProtocol("lines", "lines, case folded", Charset("36"), dataset, LabelRules(), None)
    if name not in _CHARSETS:
        raise ConfigError(f"protocol is {name!r}; expected parseq, clovaai, modelzoo or lines")
    if charset not in _CHARSETS[name]:
        known = " or ".join(_CHARSETS[name])
        raise ConfigError(f"protocol {name} compares {known} characters, charset is {charset}; use {known}, or parseq")
    title, characters = f"{name}, {charset} characters", Charset(charset)
    readings = LabelRules(case="lower" if charset == "36" else "keep", unknown="drop_character")
    filtered = replace(readings, unknown="drop_sample")
    if name == "parseq":
        labels = replace(readings, whitespace="remove", unicode="ascii", max_length=_MAX_LENGTH)
        return Protocol(name, title, characters, dataset, labels, readings)
    if name == "modelzoo":
        if _IC03_OR_IC13.match(_key(dataset)) is None:
            return Protocol(name, "modelzoo, all words", characters, dataset, readings, readings, keep_empty=True)
        title = "modelzoo, alphanumeric words of 3 and more"
        return Protocol(name, title, characters, dataset, filtered, readings, _MODELZOO_MIN_LENGTH)
    filtered = replace(filtered, max_length=_MAX_LENGTH)
    if charset == "94":
        characters = Charset(NAMED_CHARSETS["94"].replace("\\", ""))
        return Protocol(name, title, characters, dataset, filtered, None, keep_empty=True)
    if _NAME_BY_KEY.get(_key(dataset)) in _SETS_WITH_SPECIALS:
        return Protocol(name, f"{title}, filtering off", characters, dataset, readings, readings, keep_empty=True)
    return Protocol(name, f"{title}, filtering on", characters, dataset, filtered, readings, keep_empty=True)


def _collapsed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _letters_and_digits(text: str) -> str:
    return _collapsed("".join(c for c in text if c.isalnum() or c.isspace())).casefold()


class LineProtocol(Protocol):
    """Rules for lines, with spaces and marks, whatever the network's charset; accuracy and CER are of folded case."""

    forms = (("as annotated", _collapsed), ("letters and digits", _letters_and_digits))

    def label(self, raw: str) -> str:
        """Return the compared label, or raise ``LabelSkip`` if nothing is left of it."""
        text = self.prediction(raw)
        if not text:
            raise LabelSkip("empty_label")
        return text

    def prediction(self, text: str) -> str:
        """Return the compared form of a reading; it may be empty."""
        return _collapsed(text).casefold()


def own_protocol(rules: LabelRules, charset: Charset, dataset: str = "") -> Protocol:
    """Return PARSeq's rules with a model's own charset and label rules: for any script, and while training.

    No label is cut or left out for its length: a limit that suits the training set would hide long words. Readings get
    the white space, Unicode form and case of labels, so that two spellings of one text are equal.
    """
    labels = replace(rules, max_length=None)  # without a limit nothing is truncated either
    title = f"parseq over the model's own {len(charset.characters)} characters"
    return Protocol("parseq", title, charset, dataset, labels, replace(labels, unknown="drop_character"))


def expected_count(dataset: str) -> int | None:
    """Return the number of images in a benchmark set by its whole name, whatever its case, ``_``, ``-`` and spaces."""
    return PUBLISHED_COUNTS.get(_NAME_BY_KEY.get(_key(dataset), ""))


def _key(dataset: str) -> str:
    return re.sub(r"[\s_-]", "", dataset).casefold()


_IC03_OR_IC13 = re.compile(r"(ic|icdar)(20)?(03|13)")
_WHOLE_IC13 = re.compile(r"(ic|icdar)(20)?13(857|1015|1095)?")
_NAME_BY_KEY = {_key(name): name for name in PUBLISHED_COUNTS} | {_key(alias): name for alias, name in _ALIASES.items()}
