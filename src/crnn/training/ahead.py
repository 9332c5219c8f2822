"""The next batches while a step goes on: made by a thread of their own and, on accelerators, on a stream of their own.

Rendering a batch takes the processor as long as planning a training step, and longer; the device needs a fraction of
the step for it. One after the other, each would wait for the other; here batch k + 1 is made while the network learns
from batch k. What is in a batch depends on its number alone, so this changes nothing but the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from crnn.data.dataset import Batch

__all__ = ["Lane", "StreamLane", "batches_ahead"]

DEPTH = 2
"""Batches that are made ahead: one that is ready, one in the making."""


class Lane(Protocol):
    """Where batches are made: beside the stream of work that trains."""

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        """The next batch, on the device, and what tells when it is done; ``None`` at the end. Called by one thread."""
        ...

    def take(self, batch: Batch, done: Any) -> None:
        """Called by the thread that trains before it uses a batch; waits on the device, not on the processor."""
        ...


class StreamLane:
    """A stream of an accelerator.

    Args:
        device: The accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream = self._module.Stream(device)
        # What batches are made of, a bank of textures, say, may still be on its way.
        self._stream.wait_stream(self._module.current_stream(device))

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        """As ``Lane`` says, on a stream of its own."""
        with self._module.stream(self._stream):
            batch = next(batches, None)
            if batch is None:
                return None
            batch = batch.to(self._device)
            return batch, self._stream.record_event()

    def take(self, batch: Batch, done: Any) -> None:
        """As ``Lane`` says."""
        current = self._module.current_stream(self._device)
        current.wait_event(done)
        for tensor in batch.tensors():
            tensor.record_stream(current)  # else the lane might take its memory while the step still reads it


def batches_ahead(batches: Generator[Batch], device: torch.device, lane: Lane | None = None) -> Generator[Batch]:
    """The same batches, made ahead on accelerators; as they are on the CPU, whose cores have no time to spare.

    Args:
        batches: Closed when this generator is.
        device: What trains.
        lane: Where they are made. Default: a stream of the accelerator.
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
