"""Any reader's samples into a store or a folder: in several processes, in order, and going on where it was killed.

::

    reader --records--> jobs --> worker processes (crnn.data.crops) --in order--> one of two writers

What is written does not depend on the number of workers, nor on how often it was stopped. The partial store holds, in
the same transaction as its samples, how far the reader was read and what was skipped until then; a conversion with the
same settings goes on from there. Nothing is skipped in silence: ``Conversion`` counts by reason, with examples.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

from crnn.data.crops import PictureSettings, PictureSource, Prepare, Prepared, Request
from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.list_file import ListWriter
from crnn.data.store import LmdbWriter
from crnn.errors import ConfigError, CrnnError, DataError
from crnn.files import PictureFolder
from crnn.parallel import prepare_in_order, usable_cores

__all__ = ["LEFT_OUT", "Conversion", "Skips", "Tally", "convert", "summary"]


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


# ----------------------------------------------------------------------------------------------------
# convert

_COMMIT_BYTES, _COMMIT_SAMPLES, _COMMIT_SECONDS = 32 << 20, 10_000, 10.0
_JOB_RECORDS, _JOB_ITEMS = 512, 4096
_HEAVIER = 8  # a word of a scene than a whole picture, in work; a record with lexicons than one without, in memory
_MAX_SCENE_RECORDS = 512  # words of one scene that go to one worker; for more than these it is decoded again
_FEW_SAMPLES = 200  # done before worker processes would have started
_SHARE_FROM = 1000  # samples that a share of bad ones is told from, before the end


def convert(
    readers: Reader | Sequence[Reader],
    path: str,
    *,
    to: Literal["lmdb", "list"] = "lmdb",
    pictures: PictureSettings | None = None,
    origin: Mapping[str, object] | None = None,
    expected: int | None = None,
    workers: int | None = None,
    max_bad_share: float = 0.1,
    restart: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    stop: Callable[[], object] = lambda: False,
) -> Conversion:
    """Write the samples of one reader, or of several one after the other.

    The partial result, ``path`` with ``.partial`` at the end, stays when the conversion is stopped or fails, and the
    same conversion goes on with it. Worker processes are started afresh: in a program of one's own, call this under
    ``if __name__ == "__main__"``.

    Args:
        readers: The samples. A reader with a method ``picture_bytes(path)`` gives the bytes itself (it is pickled);
            otherwise the pictures are files below its root.
        path: The store or folder to write; it must not exist yet, or be empty.
        to: ``lmdb``, or ``list`` for pictures in folders with a list file.
        pictures: What happens to the pictures.
        origin: What else decides what is written (format, source, options of the reader), so that a partial result of
            something else is not gone on with. Values are compared as text.
        expected: Samples that the published set has, for the summary.
        workers: Processes; 0: all in this one. Default: one per core, 0 for few samples.
        max_bad_share: In [0, 1]; a larger share of unusable samples is an error.
        restart: Throw a partial result away.
        progress: Called with the number of samples done since it was called before; those of an earlier conversion
            count too.
        stop: Asked now and then; once it is true, what is done is kept and the conversion ends.

    Returns:
        What was done; not ``complete`` after ``stop``.

    Raises:
        ConfigError: A setting has an impossible value.
        DataError: ``path`` has something in it, or another conversion is at it; a partial result has other settings, or
            its source was changed; too many samples are unusable, or all; the disk is full; a worker process died.
        MissingExtraError: The package ``lmdb`` is not installed.
    """
    if to not in ("lmdb", "list"):
        raise ConfigError(f"to is {to!r}; expected lmdb or list")
    if not 0 <= max_bad_share <= 1:
        raise ConfigError(f"max_bad_share is {max_bad_share}; expected a share from 0 to 1")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more processes")
    readers = list(readers) if isinstance(readers, list | tuple) else [cast("Reader", readers)]
    pictures = pictures or PictureSettings()
    total = sum(len(reader) for reader in readers)
    if workers is None:
        workers = 0 if total < _FEW_SAMPLES else usable_cores()
    origin = {"roots": [str(reader.root) for reader in readers]} if origin is None else origin
    settings = {key: str(value) for key, value in {**origin, "to": to, **asdict(pictures), "samples": total}.items()}
    writer = ListWriter(path) if to == "list" else LmdbWriter(path, keep_partial=True)
    if restart:
        writer.discard_earlier()
    run = _Run(writer, readers, settings, total, keeps_lexicons=to == "lmdb")
    run.max_bad_share, run.progress, run.stop = max_bad_share, progress, stop
    complete = run.go(Prepare([_source(reader) for reader in readers], pictures), workers)
    return run.summary(complete=complete, expected=expected)


def _source(reader: Reader) -> PictureSource:
    given: PictureSource | None = getattr(reader, "picture_bytes", None)
    return PictureFolder(reader.root).read if given is None else given


class _StopAsked(Exception):  # noqa: N818 - no error
    pass


class _Run:
    """One conversion, from its partial result to the end or as far as it comes."""

    max_bad_share = 1.0
    progress: Callable[[int], None]
    stop: Callable[[], object]

    def __init__(
        self,
        writer: LmdbWriter | ListWriter,
        readers: Sequence[Reader],
        settings: Mapping[str, str],
        total: int,
        *,
        keeps_lexicons: bool,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._settings = settings
        self._total = total
        self._keeps_lexicons = keeps_lexicons
        self._partial = f"{writer.path}.partial"
        self._tally = Tally()
        self._begun_at = 0
        self._waiting: deque[Record | Skipped] = deque()
        """Taken from the readers and not done yet; no more than is in the hands of the workers."""
        self._committed_samples = 0
        self._committed_at = time.monotonic()

    def go(self, prepare: Prepare, workers: int) -> bool:
        """Convert; ``False`` if asked to stop before the end."""
        try:
            with self._writer:
                if self._writer.state is not None:
                    self._tally = Tally.from_state(self._writer.state, self._settings, self._partial)
                self._begun_at = self._tally.position
                self._committed_samples = self._writer.num_samples
                self.progress(self._begun_at)
                try:
                    self._convert(prepare, workers)
                except (CrnnError, _StopAsked):
                    # These come between two samples, so that what is done can be kept; if this fails, what was kept
                    # before is still there.
                    with contextlib.suppress(CrnnError):
                        self._commit()
                    raise
        except _StopAsked:
            return False
        except _NothingUsableError:
            self._writer.discard_earlier()
            raise
        return True

    def summary(self, *, complete: bool, expected: int | None) -> Conversion:
        skips = self._tally.skips
        return Conversion(
            path=self._writer.path,
            complete=complete,
            written=self._writer.num_samples,
            skipped={reason: skips[reason] for reason in sorted(skips) if reason not in LEFT_OUT},
            left_out={reason: skips[reason] for reason in sorted(skips) if reason in LEFT_OUT},
            lexicon_words_left_out=self._tally.lexicon_words_left_out,
            lexicons_left_out=self._tally.lexicons_left_out,
            expected=expected,
            begun_at=self._begun_at,
            total=self._total,
        )

    def _convert(self, prepare: Prepare, workers: int) -> None:
        results = prepare_in_order(prepare, self._jobs(), workers, wake=self._wake)
        with contextlib.closing(results):
            for part in results:
                before = self._tally.position
                self._store(part)
                self.progress(self._tally.position - before)
                self._check_share()
                self._commit_if_due()
        self._check_share()
        if self._writer.num_samples == 0:
            raise _NothingUsableError(
                f"{self._writer.path}: none of {self._total} samples can be written{self._reasons()}"
            )

    def _wake(self) -> None:
        if self.stop():
            raise _StopAsked

    def _jobs(self) -> Iterator[list[Request]]:
        """What is still to be done, the words of a scene together."""
        items = ((number, item) for number, reader in enumerate(self._readers) for item in reader)
        for _ in self._tally.skip_done(items, self._partial):
            self._wake()
        job: list[Request] = []
        taken = 0
        for source, item in items:
            if isinstance(item, Record):
                request = Request(source, item.path, item.region)
                if job and _is_full(job, request, heavy=bool(item.region or item.lexicon or item.large_lexicon)):
                    yield job
                    job, taken = [], 0
                job.append(request)
            self._waiting.append(item)
            taken += 1
            if taken - len(job) >= _JOB_ITEMS:  # so many that are skipped that they must not pile up
                yield job
                job, taken = [], 0
        yield job

    def _store(self, part: Sequence[Prepared]) -> None:
        waiting = self._waiting
        for prepared in part:
            if not isinstance(waiting[0], Record):
                self._store_skipped()
            record = waiting[0]
            assert isinstance(record, Record)
            self._add(record, prepared)
            self._tally.done(record)
            waiting.popleft()
        self._store_skipped()

    def _store_skipped(self) -> None:
        while self._waiting and isinstance(item := self._waiting[0], Skipped):
            self._tally.skip(item.key, item.reason)
            self._tally.done(item)
            self._waiting.popleft()

    def _add(self, record: Record, prepared: Prepared) -> None:
        reason = prepared.reason or self._unfit(record.label)
        if reason:
            self._tally.skip(record.key, reason, prepared.message)
            return
        size = (prepared.width, prepared.height)
        if not (record.lexicon or record.large_lexicon):
            self._writer.add(prepared.image, record.label, size=size)
            return
        lexicon, large = self._fit_words(record.lexicon), self._fit_words(record.large_lexicon)
        self._writer.add(prepared.image, record.label, lexicon=lexicon or None, large_lexicon=large or None, size=size)
        self._tally.lexicon_words_left_out += len(record.lexicon) - len(lexicon)
        self._tally.lexicon_words_left_out += len(record.large_lexicon) - len(large)
        if (lexicon or large) and not self._keeps_lexicons:
            self._tally.lexicons_left_out += 1

    def _unfit(self, label: str) -> str:
        if not _is_text(label):
            return "encoding"
        # A NUL would make the whole list something else than a text.
        fits = self._keeps_lexicons or not ("\n" in label or "\0" in label or label.endswith("\r"))
        return "" if fits else "line_break"

    def _fit_words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word for word in words if word.split() == [word] and _is_text(word))

    def _check_share(self) -> None:
        seen = max(self._tally.position, min(self._total, _SHARE_FROM))
        if self._tally.bad > self.max_bad_share * seen:
            raise DataError(
                f"{self._writer.path}: {self._tally.bad} of {self._tally.position} samples cannot be used, more than "
                f"the share of {self.max_bad_share} that is allowed{self._reasons()}. Correct the source and begin "
                "anew with --restart, or raise --max-bad-share to go on"
            )

    def _reasons(self) -> str:
        """What was skipped, for messages: the commonest reasons with an example each."""
        found = sorted(self._tally.skips.items(), key=lambda entry: -entry[1].count)
        shown = [f"{skips.count} {reason} ({skips.first()})" for reason, skips in found[:3]]
        return ": " + "; ".join(shown) if shown else ""

    def _commit_if_due(self) -> None:
        if (
            self._writer.pending_bytes >= _COMMIT_BYTES
            or self._writer.num_samples - self._committed_samples >= _COMMIT_SAMPLES
            or time.monotonic() - self._committed_at >= _COMMIT_SECONDS
        ):
            self._commit(wait=False)

    def _commit(self, *, wait: bool = True) -> None:
        self._writer.commit(self._tally.to_state(self._settings), wait=wait)
        self._committed_samples = self._writer.num_samples
        self._committed_at = time.monotonic()


class _NothingUsableError(DataError):
    pass


def _is_full(job: Sequence[Request], following: Request, *, heavy: bool) -> bool:
    """Whether a job ends before what follows it, which is heavier than a whole picture or not."""
    if len(job) < (_JOB_RECORDS // _HEAVIER if heavy else _JOB_RECORDS):
        return False
    same_scene = following.region is not None and following[:2] == job[-1][:2]
    return not same_scene or len(job) >= _MAX_SCENE_RECORDS


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
