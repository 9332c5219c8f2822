"""Batches of a run: stored samples, rendered text, or both, in one batch or in turn.

``data.train`` names the sources (``synth``: rendered text); the loop sees one ``BatchFeed``.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch.nn.functional import pad

from crnn.config.run import Config
from crnn.data.dataset import Batch, StoredBatches, describe_skipped
from crnn.data.loader import iterate_batches
from crnn.data.sampler import places_per_source
from crnn.errors import ConfigError
from crnn.parallel import usable_cores
from crnn.synth.batches import SynthBatches

SYNTH = "synth"  # rendered text among the sources of data.train; a folder of that name is ./synth

_MOST_WORKERS = 16  # default limit


class BatchFeed(Protocol):
    """Batches by number, one after the other."""

    @property
    def epoch_batches(self) -> int:
        """Batches of one pass over the data; of endless text, the number that the settings give."""
        ...

    @property
    def num_samples(self) -> int:
        """Samples of one pass."""
        ...

    @property
    def digest(self) -> str:
        """A code of the content of the batches, beyond the settings."""
        ...

    def remarks(self) -> list[str]:
        """Return lines for the user: skipped samples, changed labels."""
        ...

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        """Yield this rank's part of batches ``first`` to ``last`` (not included)."""
        ...


def stored_sources(config: Config) -> list[str]:
    """Return the stored sources of ``data.train``."""
    return [spec for spec in config.data.train if spec != SYNTH]


def open_batches(
    config: Config,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> BatchFeed:
    """Open the sources of ``data.train`` for ``rank`` of the ``world_size`` processes that share each batch.

    Rendered text, composed on ``device``, beside stored sets needs ``data.ratios``: each rank's batch is split by them,
    stored samples first. Under ``keep_ratio``, where the images of a batch share one width, each batch is wholly stored
    or wholly rendered. ``progress`` gets the number of stored labels scanned since the last call.

    Raises:
        ConfigError: The sources and ratios do not fit together, or leave nothing to train on.
        DataError: A source is missing or unusable.
    """
    device = device or torch.device("cpu")
    if config.data.workers is None:
        workers = default_workers(device)
        config = config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})
    stored = stored_sources(config)
    rendered = len(config.data.train) - len(stored)
    if not rendered:
        return _Stored(config, rank, world_size, device, progress)
    if rendered > 1:
        raise ConfigError(f'data.train has "{SYNTH}" {rendered} times; expected once. Its share is set by data.ratios')
    if not stored:
        return _Rendered(config, rank, world_size, device)
    if not config.data.ratios:
        raise ConfigError(
            f'data.train has "{SYNTH}" beside stored sets, and rendered text has no size that would give it its share; '
            f"expected data.ratios with {len(config.data.train)} numbers, such as "
            + str([19.0 if spec == SYNTH else 1.0 for spec in config.data.train])
        )
    place = config.data.train.index(SYNTH)
    ratios = list(config.data.ratios)
    keeps_ratio = config.image.resize == "keep_ratio"
    share = Fraction(ratios[place]) / sum(map(Fraction, ratios))
    size = config.train.batch_size
    rendered_places = size if keeps_ratio else places_per_source(ratios, size)[place]
    stored_places = size if keeps_ratio else size - rendered_places
    del ratios[place]
    settings = config.model_copy(
        update={
            "data": config.data.model_copy(update={"train": tuple(stored), "ratios": tuple(ratios)}),
            "train": config.train.model_copy(update={"batch_size": stored_places}),
        }
    )
    parts: list[BatchFeed] = [
        _Stored(settings, rank, world_size, device, progress),
        _Rendered(config, rank, world_size, device, rendered_places),
    ]
    return _Alternating(parts, share) if keeps_ratio else _Mixed(parts)


def default_workers(device: torch.device) -> int:
    """Return the default of ``data.workers``: processes that make batches for one rank.

    A core draws some 1,700 words a second, each shown four times; an H100 training ``vgg`` needs about 50,000 images a
    second, so eight cores.
    """
    if device.type == "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(usable_cores() // ranks_here - 2, 1), _MOST_WORKERS)


class _Stored:
    """Stored samples, read by worker processes."""

    def __init__(
        self,
        config: Config,
        rank: int,
        world_size: int,
        device: torch.device,
        progress: Callable[[int], None],
    ) -> None:
        self._config, self._device = config, device
        self.batches = StoredBatches(config, rank, world_size, progress)

    @property
    def epoch_batches(self) -> int:
        return self.batches.epoch_batches

    @property
    def num_samples(self) -> int:
        return self.batches.num_samples

    @property
    def digest(self) -> str:
        return "-".join(f"{found.digest:08x}" for found in self.batches.scans)

    def remarks(self) -> list[str]:
        lines = []
        for found in self.batches.scans:
            if found.skipped:
                lines.append(f"{found.path}: left out {describe_skipped(found)}")
            if found.changed:
                lost = "".join(c for c, _ in found.lost.most_common(20))
                lines.append(f"{found.path}: {found.changed} labels lose characters outside the charset: {lost!r}")
        return lines

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        return iterate_batches(self.batches, first, last, self._config.data, pin_memory=self._device.type != "cpu")


class _Rendered:
    """Rendered text, composed on the device that trains."""

    def __init__(
        self, config: Config, rank: int, world_size: int, device: torch.device, batch_size: int | None = None
    ) -> None:
        self.batches = SynthBatches(config, rank, world_size, device, batch_size)

    @property
    def epoch_batches(self) -> int:
        return self.batches.epoch_batches

    @property
    def num_samples(self) -> int:
        return self.batches.num_samples

    @property
    def digest(self) -> str:
        return self.batches.digest

    def remarks(self) -> list[str]:
        return self.batches.remarks()

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        return self.batches.iterate(first, last)


class _Mixed:
    """Parts of every batch from several feeds; a pass is one over the stored samples, which come first."""

    def __init__(self, feeds: Sequence[BatchFeed]) -> None:
        self._feeds = feeds

    @property
    def epoch_batches(self) -> int:
        return self._feeds[0].epoch_batches

    @property
    def num_samples(self) -> int:
        return self._feeds[0].num_samples

    @property
    def digest(self) -> str:
        return "-".join(feed.digest for feed in self._feeds)

    def remarks(self) -> list[str]:
        return [line for feed in self._feeds for line in feed.remarks()]

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        with contextlib.ExitStack() as stack:
            parts = [stack.enter_context(contextlib.closing(feed.iterate(first, last))) for feed in self._feeds]
            for batches in zip(*parts, strict=True):
                yield _joined(batches)


class _Alternating(_Mixed):
    """Batches of a stored and a rendered feed in turn; ``share``, in (0, 1), is the rendered part."""

    def __init__(self, feeds: Sequence[BatchFeed], share: Fraction) -> None:
        super().__init__(feeds)
        self._share = share

    @property
    def epoch_batches(self) -> int:
        return max(1, round(self._feeds[0].epoch_batches / (1 - self._share)))

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        low, high = self._rendered_before(first), self._rendered_before(last)
        bounds = [(first - low, last - high), (low, high)]
        with contextlib.ExitStack() as stack:
            parts = [
                stack.enter_context(contextlib.closing(feed.iterate(*own)))
                for feed, own in zip(self._feeds, bounds, strict=True)
            ]
            for number in range(first, last):
                yield next(parts[self._rendered_before(number + 1) - self._rendered_before(number)])

    def _rendered_before(self, number: int) -> int:
        """Return the number of rendered batches before batch ``number``: their share, rounded to the nearest."""
        return math.floor(number * self._share + Fraction(1, 2))


def _joined(batches: Iterable[Batch]) -> Batch:
    """Join batches to one, on the device of the last."""
    every = list(batches)
    parts = [part.to(every[-1].images.device) for part in every if len(part)] or every[-1:]
    longest = max(part.targets.shape[1] for part in parts)
    return Batch(
        torch.cat([part.images for part in parts]),
        torch.cat([part.widths for part in parts]),
        torch.cat([pad(part.targets, (0, longest - part.targets.shape[1])) for part in parts]),
        torch.cat([part.target_lengths for part in parts]),
        tuple(key for part in parts for key in part.keys),
        tuple(skipped for part in every for skipped in part.skipped),
    )


DEPTH = 2  # batches made ahead: one ready, one in the making


class Lane(Protocol):
    """Place where batches are made, beside the stream that trains."""

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        """Return the next batch on the device and its completion event, ``None`` at the end; called by one thread."""
        ...

    def take(self, batch: Batch, done: Any) -> None:
        """Make the training stream wait for a batch before its use; the processor does not wait."""
        ...


class StreamLane:
    """Lane on a separate stream of an accelerator."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream = self._module.Stream(device)
        # What batches are made of, a bank of textures, say, may still be on its way.
        self._stream.wait_stream(self._module.current_stream(device))

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        """Make the next batch on the lane's stream."""
        with self._module.stream(self._stream):
            batch = next(batches, None)
            if batch is None:
                return None
            batch = batch.to(self._device)
            return batch, self._stream.record_event()

    def take(self, batch: Batch, done: Any) -> None:
        """Make the current stream wait for the batch."""
        current = self._module.current_stream(self._device)
        current.wait_event(done)
        for tensor in batch.tensors():
            tensor.record_stream(current)  # else the lane might take its memory while the step still reads it


def batches_ahead(batches: Generator[Batch], device: torch.device, lane: Lane | None = None) -> Generator[Batch]:
    """Make batches ahead on accelerators; pass them through on the CPU, whose cores have no time to spare.

    ``lane`` is by default a stream of the accelerator. ``batches`` is closed with this generator.
    """
    if lane is None and device.type == "cpu":
        yield from batches
        return
    maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        first = next(batches, None)  # here, not in the thread: it starts worker processes
        if first is None:
            return
        lane = lane or StreamLane(device)
        waiting: deque[Future[tuple[Batch, Any] | None]] = deque()
        waiting.extend(maker.submit(lane.make, batches) for _ in range(DEPTH))
        yield first.to(device)
        while (made := waiting.popleft().result()) is not None:
            waiting.append(maker.submit(lane.make, batches))
            lane.take(*made)
            yield made[0]
    finally:
        # The one in the making is waited for: a generator can only be closed while nobody is in it.
        maker.shutdown(cancel_futures=True)
        batches.close()
