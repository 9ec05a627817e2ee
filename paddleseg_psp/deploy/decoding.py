"""Decoding images that strangers send."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from paddleseg_psp.data.decoding import decode, scaled

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")


class RefusedImage(Exception):
    """An image that is not taken.

    Attributes:
        status (int): the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def decode_image(data: bytes, max_pixels: int, channels: int = 3, max_value: float | None = None) -> np.ndarray:
    """Returns the image in a file's bytes as `paddleseg_psp.data.read_image` reads the file: turned as its EXIF data says.

    Args:
        data: a file of one of FORMATS.
        max_pixels: images with more are refused before they are decoded.
        channels: 3 for [H, W, 3] (blue, green, red), 1 for [H, W].
        max_value: the value in the file that means white, see `read_image`.

    Raises:
        RefusedImage: not an image (415), too large (413), damaged, or of several frames (422).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise RefusedImage(415, f"this is no image of a kind that is read here: {', '.join(FORMATS)}")
        except Image.DecompressionBombError:
            raise RefusedImage(413, f"the image has more than {max_pixels} pixels")
        except Exception as error:  # Pillow has many exceptions for broken files
            raise RefusedImage(422, f"the image is damaged: {error}")
        width, height = image.size
        if width * height > max_pixels:
            raise RefusedImage(413, f"the image has {width}x{height} pixels; at most {max_pixels} are taken")
        try:
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1  # a photo and its previews
        except Exception as error:
            raise RefusedImage(422, f"the image is damaged: {error}")
    if frames > 1:
        raise RefusedImage(422, f"the image has {frames} frames; send one")
    try:
        return scaled(decode(data, channels), "of a request", max_value)
    except ValueError as error:
        raise RefusedImage(422, f"the image cannot be read: {error}")
