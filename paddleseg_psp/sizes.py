"""The two orders of an image's sides, and the only functions that change between them.

Flags, configurations and OpenCV have (width, height), as PaddleSeg; all other code, as arrays, has (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence


def height_width(size: Sequence[int]) -> tuple[int, int]:
    """Returns a size (width, height) as (height, width)."""
    width, height = size
    return height, width


def width_height(size: Sequence[int]) -> tuple[int, int]:
    """Returns a size (height, width) as (width, height)."""
    height, width = size
    return width, height
