"""A recogniser over benchmark sets, under a published protocol: accuracy, 1-NED and CER with their counts.

Every sample of a set ends in one of two places: it is compared, or it is skipped and counted by reason. Ranks share
out the samples; each counts its own, and what they counted is put together before anything is divided, so that the
numbers depend neither on the batch size nor on the number of ranks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from crnn.charset import NAMED_CHARSETS, LabelSkip
from crnn.data.source import SampleStore, open_source, split_name
from crnn.distributed import Ranks
from crnn.errors import CharsetError, DataError, ImageError
from crnn.metrics import score_texts
from crnn.protocol import CharsetName, Protocol, ProtocolName, own_protocol, protocol_for
from crnn.recognizer import Recognizer
from crnn.results import DatasetResult, Evaluation, SampleResult

__all__ = ["count_samples", "evaluate"]

ProtocolCharset = Literal["auto"] | CharsetName


def evaluate(
    recognizer: Recognizer,
    data: Sequence[str],
    *,
    protocol: ProtocolName = "parseq",
    charset: ProtocolCharset = "auto",
    model: str = "",
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Read every sample of every set and compare.

    Args:
        recognizer: What reads.
        data: LMDB folders and list files; ``NAME=PATH`` gives one the name that the table shows.
        protocol: Rules for labels and readings.
        charset: Characters that are compared. ``auto``: the model's own where it is none of 36, 62 and 94 (then
            under PARSeq's rules), else 36, which is what papers report.
        model: Name for the result.
        ranks: Processes that share the work; each gets the whole result.
        progress: Called with the number of samples done since the last call, on this rank.

    Raises:
        DataError: A set is missing or empty, or two have one name.
        CharsetError: The model's own rules make unknown characters an error, and a label has one.
        ConfigError: The protocol has no such evaluation.
    """
    stores = [(name, open_source(path)) for name, path in map(split_name, data)]
    for name, count in Counter(name for name, _ in stores).items():
        if count > 1:
            raise DataError(f"{count} sets are called {name!r}; give each a name of its own with NAME=DATA")
    for _, store in stores:
        if not len(store):
            raise DataError(f"{store.path}: has no samples; expected at least one")
    rules = [_protocol(recognizer, name, protocol, charset) for name, _ in stores]
    results = [
        _evaluate_set(recognizer, name, store, rule, ranks, progress)
        for (name, store), rule in zip(stores, rules, strict=True)
    ]
    return Evaluation(model, protocol, tuple(results))


def count_samples(data: Sequence[str]) -> int:
    """Number of samples of these sets together, for a progress bar.

    Raises:
        DataError: A set is missing.
    """
    return sum(len(open_source(split_name(spec)[1])) for spec in data)


def _protocol(recognizer: Recognizer, dataset: str, protocol: ProtocolName, charset: ProtocolCharset) -> Protocol:
    own = recognizer.charset.characters
    if charset == "auto" and set(own) not in [set(characters) for characters in NAMED_CHARSETS.values()]:
        return own_protocol(recognizer.config.charset.rules(), recognizer.charset, dataset)
    return protocol_for(protocol, "36" if charset == "auto" else charset, dataset)


def _evaluate_set(
    recognizer: Recognizer,
    name: str,
    store: SampleStore,
    protocol: Protocol,
    ranks: Ranks | None,
    progress: Callable[[int], None],
) -> DatasetResult:
    rank, world_size = (ranks.rank, ranks.world_size) if ranks is not None else (0, 1)
    skipped: Counter[str] = Counter()
    unreadable: list[tuple[int, str]] = []  # they are met in an order that depends on batches; the set's counts
    samples: list[SampleResult] = []
    kept: deque[tuple[int, str, str]] = deque()  # those that wait for their reading, in the order of their pictures

    def pictures() -> Iterator[bytes]:
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
            kept.append((index, raw, label))
            yield picture

    for reading in recognizer.stream(pictures()):
        index, raw, label = kept.popleft()
        if isinstance(reading, ImageError):
            skipped[reading.reason] += 1
            unreadable.append((index, f"{store.key(index)}: {reading}"))
            continue
        prediction = protocol.prediction(reading.text)
        samples.append(SampleResult(index, store.key(index), raw, label, prediction, reading.score))

    if ranks is not None:
        parts = ranks.gather((samples, skipped, unreadable))
        samples = sorted((s for part in parts for s in part[0]), key=lambda s: s.index)
        skipped = sum((part[1] for part in parts), Counter())
        unreadable = [found for part in parts for found in part[2]]
    return DatasetResult(
        name,
        store.path,
        protocol.title,
        score_texts((s.label, s.prediction) for s in samples),
        dict(sorted(skipped.items())),
        protocol.expected_count,
        tuple(samples),
        tuple(line for _, line in sorted(unreadable)[:3]),
    )
