"""Batches of a run: stored samples, rendered text, or both, in one batch or in turn."""

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any

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

DEPTH = 2  # batches made ahead: one ready, one in the making


def stored_sources(config: Config) -> list[str]:
    """Return the stored sources of ``data.train``."""
    return [spec for spec in config.data.train if spec != SYNTH]


class BatchFeed:
    """Batches by number of the sources of ``data.train``: the part of ``rank`` of those that share each batch.

    Rendered text, composed on ``device``, beside stored sets needs ``data.ratios``: each rank's batch is split by them,
    stored samples first. Under ``keep_ratio``, where the images of a batch share one width, stored and rendered batches
    take turns. ``progress`` gets the number of stored labels scanned since the last call.
    """

    def __init__(
        self,
        config: Config,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        device = device or torch.device("cpu")
        if config.data.workers is None:
            config = _with(config, data={"workers": default_workers(device)})
        self._data, self._device = config.data, device
        self._share: Fraction | None = None
        stored = stored_sources(config)
        rendered = len(config.data.train) - len(stored)
        if rendered > 1:
            raise ConfigError(f'data.train has "{SYNTH}" {rendered} times; expected once. data.ratios sets its share')
        stored_config, rendered_size = config, config.train.batch_size
        if stored and rendered:
            stored_config, rendered_size, self._share = _shared_out(config, stored)
        self._stored = StoredBatches(stored_config, rank, world_size, progress) if stored else None
        self._rendered = SynthBatches(config, rank, world_size, device, rendered_size) if rendered else None
        counted = self._stored or self._rendered
        assert counted is not None
        self.num_samples = counted.num_samples  # of a pass over the stored samples; endless text: as the settings say
        self.epoch_batches = counted.epoch_batches
        if self._share is not None:
            self.epoch_batches = max(1, round(counted.epoch_batches / (1 - self._share)))
        self._scans = self._stored.scans if self._stored else []
        codes = [f"{scan.digest:08x}" for scan in self._scans] + ([self._rendered.digest] if self._rendered else [])
        self.digest = "-".join(codes)  # of the content of the batches, beyond the settings

    def remarks(self) -> list[str]:
        """Return lines for the user: skipped samples, changed labels, fonts."""
        lines = []
        for scan in self._scans:
            if scan.skipped:
                lines.append(f"{scan.path}: left out {describe_skipped(scan)}")
            if scan.changed:
                lost = "".join(c for c, _ in scan.lost.most_common(20))
                lines.append(f"{scan.path}: {scan.changed} labels lose characters outside the charset: {lost!r}")
        return lines + (self._rendered.remarks() if self._rendered else [])

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        """Yield batches ``first`` to ``last`` (not included)."""
        low, high = (first, last) if self._share is None else map(self._rendered_before, (first, last))
        parts: list[Generator[Batch]] = []
        if self._stored:
            bounds = (first, last) if self._share is None else (first - low, last - high)
            pinned = self._device.type != "cpu"
            parts.append(iterate_batches(self._stored, *bounds, self._data, pin_memory=pinned))
        if self._rendered:
            parts.append(self._rendered.iterate(low, high))
        with contextlib.ExitStack() as stack:
            for part in parts:
                stack.enter_context(contextlib.closing(part))
            if self._share is None:
                yield from map(_joined, zip(*parts, strict=True))
            else:
                for number in range(first, last):
                    yield next(parts[self._rendered_before(number + 1) - self._rendered_before(number)])

    def _rendered_before(self, number: int) -> int:
        """Return the number of rendered batches before batch ``number``: their share, rounded to the nearest."""
        return math.floor(number * (self._share or 0) + Fraction(1, 2))


def _shared_out(config: Config, stored: list[str]) -> tuple[Config, int, Fraction | None]:
    """Return the stored part's settings, the rendered one's size, and its share of the batches if they take turns."""
    if not config.data.ratios:
        raise ConfigError(
            f'data.train has "{SYNTH}" beside stored sets; it has no size. Expected data.ratios, such as '
            + str([19.0 if spec == SYNTH else 1.0 for spec in config.data.train])
        )
    place, ratios, size = config.data.train.index(SYNTH), list(config.data.ratios), config.train.batch_size
    share: Fraction | None = None
    stored_size = rendered_size = size
    if config.image.resize == "keep_ratio":
        share = Fraction(ratios[place]) / sum(map(Fraction, ratios))
    else:
        rendered_size = places_per_source(ratios, size)[place]
        stored_size = size - rendered_size
    del ratios[place]
    data = {"train": tuple(stored), "ratios": tuple(ratios)}
    return _with(config, data=data, train={"batch_size": stored_size}), rendered_size, share


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    """Return a copy with other values in some sections."""
    update = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=update)


def default_workers(device: torch.device) -> int:
    """Return the default of ``data.workers``: processes that make batches for one rank.

    A core draws some 1,700 words a second, each shown four times; an H100 training ``vgg`` needs about 50,000 images a
    second, so eight cores.
    """
    if device.type == "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(usable_cores() // ranks_here - 2, 1), 16)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Join batches to one, on the device of the last."""
    if len(batches) == 1:
        return batches[0]
    parts = [part.to(batches[-1].images.device) for part in batches if len(part)] or batches[-1:]
    longest = max(part.targets.shape[1] for part in parts)
    return Batch(
        torch.cat([part.images for part in parts]),
        torch.cat([pad(part.targets, (0, longest - part.targets.shape[1])) for part in parts]),
        torch.cat([part.target_lengths for part in parts]),
        tuple(key for part in parts for key in part.keys),
        tuple(skipped for part in batches for skipped in part.skipped),
    )


class StreamLane:
    """Stream of an accelerator on which batches are made, beside the one that trains."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream = self._module.Stream(device)
        # What batches are made of, a bank of textures, say, may still be on its way.
        self._stream.wait_stream(self._module.current_stream(device))

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        """Return the next batch on the device and its completion event, ``None`` at the end; called by one thread."""
        with self._module.stream(self._stream):
            batch = next(batches, None)
            if batch is None:
                return None
            batch = batch.to(self._device)
            return batch, self._stream.record_event()

    def take(self, batch: Batch, done: Any) -> None:
        """Make the training stream wait for a batch before its use; the processor does not wait."""
        current = self._module.current_stream(self._device)
        current.wait_event(done)
        for tensor in batch.tensors():
            tensor.record_stream(current)  # else the lane might take its memory while the step still reads it


def batches_ahead(batches: Generator[Batch], device: torch.device, lane: StreamLane | None = None) -> Generator[Batch]:
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
        # Waits for the batch in the making: a generator can only be closed while nobody is in it.
        maker.shutdown(cancel_futures=True)
        batches.close()
