"""Decoding: time and accuracy of every method on the log-probabilities of a trained network; all compute in one thread.

    python benchmarks/decode.py WEIGHTS SET [SET ...] [--pictures 512] [--repeats 5] [--batch 64] [--words 90000]
                                [--file-words 500000] [--only NAME ...] [--seed 0] [--json]

The network runs once; then the methods decode the same log-probabilities in turns, batch by batch, so that a drift of
the machine meets all of them. Figures are medians over the turns; beside them stands the limit that is promised, in ms
a picture, and the time as a share of it. ``slowest`` is the slowest batch, per picture, in the median turn.

Lexicons: ``50`` and ``1k`` are made for each picture of its label and other words, first those of the set's labels,
then of the list that ships, drawn at random; ``set`` has the labels of the set; ``90k`` these and words of the list
that ships, drawn at random. All of them contain the label, as the published lexicons do. Making a lexicon is not part
of the time of a reading; it has a table of its own.

The language model is ``crnn lm OUT shipped``: no label of the set is in it but those that are words. The pattern is
letters alone or digits alone, which most labels are.

To add a method: a line in ``methods``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset
from crnn.data.source import open_source
from crnn.decoding.beam import Hypothesis, beam_search, describe_texts
from crnn.decoding.ctc import DecodedText, decode_greedy, greedy
from crnn.decoding.language import load_language
from crnn.decoding.language_prior import LanguagePrior
from crnn.decoding.language_search import search_with_language
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon
from crnn.decoding.pattern import Pattern
from crnn.evaluation.protocol import own_protocol
from crnn.evaluation.set_reader import read_set
from crnn.reader_config import CharsetConfig
from crnn.recognizer import load
from crnn.synth.word_list import SHIPPED, read_word_list

_Floats = npt.NDArray[np.floating[Any]]
_Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures that went through the network.

    Attributes:
        log_probs: ``(N, T, V)`` float32.
        labels: N labels, as the charset writes them.
        charset: Of the network.
    """

    log_probs: _Floats
    labels: list[str]
    charset: Charset


@dataclass(frozen=True, slots=True)
class Method:
    """One way to read.

    Attributes:
        name: In the table.
        read: From log-probabilities of some samples, and which they are, to class ids.
        limit_ms: What is promised, per picture. ``None``: nothing.
    """

    name: str
    read: Callable[[_Floats, slice], Sequence[Sequence[int]]]
    limit_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Lexicons:
    """Lexicons of one set."""

    each_50: list[Lexicon]
    each_1k: list[Lexicon]
    of_set: Lexicon
    large: Lexicon


def methods(lexicons: Lexicons, charset: Charset) -> list[Method]:
    """What is measured, in the order of the table."""
    large = lexicons.large
    prior = LanguagePrior(load_language("en"), charset)
    kinds = {"[A-Za-z]+": str.isalpha, "[0-9]+": str.isdecimal}
    pattern = Pattern(
        "|".join(k for k, is_one in kinds.items() if any(map(is_one, charset.characters))),
        charset,
        CharsetConfig(characters=charset.characters).rules(),
    )
    return [
        Method("greedy", lambda log_probs, _: greedy(log_probs), 0.01),
        Method("greedy, scores and places", lambda log_probs, _: [text.ids for text in decode_greedy(log_probs)]),
        Method("beam of 10", lambda log_probs, _: [found[0].ids for found in beam_search(log_probs, 10)], 0.5),
        Method("beam of 10, scores and places", lambda log_probs, _: [text.ids for text in _placed(log_probs)]),
        Method("beam of 10, every text", lambda log_probs, _: [f[0].ids for f in beam_search(log_probs, 10, prior)]),
        Method("language", lambda log_probs, _: [f.texts[0].ids for f in search_with_language([log_probs], prior)[0]]),
        Method("pattern", lambda log_probs, _: _likeliest(beam_search(log_probs, 10, None, pattern))),
        Method("pattern and language", lambda log_probs, _: _likeliest(beam_search(log_probs, 10, prior, pattern))),
        Method("50 words each", lambda log_probs, own: _best(decode_lexicon(log_probs, lexicons.each_50[own])), 1.0),
        Method("1k words each", lambda log_probs, own: _best(decode_lexicon(log_probs, lexicons.each_1k[own])), 1.0),
        Method("words of the set", lambda log_probs, _: _best(decode_lexicon(log_probs, lexicons.of_set))),
        Method("large", lambda log_probs, _: _best(decode_lexicon(log_probs, large)), 5.0),
        Method("large, 5 best", lambda log_probs, _: _best(decode_lexicon(log_probs, large, 5))),
        Method("large, posterior", lambda log_probs, _: _best(decode_lexicon(log_probs, large, posterior=True))),
        Method("large, margin 3", lambda log_probs, _: _best(decode_lexicon(log_probs, large, margin=3.0))),
    ]


def _best(found: list[list[LexiconMatch]]) -> list[_Ids]:
    return [matches[0].ids if matches else () for matches in found]


def _likeliest(found: list[list[Hypothesis]]) -> list[_Ids]:
    return [texts[0].ids if texts else () for texts in found]


def _placed(log_probs: _Floats) -> list[DecodedText]:
    return describe_texts(log_probs, [(found[0].ids, found[0].score) for found in beam_search(log_probs, 10)])


# ---- what is decoded -------------------------------------------------------------------------------------------------


def network_output(weights: str, spec: str, count: int) -> Samples:
    """Log-probabilities of samples of a set, evenly over it; of the most frequent width, where widths differ."""
    recognizer = load(weights, threads=1)
    store = open_source(spec)
    protocol = own_protocol(recognizer.config.charset.rules(), recognizer.charset)
    done = read_set(recognizer, store, protocol, lambda output, _: list(output.log_probs)).samples
    steps = statistics.mode(sample.found.shape[0] for sample in done)
    same = [sample for sample in done if sample.found.shape[0] == steps]
    chosen = [same[place] for place in np.linspace(0, len(same) - 1, min(count, len(same))).astype(int).tolist()]
    log_probs = np.stack([sample.found for sample in chosen])
    return Samples(log_probs, [sample.label for sample in chosen], recognizer.charset)


def make_lexicons(samples: Samples, words: int, seed: int) -> tuple[Lexicons, list[dict[str, Any]]]:
    """The lexicons, and what each took to make."""
    rng = random.Random(seed)
    rules = CharsetConfig(characters=samples.charset.characters, unknown="drop_sample").rules()
    listed = Lexicon.from_words(read_word_list(SHIPPED).text.split("\n")[:-1], samples.charset, rules=rules).words
    of_set = sorted(set(samples.labels))
    rng.shuffle(listed)
    rows: list[dict[str, Any]] = []

    def built(name: str, given: list[list[str]]) -> list[Lexicon]:
        started = time.perf_counter()
        made = [Lexicon.from_words(words, samples.charset) for words in given]
        middle = time.perf_counter()
        nodes = [len(lexicon.trie) for lexicon in made]
        ended = time.perf_counter()
        rows.append({
            "lexicon": name,
            "words": statistics.mean(map(len, made)),
            "nodes": statistics.mean(nodes),
            "bytes_per_word": sum(lexicon.num_bytes for lexicon in made) / sum(map(len, made)),
            "words_ms": 1e3 * (middle - started) / len(made),
            "trie_ms": 1e3 * (ended - middle) / len(made),
        })  # fmt: skip
        return made

    def own(count: int) -> list[list[str]]:
        pool = of_set if len(of_set) > count else of_set + listed[: 2 * count]
        return [[label, *rng.sample([word for word in pool if word != label], count - 1)] for label in samples.labels]

    return Lexicons(
        each_50=built("50", own(50)),
        each_1k=built("1k", own(1000)),
        of_set=built("set", [of_set])[0],
        large=built("large", [[*of_set, *(word for word in listed if word not in set(of_set))][:words]])[0],
    ), rows


def load_time(count: int, seed: int) -> dict[str, Any]:
    """Seconds that a file of made-up words takes, compounds of two words that ship, with its trie."""
    rng = random.Random(seed)
    listed = read_word_list(SHIPPED).text.split("\n")[:-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words.txt")
        path.write_text("".join(f"{rng.choice(listed)}{rng.choice(listed)}\n" for _ in range(count)), "utf-8")
        started = time.perf_counter()
        lexicon = Lexicon.load(path, Charset("94"))
        nodes = len(lexicon.trie)
        seconds = time.perf_counter() - started
    return {"lines": count, "words": len(lexicon), "nodes": nodes, "seconds": seconds, "limit_seconds": 2.0}


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(samples: Samples, chosen: list[Method], batch: int, repeats: int) -> list[dict[str, Any]]:
    """Time and accuracy of each method."""
    count = len(samples.labels)
    targets = [tuple(samples.charset.encode(label)) for label in samples.labels]
    parts = [slice(start, min(start + batch, count)) for start in range(0, count, batch)]
    times: dict[str, list[list[float]]] = {method.name: [] for method in chosen}
    texts: dict[str, list[_Ids]] = {}
    for _ in range(repeats):
        for method in chosen:
            found: list[_Ids] = []
            seconds = []
            for part in parts:
                started = time.perf_counter()
                ids = method.read(samples.log_probs[part], part)
                seconds.append((time.perf_counter() - started) / (part.stop - part.start))
                found += map(tuple, ids)
            times[method.name].append(seconds)
            texts[method.name] = found
    sizes = [part.stop - part.start for part in parts]
    rows = []
    for method in chosen:
        turns = sorted(times[method.name], key=lambda turn: sum(map(float.__mul__, turn, map(float, sizes))))
        middle = turns[len(turns) // 2]
        ms = 1e3 * sum(each * size for each, size in zip(middle, sizes, strict=True)) / count
        right = sum(found == target for found, target in zip(texts[method.name], targets, strict=True))
        rows.append({
            "method": method.name, "ms": ms, "slowest_ms": 1e3 * max(middle), "per_second": 1e3 / ms,
            "limit_ms": method.limit_ms, "of_limit": ms / method.limit_ms if method.limit_ms else None,
            "accuracy": right / count,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = [
            "" if value is None else f"{value:,.4g}" if isinstance(value, float) else value for value in row.values()
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a weights file or a run folder")
    parser.add_argument("sets", nargs="+", help="what crnn evaluate takes: a store, a list file")
    parser.add_argument("--pictures", type=int, default=512, help="of each set")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--words", type=int, default=90_000, help="of the large lexicon")
    parser.add_argument("--file-words", type=int, default=500_000, help="of the file that is loaded; 0: none")
    parser.add_argument("--only", nargs="+", help="methods, by name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "seed": options.seed,
        "sets": {},
    }
    if options.file_words:
        figures["load"] = load_time(options.file_words, options.seed)
    for spec in options.sets:
        samples = network_output(options.weights, spec, options.pictures)
        lexicons, made = make_lexicons(samples, options.words, options.seed)
        every = methods(lexicons, samples.charset)
        chosen = [method for method in every if not options.only or method.name in options.only]
        if not chosen:
            sys.exit(f"--only {options.only}: no such method; there are {[each.name for each in every]}")
        figures["sets"][spec] = {
            "shape": list(samples.log_probs.shape),
            "lexicons": made,
            "methods": measure(samples, chosen, options.batch, options.repeats),
        }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(figures["machine"])
    if "load" in figures:
        print(f"\nA file of words, loaded:\n\n{table([figures['load']])}")
    for spec, found in figures["sets"].items():
        print(f"\n{spec}, {found['shape']}:\n\n{table(found['methods'])}\n\n{table(found['lexicons'])}")


if __name__ == "__main__":
    main()
