"""``crnn lm``: a language for reading, from word lists and from the labels of sets."""

from pathlib import Path
from typing import Annotated

import typer

from crnn.decoding.language import DEFAULT_ORDER
from crnn.errors import ConfigError, DataError
from crnn.terminal import check_writable, counting_bar, show


def lm(
    out: Annotated[str, typer.Argument(metavar="OUT")],
    lists: Annotated[list[str] | None, typer.Argument(metavar="[WORDS] ...")] = None,
    labels: Annotated[list[str] | None, typer.Option(metavar="DATA")] = None,
    order: int = DEFAULT_ORDER,
    power: float = 0.75,
) -> int:
    """Learn a language, for 'crnn read --lm OUT' and 'crnn evaluate --lm OUT'.

    It serves networks of every charset. In Python: ``crnn.decoding.language.train_language``.

    Args:
        out: The file to write.
        lists: Word lists: shipped; wordfreq:LANG, such as wordfreq:de (the package wordfreq); or a file with a word on
            each line, or word, tab and frequency.
        labels: LMDB folders and list files whose labels are texts to learn from, too; once for each.
        order: Longest sequence of characters that is counted, the marks of beginning and end included.
        power: Words count by their frequency to this power; 0: all alike.
    """
    from crnn.data.source import open_source
    from crnn.decoding.language import train_language
    from crnn.synth.word_list import read_word_list

    lists, labels = lists or [], labels or []
    if not lists and not labels:
        raise ConfigError(
            f"{out}: nothing to learn from is given; expected word lists behind it ('shipped' is one), or --labels"
        )
    if not 0.0 <= power <= 2.0:
        raise ConfigError(f"--power is {power}; expected a number from 0 to 2")
    check_writable("OUT", out, "words.lm")
    if out == "shipped" or out.startswith("wordfreq:") or out in lists:
        raise ConfigError(f"OUT {out}: is a word list as well; expected the file to write first")
    words: list[tuple[str, float]] = []
    unreadable = 0
    with counting_bar("learning", len(lists) + len(labels) + 1 + order) as progress:
        for name in lists:
            found = read_word_list(name)
            weights = (found.frequencies / found.frequencies.max()) ** power
            # The mean is 1, so that every list counts as its length.
            words += zip(found.words, (weights / weights.mean()).tolist(), strict=True)
            progress(1)
        for path in labels:
            with open_source(path) as store:
                for index in range(len(store)):
                    try:
                        words += [(word, 1.0) for word in store.label(index).split()]
                    except DataError:
                        unreadable += 1
            progress(1)
        language = train_language(words, Path(out).stem, order, progress=progress)
    size = language.save(out)
    show(
        f"{out}: order {language.order}, {language.num_words} words, {language.arrays['symbols'].size} "
        f"sequences of {len(language.characters)} characters, {size / 1e6:.1f} MB"
    )
    if unreadable:
        show(f"  left out {unreadable}: unreadable_record")
    return 0
