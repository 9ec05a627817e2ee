"""Images as strangers send them: read as training reads their files, or refused in plain words."""

import io
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data import read_image
from paddleseg_psp.deploy.decoding import RefusedImage, decode_image

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
    "two colours": saved(PICTURE.convert("1"), "PNG"),
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


def png_of(width, height):
    """A PNG that says it has a size, and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


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


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """Before it is decoded, where it is large."""
    status, data = REFUSED[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedImage) as refused:
        decode_image(data, 80 * 60)
    assert refused.value.status == status and len(str(refused.value)) > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
