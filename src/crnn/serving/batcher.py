"""Batches that requests share: what waits at the moment goes through the network together."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from crnn.decoding.decoder import Decoder
from crnn.errors import ImageError
from crnn.image import FittedImage
from crnn.parallel import available_threads
from crnn.recognizer import NetworkOutput, Reading, Recognizer

Image: TypeAlias = bytes | npt.NDArray[np.uint8]  # encoded, or pixels (H, W, C)
Result: TypeAlias = "Future[Reading | ImageError]"

_BATCHES = 4  # of ``batch_size`` images that are taken at once: more of them share a width
_KEPT_DECODERS = 4  # of the latest options of requests; one with many words takes some 50 MB


class OverloadedError(Exception):
    """Signal that more images wait than may."""


@dataclass(slots=True, eq=False)
class _Job:
    """An image of a request."""

    decoder: Decoder
    request: object
    result: Result = field(default_factory=Future)
    image: FittedImage | None = None


class Batcher:
    """Reader of the images of all requests; results are those of ``Recognizer.read``.

    Images are opened in threads; one thread runs the network on all that are open, in the order of their arrival, so
    that none waits for others to come. Readings with options of a request are decoded beside it, in a thread of their
    own: a slow pattern delays no one without options.

    Args:
        reader: The reader; nothing else may use it meanwhile.
        max_waiting: Images that may wait; beyond it requests are refused.
        on_batch: Called with the number of images that are read together.
        on_waiting: Called with the number of images that wait or are read, when it changes.
    """

    def __init__(
        self,
        reader: Recognizer,
        *,
        max_waiting: int = 512,
        on_batch: Callable[[int], None] = lambda _: None,
        on_waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.reader, self.max_waiting, self.waiting = reader, max_waiting, 0
        self._on_batch, self._on_waiting = on_batch, on_waiting
        self._lock = threading.Lock()
        self._opened: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._with_options = ThreadPoolExecutor(1, thread_name_prefix="crnn-decode")
        self._pool = ThreadPoolExecutor(available_threads(), thread_name_prefix="crnn-open")
        self._thread = threading.Thread(target=self._run, name="crnn-network", daemon=True)
        self._thread.start()
        self.decoder = functools.lru_cache(_KEPT_DECODERS)(self._decoder)

    def decoder_in_turn(self, options: tuple[tuple[str, Any], ...]) -> Future[Decoder]:
        """Return ``decoder`` of options, made in the thread that decodes with them."""
        return self._with_options.submit(self.decoder, options)

    def _decoder(self, options: tuple[tuple[str, Any], ...]) -> Decoder:
        """Return the decoder of options, as pairs of name and value; raises their errors."""
        return self.reader.decoder_of(dict(options)) if options else self.reader.decoder

    def submit(self, images: Sequence[Image], decoder: Decoder) -> list[Result]:
        """Begin to read images; return a future for each, which may be cancelled.

        Raises:
            OverloadedError: Too many images wait.
        """
        with self._lock:
            if self.waiting + len(images) > self.max_waiting:
                raise OverloadedError
            self.waiting += len(images)
            self._on_waiting(self.waiting)
        request = object()
        jobs = [_Job(decoder, request) for _ in images]
        for job, data in zip(jobs, images, strict=True):
            job.result.add_done_callback(self._done)
            self._pool.submit(self._open, job, data)
        return [job.result for job in jobs]

    def close(self) -> None:
        """End the threads; requests were answered before, or are given up."""
        self._opened.put(None)
        self._thread.join()
        for pool in (self._pool, self._with_options):
            pool.shutdown(cancel_futures=True)

    def _done(self, _: Result) -> None:
        with self._lock:
            self.waiting -= 1
            self._on_waiting(self.waiting)

    def _open(self, job: _Job, data: Image) -> None:
        if job.result.cancelled():
            return
        try:
            opened = self.reader.fit(data)
        except Exception as error:  # memory, say: the request gets it
            _fail([job], error)
            return
        if isinstance(opened, FittedImage):
            job.image = opened
            self._opened.put(job)
        elif job.result.set_running_or_notify_cancel():
            job.result.set_result(opened)

    def _run(self) -> None:
        while (first := self._opened.get()) is not None:
            jobs = [first]
            while len(jobs) < _BATCHES * self.reader.batch_size and not self._opened.empty():
                job = self._opened.get()
                if job is None:
                    self._opened.put(None)
                    break
                jobs.append(job)
            jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            if jobs:
                self._on_batch(len(jobs))
                self._read(jobs)

    def _read(self, jobs: list[_Job]) -> None:
        try:
            outputs = list(self.reader.outputs(job.image for job in jobs if job.image is not None))
        except Exception as error:
            _fail(jobs, error)
            return
        together: list[tuple[_Job, NetworkOutput | ImageError]] = []
        by_request: dict[int, list[tuple[_Job, NetworkOutput | ImageError]]] = {}
        for job, output in zip(jobs, outputs, strict=True):
            if job.decoder is self.reader.decoder:
                together.append((job, output))
            else:  # whose pattern is too slow fails alone
                by_request.setdefault(id(job.request), []).append((job, output))
        for pairs in by_request.values():
            self._with_options.submit(self._decode, pairs)
        if together:
            self._decode(together)

    def _decode(self, pairs: list[tuple[_Job, NetworkOutput | ImageError]]) -> None:
        jobs = [job for job, _ in pairs]
        try:
            readings = list(self.reader.decoded((output for _, output in pairs), jobs[0].decoder))
        except Exception as error:
            _fail(jobs, error)
            return
        for job, reading in zip(jobs, readings, strict=True):
            job.result.set_result(reading)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.result.cancelled():
            job.result.set_exception(error)


def options_key(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return options in the form of ``Batcher.decoder``."""
    return tuple(sorted((n, tuple(v) if isinstance(v, list) else v) for n, v in options.items()))
