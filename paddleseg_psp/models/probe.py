"""What the context modules of a network look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_psp.models.layers import PointWiseSpatialAttention, PyramidPooling
from paddleseg_psp.ops.psamask.reference import psa_mask


@paddle.no_grad()
def attention_maps(model: nn.Layer, image: Tensor, point: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns how PSANet's attention connects a point of an image with all others.

    Args:
        model: a network with a `PointWiseSpatialAttention`, in evaluation.
        image: [1, C, H, W].
        point: (row, column) in pixels.

    Returns:
        dict: "collect" (what the point gathers from each position) and "distribute" (what it gives to each), those that the
        attention has, as arrays [h, w] of its map.

    Raises:
        ValueError: a network without attention, or a point outside the image.
    """
    attention = _only(model, PointWiseSpatialAttention)
    height, width = image.shape[2:]
    if not (0 <= point[0] < height and 0 <= point[1] < width):
        raise ValueError(f"the point {tuple(point)} (row, column) is outside the image of {height}x{width}")
    masks, branches = {}, {"attention": attention.psa_type}
    if attention.psa_type == "bi-direction":
        branches = {"attention": "collect", "attention_p": "distribute"}
    handles = [
        getattr(attention, name).register_forward_post_hook(lambda _, __, out, key=direction: masks.update({key: out}))
        for name, direction in branches.items()
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return {direction: _connections(attention, mask, direction, point, (height, width)) for direction, mask in masks.items()}


def _connections(attention, mask, direction, point, size):
    height, width = mask.shape[2:]
    if attention.compact:
        weights = mask.flatten(2) if direction == "collect" else mask.flatten(2).transpose([0, 2, 1])
    else:
        mask, mask_size = attention.with_odd_sides(mask, (height, width))
        weights = psa_mask(mask, direction, mask_size).flatten(2)  # [1, source, target]
    weights = (F.softmax(weights, axis=1) if attention.psa_softmax else weights)[0].numpy()
    place = (point[0] * height // size[0]) * width + point[1] * width // size[1]
    return (weights[:, place] if direction == "collect" else weights[place]).reshape(height, width)


@paddle.no_grad()
def pyramid_maps(model: nn.Layer, image: Tensor) -> dict[str, np.ndarray]:
    """Returns how strongly each level of PSPNet's pyramid answers in each of its cells.

    Args:
        model: a network with a `PyramidPooling`, in evaluation.
        image: [1, C, H, W].

    Returns:
        Cells per side -> array [cells, cells], the mean of the level's channels.

    Raises:
        ValueError: a network without a pyramid.
    """
    pyramid, maps = _only(model, PyramidPooling), {}
    handles = [
        stage.register_forward_post_hook(lambda _, __, out, key=bins: maps.update({key: out.mean([0, 1]).numpy()}))
        for bins, stage in zip(pyramid.bin_sizes, pyramid.stages)
        if bins is not None
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _only(model, kind):
    found = [layer for layer in model.sublayers() if isinstance(layer, kind)]
    if not found:
        raise ValueError(f"the network has no {kind.__name__}")
    return found[0]


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
