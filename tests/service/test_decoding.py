"""Images as strangers send them: read as training reads their files, or refused in plain words."""

import io
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data import read_image
from paddleseg_psp.service.decoding import decode_image
from paddleseg_psp.service.headers import RefusedImage, image_size

SCENE = cv2.resize(np.random.RandomState(0).randint(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60))
PICTURE = Image.fromarray(SCENE)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(PICTURE, "JPEG", exif=exif)


READ = {
    "jpeg": saved(PICTURE, "JPEG"),
    "progressive": saved(PICTURE, "JPEG", progressive=True),
    "cmyk": saved(PICTURE.convert("CMYK"), "JPEG"),
    "grey": saved(PICTURE.convert("L"), "JPEG"),
    "png": saved(PICTURE, "PNG"),
    "16 bits": saved(Image.fromarray(SCENE[..., 0].astype(np.uint16) * 257), "PNG"),
    "alpha": saved(PICTURE.convert("RGBA"), "PNG"),
    "palette": saved(PICTURE.convert("P"), "PNG"),
    "two colors": saved(PICTURE.convert("1"), "PNG"),
    "bmp": saved(PICTURE, "BMP"),
    "tiff": saved(PICTURE, "TIFF"),
    "webp": saved(PICTURE, "WEBP", lossless=True),
    "photo with a preview": saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.resize((8, 6))]),
    **{f"turned {orientation}": turned(orientation) for orientation in (2, 3, 6, 8)},
}


@pytest.mark.parametrize("channels", [1, 3])
def test_max_value(tmp_path, channels):
    path = tmp_path / "image"
    path.write_bytes(READ["16 bits"])
    image = decode_image(READ["16 bits"], 80 * 60, channels, 65535)
    np.testing.assert_array_equal(image, read_image(str(path), channels, 65535))
    np.testing.assert_array_equal(image if channels == 1 else image[..., 0], SCENE[..., 0])
    with pytest.raises(RefusedImage, match="above max_value 4095"):
        decode_image(READ["16 bits"], 80 * 60, channels, 4095)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("channels", [1, 3])
def test_as_the_file_is_read(tmp_path, name, channels):
    path = tmp_path / "image"
    path.write_bytes(READ[name])
    image = decode_image(READ[name], 80 * 60, channels)
    np.testing.assert_array_equal(image, read_image(str(path), channels))
    assert image.shape[:2] == ((80, 60) if name in ("turned 6", "turned 8") else (60, 80))
    if name.startswith("turned") and channels == 3:
        upright = {2: SCENE[:, ::-1], 3: SCENE[::-1, ::-1], 6: np.rot90(SCENE, -1), 8: np.rot90(SCENE)}[int(name[-1])]
        assert np.abs(image[..., ::-1].astype(int) - upright).mean() < 8  # JPEG
    if name == "cmyk" and channels == 3:
        assert np.abs(image[..., ::-1].astype(int) - SCENE).mean() < 8


def chunks(*items):
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in items]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(width, height):
    """A PNG that says it has a size, and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return chunks((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))


def frames(kind, **options):
    others = [Image.fromarray(255 - SCENE), PICTURE]
    return saved(PICTURE, kind, save_all=True, append_images=others, **options)


REFUSED = {
    "text": (415, b"hello, is this an image?" * 10),
    "gif": (415, frames("GIF")),
    "half a jpeg": (422, READ["jpeg"][: len(READ["jpeg"]) // 2]),
    "a jpeg without its end": (422, READ["jpeg"][:-2]),
    "half a png": (422, READ["png"][: len(READ["png"]) // 2]),
    "no pixels": (422, png_of(80, 60)),
    "changed png": (422, READ["png"][:60] + b"\0" * 40 + READ["png"][100:]),
    "too large": (413, saved(Image.new("L", (81, 60)), "PNG")),
    "bomb": (413, saved(Image.new("1", (12000, 12000)), "PNG")),
    "header of a bomb": (413, png_of(2**31 - 1, 2**31 - 1)),
    "animated png": (422, frames("PNG")),
    "animated webp": (422, frames("WEBP")),
    "pages": (422, frames("TIFF")),
    "broken header": (422, READ["png"][:20]),
}


def tiff(tags, following=0, extra=b"", order="<"):
    """A TIFF whose one directory begins at 8; tags are (number, type, count, value or place)."""
    entries = b"".join(struct.pack(order + "HHII", *tag) for tag in tags)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return header + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + extra


def inflating(size):
    """Deflate data of zeros, made without holding them."""
    stream = zlib.compressobj()
    return b"".join(stream.compress(bytes(2**20)) for _ in range(size >> 20)) + stream.flush()


SIZE = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
IHDR, PIXELS, IEND = (
    (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)),
    (b"IDAT", zlib.compress(bytes(72))),
    (b"IEND", b""),
)
TEXT = zlib.compress(bytes(7_900_000))
FOLLOWING = b"".join(struct.pack("<HI", 0, 78 + 6 * index) for index in range(1, 10**6))
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x05\x05\x00" + b"\x7f"  # one run of empty blocks, over all pixels
PROGRESSIVE = saved(PICTURE.convert("L").resize((80, 60)), "JPEG", progressive=True)
EXIF = b"Exif\0\0" + tiff([(number, 2, 60000, 8) for number in range(4000)], extra=b"a" * 12000)[:65000]
# What costs a reader far more time or memory than its bytes: each of these kept a service busy, or took gigabytes.
COSTLY = {
    "png with texts that inflate": chunks(IHDR, *[(b"zTXt", b"k\0\0" + TEXT)] * 100, PIXELS, IEND),
    "png with international texts": chunks(IHDR, *[(b"iTXt", b"k\0\1\0\0\0" + TEXT)] * 100, IEND),
    "png of a million chunks": chunks(IHDR, *[(b"tEXt", b"k\0v")] * 200000, PIXELS, IEND),
    "animated png of millions": chunks(IHDR, (b"acTL", struct.pack(">II", 2**31 - 1, 0)), PIXELS, IEND),
    "one row": png_of(2**31 - 1, 1),
    "one column": png_of(1, 80 * 60 - 1),
    "jpeg of thousand scans": PROGRESSIVE[:-2] + SCAN * 1000 + b"\xff\xd9",
    "jpeg of a million segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 10**6 + READ["jpeg"][2:],
    "jpeg of fill bytes": b"\xff\xd8" + b"\xff" * 10**6 + READ["jpeg"][2:],
    "jpeg without rows": READ["jpeg"].replace(b"\x08\x00\x3c\x00\x50", b"\x08\x00\x00\x00\x50"),
    "tiff whose directory follows itself": tiff(SIZE, 8),
    "tiff of a million directories": tiff(SIZE, 8 + 2 + 12 * 5 + 4, FOLLOWING),
    "tiff whose tags overlap": tiff([*SIZE, *[(number, 2, 60000, 8) for number in range(300, 4300)]], extra=bytes(60000)),
    "tiff of too many tags": tiff([(number, 3, 1, 8) for number in range(60000)]),
    "tiff with two widths": tiff([*SIZE, (256, 4, 1, 60)]),
    "tiff with a huge tile": tiff([*SIZE, (322, 4, 1, 2**15), (323, 4, 1, 2**15), (324, 4, 1, 8), (325, 4, 1, 8)]),
    "tiff of a million channels": tiff([*SIZE[:-1], (277, 3, 1, 65535)]),
    "tiff whose deflate inflates": tiff(
        [*SIZE, (259, 3, 1, 8), (273, 4, 1, 110), (279, 4, 1, len(inflating(2**28)))], extra=inflating(2**28)
    ),
    "large webp": READ["webp"][:21] + struct.pack("<I", 16382 | 16382 << 14) + READ["webp"][25:],
    "bmp upside down": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    "not yet a webp": b"RIFF" + bytes(40),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_refused_before_it_costs_anything(name):
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RefusedImage) as refused:
        decode_image(COSTLY[name], 80 * 60)
    assert refused.value.status in (413, 415, 422) and "\n" not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB
    assert time.process_time() - begun < 1


def test_exif_data_is_not_believed():
    """Pillow gives each tag of it a copy of what the tag points to, as it opens the file."""
    segment = b"\xff\xe1" + struct.pack(">H", len(EXIF) + 2) + EXIF
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode_image(b"\xff\xd8" + segment + READ["jpeg"][2:], 80 * 60)
    assert sorted(image.shape) == [3, 60, 80] and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("name", READ)
def test_sizes_are_pillows(name):
    assert image_size(READ[name]) == Image.open(io.BytesIO(READ[name])).size


@pytest.mark.parametrize(
    "options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"big_tiff": True}]
)
def test_sizes_of_tiffs(options):
    for mode in ("1", "L", "RGB", "RGBA", "I;16", "F"):
        image = PICTURE.convert("L").convert(mode) if mode != "I;16" else Image.fromarray(SCENE[..., 0].astype(np.uint16))
        assert image_size(saved(image, "TIFF", **options)) == (80, 60)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """Before it is decoded, where it is large."""
    status, data = REFUSED[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedImage) as refused:
        decode_image(data, 80 * 60)
    assert refused.value.status == status and len(str(refused.value)) > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
