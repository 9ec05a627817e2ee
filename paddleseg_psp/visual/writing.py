"""Writing pictures."""

from __future__ import annotations

import os

import cv2
import numpy as np

from paddleseg_psp.errors import UserError


def write_image(path: str, image: np.ndarray) -> None:
    """Writes a picture [H, W, 3] (blue, green, red) or [H, W] in the format of its path's ending.

    cv2.imwrite takes no name that is not UTF-8, and says of a full disk no more than False.

    Raises:
        UserError: an ending that means no format.
        OSError: what the system says, e.g. of a full disk.
    """
    ending = os.path.splitext(path)[1]
    if not cv2.haveImageWriter(f"x{ending}"):
        raise UserError(f"{path}: pictures are written to .png, .jpg, .bmp, .tif and .webp files")
    try:
        encoded, data = cv2.imencode(ending, image)
    except cv2.error:
        encoded = False
    if not encoded:
        raise UserError(f"{path}: a picture of {image.shape[1]}x{image.shape[0]} pixels does not fit into a {ending} file")
    with open(path, "wb") as file:
        file.write(data)
