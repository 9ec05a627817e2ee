"""Images and labels in files: whole ones give the pixels that OpenCV and Pillow give, damaged ones are refused."""

import contextlib
import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data.reading import decoding, read_image
from paddleseg_psp.data.reading.decoding import decode, read_label_values
from paddleseg_psp.errors import UserError

HEIGHT, WIDTH = 90, 121
RANDOM = np.random.RandomState(0)
SMOOTH = cv2.resize(RANDOM.randint(0, 256, (9, 12, 3), dtype=np.uint8), (WIDTH, HEIGHT))
SCENE = np.clip(SMOOTH.astype(int) + RANDOM.randint(-10, 10, SMOOTH.shape), 0, 255).astype(np.uint8)
PICTURE = Image.fromarray(SCENE)
CLASSES = Image.fromarray((np.indices((HEIGHT, WIDTH)).sum(0) // 9).astype(np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation=1, preview=b"", order="<"):
    """EXIF data with an orientation and a JPEG as preview."""
    first = struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + struct.pack(order + "I", 26)
    entries = [(0x0103, 3, 1, 6), (0x0201, 4, 1, 68), (0x0202, 4, 1, len(preview))]
    second = b"".join(
        struct.pack(order + "HHI" + ("HH" if kind == 3 else "I"), tag, kind, number, *([value, 0] if kind == 3 else [value]))
        for tag, kind, number, value in entries
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    second = struct.pack(order + "H", 3) + second + bytes(4)
    return b"Exif\0\0" + mark + struct.pack(order + "I", 8) + first + second + preview


def opencv(ending, image, *options):
    return cv2.imencode(ending, image, options)[1].tobytes()


JPEGS = {
    "jpeg": saved(PICTURE, "JPEG"),
    "progressive": saved(PICTURE, "JPEG", progressive=True),
    "optimized": saved(PICTURE, "JPEG", optimize=True, quality=95),
    "4:2:2": saved(PICTURE, "JPEG", subsampling="4:2:2"),
    "4:4:4": saved(PICTURE, "JPEG", subsampling="4:4:4"),
    "grey jpeg": saved(PICTURE.convert("L"), "JPEG"),
    "cmyk": saved(PICTURE.convert("CMYK"), "JPEG"),
    "preview": saved(PICTURE, "JPEG", exif=exif(6, saved(PICTURE.resize((32, 24)), "JPEG"))),
    "restarts": opencv(".jpg", SCENE, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "previews": saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.resize((8, 6))]),
}
CHECKED = {  # what has checksums, or codes that can be wrong
    "png": saved(PICTURE, "PNG"),
    "16 bits": opencv(".png", SCENE.astype(np.uint16) * 250),
    "palette": saved(CLASSES.convert("P"), "PNG"),
    "one bit": saved(PICTURE.convert("1"), "PNG"),
    "label": saved(CLASSES, "PNG"),
    "deflate": saved(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
}
OTHERS = {
    "tiff": saved(PICTURE, "TIFF"),
    "lzw": saved(PICTURE, "TIFF", compression="tiff_lzw"),
    "packbits": saved(PICTURE, "TIFF", compression="packbits"),
    "grey tiff": saved(CLASSES, "TIFF", compression="tiff_lzw"),
    "float tiff": saved(Image.fromarray(SCENE[..., 0].astype(np.float32)), "TIFF"),
    "webp": saved(PICTURE, "WEBP"),
    "lossless webp": saved(PICTURE, "WEBP", lossless=True),
    "bmp": saved(PICTURE, "BMP"),
    "palette bmp": saved(CLASSES.convert("P"), "BMP"),
}
FILES = {**JPEGS, **CHECKED, **OTHERS}


def tiles():
    """A TIFF of four tiles, Deflate, most significant byte first."""
    big = cv2.copyMakeBorder(SCENE[..., 0], 0, 128 - HEIGHT, 0, 128 - WIDTH, cv2.BORDER_REPLICATE)
    parts = [zlib.compress(big[y : y + 64, x : x + 64].tobytes()) for y in (0, 64) for x in (0, 64)]
    starts = np.cumsum([8, *map(len, parts)])
    arrays = starts[-1] + starts[-1] % 2
    tags = [(256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, 1, 8 << 16), (259, 3, 1, 8 << 16), (262, 3, 1, 1 << 16),
            (277, 3, 1, 1 << 16), (322, 4, 1, 64), (323, 4, 1, 64), (324, 4, 4, arrays), (325, 4, 4, arrays + 16)]  # fmt: skip
    data = b"MM\0*" + struct.pack(">I", arrays + 32) + b"".join(parts)
    data = data.ljust(arrays, b"\0") + struct.pack(">4I4I", *starts[:-1], *map(len, parts))
    return data + struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *tag) for tag in tags) + bytes(4)


FILES["tiles"] = CHECKED["tiles"] = tiles()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("name", FILES)
def test_whole_files_give_the_pixels_of_opencv_and_pillow(path, name):
    path.write_bytes(FILES[name])
    for channels, flag in ((3, cv2.IMREAD_COLOR), (1, cv2.IMREAD_GRAYSCALE)):
        if name not in ("16 bits", "float tiff"):
            image, expected = read_image(str(path), channels), cv2.imread(str(path), flag)
            np.testing.assert_array_equal(image, expected)
    if (expected := pillow(FILES[name])).ndim == 2:
        label = read_label_values(str(path))
        assert label.dtype == expected.dtype and np.array_equal(label, expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 17), (64, 80)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_of_any_size_are_as_opencv_has_them(path, size, subsampling):
    for progressive in (False, True):
        for quality in (20, 75, 98):
            data = saved(PICTURE.resize(size), "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)
            path.write_bytes(data)
            np.testing.assert_array_equal(decode(data, 3), cv2.imread(str(path), cv2.IMREAD_COLOR))
            np.testing.assert_array_equal(decode(data, 1), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", "<>")
def test_orientation(path, orientation, order):
    xmp = b"\xff\xe1" + struct.pack(">H", 2 + 29 + 20) + b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 20
    data = saved(PICTURE, "JPEG", exif=exif(orientation, b"\xff\xd8\xff\xd9", order))
    for variant in (data, data[:2] + xmp + data[2:]):
        path.write_bytes(variant)
        for channels, flag in ((3, cv2.IMREAD_COLOR), (1, cv2.IMREAD_GRAYSCALE)):
            np.testing.assert_array_equal(read_image(str(path), channels), cv2.imread(str(path), flag))
    assert (decode(data).shape[0] == WIDTH) == (5 <= orientation <= 8)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(path, name):
    data = FILES[name]
    end = len(data) if name != "previews" else data.index(b"\xff\xd9", data.index(b"\xff\xda")) + 2  # of the first image
    lengths = [end - lost for lost in (1, 2, 3, 4, 5, 8, 12, 16, 20, 50, 100)] + [
        3 * end // 4,
        end // 2,
        end // 4,
        100,
        20,
        1,
        0,
    ]
    for length in lengths:
        path.write_bytes(data[:length])
        for channels in (3, 1):
            with pytest.raises(
                UserError, match=f"the image {path} cannot be read: .*(truncated|damaged|Premature|empty|no image)"
            ):
                read_image(str(path), channels)
        if pillow(data).ndim == 2:
            with pytest.raises(UserError, match=f"the label {path} cannot be read: "):
                read_label_values(str(path))


@pytest.mark.parametrize("name", CHECKED)
def test_every_flipped_bit_in_what_has_checksums_is_refused(path, name):
    data, random = FILES[name], np.random.RandomState(1)
    end = len(data) if name not in ("deflate", "tiles") else len(data) // 2
    for position in random.randint(8, end, 40):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << random.randint(8)]) + data[position + 1 :])
        with pytest.raises(UserError, match="cannot be read"):
            read_image(str(path), 3)
        if pillow(data).ndim == 2:
            with pytest.raises(UserError, match="cannot be read"):
                read_label_values(str(path))


@pytest.mark.parametrize("name", [*JPEGS, *CHECKED, "lzw", "grey tiff"])
def test_a_block_of_zeros_is_refused(path, name):
    """As an interrupted copy leaves it. In a JPEG it may end where decoding falls into step again, which nobody can see."""
    data, random = FILES[name], np.random.RandomState(2)
    if name == "previews":
        data = data[: data.index(b"\xff\xd9", data.index(b"\xff\xda")) + 2]
    start = data.index(b"\xff\xda") if name in JPEGS else len(data) // 8
    missed, size = 0, min(512, len(data) // 4)
    for position in random.randint(start, len(data) * 3 // 4, 20):
        if not any(data[position : position + size]):
            continue
        path.write_bytes(data[:position] + bytes(size) + data[position + size :])
        try:
            read_image(str(path), 3)
            missed += 1
        except UserError:
            pass
    assert missed <= (5 if name in JPEGS else 0)


def test_flipped_bits_in_jpegs_are_refused_where_libjpeg_notices(path):
    """A restart marker bounds what a wrong bit does, so half of them leave an interval too short or too long."""
    data, random, refused = JPEGS["restarts"], np.random.RandomState(3), 0
    for position in random.randint(len(data) // 4, len(data), 60):
        try:
            decode(data[:position] + bytes([data[position] ^ 1 << random.randint(8)]) + data[position + 1 :])
        except ValueError as error:
            refused += "Corrupt JPEG data" in str(error)
    assert refused >= 15


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_wrong_with_a_file_the_message_names_it(path, name):
    """Several bytes changed, half of the time in the header: read or refused, and nothing else."""
    random, data = np.random.RandomState(4), FILES[name]
    for attempt in range(60):
        changed = bytearray(data)
        for position in random.randint(0, len(data) if attempt % 2 else min(len(data), 400), 4):
            changed[position] = random.randint(256)
        path.write_bytes(changed)
        for read in (read_image, lambda path: read_image(path, 1), read_label_values):
            with contextlib.suppress(UserError):
                read(str(path))


def harmless(data, scan):
    yield "bytes before the end", data[:-2] + b"\x7f" + bytes(2225) + data[-2:]
    yield "bytes before the header", data[:2] + b"\xff\xff" + data[2:20] + b"ab" + data[20:]
    yield "both", data[:20] + b"ab" + data[20:-2] + b"\x55" * 250 + data[-2:]
    yield "bytes after the end", data + bytes(1000)
    yield "another image after the end", data + data
    yield "JFIF 0.00", data[:11] + bytes(2) + data[13:]
    yield "Adobe's unknown transform", data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x05" + data[20:]
    yield "wrong end of the spectrum", data[: scan + 12] + bytes(1) + data[scan + 13 :]


@pytest.mark.parametrize("name", ["jpeg", "4:4:4", "optimized"])
def test_oddities_of_real_photographs_are_read(path, name):
    """libjpeg warns of them. Bytes before the end are common in Dogs vs. Cats and Oxford-IIIT Pet, JFIF 0.00 too."""
    data = JPEGS[name]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    for oddity, odd in harmless(data, data.index(b"\xff\xda")):
        if oddity != "Adobe's unknown transform":
            np.testing.assert_array_equal(decode(odd), expected, err_msg=oddity)
        np.testing.assert_array_equal(decode(odd), cv2.imdecode(np.frombuffer(odd, np.uint8), cv2.IMREAD_COLOR), err_msg=oddity)


def test_damage_is_not_hidden_by_an_oddity():
    """libjpeg's last warning is of the bytes before the end."""
    data = JPEGS["restarts"]
    middle = len(data) // 2
    damaged = data[:middle] + bytes(700) + data[middle + 700 : -2] + bytes(100) + data[-2:]
    with pytest.raises(ValueError, match="damaged"):
        decode(damaged)


def test_subsampling_without_a_name(path):
    """A third of the chroma's columns: TurboJPEG refuses it, OpenCV does not."""
    data = JPEGS["jpeg"].replace(b"\x03\x01\x22\x00", b"\x03\x01\x31\x00")
    np.testing.assert_array_equal(decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    with pytest.raises(ValueError, match="truncated"):
        decode(data[:-1])


def test_other_pages_and_unused_tags_of_a_tiff_are_no_reason_to_refuse_it(path):
    data = saved(PICTURE, "TIFF", save_all=True, append_images=[PICTURE], compression="tiff_lzw")
    np.testing.assert_array_equal(decode(data), SCENE[..., ::-1])


def test_any_name(tmp_path):
    """A name that is no UTF-8, and one of 255 bytes."""
    for name in (b"caf\xe9.png", b"x" * 251 + b".png"):
        path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
        with open(path, "wb") as file:
            file.write(CHECKED["png"])
        np.testing.assert_array_equal(read_image(path), SCENE[..., ::-1])


def test_label_of_several_channels(path):
    path.write_bytes(CHECKED["png"])
    with pytest.raises(UserError, match="has 3 channels; expected one channel"):
        read_label_values(str(path))


def test_arrays(tmp_path):
    path = tmp_path / "image.NPY"
    with open(path, "wb") as file:
        np.save(file, SCENE)
    np.testing.assert_array_equal(read_image(str(path)), SCENE)
    whole = path.read_bytes()
    larger = whole[:6] + b"\2\0" + (2**32 - 1).to_bytes(4, "little")  # a header that would take 4 GB
    for damaged in (whole[:-1], whole[:50], b"", whole.replace(b"}", b"{"), CHECKED["png"], larger):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="image.NPY cannot be read"):
            read_image(str(path))
    np.save(tmp_path / "four.npy", np.zeros((2, 2, 3, 3)))
    with pytest.raises(UserError, match="it has 4 dimensions"):
        read_image(str(tmp_path / "four.npy"))


def raw_tiff(array, planes=1, pages=1, previews=0):
    """An uncompressed TIFF of an array [H, W] or [H, W, C], as its specification says: planes 1 interleaves, 2 does not."""
    height, width, channels = array.shape if array.ndim == 3 else (*array.shape, 1)
    parts = [array.tobytes()] if planes == 1 else [np.ascontiguousarray(plane).tobytes() for plane in np.moveaxis(array, 2, 0)]
    data = bytearray(b"II*\0" + bytes(4)) + b"".join(parts)
    starts = np.cumsum([8, *map(len, parts)]).tolist()[:-1]
    bits, kind = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    link = 4
    for page in range(pages + previews):
        tags = {254: [int(page >= pages)], 256: [width], 257: [height], 258: [bits] * channels, 259: [1],
                262: [2 if channels > 2 else 1], 273: starts, 277: [channels], 278: [height], 279: list(map(len, parts)),
                284: [planes], 339: [kind] * channels}  # fmt: skip
        entries = b""
        for tag, values in tags.items():
            value = struct.pack(f"<{len(values)}I", *values)
            entries += struct.pack("<HHI", tag, 4, len(values)) + (value if len(value) == 4 else struct.pack("<I", len(data)))
            data += value if len(value) > 4 else b""
        data[link : link + 4] = struct.pack("<I", len(data))
        data += struct.pack("<H", len(tags)) + entries + bytes(4)
        link = len(data) - 4
    return bytes(data)


@pytest.fixture
def said(monkeypatch):
    """What is logged from here on, as if nothing had been said before in this process."""
    lines = []
    monkeypatch.setattr(decoding, "_told", set())
    monkeypatch.setattr(decoding.logger, "warning", lines.append)
    return lines


DEEP = RANDOM.randint(0, 4096, (20, 30, 3)).astype(np.uint16)


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_max_value_becomes_255(tmp_path, said, ending, channels):
    path = str(tmp_path / f"image{ending}")
    image = np.ascontiguousarray(DEEP if channels == 3 else DEEP[..., 0])
    np.save(path, image) if ending == ".npy" else cv2.imwrite(path, image)
    result = read_image(path, channels, max_value=4095)
    assert result.dtype == np.float32 and result.max() <= 255
    np.testing.assert_allclose(result, image.astype(np.float64) * 255 / 4095, rtol=2e-7)
    assert not said
    with pytest.raises(UserError, match=rf"{path} cannot be read: it has the value {image.max()}, above max_value 4000"):
        read_image(path, channels, max_value=4000)
    with pytest.raises(UserError, match="16 bits a channel, too few for max_value 70000"):
        read_image(path, channels, max_value=70000)


def test_colours_of_16_bits_are_scaled_and_this_is_said_once(tmp_path, said):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), SCENE.astype(np.uint16) * 257)
        image = read_image(str(tmp_path / f"{number}.png"))
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, SCENE)
    assert len(said) == 1 and all(
        word in said[0] for word in ("0.png", "16 bits", f"{SCENE.max() * 257}", "max_value", "65535")
    )


def test_grey_and_float_images_keep_their_values_and_this_is_said_once(path, said):
    for image, channels in ((DEEP[..., 0], 1), (DEEP / np.float32(7), 3), (DEEP[..., 0] / np.float32(7), 1)):
        path.write_bytes(raw_tiff(image))
        result = read_image(str(path), channels)
        assert result.dtype == image.dtype
        np.testing.assert_array_equal(result, image if channels == 1 else image[..., ::-1])
    words = (str(path), "16 bits", f"{DEEP[..., 0].max()}", "as they are", "max_value")
    assert len(said) == 1 and all(word in said[0] for word in words)


def test_a_name_that_is_no_utf_8_can_be_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decoding, "_told", set())
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    with open(path, "wb") as file:
        file.write(CHECKED["16 bits"])
    read_image(path)
    assert r"caf\udce9.png has 16 bits" in capsys.readouterr().out


def test_bytes_and_arrays_are_no_reason_to_say_anything(tmp_path, said):
    for ending, image, channels in ((".png", SCENE, 3), (".npy", DEEP, 3), (".tif", np.dstack([DEEP, DEEP[..., :1]]), 4)):
        path = str(tmp_path / f"image{ending}")
        np.save(path, image) if ending == ".npy" else cv2.imwrite(path, image)
        result = read_image(path, channels)
        assert result.dtype == image.dtype and np.array_equal(result, image)
    assert not said
    cv2.imwrite(str(tmp_path / "image.png"), SCENE)
    with pytest.raises(UserError, match="8 bits a channel, too few for max_value 4095"):
        read_image(str(tmp_path / "image.png"), max_value=4095)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_types_of_tiff(path, dtype, channels):
    """OpenCV takes integers of 32 bits for floats, and signed ones of 16 for unsigned."""
    low, high = (0, 1000) if dtype.startswith("float") else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    image = RANDOM.randint(low, high, (20, 30, channels)).astype(dtype)
    image = image[..., 0] if channels == 1 else image
    data = raw_tiff(image)
    result = decode(data, channels)
    assert result.dtype == image.dtype
    np.testing.assert_array_equal(result, image if channels == 1 else image[..., [2, 1, 0, 3][:channels]])
    if channels > 1:
        if dtype == "uint8":
            np.testing.assert_array_equal(decode(raw_tiff(image, planes=2), channels), result)
        else:
            with pytest.raises(ValueError, match="interleave"):  # what OpenCV gives has never been set
                decode(raw_tiff(image, planes=2), channels)


def test_pages_that_are_not_read_are_said(path, said):
    path.write_bytes(raw_tiff(SCENE, previews=2))
    np.testing.assert_array_equal(read_image(str(path)), SCENE[..., ::-1])
    assert not said
    path.write_bytes(raw_tiff(SCENE, pages=3))
    np.testing.assert_array_equal(read_image(str(path)), SCENE[..., ::-1])
    assert said == [f"The image {path} has 3 pages; the first is read"]
