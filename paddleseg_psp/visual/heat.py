"""Heat maps over images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def heat(image: np.ndarray, values: np.ndarray, point: Sequence[int] | None = None, smooth: bool = True) -> np.ndarray:
    """Returns an image [H, W, 3] (blue, green, red) uint8 under an array [h, w] in colors, blue (least) to red (most).

    Args:
        point: (row, column) to mark, or None.
        smooth: resize the array smoothly; False shows its cells.
    """
    height, width = image.shape[:2]
    spread = values.max() - values.min()
    scaled = np.uint8(255 * (values - values.min()) / (spread or 1))
    interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    colors = cv2.applyColorMap(cv2.resize(scaled, (width, height), interpolation=interpolation), cv2.COLORMAP_JET)
    shown = cv2.addWeighted(image, 0.5, colors, 0.5, 0)
    if point is not None:
        cv2.drawMarker(shown, (point[1], point[0]), (255, 255, 255), cv2.MARKER_CROSS, max(8, height // 16), 2)
    return shown
