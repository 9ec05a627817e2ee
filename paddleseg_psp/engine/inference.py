"""How a network looks at an image: whole or by windows, once or at several scales and flips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.core.infer import reverse_transform
from paddleseg.utils import logger

from paddleseg_psp.models.layers import PointWiseSpatialAttention, resize


def predict_classes(
    model: nn.Layer,
    image: Tensor,
    trans_info: list,
    augment: bool = False,
    scales: float | Sequence[float] = 1.0,
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    is_slide: bool = False,
    stride: Sequence[int] | None = None,
    crop_size: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns the classes [H, W] (int32 array) that a network gives an image tensor [1, C, h, w], at the original size.

    Args:
        model: returns a list whose first entry has the logits.
        trans_info: the steps that led from the original image to this one, as paddleseg's transforms note them.
        augment: average the probabilities of each scale (float or list) and flip.
        is_slide: average the logits of windows of crop_size (width, height) at steps of stride (width, height).
    """
    look = partial(_windows, model, crop_size, stride) if is_slide else lambda x: model(x)[0]
    if augment:
        scores = 0
        for scale, flip in product(np.atleast_1d(scales).tolist(), _flips(flip_horizontal, flip_vertical)):
            scaled = resize(image, [int(side * scale + 0.5) for side in image.shape[2:]], False)
            logits = _flipped(look(_flipped(scaled, flip)), flip)
            scores += F.softmax(resize(logits, image.shape[2:], False), axis=1)
    else:
        if is_slide and not trans_info:  # a strip at a time: a large image needs no memory for all its logits
            strips = _strips(model, crop_size, stride, image)
            return np.concatenate([paddle.argmax(strip, axis=1, dtype="int32").numpy()[0] for strip in strips])
        scores = look(image)
    scores = reverse_transform(scores, trans_info, mode="bilinear")
    return paddle.argmax(scores, axis=1, dtype="int32").numpy()[0]


def _flips(horizontal, vertical):
    return [rows + columns for rows in ([], [2])[: 1 + vertical] for columns in ([], [3])[: 1 + horizontal]]


def _flipped(x, axes):
    return paddle.flip(x, axes) if axes else x


def _windows(model, crop_size, stride, image):
    """Returns the logits [1, C, H, W], averaged over the windows that a pixel is in."""
    return paddle.concat(list(_strips(model, crop_size, stride, image)), axis=2)


def _strips(model, crop_size, stride, image):
    """Yields the averaged logits [1, C, rows, W] of an image from top to bottom, as soon as no other window changes them.

    The last window of a row or column ends with the image, as in mmsegmentation and PaddleSeg.
    """
    height, width = image.shape[2:]
    tops = _starts(height, crop_size[1], stride[1])
    total = count = None
    for top, following in zip(tops, [*tops[1:], height]):
        bottom = min(top + crop_size[1], height)
        for left in _starts(width, crop_size[0], stride[0]):
            columns = slice(left, left + crop_size[0])
            logits = model(image[:, :, top:bottom, columns])[0].astype("float32").numpy()
            if left == 0:
                total = _extended(total, (1, logits.shape[1], bottom - top, width))
                count = _extended(count, (bottom - top, width))
            total[:, :, :, columns] += logits
            count[:, columns] += 1
        done = following - top
        yield paddle.to_tensor(total[:, :, :done] / count[:done])
        total, count = total[:, :, done:], count[done:]


def _extended(array, shape):
    """Returns zeros of a shape whose first rows are those of an array; rows are the last axis but one."""
    extended = np.zeros(shape, np.float32)
    if array is not None:
        extended[..., : array.shape[-2], :] = array
    return extended


def _starts(size, window, step):
    last = max(size - window, 0)
    return [*range(0, last, step), last]


def warn_of_small_masks(model: nn.Layer) -> None:
    """Logs a line if an input of the network is larger than the masks of its attention reach, when it first comes."""
    for layer in model.sublayers():
        if isinstance(layer, PointWiseSpatialAttention):
            _warn_once(layer)


def _warn_once(attention):
    def look(_, inputs):
        handle.remove()
        need = attention.full_mask_size(inputs[0].shape[2:])
        if any(own < full for own, full in zip(attention.mask_size, need)):
            own, full = ("x".join(map(str, size)) for size in (attention.mask_size, need))
            logger.warning(
                f"The attention's mask of {own} does not reach all of an input whose attention map needs {full}: far positions "
                "do not see each other, as in training on smaller crops. --is_slide with the training's crop size avoids it"
            )

    handle = attention.register_forward_pre_hook(look)
