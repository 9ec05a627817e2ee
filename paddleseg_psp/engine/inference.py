"""Predicting the classes of images with a Paddle network."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_psp.engine.views import WHOLE, Views, resizes, restored
from paddleseg_psp.log import logger
from paddleseg_psp.models.layers import PointWiseSpatialAttention, resize


class TensorArrays:
    """The array operations of `Views` for tensors [N, C, H, W]."""

    flip = staticmethod(paddle.flip)

    @staticmethod
    def array(x: np.ndarray | Tensor) -> Tensor:
        return x if isinstance(x, Tensor) else paddle.to_tensor(x)

    @staticmethod
    def numpy(x: Tensor) -> np.ndarray:
        return x.astype("float32").numpy()

    @staticmethod
    def resize(x: Tensor, size: list[int]) -> Tensor:
        return resize(x, size, False)

    @staticmethod
    def softmax(x: Tensor) -> Tensor:
        return F.softmax(x, axis=1)

    @staticmethod
    def argmax(x: Tensor) -> np.ndarray:
        return paddle.argmax(x, axis=1, dtype="int32").numpy()


def predict_classes(model: nn.Layer, image: Tensor, trans_info: list, views: Views = WHOLE) -> np.ndarray:
    """Returns the classes [H, W] (int32 array) that a network gives an image tensor [1, C, h, w], at the original size.

    Args:
        model: returns a list whose first entry has the logits.
        trans_info: the steps that led from the original image to this one, as paddleseg's transforms note them.
        views: how the network looks at the image.
    """

    def look(batch):
        return model(batch)[0]

    if views.window and not views.augment and not resizes(trans_info):
        strips = [TensorArrays.argmax(TensorArrays.array(strip)) for strip in views.strips(look, image, TensorArrays)]
        return restored(np.concatenate(strips, axis=1)[:, np.newaxis], trans_info, None)[0, 0]
    scores = views.scores(look, image, TensorArrays)
    return TensorArrays.argmax(restored(scores, trans_info, TensorArrays))[0]


def warn_of_small_masks(model: nn.Layer) -> None:
    """Logs a warning at the first input of the network that is larger than the reach of its attention masks."""
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
