"""From a reader's record to the picture that is stored: what the worker processes of a conversion do.

Original bytes are kept wherever a record is a whole picture; only what is cut out, or made smaller, is encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image

from crnn.data.cropping import crop, decode_scene, decode_upright, encode, limit_height
from crnn.data.formats.record import Box, Quad
from crnn.errors import ConfigError, ImageError
from crnn.image import image_size, load_image

__all__ = ["PictureSettings", "PictureSource", "Prepare", "Prepared", "Request"]

_TAIL_BYTES = 64  # in which the last bytes of a JPEG or PNG are found, if somebody put zeros behind them


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """What happens to pictures on their way into a store.

    Attributes:
        check: ``header`` looks at the header and the last bytes of a picture that is kept as it is, and decodes only
            those that look cut short; ``full`` decodes every picture, which costs several times the time.
        max_height: Higher pictures are made smaller, to this number of pixels; ``None``: they are kept.
        encoding: Of pictures that were cut out or made smaller; ``png`` loses nothing, ``jpeg`` is about a third of it.
        quality: Of JPEG, 1 to 100.

    Raises:
        ConfigError: A value is none of these.
    """

    check: Literal["header", "full"] = "header"
    max_height: int | None = None
    encoding: Literal["png", "jpeg"] = "png"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.check not in ("header", "full"):
            raise ConfigError(f"check is {self.check!r}; expected header or full")
        if self.max_height is not None and self.max_height < 1:
            raise ConfigError(f"max_height is {self.max_height}; expected at least 1 pixel")
        if self.encoding not in ("png", "jpeg"):
            raise ConfigError(f"encoding is {self.encoding!r}; expected png or jpeg")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")


PictureSource: TypeAlias = Callable[[str], bytes]
"""Gives the bytes of the picture that a record's ``path`` names, or raises an ``ImageError``; it can be pickled."""


class Request(NamedTuple):
    """One picture to prepare.

    Attributes:
        source: Number of its source.
        path: Where that has the picture.
        region: The part of it that is wanted; ``None``: all of it, whose bytes are kept.
    """

    source: int
    path: str
    region: Box | Quad | None = None


class Prepared(NamedTuple):
    """A picture that is ready to be stored, or why there is none.

    Attributes:
        image: Its bytes; none if there is a ``reason``.
        width: As training will see it, in pixels.
        height: As training will see it, in pixels.
        reason: One word by which what cannot be used is counted.
        message: What is wrong.
    """

    image: bytes
    width: int = 0
    height: int = 0
    reason: str = ""
    message: str = ""


class Prepare:
    """Prepares the pictures of records, one after the other; it can be pickled.

    The last scene is kept decoded, so that words of one scene that follow each other share its decoding.

    Args:
        sources: Where pictures are; requests name them by number.
        settings: What to do with them.
    """

    def __init__(self, sources: Sequence[PictureSource], settings: PictureSettings) -> None:
        self._sources = sources
        self._settings = settings
        self._scene_key: tuple[int, str] | None = None
        self._scene: Image.Image | ImageError | None = None

    def __call__(self, requests: Sequence[Request]) -> Iterator[Prepared]:
        """One result for each request, in order.

        Raises:
            DataError: A source is damaged as a whole.
        """
        for request in requests:
            try:
                if request.region is None:
                    yield self._whole(request)
                else:
                    yield self._part(request, request.region)
            except ImageError as error:
                yield Prepared(b"", reason=error.reason, message=str(error))

    def _bytes(self, request: Request) -> bytes:
        return self._sources[request.source](request.path)

    def _whole(self, request: Request) -> Prepared:
        data, settings = self._bytes(request), self._settings
        width, height = image_size(data)
        if settings.max_height is not None and height > settings.max_height:
            image = limit_height(decode_upright(data, request.path), settings.max_height)
            return Prepared(encode(image, settings.encoding, settings.quality), *image.size)
        if settings.check == "full" or not _ends_well(data):
            load_image(data, 3)
        return Prepared(data, width, height)

    def _part(self, request: Request, region: Box | Quad) -> Prepared:
        image = limit_height(crop(self._decoded(request), region), self._settings.max_height)
        return Prepared(encode(image, self._settings.encoding, self._settings.quality), *image.size)

    def _decoded(self, request: Request) -> Image.Image:
        key = (request.source, request.path)
        if self._scene_key != key:
            self._scene_key, self._scene = None, None  # two decoded scenes at once would be twice the memory
            try:
                self._scene = decode_scene(self._bytes(request), request.path)
            except ImageError as error:
                self._scene = error  # so are all other words in it
            self._scene_key = key
        if isinstance(self._scene, ImageError):
            raise ImageError(str(self._scene), reason=self._scene.reason)
        assert self._scene is not None
        return self._scene


def _ends_well(data: bytes) -> bool:
    """Whether a picture has its end, as far as that can be told without decoding it."""
    if data.startswith(b"\xff\xd8\xff"):
        return data.endswith(b"\xff\xd9") or b"\xff\xd9" in data[-_TAIL_BYTES:]
    return data.startswith(b"\x89PNG") and b"IEND" in data[-_TAIL_BYTES:]
