"""Decoding images that strangers send."""

from __future__ import annotations

import numpy as np

from paddleseg_psp.data.reading.decoding import decode, scaled
from paddleseg_psp.service.headers import RefusedImage, image_size


def decode_image(data: bytes, max_pixels: int, channels: int = 3, max_value: float | None = None) -> np.ndarray:
    """Returns the image in a file's bytes as `paddleseg_psp.data.read_image` reads the file: turned as its EXIF data says.

    Args:
        data: a file of one of `headers.FORMATS`.
        max_pixels: images with more are refused before they are decoded, see `image_size`.
        channels: 3 for [H, W, 3] (blue, green, red), 1 for [H, W].
        max_value: the value in the file that means white, see `read_image`.

    Raises:
        RefusedImage: see `image_size`; damaged (422).
    """
    size = image_size(data, max_pixels)
    try:
        image = decode(data, channels)
        if sorted(image.shape[:2]) != sorted(size):
            raise ValueError("it says two different sizes of itself")
        return scaled(image, "of a request", max_value)
    except ValueError as error:
        raise RefusedImage(422, f"the image cannot be read: {error}")
