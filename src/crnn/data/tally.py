"""How far a conversion has come and what it skipped: counted, shown, and kept in the partial store to go on from."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from crnn.data.formats.record import Record, Skipped
from crnn.errors import DataError

__all__ = ["LEFT_OUT", "Conversion", "Skips", "Tally", "summary"]

LEFT_OUT = frozenset({"not_in_variant", "other_share"})
"""Reasons that are wishes of whoever converts, and no faults of a sample."""

_MAX_EXAMPLES = 5
_MAX_EXAMPLE_LENGTH = 200
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Skips:
    """Samples that were skipped for one reason.

    Attributes:
        count: How many.
        examples: Keys of the first ones.
        message: What was wrong with the first one, where there is more to say than the reason.
    """

    count: int = 0
    examples: tuple[str, ...] = ()
    message: str = ""

    def plus(self, key: str, message: str) -> Skips:
        """With one more."""
        if len(self.examples) == _MAX_EXAMPLES:
            return replace(self, count=self.count + 1)
        return Skips(self.count + 1, (*self.examples, _shortened(key)), self.message or _shortened(message))

    def first(self) -> str:
        """The first one and what was wrong with it, for messages."""
        key = self.examples[0]
        if not self.message or key in self.message:
            return self.message or key
        return f"{key}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Attributes:
        path: The store or folder, as it was asked for.
        complete: Whether it is whole; otherwise it was asked to stop, and the same conversion goes on.
        written: Samples in it.
        skipped: What could not be used, by reason.
        left_out: What was not wanted (``LEFT_OUT``), by reason.
        lexicon_words_left_out: Words with white space in them, which the layout cannot hold.
        lexicons_left_out: Samples whose lexicons a list file has no place for.
        expected: Samples that the published set has, where it is known.
        begun_at: Samples of the reader that an earlier, stopped conversion had done.
        total: Samples of the reader.
    """

    path: str
    complete: bool
    written: int
    skipped: dict[str, Skips]
    left_out: dict[str, Skips]
    lexicon_words_left_out: int
    lexicons_left_out: int
    expected: int | None
    begun_at: int
    total: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True)
class Tally:
    """What was done with the samples of a reader so far.

    Attributes:
        position: Samples taken from the reader and done.
        checksum: Over what the reader said of them.
        skips: What was skipped, by reason.
        lexicon_words_left_out: Words that the layout cannot hold.
        lexicons_left_out: Samples whose lexicons a list file has no place for.
    """

    position: int = 0
    checksum: int = 0
    skips: dict[str, Skips] = field(default_factory=dict)
    lexicon_words_left_out: int = 0
    lexicons_left_out: int = 0

    def done(self, item: Record | Skipped) -> None:
        """One more sample of the reader is done."""
        self.position += 1
        self.checksum = mark(item, self.checksum)

    def skip(self, key: str, reason: str, message: str = "") -> None:
        """Count a sample that is skipped."""
        self.skips[reason] = self.skips.get(reason, Skips()).plus(key, message)

    @property
    def bad(self) -> int:
        """Samples that could not be used; those that were not wanted are none of them."""
        return sum(skips.count for reason, skips in self.skips.items() if reason not in LEFT_OUT)

    def to_state(self, settings: Mapping[str, str]) -> bytes:
        """For the partial store, together with what it was begun with."""
        return json.dumps({"version": _VERSION, "settings": dict(settings), "tally": asdict(self)}).encode()

    @classmethod
    def from_state(cls, state: bytes, settings: Mapping[str, str], partial: str) -> Tally:
        """What an earlier conversion left.

        Args:
            state: From ``to_state``.
            settings: Of this conversion.
            partial: Where the state is, as messages say it.

        Raises:
            DataError: It had other settings, or cannot be understood.
        """
        try:
            values = json.loads(state)
            if values["version"] != _VERSION:
                raise ValueError(f"version {values['version']}")
            begun, tally = values["settings"], values["tally"]
            skips = {
                reason: Skips(int(found["count"]), tuple(found["examples"]), found["message"])
                for reason, found in tally.pop("skips").items()
            }
            result = cls(**tally, skips=skips)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{partial}: was left by another version of this program ({error}); expected one to go on with. "
                "Begin anew with --restart"
            ) from error
        keys = [key for key in {**begun, **settings} if begun.get(key) != settings.get(key)]
        if keys:
            clash = ", ".join(
                f"{key} {begun.get(key, 'not given')} (now {settings.get(key, 'not given')})" for key in keys
            )
            raise DataError(
                f"{partial}: was begun with {clash}. Give the settings of then to go on, or begin anew with --restart"
            )
        return result

    def skip_done(self, items: Iterator[tuple[int, Record | Skipped]], partial: str) -> Iterator[None]:
        """Take what is done already from the samples of a reader.

        Yields:
            Now and then, so that the caller may look up.

        Raises:
            DataError: The reader does not say what it said then.
        """
        checksum = 0
        for count in range(self.position):
            _, item = next(items, (0, None))
            if item is None:
                break
            checksum = mark(item, checksum)
            if count % 4096 == 0:
                yield
        if checksum != self.checksum:
            raise DataError(
                f"{partial}: the first {self.position} samples of the source are not what they were when this was "
                "begun. Begin anew with --restart"
            )


def summary(done: Conversion) -> str:
    """What a person wants to know of a conversion: what was written, and what was not, by reason."""
    counts = f"{done.path}: {done.written} samples written"
    if done.expected is not None:
        counts += f"; the published set has {done.expected}"
        difference = done.written - done.expected
        counts += "" if difference == 0 else f", {abs(difference)} {'more' if difference > 0 else 'fewer'}"
    lines = [counts]
    lines += [_line("skipped", reason, skips) for reason, skips in done.skipped.items()]
    lines += [_line("left out", reason, skips) for reason, skips in done.left_out.items()]
    if done.lexicon_words_left_out:
        lines.append(f"  {done.lexicon_words_left_out} lexicon words left out: they have white space in them")
    if done.lexicons_left_out:
        lines.append(f"  the lexicons of {done.lexicons_left_out} samples left out: a list has no place for them")
    return "\n".join(lines)


def _line(what: str, reason: str, skips: Skips) -> str:
    more = ", ..." if skips.count > len(skips.examples) else ""
    return f"  {what} {skips.count}: {reason} ({', '.join(skips.examples)}{more})"


def mark(item: Record | Skipped, checksum: int) -> int:
    """The checksum with one more sample."""
    text = f"{item.label}\t{item.region}" if isinstance(item, Record) else item.reason
    return zlib.crc32(f"{item.key}\t{text}\n".encode("utf-8", "surrogatepass"), checksum)


def _shortened(text: str) -> str:
    # Keys of files whose names are not UTF-8 have half surrogates, which JSON keeps and terminals do not print.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_EXAMPLE_LENGTH else text[: _MAX_EXAMPLE_LENGTH - 3] + "..."
