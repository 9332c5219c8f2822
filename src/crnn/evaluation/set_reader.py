"""The samples of a set through a network: which count under a protocol, and what is made of the output for each.

Every sample ends in one of two places: it is compared, or it is skipped and counted by reason. Ranks share out the
samples; each counts its own, and what they found is put together, so that nothing depends on batches or ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from crnn.charset import LabelSkip
from crnn.data.source import SampleStore
from crnn.distributed import Ranks
from crnn.errors import CharsetError, DataError, ImageError
from crnn.evaluation.protocol import Protocol
from crnn.recognizer import NetworkOutput, Recognizer

__all__ = ["ComparedSample", "ReadSet", "read_set"]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class ComparedSample(Generic[_R]):
    """One sample that counts.

    Attributes:
        index: Its place in the set.
        key: What names it in the set.
        raw_label: The label as the set has it.
        label: The label as the protocol compares it.
        found: What was made of the network's output.
    """

    index: int
    key: str
    raw_label: str
    label: str
    found: _R


@dataclass(frozen=True, slots=True)
class ReadSet(Generic[_R]):
    """A set that was read.

    Attributes:
        samples: Those that count, in the order of the set.
        skipped: The others, by reason.
        unreadable: Keys of pictures and records that could not be read, with why, in the order of the set.
    """

    samples: list[ComparedSample[_R]]
    skipped: dict[str, int]
    unreadable: list[str]


def read_set(
    recognizer: Recognizer,
    store: SampleStore,
    protocol: Protocol,
    read: Callable[[NetworkOutput, list[int]], Sequence[_R]],
    *,
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> ReadSet[_R]:
    """Bring the samples of a set that count under a protocol through the network.

    Args:
        recognizer: What computes.
        store: The set.
        protocol: Which samples count, and in what form their labels are compared.
        read: Called with what the network says of a batch, and the places of its pictures in the set; gives one result
            for each of them.
        ranks: Processes that share the work; each gets the whole result.
        progress: Called with the number of samples done since the last call, on this rank.

    Raises:
        CharsetError: The model's own rules make unknown characters an error, and a label has one.
    """
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    skipped: Counter[str] = Counter()
    unreadable: list[tuple[int, str]] = []  # they are met in an order that depends on batches
    samples: list[ComparedSample[_R]] = []
    kept: dict[int, tuple[int, str, str]] = {}  # those that wait for their result, by the place of their picture

    def pictures() -> Iterator[bytes]:
        place = 0
        for index in range(rank, len(store), world_size):
            progress(1)
            try:
                raw = store.label(index)
                label = protocol.label(raw)
                picture = store.image_bytes(index)
            except LabelSkip as skip:
                skipped[skip.reason] += 1
                continue
            except CharsetError as error:
                raise CharsetError(f"{store.path}, {store.key(index)}: {error}") from None
            except DataError as error:
                skipped[error.reason if isinstance(error, ImageError) else "unreadable_record"] += 1
                unreadable.append((index, f"{store.key(index)}: {error}"))
                continue
            kept[place] = (index, raw, label)
            place += 1
            yield picture

    def results(output: NetworkOutput) -> Sequence[_R]:
        return read(output, [kept[place][0] for place in output.places])

    for place, found in enumerate(recognizer.run(pictures(), results)):
        index, raw, label = kept.pop(place)
        if isinstance(found, ImageError):
            skipped[found.reason] += 1
            unreadable.append((index, f"{store.key(index)}: {found}"))
        else:
            samples.append(ComparedSample(index, store.key(index), raw, label, found))

    if ranks is not None:
        parts = ranks.gather((samples, skipped, unreadable))
        samples = sorted((s for part in parts for s in part[0]), key=lambda s: s.index)
        skipped = sum((part[1] for part in parts), Counter())
        unreadable = [line for part in parts for line in part[2]]
    return ReadSet(samples, dict(sorted(skipped.items())), [line for _, line in sorted(unreadable)])
