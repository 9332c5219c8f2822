"""The published evaluation protocols: which samples count, and in what form label and reading are compared.

Word accuracies of two papers can only be compared when both drop the same samples and forgive the same differences.
A ``Protocol`` holds one project's rules, read off its code: ``parseq`` (the default), ``clovaai`` (the
deep-text-recognition-benchmark, DTRB) and ``modelzoo`` (MindSpore ModelZoo); ``lines`` is ours, for whole lines. It
turns each raw label of a dataset into the one to compare with, or says why the sample is left out, and each reading
into the text to compare.

Reference:
    baudm/parseq, strhub/data/{dataset,utils}.py, strhub/models/base.py; clovaai/deep-text-recognition-benchmark,
    dataset.py, test.py; mindspore-ai/models, official/cv/CRNN/src/{ic03,ic13,svt,iiit5k}_dataset.py, metric.py (all
    Apache-2.0). The rules are theirs, the code is not.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from crnn.charset import NAMED_CHARSETS, Charset, LabelRules, LabelSkip
from crnn.data.formats import FORMATS
from crnn.data.formats.subsets import VARIANTS
from crnn.errors import ConfigError
from crnn.evaluation.metrics import TextSums

ProtocolName = Literal["parseq", "clovaai", "modelzoo", "lines"]
CharsetName = Literal["36", "62", "94"]
Filtering = Literal["auto", "on", "off"]

PUBLISHED_COUNTS = {
    "IIIT5k_3000": FORMATS["iiit5k"].counts["test"],
    "SVT": FORMATS["svt"].counts["test"],
    **{variant.name: variant.num_samples for variant in VARIANTS.values()},
    "SVTP": 645,
    "CUTE80": 288,
}
"""Word images in each benchmark set, as the LMDB releases of DTRB and PARSeq hold them. The number is part of the name
where several versions of a set are in use: a plain "IC13" could be any of three, so it has no count."""

_ALIASES = {"IIIT5k": "IIIT5k_3000", "SVT_647": "SVT", "SVTP_645": "SVTP", "CUTE": "CUTE80", "CUTE80_288": "CUTE80"}

_SETS_WITH_SPECIALS = ("IC15_2077", "CUTE80")  # for which DTRB asks for --data_filtering_off

_MAX_LENGTH = 25  # DTRB's --batch_max_length and PARSeq's max_label_length
_MODELZOO_MIN_LENGTH = 3  # filter_length of the ModelZoo's IC03 and IC13 readers


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The rules under which one dataset is evaluated; made by ``protocol_for`` or ``own_protocol``.

    Attributes:
        name: Whose rules they are.
        title: The rules in a few words, for tables and reports.
        charset: The characters that are compared.
        dataset: Name of the dataset; some rules and the expected count depend on it.
        label_rules: How a raw label becomes the one to compare with.
        prediction_rules: How a reading becomes the text to compare. ``None``: it is compared as it is.
        min_length: Samples with shorter raw labels are left out.
        keep_empty: Samples whose label has nothing left are kept, and only an empty reading of them is right.
    """

    name: ProtocolName
    title: str
    charset: Charset
    dataset: str
    label_rules: LabelRules
    prediction_rules: LabelRules | None
    min_length: int = 0
    keep_empty: bool = False

    def label(self, raw: str) -> str:
        """The label to compare readings with.

        Raises:
            LabelSkip: The protocol leaves this sample out; ``reason`` is ``too_long``, ``too_short``, ``empty_label``,
                ``unknown_character`` or ``not_alphanumeric``.
            CharsetError: Only under ``own_protocol``: the model's own rules make an unknown character an error.
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
        """The form in which a reading is compared; it may be empty."""
        if self.prediction_rules is None:
            return text
        try:
            return self.prediction_rules.apply(text, self.charset)
        except LabelSkip:  # no rule for readings limits their length: nothing was left
            return ""

    @property
    def expected_count(self) -> int | None:
        """Number of samples that a complete copy of the dataset has under these rules, where it is published."""
        if self.min_length and _WHOLE_IC13.fullmatch(_key(self.dataset)):
            return PUBLISHED_COUNTS["IC13_857"]  # what the ModelZoo's rules leave of any version of IC13
        return expected_count(self.dataset)


def protocol_for(
    name: ProtocolName, charset: CharsetName = "36", dataset: str = "", filtering: Filtering = "auto"
) -> Protocol:
    """The published rules for one dataset.

    ``parseq``: white space and non-ASCII out of the label (NFKD first), longer than 25 left out, case folded where the
    charset has no capitals, all else outside the charset removed; a sample goes only if nothing remains. Readings:
    case folded, and stripped to the charset.

    ``clovaai`` with filtering: raw labels longer than 25 and labels with a character outside the charset are left out.
    Without (``--data_filtering_off``): every sample stays, other characters are removed. Under 36, readings are
    folded and stripped too, which changes nothing for a model of 36 characters and is what the project's ``--sensitive
    --data_filtering_off`` does for one of 94. Under 94 readings are compared as they are, and labels with a backslash
    are left out: the project puts its characters into a regular expression unescaped, where the backslash is lost.

    ``modelzoo``: lower case. IC03 and IC13 (by the dataset's name): labels shorter than 3 and labels that are not all
    of a-z and 0-9 are left out. All others, like SVT and IIIT5K: every sample stays, other characters are removed.

    Args:
        name: Whose rules.
        charset: Characters that are compared: ``36`` (letters without case, digits), ``62`` or ``94``.
        dataset: Name of the dataset, as in ``PUBLISHED_COUNTS``, or any other.
        filtering: For ``clovaai`` with ``36`` only. ``auto``: off for IC15_2077 and CUTE80, as that project tells its
            users (their labels have special characters, and samples would vanish from the count), else on.

    Raises:
        ConfigError: The project has no such evaluation.
    """
    if charset not in NAMED_CHARSETS:
        raise ConfigError(f"charset is {charset!r}; expected 36, 62 or 94, or use own_protocol for other characters")
    if filtering != "auto" and name != "clovaai":
        raise ConfigError(f"filtering is {filtering!r}, but protocol {name} has no such choice; leave it at 'auto'")
    if name == "parseq":
        return _parseq(charset, dataset)
    if name == "clovaai":
        return _clovaai(charset, dataset, filtering)
    if name == "modelzoo":
        return _modelzoo(charset, dataset)
    if name == "lines":
        return line_protocol(dataset)
    raise ConfigError(f"protocol is {name!r}; expected parseq, clovaai, modelzoo or lines")


class LineProtocol(Protocol):
    """Rules for lines: whole texts with their spaces and marks, in three forms.

    The first is what accuracy and CER are of; runs of spaces are one space in all of them.
    """

    @property
    def forms(self) -> tuple[tuple[str, Callable[[str], str]], ...]:
        """The forms in which texts are compared beside the first, by name."""
        return ("as annotated", _collapsed), ("letters and digits", _letters_and_digits)

    def label(self, raw: str) -> str:
        """The label to compare readings with.

        Raises:
            LabelSkip: Nothing is left of it.
        """
        text = self.prediction(raw)
        if not text:
            raise LabelSkip("empty_label")
        return text

    def prediction(self, text: str) -> str:
        """The form in which a reading is compared; it may be empty."""
        return _collapsed(text).casefold()


def line_protocol(dataset: str = "") -> LineProtocol:
    """Return the rules for lines: case folded, marks and spaces counted, whatever the network can write.

    Beside it the results have texts as annotated, and letters and digits alone (with their spaces).
    """
    return LineProtocol(
        name="lines",
        title="lines, case folded",
        charset=Charset("36"),
        dataset=dataset,
        label_rules=LabelRules(),
        prediction_rules=None,
    )


def _collapsed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _letters_and_digits(text: str) -> str:
    return _collapsed("".join(c for c in text if c.isalnum() or c.isspace())).casefold()


def own_protocol(rules: LabelRules, charset: Charset, dataset: str = "") -> Protocol:
    """PARSeq's way of evaluating, with a model's own charset and label rules: for any script, and while training.

    Two things differ from the rules that the model was trained with. No label is cut or left out for its length: a
    limit that suits the training set would hide the long words that a model cannot read. And readings get the same
    white space, Unicode form and case as labels, so that two spellings of one text are equal.

    Args:
        rules: The model's label rules; ``unknown`` keeps its meaning, ``max_length`` and ``truncate`` are ignored.
        charset: The model's charset.
        dataset: Name of the dataset.
    """
    label_rules = replace(rules, max_length=None)  # without a limit nothing is truncated either
    return Protocol(
        name="parseq",
        title=f"parseq over the model's own {len(charset.characters)} characters",
        charset=charset,
        dataset=dataset,
        label_rules=label_rules,
        prediction_rules=replace(label_rules, unknown="drop_character"),
    )


def expected_count(dataset: str) -> int | None:
    """Number of images in a benchmark set, by its name in any case and with any of ``_``, ``-`` or space, or none.

    Only whole names match: a set of one's own such as ``svt_train`` has no published count.
    """
    name = _published_name(dataset)
    return None if name is None else PUBLISHED_COUNTS[name]


def mean_accuracy(sets: Iterable[TextSums]) -> float:
    """Arithmetic mean of the word accuracies, in [0, 1]: every set weighs the same, whatever its size.

    Papers' "Avg" column. A set without samples has no accuracy and is left out; NaN if none is left.
    """
    accuracies = [sums.accuracy for sums in sets if sums.samples]
    return sum(accuracies) / len(accuracies) if accuracies else math.nan


def combined_accuracy(sets: Iterable[TextSums]) -> float:
    """Word accuracy over the samples of all sets, in [0, 1]: counts are summed before they are divided.

    PARSeq's "Combined" and DTRB's "total_accuracy". NaN if there is no sample.
    """
    return sum(sets, TextSums()).accuracy


def _parseq(charset: CharsetName, dataset: str) -> Protocol:
    prediction_rules = LabelRules(case="lower" if charset == "36" else "keep", unknown="drop_character")
    return Protocol(
        name="parseq",
        title=f"parseq, {charset} characters",
        charset=Charset(charset),
        dataset=dataset,
        label_rules=replace(prediction_rules, whitespace="remove", unicode="ascii", max_length=_MAX_LENGTH),
        prediction_rules=prediction_rules,
    )


def _clovaai(charset: CharsetName, dataset: str, filtering: Filtering) -> Protocol:
    if charset == "94":
        if filtering == "off":
            raise ConfigError(
                "protocol clovaai compares 36 characters when filtering is off, but charset is 94; "
                "set charset to 36 or filtering to 'on'"
            )
        return Protocol(
            name="clovaai",
            title="clovaai, 94 characters",
            charset=Charset(NAMED_CHARSETS["94"].replace("\\", "")),
            dataset=dataset,
            label_rules=LabelRules(unknown="drop_sample", max_length=_MAX_LENGTH),
            prediction_rules=None,
            keep_empty=True,
        )
    if charset != "36":
        raise ConfigError(
            f"protocol clovaai compares 36 or 94 characters, charset is {charset}; use one of these, or parseq"
        )
    if filtering == "auto":
        filtering = "off" if _published_name(dataset) in _SETS_WITH_SPECIALS else "on"
    prediction_rules = LabelRules(case="lower", unknown="drop_character")
    filtered = replace(prediction_rules, unknown="drop_sample", max_length=_MAX_LENGTH)
    return Protocol(
        name="clovaai",
        title=f"clovaai, 36 characters, filtering {filtering}",
        charset=Charset("36"),
        dataset=dataset,
        label_rules=filtered if filtering == "on" else prediction_rules,
        prediction_rules=prediction_rules,
        keep_empty=True,
    )


def _modelzoo(charset: CharsetName, dataset: str) -> Protocol:
    if charset != "36":
        raise ConfigError(f"protocol modelzoo compares 36 characters, charset is {charset}; use 36, or parseq")
    filtered = _IC03_OR_IC13.match(_key(dataset)) is not None
    prediction_rules = LabelRules(case="lower", unknown="drop_character")
    return Protocol(
        name="modelzoo",
        title="modelzoo, alphanumeric words of 3 and more" if filtered else "modelzoo, all words",
        charset=Charset("36"),
        dataset=dataset,
        label_rules=replace(prediction_rules, unknown="drop_sample") if filtered else prediction_rules,
        prediction_rules=prediction_rules,  # changes nothing for models of 36 characters; that project has no others
        min_length=_MODELZOO_MIN_LENGTH if filtered else 0,
        keep_empty=not filtered,
    )


def _published_name(dataset: str) -> str | None:
    return _NAME_BY_KEY.get(_key(dataset))


def _key(dataset: str) -> str:
    return re.sub(r"[\s_-]", "", dataset).casefold()


_IC03_OR_IC13 = re.compile(r"(ic|icdar)(20)?(03|13)")
_WHOLE_IC13 = re.compile(r"(ic|icdar)(20)?13(857|1015|1095)?")
_NAME_BY_KEY = {_key(name): name for name in PUBLISHED_COUNTS} | {_key(alias): name for alias, name in _ALIASES.items()}
