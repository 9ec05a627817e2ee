"""What the context modules of a network compute: the attention of a point, the responses of the pyramid."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Returns how strongly each level of PSPNet's pyramid responds in each of its cells.

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
