"""Stored samples to batches: labels checked once, pictures read, augmented and resized when their batch is made.

``Batch`` is all that the training loop knows of data. A source of batches is anything with ``source[number] -> Batch``
and ``epoch_batches``: ``StoredBatches`` here, rendered text elsewhere.

Shape letters: N batch, C image channels, H height, W width, T time steps, S target length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config import Config
from crnn.data.augment import augment
from crnn.data.label_scan import LabelCounts, LabelScan, describe_skipped, scan_labels
from crnn.data.order import SampleOrder
from crnn.data.rank_stores import RankStores, open_rank_stores
from crnn.errors import DataError, ImageError
from crnn.image import load_image, load_resized, resize
from crnn.upload import on_device

__all__ = [
    "Batch",
    "StoredBatches",
    "collate",
    "network_input",
]

_AUGMENT = 2
"""First word of the seed of augmentation, apart from those of ``crnn.data.order``."""


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
        gather: Gives the values of all ranks to each rank, in order of rank (``Ranks.gather``). Called where
            ``data.shards`` is ``own``, as no rank can look at all labels then.

    Attributes:
        stores: The stores that this rank reads, by number.
        scans: What was found in each of them.
        counts: What was found in each source, on all ranks.

    Raises:
        DataError: A source is missing, empty, or has no usable sample, or too few labels that are used as they are; the
            message says why.
        CharsetError: As for ``scan_labels``.
        ConfigError: A ratio gives a source no place in a batch, or its shards cannot be shared out to the ranks.
    """

    def __init__(
        self,
        config: Config,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int], None] = lambda _: None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self._config = config
        self._charset = config.charset.charset()
        self._rules = config.charset.rules()
        self._rank, self._world_size = rank, world_size
        sources = open_rank_stores(config.data, config.train.batch_size * world_size, rank, world_size)
        self.stores = sources.stores
        self.scans: dict[int, LabelScan] = {}
        for number, store in self.stores.items():
            self.scans[number] = scan = scan_labels(store, self._charset, self._rules, config.image, progress)
            if not len(scan.indices):
                raise DataError(
                    f"{store.path}: none of its {len(store)} samples can be trained on ({describe_skipped(scan)}); "
                    "check charset.characters, charset.max_text_length and image.image_width"
                )
        found = self._on_all_ranks(sources, gather)
        self.counts = [
            LabelCounts.sum(path, [found[number][0] for number in numbers]) if count else found[numbers[0]][0]
            for path, count, numbers in sources.by_source()
        ]
        for counts in self.counts:
            _check_lost(counts, config.data.max_lost_share)
        widths = [known for _, known in found if known is not None]
        self._order = SampleOrder(
            [counts.usable for counts, _ in found],
            config.data.ratios,
            config.train.batch_size * world_size,
            config.train.seed,
            widths or None,
            config.data.bucket_batches,
            shards=sources.shards,
            world_size=world_size,
        )

    def _on_all_ranks(
        self, sources: RankStores, gather: Callable[[Any], list[Any]]
    ) -> list[tuple[LabelCounts, npt.NDArray[np.uint16] | None]]:
        """What was found in each store and, where they are needed, the widths of its usable samples.

        This is all that a rank has to know of the others' shards to make the same order as they.
        """
        found = {number: (scan.counts(self.stores[number].path), scan.widths) for number, scan in self.scans.items()}
        if sources.shards:
            gathered = gather((sources.identities, found))
            sources.check_same([identities for identities, _ in gathered])
            found = {number: entry for _, part in reversed(gathered) for number, entry in part.items()}
        assert set(found) == set(range(len(found))), "gather has not asked all ranks"
        return [found[number] for number in range(len(found))]

    @property
    def epoch_batches(self) -> int:
        """Batches of one pass over the data."""
        return self._order.epoch_batches

    @property
    def num_samples(self) -> int:
        """Usable samples of all sources, on all ranks."""
        return sum(found.usable for found in self.counts)

    def __getitem__(self, number: int) -> Batch:
        """This rank's part of batch ``number``. A sample that cannot be read is left out and named in ``skipped``."""
        plan = self._order.plan(number, self._rank, self._world_size)
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


def _check_lost(found: LabelCounts, limit: float) -> None:
    """A charset that was mistyped (37 is a charset of two digits) would train on the crumbs of the labels."""
    left_out = sum(found.skipped.values())
    if left_out + found.changed <= limit * (found.usable + left_out):
        return
    reasons = [f"left out {describe_skipped(found)}"] if left_out else []
    if found.changed:
        reasons.append(f"{found.changed} labels lose {''.join(c for c, _ in found.lost.most_common(20))!r}")
    raise DataError(
        f"{found.path}: {left_out + found.changed} of {found.usable + left_out} labels cannot be used as they are "
        f"({'; '.join(reasons)}), a larger share than data.max_lost_share {limit:g}; check charset.characters, "
        "charset.max_text_length and image.image_width, or raise data.max_lost_share"
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
