"""Sizes and bilinear resizing for dynamic and static graphs."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor


@paddle.jit.not_to_static  # which would make the choice below a part of the graph
def spatial_size(x: Tensor) -> tuple:
    """Returns the height and width of x [N, C, H, W]: ints where the graph knows them, otherwise scalar tensors."""
    height, width = x.shape[2:]
    if height > 0 and width > 0:
        return height, width
    shape = paddle.shape(x)
    return shape[2], shape[3]


def resize(x: Tensor, size: Sequence, align_corners: bool) -> Tensor:
    """Resizes x [N, C, H, W] bilinearly to size (height, width)."""
    return F.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)
