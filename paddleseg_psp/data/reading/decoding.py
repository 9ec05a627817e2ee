"""Decoding images and labels: damaged files are refused, and no bits are lost.

OpenCV fills up what a truncated JPEG lacks, and neither it nor Pillow heeds every checksum.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.log import logger

MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 2**30  # as OpenCV; Pillow's own limit refuses the labels of aerial images
_FLAGS = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
_COLORS = {1: "GRAY", 3: "BGR"}
# What libjpeg says of files that are whole: cameras and web sites write such.
_HARMLESS = re.compile(r"unknown JFIF revision|Unknown Adobe color|Invalid SOS parameters for sequential|bad ICC marker")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_NONE, _DEFLATE = 1, (8, 32946)  # compressions of TIFF
_PROBE = cv2.imencode(".jpg", np.kron([[255, 0], [0, 0]], np.ones((4, 8))).astype(np.uint8))[1].tobytes()


def read_image(path: str, channels: int = 3, max_value: float | None = None) -> np.ndarray:
    """Returns the image in a file.

    Three channels give [H, W, 3] (blue, green, red), one gives [H, W] (gray), and any other number [H, W, C] as it is in the
    file, a TIFF or .npy. Its values are uint8 where those of the file are; see `scaled` for more bits. A .npy file's stay as
    they are, unless there is a max_value.

    Args:
        path: of the file.
        channels: how many.
        max_value: the value in the file that means white, e.g. 4095 where 12 of 16 bits are used.

    Raises:
        UserError: no such file, one that is damaged or no image, another number of channels, or a value above max_value.
    """
    is_array = path.lower().endswith(".npy")
    try:
        image = _array(path) if is_array else _decoded(path, channels)
        if image.ndim not in (2, 3):
            raise ValueError(f"it has {image.ndim} dimensions; expected rows, columns and channels")
        found = image.shape[2] if image.ndim == 3 else 1
        if found != channels:
            raise UserError(f"the image {path} has {found} channels; expected {channels} (img_channels)")
        return image if is_array and max_value is None else scaled(image, path, max_value)
    except (OSError, ValueError) as error:
        raise UserError(f"the image {path} cannot be read: {_reason(error)}")


def scaled(image: np.ndarray, name: str, max_value: float | None = None) -> np.ndarray:
    """Returns an image with values from 0 to 255, as float32 if they were not uint8 or if max_value is given.

    Without max_value, 65535 is white in colors of 16 bits, and all others of more than 8 bits keep their values. Both are said
    once in a process.

    Args:
        image: [H, W] or [H, W, C] of any type.
        name: for messages.
        max_value: what becomes 255.

    Raises:
        ValueError: a value above max_value, or a type that cannot hold it.
    """
    if max_value is not None:
        if image.dtype.kind in "iu" and np.iinfo(image.dtype).max < max_value:
            raise ValueError(f"it has {image.dtype.itemsize * 8} bits a channel, too few for max_value {max_value:g}")
        if (peak := image.max(initial=0)) > max_value:
            raise ValueError(f"it has the value {peak:g}, above max_value {max_value:g}, the value that means white")
        values = np.multiply(image, 255, dtype=np.float32 if image.dtype.itemsize <= 2 else np.float64)
        return (values / max_value).astype(np.float32)
    if image.dtype == np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        return image
    deep_colors = image.dtype == np.uint16 and image.ndim == 3
    done = "65535 is taken for white" if deep_colors else "its values are used as they are"
    advice = "set max_value in the data set to the value that means white, e.g. 4095 for 12 bits"
    _tell(name, f"{image.dtype.itemsize * 8} bits a channel, the largest value {image.max(initial=0):g}", f"{done}; {advice}")
    return scaled(image, name, 65535) if deep_colors else image


_told: set[str] = set()


def _tell(name, has, what):
    if what not in _told:  # once in a process
        _told.add(what)
        logger.warning(f"The image {name} has {has}; {what}")


def read_label_values(path: str) -> np.ndarray:
    """Returns the values [H, W] in the file of a label in the file's own type: bool for 1 bit, uint8, uint16, int32, float32.

    Of a palette image these are the indices.

    Raises:
        UserError: no such file, one that is damaged or no image, or more than one channel.
    """
    try:
        data = _bytes(path)
        if data.startswith(b"\xff\xd8"):
            _decode_jpeg(data, 1)  # Pillow fills up what is damaged
        else:
            _require_whole(data)
        label = np.asarray(_by_pillow(data))
    except (OSError, ValueError) as error:
        raise UserError(f"the label {path} cannot be read: {_reason(error)}")
    if label.ndim != 2:
        raise UserError(f"the label {path} has {label.shape[2]} channels; expected one channel of class indices")
    return label


def decode(data: bytes, channels: int = 3) -> np.ndarray:
    """Returns the image in a file's bytes like `read_image`, rotated by its EXIF data, with the values in the file.

    Raises:
        ValueError: says what is damaged, or that it is no image.
    """
    if data.startswith(b"\xff\xd8") and channels in _COLORS:
        return _decode_jpeg(data, channels)
    _require_whole(data, _opencv_heeds_checksums())
    image = _by_opencv(data, channels)
    if not _is_tiff(data):
        return image
    tags = tiff_pages(data)[0]
    if _compression(tags) not in (_NONE, *_DEFLATE):  # OpenCV heeds no error of libtiff
        _pillow_agrees(data)
    return _typed(image, tags)


def _is_tiff(data):
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _typed(image, tags):
    """Returns a TIFF that OpenCV read in the type of its tags: OpenCV reads 32-bit integers as floats."""
    bits, samples, kind = max(tags.get(258, (1,))), tags.get(277, (1,))[0], tags.get(339, (0,))[0]
    interleaved = samples == 1 or tags.get(284, (1,))[0] == 1
    _require(bits <= 8 or interleaved, "its channels lie one after the other, which is read for 8 bits only: interleave them")
    if kind in (1, 2, 3) and bits in (16, 32) and image.dtype.itemsize == bits // 8:
        return image.view(f"{' uif'[kind]}{bits // 8}")
    return image


def _array(path):
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
        _require(version == (1, 0), "its version of the format is for tables, whose headers have any size")
        return np.array(np.lib.format.open_memmap(path, mode="r"))  # which notices what is larger than the file
    except OSError:
        raise
    except Exception as error:  # NumPy has many exceptions for broken headers
        raise ValueError(f"it is damaged, or no .npy file: {error}")


def _decoded(path, channels):
    data = _bytes(path)
    image = decode(data, channels)
    if _is_tiff(data):
        pages = sum(not tags.get(254, (0,))[0] & 0b101 for tags in tiff_pages(data))  # no previews, no masks
        if pages > 1:
            _tell(path, f"{pages} pages", "the first is read")
    return image


def _bytes(path):
    with open(path, "rb") as file:  # OpenCV opens no file whose name is not UTF-8
        return file.read()


def _reason(error):
    return getattr(error, "strerror", None) or shown(error)


def _by_opencv(data, channels):
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS.get(channels, cv2.IMREAD_UNCHANGED))
    except cv2.error as error:  # an empty file, or more pixels than OpenCV takes
        raise ValueError("it is empty" if not data else error.err)
    if image is None:
        raise ValueError("it is damaged, or no image of a kind that is read")
    return image


def _by_pillow(data):
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except UnidentifiedImageError:
        raise ValueError("it is no image of a kind that is read")
    except Exception as error:  # Pillow has many exceptions for broken files
        raise ValueError(f"it is damaged: {error}")


@functools.lru_cache(maxsize=None)
def _opencv_heeds_checksums():
    """Returns whether this OpenCV refuses a PNG whose pixels have a wrong checksum."""
    png = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
    checksum = png.index(b"IEND") - 8
    return cv2.imdecode(np.frombuffer(png[:checksum] + b"none" + png[checksum + 4 :], np.uint8), cv2.IMREAD_COLOR) is None


def _require_whole(data, pixels_are_checked=False):
    """Raises ValueError if sizes or checksums in a PNG, TIFF, WebP or BMP show that it is damaged.

    Args:
        pixels_are_checked: the decoder compares the checksums of a PNG's pixels by itself.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            _require_whole_png(data, pixels_are_checked)
        elif _is_tiff(data):
            _require_whole_tiff(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            _require(int.from_bytes(data[4:8], "little") + 8 <= len(data), "it is damaged (truncated)")
        elif data.startswith(b"BM"):
            _require_whole_bmp(data)
    except (struct.error, OverflowError):  # what should be read lies beyond the end
        raise ValueError("it is damaged (truncated)")


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def _require_whole_png(data, pixels_are_checked):
    view, position, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, position)
        if pixels_are_checked and kind == b"IDAT":
            position += 12 + size
            continue
        checksum = zlib.crc32(view[position + 4 : position + 8 + size]).to_bytes(4, "big")
        if checksum != view[position + 8 + size : position + 12 + size]:
            _require(len(data) >= position + 12 + size, "it is damaged (truncated)")
            _require(
                kind[0] & 0x20, f"it is damaged: the checksum of {shown(kind.decode('latin1'))} is wrong"
            )  # else no pixels
        position += 12 + size


def _require_whole_bmp(data):
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    if header >= 40 and compression in (0, 3):  # not run lengths
        _require(start + (width * bits + 31) // 32 * 4 * abs(height) <= len(data), "it is damaged (truncated)")


def _require_whole_tiff(data):
    for tags in tiff_pages(data):
        compression = _compression(tags)
        places = list(zip(tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))))
        if compression == _NONE:  # libtiff corrects the counts of old writers; OpenCV and Pillow notice a lack
            continue
        _require(all(start + size <= len(data) for start, size in places), "it is damaged (truncated)")
        if compression in _DEFLATE:  # libtiff does not look at the checksum of Deflate
            most = 2 * _part_bytes(tags) + 2**16
            _require(
                all(_inflates(data[start : start + size], most) for start, size in places if size),
                "it is damaged: Deflate data",
            )


def _compression(tags):
    return tags.get(259, (_NONE,))[0]


def _part_bytes(tags):
    """Returns how many bytes a strip or a tile of a TIFF's page has."""
    columns, rows = tags.get(322, tags.get(256, (0,)))[0], tags.get(323, tags.get(278, tags.get(257, (0,))))[0]
    rows = min(rows, max(tags.get(257, (0,))[0], tags.get(323, (0,))[0]))
    return columns * rows * tags.get(277, (1,))[0] * (max(tags.get(258, (1,))) + 7) // 8


def _inflates(data, most):
    """Returns whether Deflate data is complete and has at most `most` bytes when unpacked."""
    stream = zlib.decompressobj()
    try:
        while not stream.eof and most >= 0:
            piece = stream.decompress(data, 2**20)
            data, most = stream.unconsumed_tail, most - len(piece)
            if not (piece or data):
                break
    except zlib.error:
        return False
    return stream.eof


def _pillow_agrees(data):
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError as error:
        _require("decoder error" not in str(error) and "truncated" not in str(error), f"it is damaged: {error}")
    except Exception:  # a kind that Pillow does not read
        return


_TIFF_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
               16: "Q", 17: "q", 18: "Q"}  # fmt: skip


def tiff_pages(data: bytes) -> list[dict[int, tuple]]:
    """Returns the tags, by number, of each page of a TIFF.

    Raises:
        ValueError, struct.error: one that is truncated.
    """
    order = "<" if data[:1] == b"I" else ">"
    large = data[2:4] in (b"+\0", b"\0+")  # BigTIFF
    offset, count = ("Q", "Q") if large else ("I", "H")
    pages, seen = [], set()
    (position,) = struct.unpack_from(order + offset, data, 8 if large else 4)
    while position and position not in seen:
        seen.add(position)
        (entries,) = struct.unpack_from(order + count, data, position)
        position += struct.calcsize(order + count)
        tags = {}
        for _ in range(entries):
            tag, kind, number = struct.unpack_from(order + "HH" + offset, data, position)
            place = position + struct.calcsize(order + "HH" + offset)
            form = _TIFF_TYPES.get(kind, "")
            size = struct.calcsize(order + form) * number
            if size > struct.calcsize(order + offset):
                (place,) = struct.unpack_from(order + offset, data, place)
            _require(place + size <= len(data), "it is damaged (truncated)")
            if number and form in ("H", "I", "Q"):
                tags[tag] = struct.unpack_from(f"{order}{number}{form}", data, place)
            position += struct.calcsize(order + "HH" + offset * 2)
        pages.append(tags)
        (position,) = struct.unpack_from(order + offset, data, position)
    _require(pages, "it is damaged (truncated)")
    return pages


def _decode_jpeg(data, channels):
    try:
        *_, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # most likely a subsampling that TurboJPEG has no name for
        _require(data.find(b"\xff\xd9", _jpeg_header(data)[1]) > 0, "it is damaged (truncated)")
        return _by_opencv(data, channels)
    image, warning = _by_libjpeg(data, channels)
    if warning:
        _require_harmless(data, channels, warning)
        image = simplejpeg.decode_jpeg(data, _COLORS[channels], strict=False)
    if space in ("CMYK", "YCCK"):  # for which everybody has a formula of their own
        return _by_opencv(data, channels)
    return _turned(image[..., 0] if channels == 1 else image, data)


def _by_libjpeg(data, channels):
    """Returns a JPEG's image and None, or None and the last warning of libjpeg."""
    try:
        return simplejpeg.decode_jpeg(data, _COLORS[channels]), None
    except ValueError as error:
        return None, str(error)


def _require_harmless(data, channels, warning):
    """Raises ValueError for warnings of libjpeg other than extra bytes between a JPEG's parts, which cameras leave.

    Such bytes before the end hide an earlier warning, so they are cut out.
    """
    while found := _EXTRANEOUS.search(warning):
        segments, scan = _jpeg_header(data)
        end = data.find(b"\xff\xd9", scan)
        shorter = b"\xff\xd8" + b"".join(segments) + data[scan : end - int(found[1]) if found[2] == "d9" else end] + data[end:]
        if len(shorter) == len(data):
            break
        data, warning = shorter, _by_libjpeg(shorter, channels)[1] or ""
    _require(not warning or _HARMLESS.search(warning), f"it is damaged: {warning}")


def _jpeg_header(data):
    """Returns a JPEG's segments before its first scan, without what is between them, and where that scan begins."""
    segments, position = [], data.find(b"\xff", 2)
    while 0 < position < len(data) - 4 and data[position + 1] != 0xDA:
        marker, size = struct.unpack_from(">xBH", data, position)
        if marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD9:  # these stand alone
            size = -1
        else:
            segments.append(data[position : position + 2 + size])
        position = data.find(b"\xff", position + 2 + size)
    _require(0 < position < len(data) - 4, "it is damaged (truncated)")
    return segments, position


def _turned(image, data):
    """Returns a JPEG's image rotated like OpenCV rotates a small one with the same EXIF data."""
    exif = next((segment for segment in _jpeg_header(data)[0] if segment[1] == 0xE1), None)
    if exif is None:
        return image
    probe = cv2.imdecode(np.frombuffer(_PROBE[:2] + exif + _PROBE[2:], np.uint8), cv2.IMREAD_GRAYSCALE)
    bottom, right = np.unravel_index(probe.argmax(), probe.shape) >= np.array(probe.shape) // 2
    image = image if probe.shape == (8, 16) else cv2.transpose(image)
    return cv2.flip(image, {(1, 0): 0, (0, 1): 1, (1, 1): -1}[bottom, right]) if bottom or right else image
