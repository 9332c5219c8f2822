"""Conversion of any reader's samples into a store or folder: parallel, ordered and resumable.

The result depends neither on the number of workers nor on interruptions: the partial store records, with its samples,
the position in the reader and the skips, and the same conversion goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from crnn.data.crops import CropOptions, Prepare, Prepared, Request
from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.list_file import ListWriter
from crnn.data.store import LmdbWriter
from crnn.errors import ConfigError, CrnnError, DataError
from crnn.parallel import ordered_map, usable_cores

LEFT_OUT = frozenset({"not_in_variant", "other_share"})
"""Reasons that the user wished, which are no faults."""

_MAX_EXAMPLES = 5
_MAX_EXAMPLE_LENGTH = 200
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Skips:
    """Samples skipped for one reason: count, first keys, and the first one's fault where the reason is not enough."""

    count: int = 0
    examples: tuple[str, ...] = ()
    message: str = ""

    def plus(self, key: str, message: str) -> Skips:
        """Return the skips with one more."""
        if len(self.examples) == _MAX_EXAMPLES:
            return replace(self, count=self.count + 1)
        return Skips(self.count + 1, (*self.examples, _shortened(key)), self.message or _shortened(message))

    def first(self) -> str:
        """Return the first key and its fault, for messages."""
        key = self.examples[0]
        if not self.message or key in self.message:
            return self.message or key
        return f"{key}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        path: The store or folder, as asked for.
        complete: Whether it is whole; otherwise it was stopped, and the same conversion goes on.
        written: Samples in it.
        skipped: Unusable samples, by reason.
        left_out: Unwanted samples (``LEFT_OUT``), by reason.
        lexicon_words_left_out: Words with white space, which the layout cannot hold.
        lexicons_left_out: Samples whose lexicons a list file cannot hold.
        expected: Samples of the published set, where known.
        begun_at: Samples done by an earlier, stopped conversion.
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
        """Return the result for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Tally:
    """Progress and counts of a conversion: samples done, their checksum, and skips by reason."""

    position: int = 0
    checksum: int = 0
    skips: dict[str, Skips] = field(default_factory=dict)
    lexicon_words_left_out: int = 0
    lexicons_left_out: int = 0

    def done(self, item: Record | Skipped) -> None:
        """Count one more sample of the reader as done."""
        self.position += 1
        self.checksum = mark(item, self.checksum)

    def skip(self, key: str, reason: str, message: str = "") -> None:
        """Count a sample that is skipped."""
        self.skips[reason] = self.skips.get(reason, Skips()).plus(key, message)

    @property
    def bad(self) -> int:
        """Unusable samples, without unwanted ones."""
        return sum(skips.count for reason, skips in self.skips.items() if reason not in LEFT_OUT)

    def to_state(self, settings: Mapping[str, str]) -> bytes:
        """Return the tally and the settings for the partial store."""
        return json.dumps({"version": _VERSION, "settings": dict(settings), "tally": asdict(self)}).encode()

    @classmethod
    def from_state(cls, state: bytes, settings: Mapping[str, str], partial: str) -> Tally:
        """Return the tally of an earlier conversion; ``partial`` names its place in messages.

        Raises:
            DataError: It had other settings, or cannot be parsed.
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

    def skip_done(
        self, items: Iterator[tuple[int, Record | Skipped]], partial: str, stop: Callable[[], object]
    ) -> bool:
        """Drop the samples that are done; return False if asked to stop, raise ``DataError`` if they have changed."""
        checksum = 0
        for count in range(self.position):
            _, item = next(items, (0, None))
            if item is None:
                break
            checksum = mark(item, checksum)
            if count % 4096 == 0 and stop():
                return False
        if checksum != self.checksum:
            raise DataError(
                f"{partial}: the first {self.position} samples of the source are not what they were when this was "
                "begun. Begin anew with --restart"
            )
        return True


def summary(done: Conversion) -> str:
    """Return lines for the user: samples written, skipped and left out, by reason."""
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
    """Return the checksum with one more sample."""
    text = f"{item.label}\t{item.region}" if isinstance(item, Record) else item.reason
    return zlib.crc32(f"{item.key}\t{text}\n".encode("utf-8", "surrogatepass"), checksum)


def _shortened(text: str) -> str:
    # Keys of files whose names are not UTF-8 have half surrogates, which JSON keeps and terminals do not print.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_EXAMPLE_LENGTH else text[: _MAX_EXAMPLE_LENGTH - 3] + "..."


_COMMIT_BYTES, _COMMIT_SAMPLES, _COMMIT_SECONDS = 32 << 20, 10_000, 10.0
_JOB_RECORDS, _JOB_ITEMS = 128, 4096
_JOBS_AHEAD = 4  # per worker, finished or not
_HEAVIER = 2  # work of a scene's word against a whole image; memory of a record with lexicons against one without
_MAX_SCENE_RECORDS = 512  # words of one scene that go to one worker; for more than these it is decoded again
_FEW_SAMPLES = 200  # done before worker processes would have started
_SHARE_FROM = 1000  # samples that a share of bad ones is told from, before the end


def convert(
    readers: Reader | Sequence[Reader],
    path: str,
    *,
    to: Literal["lmdb", "list"] = "lmdb",
    images: CropOptions | None = None,
    origin: Mapping[str, object] | None = None,
    expected: int | None = None,
    workers: int | None = None,
    max_bad_share: float = 0.1,
    restart: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    stop: Callable[[], object] = lambda: False,
) -> Conversion:
    """Write the samples of one reader, or of several in turn.

    The partial result, ``path`` with ``.partial`` at the end, stays when the conversion stops or fails, and the same
    conversion goes on with it. Worker processes are spawned: in a script, call this under ``if __name__ ==
    "__main__"``.

    Args:
        readers: The samples.
        path: The store or folder to write; it must not exist yet, or be empty.
        to: ``lmdb``, or ``list`` for image folders with a list file.
        images: Treatment of the images.
        origin: Everything else that decides the result (format, source, reader's options), compared as text before
            going on with a partial result.
        expected: Samples of the published set, for the summary.
        workers: Processes; 0: none. Default: one per core, 0 for few samples.
        max_bad_share: In [0, 1]; a larger share of unusable samples is an error.
        restart: Discard a partial result.
        progress: Called with the number of samples done since the last call, those of an earlier conversion included.
        stop: Polled; once true, the conversion ends and keeps its partial result.

    Returns:
        The result; not ``complete`` after ``stop``.

    Raises:
        ConfigError: A setting has an impossible value.
        DataError: ``path`` is not empty, or another conversion is at it; the partial result has other settings or
            another source; too many samples are unusable, or all; the disk is full; a worker process died.
        MissingExtraError: The package ``lmdb`` is not installed.
    """
    if to not in ("lmdb", "list"):
        raise ConfigError(f"to is {to!r}; expected lmdb or list")
    if not 0 <= max_bad_share <= 1:
        raise ConfigError(f"max_bad_share is {max_bad_share}; expected a share from 0 to 1")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more processes")
    readers = [readers] if isinstance(readers, Reader) else list(readers)
    images = images or CropOptions()
    total = sum(len(reader) for reader in readers)
    if workers is None:
        workers = 0 if total < _FEW_SAMPLES else usable_cores()
    origin = {"roots": [str(reader.root) for reader in readers]} if origin is None else origin
    settings = {key: str(value) for key, value in {**origin, "to": to, **asdict(images), "samples": total}.items()}
    writer = ListWriter(path) if to == "list" else LmdbWriter(path, keep_partial=True)
    if restart:
        writer.discard_earlier()
    tally = Tally()
    with writer:
        partial = f"{path}.partial"
        if writer.state is not None:
            tally = Tally.from_state(writer.state, settings, partial)
        begun_at = tally.position
        progress(begun_at)
        items = ((number, item) for number, reader in enumerate(readers) for item in reader)
        complete = tally.skip_done(items, partial, stop)
        if complete:
            prepare = Prepare([reader.image_source() for reader in readers], images)
            try:
                jobs = _prepared_jobs(items, prepare, workers)
                complete = _write(writer, jobs, tally, settings, total, max_bad_share, progress, stop)
            except CrnnError:
                # Raised between two samples: those done can be committed. If that fails, the last commit remains.
                with contextlib.suppress(CrnnError):
                    writer.commit(tally.to_state(settings))
                raise
        if not complete or not writer.num_samples:
            writer.pause()
    if complete and not writer.num_samples:
        writer.discard_earlier()
        raise DataError(f"{path}: none of {total} samples can be written{_reasons(tally)}")
    skips = tally.skips
    return Conversion(
        path=writer.path,
        complete=complete,
        written=writer.num_samples,
        skipped={reason: skips[reason] for reason in sorted(skips) if reason not in LEFT_OUT},
        left_out={reason: skips[reason] for reason in sorted(skips) if reason in LEFT_OUT},
        lexicon_words_left_out=tally.lexicon_words_left_out,
        lexicons_left_out=tally.lexicons_left_out,
        expected=expected,
        begun_at=begun_at,
        total=total,
    )


def _write(
    writer: LmdbWriter | ListWriter,
    jobs: Generator[list[tuple[Record | Skipped, Prepared | None]], None, None],
    tally: Tally,
    settings: Mapping[str, str],
    total: int,
    max_bad_share: float,
    progress: Callable[[int], None],
    stop: Callable[[], object],
) -> bool:
    """Write the remaining samples, job by job; return False if asked to stop."""
    committed_samples, committed_at = writer.num_samples, time.monotonic()
    with contextlib.closing(jobs):
        while not (stopped := bool(stop())) and (job := next(jobs, None)) is not None:
            for item, prepared in job:
                if isinstance(item, Skipped):
                    tally.skip(item.key, item.reason)
                else:
                    assert prepared is not None
                    _add(writer, item, prepared, tally)
                tally.done(item)
            progress(len(job))
            _check_share(writer.path, tally, total, max_bad_share)
            if (
                writer.pending_bytes >= _COMMIT_BYTES
                or writer.num_samples - committed_samples >= _COMMIT_SAMPLES
                or time.monotonic() - committed_at >= _COMMIT_SECONDS
            ):
                writer.commit(tally.to_state(settings))
                committed_samples, committed_at = writer.num_samples, time.monotonic()
    if stopped:
        writer.commit(tally.to_state(settings))
        return False
    return True


def _prepared_jobs(
    items: Iterator[tuple[int, Record | Skipped]], prepare: Prepare, workers: int
) -> Generator[list[tuple[Record | Skipped, Prepared | None]], None, None]:
    """Yield the items of each job in order, records with their image."""
    drawn: deque[list[Record | Skipped]] = deque()

    def requests() -> Iterator[list[Request]]:
        for job in _jobs(items):
            drawn.append([item for _, item in job])
            yield [Request(source, item.path, item.region) for source, item in job if isinstance(item, Record)]

    results = ordered_map(prepare, requests(), workers=workers, ahead=_JOBS_AHEAD * workers, kind="processes")
    with contextlib.closing(results):
        for job_results in results:
            images = iter(job_results)
            yield [(item, next(images) if isinstance(item, Record) else None) for item in drawn.popleft()]


def _jobs(items: Iterable[tuple[int, Record | Skipped]]) -> Iterator[list[tuple[int, Record | Skipped]]]:
    """Yield the items in parts for one worker, the words of a scene together."""
    job: list[tuple[int, Record | Skipped]] = []
    num_records = 0
    scene: tuple[int, str] | None = None
    for source, item in items:
        if isinstance(item, Record):
            heavy = bool(item.region or item.lexicon or item.large_lexicon)
            full = num_records >= (_JOB_RECORDS // _HEAVIER if heavy else _JOB_RECORDS)
            same_scene = item.region is not None and (source, item.path) == scene
            if num_records and full and (not same_scene or num_records >= _MAX_SCENE_RECORDS):
                yield job
                job, num_records = [], 0
            num_records += 1
            scene = (source, item.path)
        job.append((source, item))
        if len(job) - num_records >= _JOB_ITEMS:  # so many that are skipped that they must not pile up
            yield job
            job, num_records, scene = [], 0, None
    if job:
        yield job


def _add(writer: LmdbWriter | ListWriter, record: Record, prepared: Prepared, tally: Tally) -> None:
    keeps_lexicons = isinstance(writer, LmdbWriter)
    reason = prepared.reason
    if not reason and not _is_text(record.label):
        reason = "encoding"
    # With a NUL the whole list would be no text.
    if not (reason or keeps_lexicons) and ("\n" in record.label or "\0" in record.label or record.label.endswith("\r")):
        reason = "line_break"
    if reason:
        tally.skip(record.key, reason, prepared.message)
        return
    lexicon, large_lexicon = (
        tuple(word for word in words if word.split() == [word] and _is_text(word))
        for words in (record.lexicon, record.large_lexicon)
    )
    writer.add(
        prepared.image,
        record.label,
        lexicon=lexicon or None,
        large_lexicon=large_lexicon or None,
        size=(prepared.width, prepared.height),
    )
    tally.lexicon_words_left_out += len(record.lexicon) + len(record.large_lexicon) - len(lexicon) - len(large_lexicon)
    tally.lexicons_left_out += bool(lexicon or large_lexicon) and not keeps_lexicons


def _check_share(path: str, tally: Tally, total: int, max_bad_share: float) -> None:
    if tally.bad > max_bad_share * max(tally.position, min(total, _SHARE_FROM)):
        raise DataError(
            f"{path}: {tally.bad} of {tally.position} samples cannot be used, more than the share of {max_bad_share} "
            f"that is allowed{_reasons(tally)}. Correct the source and begin anew with --restart, or raise "
            "--max-bad-share to go on"
        )


def _reasons(tally: Tally) -> str:
    """Return the commonest reasons of skips with an example each."""
    found = sorted(tally.skips.items(), key=lambda entry: -entry[1].count)
    shown = [f"{skips.count} {reason} ({skips.first()})" for reason, skips in found[:3]]
    return ": " + "; ".join(shown) if shown else ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
