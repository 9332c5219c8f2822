"""Batches of stored samples: labels checked once; images read, augmented and resized per batch."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.charset import Charset, LabelRules, LabelSkip, characters_outside, fits_steps
from crnn.config.model import ImageConfig, Pooling, time_steps
from crnn.config.run import Config
from crnn.config.training import DataConfig
from crnn.data.augment import augment
from crnn.data.sampler import SampleOrder
from crnn.data.source import SampleStore, open_source, too_many
from crnn.distributed import on_device
from crnn.errors import CharsetError, DataError, ImageError
from crnn.image import image_size, load_image, load_resized, resize, target_width

_MAX_EXAMPLES = 3


@dataclass(slots=True)
class LabelScan:
    """Result of checking all labels of a source."""

    path: str  # as the user typed it
    indices: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))  # the n usable samples
    skipped: Counter[str] = field(default_factory=Counter)  # samples by reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # keys of the first three, by reason
    changed: int = 0  # labels that lost characters outside of the charset
    lost: Counter[str] = field(default_factory=Counter)  # occurrences of each such character
    digest: int = 0  # CRC-32 of the usable samples' numbers and labels, not of their images
    widths: npt.NDArray[np.uint16] | None = None  # (n,), under keep_ratio


def scan_labels(
    store: SampleStore,
    charset: Charset,
    rules: LabelRules,
    image: ImageConfig,
    progress: Callable[[int], None] = lambda _: None,
    pooling: Pooling = "modelzoo",
) -> LabelScan:
    """Find the samples of a store that can be trained on.

    Labels that the rules leave out, or that need more time steps than their image gives (``too_long_for_width``), are
    counted by reason. Under ``keep_ratio`` image headers are read where no size is stored. ``progress`` is called with
    the number of labels checked since the last call. If the rules say ``error``, a ``CharsetError`` names the sample.
    """
    scan = LabelScan(store.path)
    if store.num_unread:
        scan.skipped["beyond_num_samples"] = store.num_unread
        scan.examples["beyond_num_samples"] = [f"number {len(store) + 1}"]
    usable, widths = array("I"), array("H")  # four and two bytes a sample: there may be many millions
    width = image.image_width
    for index in range(len(store)):
        if index % 1024 == 1023:
            progress(1024)
        try:
            raw = store.label(index)
            label = rules.apply(raw, charset)
            if label != raw:
                gone = characters_outside(raw, charset, rules)
                scan.changed += bool(gone)
                scan.lost.update(gone)
            if image.resize == "keep_ratio":
                width = target_width(store.stored_size(index) or image_size(store.image_bytes(index)), image)
            if not fits_steps(label, charset, time_steps(width, pooling)):
                raise LabelSkip("too_long_for_width")
        except CharsetError as error:
            raise CharsetError(f"{store.path}, {store.key(index)}: {error}") from None
        except (LabelSkip, DataError) as error:
            reason = getattr(error, "reason", "unreadable_record")
            scan.skipped[reason] += 1
            if len(scan.examples.setdefault(reason, [])) < _MAX_EXAMPLES:
                scan.examples[reason].append(store.key(index))
            continue
        usable.append(index)
        widths.append(width)
        number = index.to_bytes(8, "little")
        scan.digest = zlib.crc32(label.encode("utf-8", "surrogatepass"), zlib.crc32(number, scan.digest))
    progress(len(store) % 1024)
    scan.indices = np.frombuffer(usable, dtype=np.uint32)
    if image.resize == "keep_ratio":
        scan.widths = np.frombuffer(widths, dtype=np.uint16)
    return scan


def describe_skipped(scan: LabelScan) -> str:
    """Return ``reason: count (key, key, ...)`` for every reason, the most frequent first."""
    return "; ".join(
        f"{reason}: {count} ({', '.join(scan.examples[reason])}{', ...' if count > len(scan.examples[reason]) else ''})"
        for reason, count in scan.skipped.most_common()
    )


_AUGMENT = 2  # first word of the augmentation's seed, apart from those of crnn.data.sampler
_LOOKED_AT = 500  # images of a validation set, read before a run begins


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one training step."""

    images: Tensor  # (N, C, 32, W) uint8
    targets: Tensor  # (N, S) int64 class ids, zero behind each target's end
    target_lengths: Tensor  # (N,) int64
    keys: tuple[str, ...]  # names of the samples in messages
    skipped: tuple[tuple[str, str], ...] = ()  # samples that could not be read: (key, reason)

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all tensors of the batch."""
        return self.images, self.targets, self.target_lengths

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``, copied asynchronously (``crnn.distributed``)."""
        there = all(tensor.device == device for tensor in self.tensors())
        return self if there else self._moved(lambda tensor: on_device(tensor, device))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the data loader calls it for accelerators."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        images, targets, lengths = map(move, self.tensors())
        return Batch(images, targets, lengths, self.keys, self.skipped)


def network_input(images: Tensor, config: ImageConfig) -> Tensor:
    """Scale uint8 images to float32, ``(x - mean) / std`` rounded once: by default to [-1, 1], as the ModelZoo does."""
    # A divisor on the device: by a number, CUDA multiplies with its reciprocal, which rounds differently.
    return (images.float() - config.mean) / torch.full((), config.std, device=images.device)


class StoredBatches:
    """Batches of stored samples for one of the ranks that share each batch; they can be pickled.

    A source that has too few labels that can be used unchanged is a ``DataError``.
    """

    def __init__(
        self, config: Config, rank: int = 0, world_size: int = 1, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._config = config
        self._charset = config.charset.charset()
        self._rules = config.charset.rules()
        self._rank, self._world_size = rank, world_size
        self.stores = [open_source(spec) for spec in config.data.train]
        self.scans: list[LabelScan] = []
        for store in self.stores:
            scan = scan_labels(store, self._charset, self._rules, config.image, progress, config.model.pooling)
            self.scans.append(scan)
            _check_lost(self.scans[-1], config.data.max_lost_share)
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
        """Return this rank's part of batch ``number``; unreadable samples are named in ``skipped``."""
        plan = self._order.plan(number).share(self._rank, self._world_size)
        images: list[npt.NDArray[np.uint8]] = []
        targets: list[list[int]] = []
        keys: list[str] = []
        skipped: list[tuple[str, str]] = []
        for source, position, draw in zip(plan.sources, plan.indices, plan.draws, strict=True):
            store = self.stores[source]
            index = int(self.scans[source].indices[position])
            key = f"{store.path}: {store.key(index)}"
            try:
                images.append(self._image(store.image_bytes(index), int(draw), plan.width))
            except ImageError as error:
                skipped.append((key, error.reason))
                continue
            targets.append(self._charset.encode(self._rules.apply(store.label(index), self._charset)))
            keys.append(key)
        return collate(images, targets, keys, skipped)

    def _image(self, data: bytes, draw: int, width: int | None) -> npt.NDArray[np.uint8]:
        if self._config.augment.probability == 0.0:
            return load_resized(data, self._config.image, width)
        rng = np.random.default_rng([self._config.train.seed, _AUGMENT, draw])
        pixels = augment(load_image(data, self._config.image.image_channels), self._config.augment, rng)
        return resize(pixels, self._config.image, width)


def _check_lost(found: LabelScan, limit: float) -> None:
    """Raise ``DataError`` if too many labels cannot be used; usually ``charset.characters`` is mistyped."""
    left_out = sum(found.skipped.values())
    total = len(found.indices) + left_out
    if len(found.indices) and left_out + found.changed <= limit * total:
        return
    reasons = [f"left out {describe_skipped(found)}"] if left_out else []
    if found.changed:
        reasons.append(f"{found.changed} labels lose {''.join(c for c, _ in found.lost.most_common(20))!r}")
    if 2 * found.skipped["missing"] > left_out + found.changed:
        raise DataError(
            f"{found.path}: {found.skipped['missing']} of {total} images are not there, the first is "
            f"{found.examples['missing'][0]}; expected lines of path<TAB>text, paths relative to the list's folder"
        )
    raise DataError(
        f"{found.path}: {left_out + found.changed} of {total} labels cannot be used as they are "
        f"({'; '.join(reasons)}), with data.max_lost_share {limit:g}; check charset.characters, "
        "charset.max_text_length and image.image_width, or raise data.max_lost_share"
    )


def check_training_data(data: DataConfig) -> None:
    """Check that all sets of a run exist, or raise ``DataError``.

    Missing images of a training set show at once, those of a validation set only hours later: some of all are read.
    """
    for spec in data.train:
        open_source(spec).close()
    for spec in data.validation:
        faults = []
        with open_source(spec) as store:
            looked_at = range(0, len(store), max(1, -(-len(store) // _LOOKED_AT)))
            for index in looked_at:
                try:
                    store.image_bytes(index)
                except DataError as error:
                    faults.append(error)
        bad, seen = len(faults), len(looked_at)
        if bad == seen or too_many(bad, seen, data.max_bad_share):
            raise DataError(
                f"data.validation: {bad} of {seen} images cannot be read: {faults[0]}; expected paths below the list. "
                "Repair the set, or raise data.max_bad_share"
            )


def collate(
    images: Sequence[npt.NDArray[np.uint8]],
    targets: Sequence[Sequence[int]],
    keys: Sequence[str],
    skipped: Sequence[tuple[str, str]] = (),
) -> Batch:
    """Return a batch of images of one width, ``(C, 32, W)`` uint8 each; there may be none."""
    lengths = [len(target) for target in targets]
    padded = np.zeros((len(targets), max(lengths, default=0)), dtype=np.int64)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target)] = target
    stacked = np.stack(images) if images else np.zeros((0, 1, 32, 8), dtype=np.uint8)
    tensors = torch.from_numpy(stacked), torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
    return Batch(*tensors, tuple(keys), tuple(skipped))
