"""The look at all labels before training: which samples can be used, and why the others cannot."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules, LabelSkip, characters_outside, min_time_steps
from crnn.data.source import SampleStore
from crnn.errors import CharsetError, DataError, ImageError
from crnn.image import image_size, target_width
from crnn.reader_config import ImageConfig, time_steps

__all__ = ["LabelScan", "describe_skipped", "scan_labels"]

_MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class LabelScan:
    """What a look at all labels of a source found; no label is kept.

    Attributes:
        path: The source, as the user typed it.
        indices: ``(n,)`` uint32: the samples whose labels can be used.
        skipped: Samples left out, by reason.
        examples: For each reason, the keys of the first three.
        changed: Labels that lost characters which the charset has not.
        lost: How often each such character was met.
        digest: Changes with the usable samples: their numbers and their labels, not their pictures.
        widths: ``(n,)`` uint16: width of each usable sample under ``keep_ratio``, else ``None``.
    """

    path: str
    indices: npt.NDArray[np.uint32]
    skipped: Counter[str]
    examples: dict[str, list[str]]
    changed: int
    lost: Counter[str]
    digest: int
    widths: npt.NDArray[np.uint16] | None


def scan_labels(
    store: SampleStore,
    charset: Charset,
    rules: LabelRules,
    image: ImageConfig,
    progress: Callable[[int], None] = lambda _: None,
) -> LabelScan:
    """Find the samples of a store that can be trained on.

    A label that the rules leave out, or that needs more time steps than its picture gives (``too_long_for_width``), is
    counted by reason with the keys of the first few.

    Args:
        store: Its labels are read one after the other; under ``keep_ratio`` its pictures' headers, too.
        charset: What targets are made of.
        rules: How labels become targets.
        image: Gives the time steps.
        progress: Called with the number of labels looked at since the last call.

    Raises:
        CharsetError: The rules say ``error`` for unknown characters, and there is one; the message names the sample.
    """
    usable = array("I")  # four bytes a sample: there may be many millions
    widths = array("H")
    skipped: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    changed = digest = 0
    fixed_steps = time_steps(image.image_width) if image.resize == "squash" else None

    def skip(index: int, reason: str) -> None:
        skipped[reason] += 1
        if len(examples.setdefault(reason, [])) < _MAX_EXAMPLES:
            examples[reason].append(store.key(index))

    for index in range(len(store)):
        if index % 1024 == 1023:
            progress(1024)
        try:
            raw = store.label(index)
            label = rules.apply(raw, charset)
            if label != raw:
                gone = characters_outside(raw, charset, rules)
                changed += bool(gone)
                lost.update(gone)
            width = image.image_width
            if fixed_steps is None:
                size = store.stored_size(index) or image_size(store.image_bytes(index))
                width = target_width(size, image)
        except LabelSkip as left_out:
            skip(index, left_out.reason)
            continue
        except CharsetError as error:
            raise CharsetError(f"{store.path}, {store.key(index)}: {error}") from None
        except ImageError as error:
            skip(index, error.reason)
            continue
        except DataError:
            skip(index, "unreadable_record")
            continue
        steps = fixed_steps or time_steps(width)
        if 2 * len(label) - 1 > steps and min_time_steps(charset.encode(label)) > steps:
            skip(index, "too_long_for_width")
            continue
        usable.append(index)
        digest = zlib.crc32(label.encode("utf-8", "surrogatepass"), zlib.crc32(index.to_bytes(8, "little"), digest))
        if fixed_steps is None:
            widths.append(width)
    progress(len(store) % 1024)
    return LabelScan(
        store.path,
        np.frombuffer(usable, dtype=np.uint32),
        skipped,
        examples,
        changed,
        lost,
        digest,
        np.frombuffer(widths, dtype=np.uint16) if fixed_steps is None else None,
    )


def describe_skipped(scan: LabelScan) -> str:
    """``reason: count (key, key, ...)`` for every reason that a scan found, the most frequent first."""
    return "; ".join(
        f"{reason}: {count} ({', '.join(scan.examples[reason])}{', ...' if count > len(scan.examples[reason]) else ''})"
        for reason, count in scan.skipped.most_common()
    )
