"""Pictures of one width together, without padding, and results in the order in which the pictures came.

A network takes pictures of one width at a time. Where widths differ, pictures wait until there are enough of theirs, or
until the oldest of them has waited for as many others as may be held: then its batch goes through as it is. So batches
are as full as the bound allows, wherever in the sequence the pictures stand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crnn.errors import ImageError

__all__ = ["FittedPicture", "in_width_batches"]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class FittedPicture:
    """A picture at the size of the network.

    Attributes:
        pixels: ``(C, 32, W)``, ``uint8``.
        original_size: Width and height in pixels, as it was given.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]


def in_width_batches(
    pictures: Iterator[FittedPicture | ImageError],
    compute: Callable[[Sequence[int], Sequence[FittedPicture]], Sequence[_R]],
    *,
    batch_size: int,
    held: int,
) -> Generator[_R | ImageError, None, None]:
    """Pictures in batches of one width, and what is computed of them.

    Args:
        pictures: Any number, or why there is none; drawn as results are taken.
        compute: Called with the places of up to ``batch_size`` pictures of one width, from 0 in the order in which they
            came, and with these; gives a result for each.
        batch_size: At least 1.
        held: Pictures that may be drawn without their results being given, at least ``batch_size``.

    Yields:
        For each picture, in order, its result, or the ``ImageError`` that came in its place. An exception of the
        iterator comes after the results of all pictures before it.
    """
    results: dict[int, _R | ImageError] = {}
    groups: dict[int, list[tuple[int, FittedPicture]]] = {}  # those that wait, by width
    width_of: dict[int, int] = {}  # of those that wait, by place
    drawn = given = 0
    failure: Exception | None = None

    def run(width: int) -> None:
        places, group = zip(*groups.pop(width), strict=True)
        for place, result in zip(places, compute(places, group), strict=True):
            results[place] = result
            del width_of[place]

    while True:
        try:
            picture = next(pictures)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if isinstance(picture, ImageError):
            results[drawn] = picture
        else:
            width = picture.pixels.shape[2]
            groups.setdefault(width, []).append((drawn, picture))
            width_of[drawn] = width
            if len(groups[width]) == batch_size:
                run(width)
        drawn += 1
        if drawn - given >= held and given in width_of:
            run(width_of[given])
        while given in results:
            yield results.pop(given)
            given += 1
    # The oldest first, so that their results can be given before the others are computed.
    while given < drawn:
        if given in width_of:
            run(width_of[given])
        yield results.pop(given)
        given += 1
    if failure is not None:
        raise failure
