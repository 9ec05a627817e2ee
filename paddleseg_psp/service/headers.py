"""Inspecting an image file before it is decoded; nothing in it is trusted.

Pillow reads more than that when it opens a file: each entry of a TIFF's directory or of EXIF data may be as large as the file.
"""

from __future__ import annotations

import struct

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_MAX_PARTS = 2**14  # segments, chunks and entries are read in loops; cameras write dozens
_MAX_SCANS = 100  # each is a pass over all pixels, however few bytes it has; cameras write about ten
_MAX_TEXTS = 16  # each may become 8 MB when it is inflated
_MAX_PIXEL_BYTES = 32
THIN, _LEAST = 8, 32  # an image of one row costs a network as much as one of 32, and attention far more
_SMALL = 2**20  # bytes that cost nothing


class RefusedImage(Exception):
    """An image that is refused.

    Attributes:
        status (int): the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def image_size(data: bytes | bytearray, max_pixels: float = float("inf")) -> tuple[int, int]:
    """Returns an image's (width, height).

    Args:
        data: a file of one of FORMATS.
        max_pixels: an image with more is refused. A side counts as 32 pixels and an eighth of the other at least: networks
            cannot make less of it.

    Raises:
        RefusedImage: not an image (415), too large (413), damaged, of several frames, or made to keep its reader busy (422).
    """
    try:
        size = next((read(data) for starts, read in _READERS if data.startswith(starts)), None)
    except (struct.error, OverflowError):  # what should be read lies beyond the end
        raise RefusedImage(422, "the image is damaged: it is truncated")
    if size is None:
        raise RefusedImage(415, f"this is no image of a kind that is read here: {', '.join(FORMATS)}")
    width, height = size
    if width <= 0 or height <= 0:
        raise RefusedImage(422, f"the image is damaged: it has {width}x{height} pixels")
    counted = max(width, height / THIN, _LEAST) * max(height, width / THIN, _LEAST)
    if counted > max_pixels:
        thin = f" (thin images count as {THIN}:1 and {_LEAST} high)" if counted > width * height else ""
        raise RefusedImage(413, f"the image has {width}x{height} pixels; at most {max_pixels} are taken{thin}")
    return width, height


def _refused(why):
    return RefusedImage(422, f"the image is refused: {why}")


def _damaged(why):
    return RefusedImage(422, f"the image is damaged: {why}")


def _jpeg(data):
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise _refused(f"it has more than {_MAX_SCANS} scans")
    size, position = None, 2
    for _ in range(_MAX_PARTS):
        position = data.find(b"\xff", position)
        if position < 0:
            raise _damaged("it is truncated")
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker == 0xDA:
            if size is None:
                raise _damaged("its scan comes before its size")
            return size
        if size is None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = width, height
        alone = marker <= 1 or 0xD0 <= marker <= 0xD9
        position += 1 if marker == 0xFF else 2 + (0 if alone else length)
    raise _refused(f"it has more than {_MAX_PARTS} segments")


def _png(data):
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise _damaged("it does not begin with its size")
    texts, position = 0, 8
    for _ in range(4 * _MAX_PARTS):  # pixels may come in pieces of less than a kilobyte
        if position + 8 > len(data) or kind == b"IEND":
            return width, height
        length, kind = struct.unpack_from(">I4s", data, position)
        texts += kind in (b"zTXt", b"iTXt", b"iCCP")
        if kind == b"acTL" and struct.unpack_from(">I", data, position + 8)[0] > 1:
            raise _refused("it has several frames; send one")
        if texts > _MAX_TEXTS:
            raise _refused(f"it has more than {_MAX_TEXTS} compressed texts")
        position += 12 + length
    raise _refused(f"it has more than {4 * _MAX_PARTS} chunks")


def _bmp(data):
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)


def _webp(data):
    kind, first = data[8:16], 20
    if kind == b"WEBPVP8X":
        if struct.unpack_from("<B", data, first)[0] & 2:
            raise _refused("it has several frames; send one")
        low, high, low2, high2 = struct.unpack_from("<HBHB", data, first + 4)
        return (low | high << 16) + 1, (low2 | high2 << 16) + 1
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, first + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, first + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise RefusedImage(415, f"this is no image of a kind that is read here: {', '.join(FORMATS)}")


def _tiff(data):
    tags, following = _first_directory(data)
    if following:
        raise _refused("it has several frames; send one")
    width, height = (tags.get(tag, (0, 0))[1] for tag in (256, 257))
    samples = tags.get(277, (1, 1))[1]
    bits = tags.get(258, (1, 1))[1]
    if samples * bits > 8 * _MAX_PIXEL_BYTES:
        raise _refused(f"a pixel has more than {_MAX_PIXEL_BYTES} bytes")
    tile = [tags.get(tag, (1, size))[1] for tag, size in ((322, width), (323, min(tags.get(278, (1, height))[1], height)))]
    parts = max(tags.get(tag, (1, 0))[0] for tag in (273, 324))
    if tile[0] * tile[1] > max(_SMALL, 4 * width * height) or parts * tile[0] * tile[1] > max(64 * _SMALL, 8 * width * height):
        raise _refused("its strips or tiles are larger than the image")
    return width, height


def _first_directory(data):
    """Returns a TIFF's tags as {number: (how many values, the first of them)}, and where the next directory is."""
    order = "<" if data[:1] == b"I" else ">"
    large = 43 in data[2:4]  # BigTIFF
    offset, count = ("Q", "Q") if large else ("I", "H")
    (position,) = struct.unpack_from(order + offset, data, 8 if large else 4)
    (entries,) = struct.unpack_from(order + count, data, position)
    if entries > _MAX_PARTS:
        raise _refused(f"it has more than {_MAX_PARTS} tags")
    position += struct.calcsize(order + count)
    tags, total, field = {}, 0, struct.calcsize(order + offset)
    for _ in range(entries):
        tag, kind, number = struct.unpack_from(order + "HH" + offset, data, position)
        place, size = position + 4 + field, _TIFF_SIZES.get(kind, 1) * number
        if size > field:
            total += size
            (place,) = struct.unpack_from(order + offset, data, place)
        if total > len(data) or tag in tags:
            raise _damaged("its tags overlap")
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        tags[tag] = number, struct.unpack_from(order + form, data, place)[0] if form and number else 0
        position += 4 + 2 * field
    return tags, struct.unpack_from(order + offset, data, position)[0]


_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_READERS = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"BM", _bmp),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (b"RIFF", _webp),
)
