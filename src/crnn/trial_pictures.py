"""Pictures to try a network with, where no labels are needed: stored ones, rendered ones, or drawn ones.

For quantisation, which must see what convolutions see, and for comparing two forms of one network. All come as batches
``(n, C, 32, W)`` uint8 of one width each, as engines take them (``crnn.image.load_resized``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crnn.data.source import open_source
from crnn.engines.engine import Pixels
from crnn.errors import ConfigError, DataError, ImageError
from crnn.image import load_resized
from crnn.reader_config import ImageConfig, ReaderConfig

__all__ = ["drawn_pictures", "rendered_pictures", "stored_pictures"]

_BATCH = 16
_FIRST = 2_000_000_000
"""Number of the first rendered sample: behind all that a training of a usual length has shown to the network."""

_Array = npt.NDArray[np.uint8]


def stored_pictures(
    data: Sequence[str], image: ImageConfig, count: int, say: Callable[[str], None] = lambda _: None
) -> list[Pixels]:
    """Pictures of sets, evenly spread over all of them.

    Args:
        data: LMDB folders and list files.
        image: The ``image`` settings.
        count: How many at most.
        say: Called with a line that says how many could not be read, and why the first of them, where there are any.

    Raises:
        DataError: A set cannot be opened, or none of the pictures can be read.
        MissingExtraError: It is an LMDB folder and the package ``lmdb`` is not installed.
    """
    pictures: list[_Array] = []
    left_out: list[str] = []
    stores = [open_source(spec) for spec in data]
    try:
        ends = np.cumsum([len(store) for store in stores])
        total = int(ends[-1]) if stores else 0
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        for place, number in zip(chosen.tolist(), np.searchsorted(ends, chosen, side="right").tolist(), strict=True):
            store, index = stores[number], place - int(ends[number]) + len(stores[number])
            try:
                pictures.append(load_resized(store.image_bytes(index), image))
            except ImageError as error:  # one that is read by nobody says nothing of what is read
                left_out.append(f"{store.path}: {store.key(index)}: {error}")
    finally:
        for store in stores:
            store.close()
    if not pictures:
        why = f" ({left_out[0]})" if left_out else ""
        raise DataError(f"{', '.join(data)}: has no pictures that can be read{why}; expected some hundreds")
    if left_out:
        say(f"{len(left_out)} of {len(chosen)} pictures cannot be read and are left out; the first: {left_out[0]}")
    return list(_batches(pictures))


def rendered_pictures(config: ReaderConfig, count: int) -> list[Pixels]:
    """Rendered words and lines in the characters of a network, as ``crnn synth`` makes them; the same at every call.

    Args:
        config: Settings of the network.
        count: How many.

    Raises:
        ConfigError: No face that ships can write these characters.
        MissingExtraError: Something that rendering needs is not installed.
    """
    from crnn.config import Config
    from crnn.synth.renderer import Renderer, to_bytes

    squashed = config.image.resize == "squash"
    pictures: list[_Array] = []
    try:
        settings = Config(model=config.model, image=config.image, charset=config.charset)
        renderer = Renderer(settings)
        for first in range(0, count, _BATCH):
            samples = np.arange(_FIRST + first, _FIRST + min(first + _BATCH, count), dtype=np.int64)
            for _, numbers in renderer.groups(samples):
                found, _, scene = renderer.samples(numbers)
                pixels = to_bytes(found).numpy()
                if squashed:
                    pictures.extend(pixels)
                    continue
                for picture, (height, width) in zip(pixels.transpose(0, 2, 3, 1), scene.geometry.crop, strict=True):
                    pictures.append(load_resized(_in_proportion(picture, width / height), config.image))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"words in these characters cannot be rendered: {error}. Give pictures with --data") from None
    return list(_batches(pictures))


def drawn_pictures(config: ReaderConfig, count: int) -> list[Pixels]:
    """Words in the one face that Pillow has, dark on light or light on dark; needs nothing but Pillow.

    They are no match for crops, but any picture shows whether two forms of a network agree.

    Args:
        config: Settings of the network; characters that the face lacks become boxes.
        count: How many.
    """
    rng = np.random.default_rng(0)
    characters = [c for c in config.charset.charset().characters if not c.isspace()]
    pictures: list[_Array] = []
    for _ in range(count):
        text = "".join(rng.choice(characters, size=rng.integers(1, 12)))
        font = ImageFont.load_default(int(rng.integers(14, 48)))
        left, top, right, bottom = (int(side) for side in font.getbbox(text))
        paper, ink = rng.integers(0, 100, 3), rng.integers(150, 256, 3)
        if rng.random() < 0.5:
            paper, ink = ink, paper
        picture = Image.new("RGB", (right - left + 12, max(bottom - top, 1) + 8), tuple(paper.tolist()))
        ImageDraw.Draw(picture).text((6 - left, 4 - top), text, font=font, fill=tuple(ink.tolist()))
        pictures.append(load_resized(picture, config.image))
    return list(_batches(pictures))


def _in_proportion(picture: _Array, ratio: float) -> Image.Image:
    """A picture ``(H, W, C)`` as wide as the crop that it shows."""
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    return image.resize((max(8, round(image.height * ratio)), image.height), Image.Resampling.BICUBIC)


def _batches(pictures: Iterable[_Array]) -> Iterator[Pixels]:
    """Pictures of one width together, in their order."""
    by_width: dict[int, list[_Array]] = {}
    for picture in pictures:
        by_width.setdefault(picture.shape[2], []).append(picture)
    for _, members in sorted(by_width.items()):
        for first in range(0, len(members), _BATCH):
            yield np.stack(members[first : first + _BATCH])
