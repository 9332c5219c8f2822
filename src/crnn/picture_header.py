"""Width and height of an ordinary JPEG or PNG, read from its header without Pillow.

Sets have millions of pictures, and Pillow takes 20 microseconds for the header of each. ``header_size`` knows the
headers that nearly all pictures have, in a few microseconds, and gives no answer for all others: whatever is unusual,
damaged or turned by EXIF is left to Pillow, so that the answer is Pillow's either way. It decodes nothing, believes no
length without looking whether so many bytes are there, and applies no limit to what it finds.

References:
    ITU-T T.81 (JPEG), Annex B: segments, B.2.2 the frame header; W3C, Portable Network Graphics, sections 5 and 11.
    What is accepted is a part of what Pillow's ``JpegImagePlugin`` and ``PngImagePlugin`` accept.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["PNG_ORIENTATION_CHUNKS", "header_size"]

PNG_ORIENTATION_CHUNKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
"""What says how a PNG is turned; it may also follow the pixels."""

_JPEG_BEGIN = b"\xff\xd8\xff"
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_HEADER_END = len(_PNG_BEGIN) + 13 + 4  # its 13 bytes, and their checksum

_segment = struct.Struct(">HH").unpack_from  # marker, length
_frame = struct.Struct(">BHHB").unpack_from  # bits, height, width, components
_header = struct.Struct(">IIBBBBBI").unpack_from  # width, height, depth, colour, compression, filter, interlace, CRC
_chunk = struct.Struct(">I4s").unpack_from  # length, type
_checksum = struct.Struct(">I").unpack_from

_APP0, _APP14, _COMMENT = 0xFFE0, 0xFFEE, 0xFFFE
_FRAMES = frozenset((0xFFC0, 0xFFC1, 0xFFC2))  # baseline, extended, progressive
_HUFFMAN, _QUANTIZATION, _RESTART, _SCAN = 0xFFC4, 0xFFDB, 0xFFDD, 0xFFDA
_PASSED_OVER = frozenset((_HUFFMAN, _RESTART, _COMMENT))

# (depth, colour type) of PNG.
_PNG_MODES = frozenset(
    [(depth, 0) for depth in (1, 2, 4, 8, 16)]
    + [(depth, 3) for depth in (1, 2, 4, 8)]
    + [(depth, colour) for depth in (8, 16) for colour in (2, 4, 6)]
)
# Chunks before the pixels that do not change how they are seen, and their lengths.
_PNG_PASSED_OVER = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
_MAX_PALETTE_BYTES = 3 * 256

_seen_tables = b"\0"
"""From an earlier JPEG's frame header to its first scan: most pictures of a set have the same tables there."""


def header_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, each at least 1, of a picture that is seen as it is stored.

    Args:
        data: The bytes of a picture file.

    Returns:
        ``None`` where this is another format, or an unusual or damaged header: ask Pillow.
    """
    try:
        if data.startswith(_JPEG_BEGIN):
            return _jpeg_size(data)
        if data.startswith(_PNG_BEGIN):
            return _png_size(data)
    except (struct.error, IndexError):  # cut short
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the first scan, as damage on the way is Pillow's to judge."""
    global _seen_tables
    size = None
    at = tables = 2
    while True:
        marker, length = _segment(data, at)
        if marker in _PASSED_OVER:
            if length < 2:
                return None
        elif marker == _QUANTIZATION:
            # Tables of 64 numbers of 8 bits, each behind its own number.
            if length % 65 != 2 or any(data[table] > 15 for table in range(at + 4, at + 2 + length, 65)):
                return None
        elif marker in _FRAMES:
            bits, height, width, components = _frame(data, at + 4)
            if bits != 8 or components not in (1, 3, 4) or length != 8 + 3 * components or size or not width * height:
                return None
            size = width, height
            tables = at + 2 + length
            if data.startswith(_seen_tables, tables):
                return size
        elif marker == _SCAN:
            if not size or length < 2 or at + 2 + length > len(data):
                return None
            _seen_tables = data[tables : at + 2 + length]
            return size
        elif not (
            (marker == _APP0 and length >= 16 and data.startswith(b"JFIF\0", at + 4))
            or (marker == _APP14 and length >= 14 and data.startswith(b"Adobe", at + 4))
        ):
            return None  # EXIF among others
        at += 2 + length


def _png_size(data: bytes) -> tuple[int, int] | None:
    width, height, depth, colour, _, filtering, _, checksum = _header(data, len(_PNG_BEGIN))
    if (depth, colour) not in _PNG_MODES or filtering or not (width and height):
        return None
    if not _is_intact(data, 12, 17, checksum) or any(chunk in data for chunk in PNG_ORIENTATION_CHUNKS):
        return None
    at = _PNG_HEADER_END
    while True:
        length, kind = _chunk(data, at)
        if kind == b"IDAT":
            return width, height
        if length != _PNG_PASSED_OVER.get(kind) and not (kind == b"PLTE" and length <= _MAX_PALETTE_BYTES):
            return None
        (checksum,) = _checksum(data, at + 8 + length)
        if not _is_intact(data, at + 4, 4 + length, checksum):
            return None
        at += 12 + length


def _is_intact(data: bytes, start: int, length: int, checksum: int) -> bool:
    return zlib.crc32(data[start : start + length]) == checksum
