"""Class maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from paddleseg.utils.visualize import get_color_map_list, get_pseudo_color_map
from PIL import Image

IGNORED = 255  # the value of pixels that count for nothing, in the labels of all data sets


def color_map(palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Returns 256 colors as uint8 [256, 3] (red, green, blue): a palette's, then PaddleSeg's; black for ignored pixels."""
    custom = None if palette is None else [int(value) for color in palette for value in color]
    colors = np.array(get_color_map_list(256, custom_color=custom)[: 256 * 3], np.uint8).reshape(256, 3)
    colors[IGNORED] = 0
    return colors


def colorize(classes: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Returns a class map [H, W] as an image [H, W, 3] (blue, green, red) uint8; classes from 256 on take the colors again."""
    return np.ascontiguousarray(np.take(colors[:, ::-1], classes, axis=0, mode="wrap"))


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, image_weight: float = 0.6) -> np.ndarray:
    """Returns an image [H, W, 3] (blue, green, red) uint8 mixed with the colors of its class map [H, W]."""
    return cv2.addWeighted(image, image_weight, colorize(classes, colors), 1 - image_weight, 0)


def save_classes(path: str, classes: np.ndarray) -> None:
    """Writes a class map [H, W] as a gray PNG whose pixels are the class indices: 8 bits or, where one is above 255, 16.

    `path` may be an open file.
    """
    Image.fromarray(classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16)).save(path, "PNG")


def save_index_png(path: str, classes: np.ndarray, colors: np.ndarray) -> None:
    """Writes a class map [H, W] as a PNG whose pixels are the class indices and whose palette has the colors.

    Palettes have 256 colors: with a class above that, the pixels have the colors themselves. `path` may be an open file.
    """
    if classes.max(initial=0) > 255:
        picture = Image.fromarray(np.take(colors, classes, axis=0, mode="wrap"))
    else:
        picture = get_pseudo_color_map(classes, colors.flatten().tolist())
    picture.save(path, "PNG")


def viewable(image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W] or [H, W, C] of any type as a picture [H, W, 3] (blue, green, red) uint8.

    Of more than three channels it shows the first three; values beyond 8 bits are scaled to the range that the image has.
    """
    image = image[..., np.newaxis] if image.ndim == 2 else image[..., :3]
    if image.dtype != np.uint8:
        image = cv2.normalize(image.astype(np.float32), None, 0, 255, cv2.NORM_MINMAX).reshape(image.shape).astype(np.uint8)
    return np.ascontiguousarray(image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2))
