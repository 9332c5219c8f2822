"""Batches one after the other, made by worker processes ahead of the training step that needs them."""

from __future__ import annotations

import signal
from collections.abc import Generator

import torch
from torch.utils.data import DataLoader, Dataset

from crnn.config import DataConfig
from crnn.data.dataset import Batch, BatchSource
from crnn.errors import TrainingError

__all__ = ["iterate_batches"]


class _Numbers(Dataset[Batch]):
    """A view of a source for torch's loader: item ``i`` is batch ``first + i``."""

    def __init__(self, source: BatchSource, first: int, count: int) -> None:
        self._source, self._first, self._count = source, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> Batch:
        return self._source[self._first + item]


def iterate_batches(
    source: BatchSource, first: int, last: int, config: DataConfig, pin_memory: bool = False
) -> Generator[Batch]:
    """Batches ``first`` to ``last`` (not included) in order, whatever the number of workers.

    Args:
        source: Where batches come from; pickled to workers that do not start by forking.
        first: Number of the first batch: where a resumed run goes on.
        last: Number behind the last batch.
        config: Number of workers and how they start.
        pin_memory: Put batches into page-locked memory, for accelerators.

    Raises:
        TrainingError: A worker process died.
    """
    loader = DataLoader(
        _Numbers(source, first, last - first),
        batch_size=None,  # items are batches already
        shuffle=False,
        num_workers=config.workers,
        multiprocessing_context=config.worker_start if config.workers else None,
        prefetch_factor=4 if config.workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a data worker died ({str(error).splitlines()[0]}); the machine may have run out of memory. "
            "Continue with --resume, with fewer data.workers if it happens again"
        ) from error


def _start_worker(_: int) -> None:
    # The training step owns the cores; a worker decodes one picture after the other.
    torch.set_num_threads(1)
    # Ctrl-C goes to the whole process group: the training process ends the run and its workers, in that order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
