"""Conversion of any reader's samples into a store or folder: parallel, ordered and resumable.

The result depends neither on the number of workers nor on interruptions: the partial store records, with its samples,
the position in the reader and the skips, and the same conversion goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from crnn.config.section import checked_call
from crnn.data.crops import CropOptions, ImageReader, Prepared, prepare
from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.list_file import ListWriter
from crnn.data.store import LmdbWriter
from crnn.errors import ConfigError, CrnnError, DataError, printable
from crnn.files import not_utf8
from crnn.parallel import ordered_map, usable_cores

# Reasons that are no faults of samples: the user's wishes, and what a store says.
_LEFT_OUT = frozenset({"not_in_variant", "other_share", "beyond_num_samples"})
_MAX_EXAMPLES = 5
_VERSION = 1

_COMMIT_BYTES, _COMMIT_SAMPLES, _COMMIT_SECONDS = 32 << 20, 10_000, 10.0
_JOB_SIZE = 128  # whole images of one job; a skipped sample counts as a thirtieth of one
_HEAVY = 2  # work of a scene's word, and memory of a record with lexicons, in whole images
_SCENE_JOBS = 8  # jobs that are made one for the words of one scene, which is decoded again for more than these
_JOBS_AHEAD = 4  # per worker, finished or not
_FEW_SAMPLES = 200  # done before worker processes would have started
_SHARE_FROM = 1000  # samples that a share of bad ones is told from, before the end


@dataclass(slots=True)
class Skips:
    """Samples skipped for one reason: count, first keys, and the first one's fault where the reason is not enough."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Result of a conversion."""

    path: str  # as asked for
    complete: bool  # otherwise it was stopped, and the same conversion goes on
    written: int  # samples in it
    skipped: dict[str, Skips]  # unusable samples, by reason
    left_out: dict[str, Skips]  # samples left out for no fault of theirs, by reason
    lexicon_words_left_out: int  # words with white space, which the layout cannot hold
    lexicons_left_out: int  # samples whose lexicons a list file cannot hold
    expected: int | None  # samples of the published set, where known
    begun_at: int  # samples done by an earlier, stopped conversion
    total: int  # samples of the reader


@checked_call
def convert(
    readers: Reader | Sequence[Reader],
    path: str | os.PathLike[str],
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
    """Write the samples of one reader, or of several in turn, into a new or empty folder.

    The partial result, ``path`` with ``.partial`` at the end, stays when the conversion stops or fails, and the same
    conversion goes on with it. Processes are spawned: in a script, call this under ``if __name__ == "__main__"``.

    Args:
        readers: The samples.
        path: The folder.
        to: ``lmdb``, or ``list`` for image folders with a list file.
        images: Treatment of the images.
        origin: Everything else that decides the result (format, source, reader's options), compared as text before
            going on with a partial result.
        expected: Samples of the published set, for the summary.
        workers: Processes; 0: none. Default: one per core, 0 for few samples.
        max_bad_share: In [0, 1]; a larger share of unusable samples is an error.
        restart: Discard a partial result.
        progress: Called with the number of samples done since the last call, those of an earlier conversion included.
        stop: Polled; once true, the conversion ends and keeps its partial result, which is not ``complete``.

    Raises:
        DataError: ``path`` is not empty, or another conversion is at it; the partial result has other settings or
            another source; too many samples are unusable, or all; the disk is full; a worker process died.
    """
    if not 0 <= max_bad_share <= 1:
        raise ConfigError(f"max_bad_share is {max_bad_share}; expected a share from 0 to 1")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more processes")
    path = os.fspath(path)
    readers = [readers] if isinstance(readers, Reader) else list(readers)
    images = images or CropOptions()
    total = sum(len(reader) for reader in readers)
    if workers is None:
        workers = 0 if total < _FEW_SAMPLES else usable_cores()
    origin = {"roots": [str(reader.root) for reader in readers]} if origin is None else origin
    settings = {key: str(value) for key, value in {**origin, "to": to, **asdict(images), "samples": total}.items()}
    sources = [reader.image_source() for reader in readers]
    writer = ListWriter(path) if to == "list" else LmdbWriter(path)
    if restart:
        writer.discard_earlier()
    with writer:
        tally = _Tally() if writer.state is None else _Tally.from_state(writer.state, settings, f"{path}.partial")
        begun_at = tally.position
        progress(begun_at)
        items = ((number, item) for number, reader in enumerate(readers) for item in reader)
        complete = tally.skip_done(items, f"{path}.partial", stop)
        written, committed_at = writer.num_samples, time.monotonic()
        try:
            with contextlib.closing(_prepared_jobs(items, sources, images, workers)) as jobs:
                while complete and (job := next(jobs, None)) is not None:
                    for item, prepared in job:
                        tally.write(writer, item, prepared)
                    progress(len(job))
                    tally.check_share(path, total, max_bad_share)
                    complete = not stop()
                    if (
                        not complete
                        or writer.pending_bytes >= _COMMIT_BYTES
                        or writer.num_samples - written >= _COMMIT_SAMPLES
                        or time.monotonic() - committed_at >= _COMMIT_SECONDS
                    ):
                        writer.commit(tally.to_state(settings))
                        written, committed_at = writer.num_samples, time.monotonic()
        except CrnnError:
            # Raised between two samples: those done can be committed. If that fails, the last commit remains.
            with contextlib.suppress(CrnnError):
                writer.commit(tally.to_state(settings))
            raise
        if not complete or not writer.num_samples:
            writer.pause()
    if complete and not writer.num_samples:
        writer.discard_earlier()
        raise DataError(f"{path}: none of {total} samples can be written{tally.reasons()}")
    skips = dict(sorted(tally.skips.items()))
    return Conversion(
        path=writer.path,
        complete=complete,
        written=writer.num_samples,
        skipped={reason: found for reason, found in skips.items() if reason not in _LEFT_OUT},
        left_out={reason: found for reason, found in skips.items() if reason in _LEFT_OUT},
        lexicon_words_left_out=tally.lexicon_words_left_out,
        lexicons_left_out=tally.lexicons_left_out,
        expected=expected,
        begun_at=begun_at,
        total=total,
    )


def _prepared_jobs(
    items: Iterator[tuple[int, Record | Skipped]], sources: Sequence[ImageReader], images: CropOptions, workers: int
) -> Generator[list[tuple[Record | Skipped, Prepared | None]], None, None]:
    """Yield the items of each job in order, records with their image."""
    jobs, ahead = itertools.tee(_jobs(items))
    requests = ([(source, item.path, item.region) for source, item in job if isinstance(item, Record)] for job in ahead)
    function = functools.partial(prepare, sources, images)
    results = ordered_map(function, requests, workers=workers, ahead=_JOBS_AHEAD * workers, kind="processes")
    with contextlib.closing(results):
        for result, job in zip(results, jobs, strict=True):
            prepared = iter(result)
            yield [(item, next(prepared) if isinstance(item, Record) else None) for _, item in job]


def _jobs(items: Iterable[tuple[int, Record | Skipped]]) -> Iterator[list[tuple[int, Record | Skipped]]]:
    """Yield the items in parts for one worker, the words of a scene together."""
    job: list[tuple[int, Record | Skipped]] = []
    size = 0.0
    scene: tuple[int, str] | None = None
    for source, item in items:
        cost, limit = 1 / 30, _JOB_SIZE
        if isinstance(item, Record):
            cost = _HEAVY if item.region or item.lexicon or item.large_lexicon else 1
            if item.region and scene == (source, item.path):
                limit *= _SCENE_JOBS
            scene = (source, item.path)
        if size >= limit:
            yield job
            job, size = [], 0.0
        job.append((source, item))
        size += cost
    if job:
        yield job


@dataclass(slots=True)
class _Tally:
    """Progress and counts of a conversion: samples done, their checksum, and skips by reason."""

    position: int = 0
    checksum: int = 0
    skips: dict[str, Skips] = field(default_factory=dict)
    lexicon_words_left_out: int = 0
    lexicons_left_out: int = 0

    def write(self, writer: LmdbWriter | ListWriter, item: Record | Skipped, prepared: Prepared | None) -> None:
        """Write a sample or count its skip."""
        if isinstance(item, Skipped):
            self._skip(item.key, item.reason)
        elif prepared is not None:
            self._add(writer, item, prepared)
        self.position += 1  # only now: an error of the writer is raised for a sample that is not done
        self.checksum = _mark(item, self.checksum)

    def _add(self, writer: LmdbWriter | ListWriter, item: Record, prepared: Prepared) -> None:
        keeps_lexicons = isinstance(writer, LmdbWriter)
        label, reason = item.label, prepared.reason
        if not reason and not_utf8(label):
            reason = "encoding"
        # With a NUL the whole list would be no text.
        if not (reason or keeps_lexicons) and (any(c in label for c in "\n\0\t") or label.endswith("\r")):
            reason = "tab" if "\t" in label else "line_break"
        if reason:
            self._skip(item.key, reason, prepared.message)
            return
        lexicon, large_lexicon = (
            [word for word in words if word.split() == [word] and not not_utf8(word)]
            for words in (item.lexicon, item.large_lexicon)
        )
        size = (prepared.width, prepared.height)
        writer.add(prepared.image, label, lexicon=lexicon, large_lexicon=large_lexicon, size=size)
        kept = len(lexicon) + len(large_lexicon)
        self.lexicon_words_left_out += len(item.lexicon) + len(item.large_lexicon) - kept
        self.lexicons_left_out += bool(kept) and not keeps_lexicons

    def _skip(self, key: str, reason: str, message: str = "") -> None:
        skips = self.skips.setdefault(reason, Skips())
        skips.count += 1
        if len(skips.examples) < _MAX_EXAMPLES:
            skips.examples.append(printable(key, 200))
            skips.message = skips.message or printable(message, 200)

    def check_share(self, path: str, total: int, max_bad_share: float) -> None:
        """Raise ``DataError`` if too many samples are unusable, without unwanted ones."""
        bad = sum(skips.count for reason, skips in self.skips.items() if reason not in _LEFT_OUT)
        if bad > max_bad_share * max(self.position, min(total, _SHARE_FROM)):
            raise DataError(
                f"{path}: {bad} of {self.position} samples cannot be used, more than the share of {max_bad_share} "
                f"that is allowed{self.reasons()}. Correct the source and begin anew with --restart, or raise "
                "--max-bad-share to go on"
            )

    def reasons(self) -> str:
        """Return the commonest reasons of skips with an example each, for messages."""
        shown = []
        for reason, skips in sorted(self.skips.items(), key=lambda entry: -entry[1].count)[:3]:
            key, fault = skips.examples[0], skips.message
            shown.append(f"{skips.count} {reason} ({fault if key in fault else f'{key}: {fault}' if fault else key})")
        return ": " + "; ".join(shown) if shown else ""

    def to_state(self, settings: Mapping[str, str]) -> bytes:
        """Return the tally and the settings for the partial store."""
        return json.dumps({"version": _VERSION, "settings": settings, "tally": asdict(self)}).encode()

    @classmethod
    def from_state(cls, state: bytes, settings: Mapping[str, str], partial: str) -> _Tally:
        """Return the tally of an earlier conversion, or raise ``DataError`` where it had other settings."""
        try:
            values = json.loads(state)
            if values["version"] != _VERSION:
                raise ValueError(f"version {values['version']}")
            begun, tally = values["settings"], values["tally"]
            result = cls(**{**tally, "skips": {reason: Skips(**found) for reason, found in tally["skips"].items()}})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{partial}: was left by another version of this program ({error}). Begin anew with --restart"
            ) from error
        clash = ", ".join(
            f"{key} {begun.get(key, 'not given')} (now {settings.get(key, 'not given')})"
            for key in {**begun, **settings}
            if begun.get(key) != settings.get(key)
        )
        if clash:
            raise DataError(
                f"{partial}: was begun with {clash}. Give the settings of then to go on, or begin anew with --restart"
            )
        return result

    def skip_done(
        self, items: Iterator[tuple[int, Record | Skipped]], partial: str, stop: Callable[[], object]
    ) -> bool:
        """Drop the samples that are done; return False if asked to stop, raise ``DataError`` if they have changed."""
        checksum = 0
        for count, (_, item) in enumerate(itertools.islice(items, self.position)):
            checksum = _mark(item, checksum)
            if count % 4096 == 0 and stop():
                return False
        if checksum != self.checksum:
            raise DataError(
                f"{partial}: the source's first {self.position} samples have changed. Begin anew with --restart"
            )
        return True


def _mark(item: Record | Skipped, checksum: int) -> int:
    """Return the checksum with one more sample."""
    text = f"{item.label}\t{item.region}" if isinstance(item, Record) else item.reason
    return zlib.crc32(f"{item.key}\t{text}\n".encode("utf-8", "surrogatepass"), checksum)


def summary(done: Conversion) -> str:
    """Return lines for the user: samples written, skipped and left out, by reason."""
    counts = f"{done.path}: {done.written} samples written"
    if done.expected is not None:
        counts += f"; the published set has {done.expected}"
        difference = done.written - done.expected
        counts += "" if difference == 0 else f", {abs(difference)} {'more' if difference > 0 else 'fewer'}"
    lines = [counts]
    for what, found in (("skipped", done.skipped), ("left out", done.left_out)):
        for reason, skips in found.items():
            more = ", ..." if skips.count > len(skips.examples) else ""
            lines.append(f"  {what} {skips.count}: {reason} ({', '.join(skips.examples)}{more})")
    if done.lexicon_words_left_out:
        lines.append(f"  {done.lexicon_words_left_out} lexicon words left out: they have white space in them")
    if done.lexicons_left_out:
        lines.append(f"  the lexicons of {done.lexicons_left_out} samples left out: a list has no place for them")
    return "\n".join(map(printable, lines))
