"""Stored samples to batches: labels checked once, pictures read, augmented and resized when their batch is made.

``Batch`` is all that the training loop knows of data. A source of batches is anything with ``source[number] -> Batch``
and ``epoch_batches``: ``StoredBatches`` here, rendered text elsewhere.

Shape letters: N batch, C image channels, H height, W width, T time steps, S target length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config import Config
from crnn.data.augment import augment
from crnn.data.label_scan import LabelScan, describe_skipped, scan_labels
from crnn.data.order import SampleOrder
from crnn.data.source import open_source
from crnn.errors import DataError, ImageError
from crnn.image import load_image, load_resized, resize
from crnn.training.settings import DataConfig
from crnn.upload import on_device

__all__ = [
    "Batch",
    "StoredBatches",
    "check_training_data",
    "collate",
    "network_input",
]

_AUGMENT = 2
"""First word of the seed of augmentation, apart from those of ``crnn.data.order``."""

_FIRST_PICTURES = 16  # of a validation set, looked for before a run begins


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one training step.

    Attributes:
        images: ``(N, C, 32, W)`` uint8 as they were resized, or float32 in [-1, 1].
        widths: ``(N,)`` int64: columns of each picture that are picture; the rest would be padding.
        targets: ``(N, S)`` int64 class ids, zero behind each target's end.
        target_lengths: ``(N,)`` int64.
        keys: What names each sample in messages.
        skipped: Samples that should have been here and could not: (key, reason).
    """

    images: Tensor
    widths: Tensor
    targets: Tensor
    target_lengths: Tensor
    keys: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``, copied without waiting (``crnn.upload``)."""
        return replace(
            self,
            images=on_device(self.images, device),
            widths=on_device(self.widths, device),
            targets=on_device(self.targets, device),
            target_lengths=on_device(self.target_lengths, device),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the batch."""
        return self.images, self.widths, self.targets, self.target_lengths

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the data loader calls it for accelerators."""
        return replace(
            self,
            images=self.images.pin_memory(),
            widths=self.widths.pin_memory(),
            targets=self.targets.pin_memory(),
            target_lengths=self.target_lengths.pin_memory(),
        )


def network_input(images: Tensor) -> Tensor:
    """The network's float32 input: ``crnn.image.normalise`` of uint8 pictures, on their device."""
    if images.dtype != torch.uint8:
        return images
    # A divisor on the device: by a number, CUDA multiplies with its reciprocal, which rounds differently.
    return (images.float() - 127.5) / torch.full((), 127.5, device=images.device)


class StoredBatches:
    """Batches of stored samples, for one rank. May be pickled to worker processes.

    Args:
        config: The settings: sources, ratios, charset, image, augmentation, batch size, seed.
        rank: This process among all.
        world_size: Number of processes that share each batch.
        progress: Called with the number of labels looked at since the last call, while labels are checked.

    Attributes:
        stores: The sources.
        scans: What was found in each of them.

    Raises:
        DataError: A source is missing, empty, or has no usable sample, or too few labels that are used as they are; the
            message says why.
        CharsetError: As for ``scan_labels``.
        ConfigError: A ratio gives a source no place in a batch.
    """

    def __init__(
        self,
        config: Config,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._charset = config.charset.charset()
        self._rules = config.charset.rules()
        self._rank, self._world_size = rank, world_size
        self.stores = [open_source(spec) for spec in config.data.train]
        self.scans: list[LabelScan] = []
        for store in self.stores:
            scan = scan_labels(store, self._charset, self._rules, config.image, progress)
            if not len(scan.indices):
                raise DataError(
                    f"{store.path}: none of its {len(store)} samples can be trained on ({describe_skipped(scan)}); "
                    "check charset.characters, charset.max_text_length and image.image_width"
                )
            _check_lost(scan, config.data.max_lost_share)
            self.scans.append(scan)
        widths = [scan.widths for scan in self.scans if scan.widths is not None]
        self._order = SampleOrder(
            [len(scan.indices) for scan in self.scans],
            config.data.ratios,
            config.train.batch_size * world_size,
            config.train.seed,
            widths or None,
            config.data.bucket_batches,
        )

    @property
    def epoch_batches(self) -> int:
        """Batches of one pass over the data."""
        return self._order.epoch_batches

    @property
    def num_samples(self) -> int:
        """Usable samples of all sources."""
        return sum(len(scan.indices) for scan in self.scans)

    def __getitem__(self, number: int) -> Batch:
        """This rank's part of batch ``number``. A sample that cannot be read is left out and named in ``skipped``."""
        plan = self._order.plan(number).share(self._rank, self._world_size)
        pictures: list[npt.NDArray[np.uint8]] = []
        targets: list[list[int]] = []
        keys: list[str] = []
        skipped: list[tuple[str, str]] = []
        for source, position, draw in zip(plan.sources, plan.indices, plan.draws, strict=True):
            store = self.stores[source]
            index = int(self.scans[source].indices[position])
            key = f"{store.path}: {store.key(index)}"
            try:
                pictures.append(self._picture(store.image_bytes(index), int(draw), plan.width))
            except ImageError as error:
                skipped.append((key, error.reason))
                continue
            targets.append(self._charset.encode(self._rules.apply(store.label(index), self._charset)))
            keys.append(key)
        return collate(pictures, targets, keys, skipped)

    def _picture(self, data: bytes, draw: int, width: int | None) -> npt.NDArray[np.uint8]:
        if self._config.augment.probability == 0.0:
            return load_resized(data, self._config.image, width)
        rng = np.random.default_rng([self._config.train.seed, _AUGMENT, draw])
        pixels = augment(load_image(data, self._config.image.image_channels), self._config.augment, rng)
        return resize(pixels, self._config.image, width)


def _check_lost(found: LabelScan, limit: float) -> None:
    """A charset that was mistyped (37 is a charset of two digits) would train on the crumbs of the labels."""
    left_out = sum(found.skipped.values())
    total = len(found.indices) + left_out
    if left_out + found.changed <= limit * total:
        return
    reasons = [f"left out {describe_skipped(found)}"] if left_out else []
    if found.changed:
        reasons.append(f"{found.changed} labels lose {''.join(c for c, _ in found.lost.most_common(20))!r}")
    raise DataError(
        f"{found.path}: {left_out + found.changed} of {total} labels cannot be used as they are "
        f"({'; '.join(reasons)}), a larger share than data.max_lost_share {limit:g}; check charset.characters, "
        "charset.max_text_length and image.image_width, or raise data.max_lost_share"
    )


def check_training_data(data: DataConfig) -> None:
    """Check that all sets of a run are there.

    Pictures of a training set are missed at once, those of a validation set only hours later: so its first ones are
    looked for.

    Raises:
        DataError: A set is missing or cannot be used, or a validation set's first pictures are all missing.
    """
    for spec in data.train:
        open_source(spec).close()
    for spec in data.validation:
        with open_source(spec) as store:
            why = ""
            for index in range(min(len(store), _FIRST_PICTURES)):
                try:
                    store.image_bytes(index)
                    break
                except DataError as error:
                    why = why or str(error)
            else:
                raise DataError(
                    f"data.validation: none of the first pictures can be read: {why}; expected paths relative to the "
                    "list file"
                )


def collate(
    pictures: Sequence[npt.NDArray[np.uint8]],
    targets: Sequence[Sequence[int]],
    keys: Sequence[str],
    skipped: Sequence[tuple[str, str]] = (),
) -> Batch:
    """A batch of pictures of one width.

    Args:
        pictures: ``(C, 32, W)`` uint8 each; there may be none.
        targets: Class ids of each.
        keys: What names each.
        skipped: Samples that could not be read: (key, reason).
    """
    lengths = [len(target) for target in targets]
    padded = np.zeros((len(targets), max(lengths, default=0)), dtype=np.int64)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target)] = target
    images = np.stack(pictures) if pictures else np.zeros((0, 1, 32, 8), dtype=np.uint8)
    return Batch(
        torch.from_numpy(images),
        torch.full((len(keys),), images.shape[-1], dtype=torch.int64),
        torch.from_numpy(padded),
        torch.tensor(lengths, dtype=torch.int64),
        tuple(keys),
        tuple(skipped),
    )
