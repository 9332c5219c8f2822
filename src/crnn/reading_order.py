"""Order of characters: labels are in reading order, class ids in the order of the image, from left to right.

The two differ where letters are written from the right (Unicode Standard Annex 9, "Unicode Bidirectional Algorithm").
A text with such a letter, or with Arabic digits, is a line from right to left, whatever letter it begins with; any
other is one from left to right. So the direction can be told from the image alone.
"""

import functools
import re
import unicodedata

# A mark that combines with any character: after the reordering it stands before it where the text runs from the right.
_MARK = "\U000e0100"


def has_right_to_left(text: str) -> bool:
    """Return whether a text has letters written from right to left, or Arabic digits."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text)


def mirrored(character: str) -> str:
    """Return the bracket, or other paired character, that looks like this one from right to left; else itself."""
    from bidi.mirror import MIRRORED

    return str(MIRRORED.get(character, character))


@functools.cache
def _pairs() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of paired characters, and of one with its mark behind or before it."""
    from bidi.mirror import MIRRORED

    paired = f"[{re.escape(''.join(MIRRORED))}]"
    return re.compile(paired), re.compile(f"({paired}){_MARK}|{_MARK}({paired})")


def reorder(text: str) -> str:
    """Return a text in reading order in the order of its image, and the reverse.

    Brackets in runs from right to left change into the form that is seen. Several texts can share one image ("12 abc"
    and "abc 12" beside Hebrew): from the image comes one of them.
    """
    if not has_right_to_left(text):
        return text
    from bidi import get_display  # a compiled package, which few readers need

    paired, marked = _pairs()
    shown = get_display(paired.sub(rf"\g<0>{_MARK}", text), base_dir="R")
    return marked.sub(lambda found: found[1] or mirrored(found[2]), shown)


def as_read(label: str) -> str:
    """Return the text that a perfect reading of the image of a label has."""
    return reorder(reorder(label))
