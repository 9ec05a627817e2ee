"""paddleseg's transforms that change the classes of labels, fixed."""

from __future__ import annotations

import random

import cv2
import numpy as np
from paddleseg import transforms as T

from paddleseg_psp.data.transforms.geometry import holding, warp
from paddleseg_psp.registry import register_transform


@register_transform
class ScalePadding(T.ScalePadding):
    """Pads to a square, the image in its middle, and scales that to a size; arguments as in paddleseg.

    paddleseg's interpolates between the classes of a label, and makes them bytes.

    Args:
        target_size: (width, height) of the result.
        im_padding_value: value of the image's padding.
        label_padding_value: value of the label's padding.
    """

    def __call__(self, data: dict) -> dict:
        missing = [max(data["img"].shape[:2]) - side for side in data["img"].shape[:2]]
        added, value = [(side // 2, side - side // 2) for side in missing], self.label_padding_value
        fields = data.get("gt_fields", [])
        labels = {key: np.pad(holding(data[key], value), added, constant_values=value) for key in fields}
        scaled = {
            key: cv2.resize(label, tuple(self.target_size), interpolation=cv2.INTER_NEAREST) for key, label in labels.items()
        }
        return {**super().__call__({**data, "gt_fields": []}), "gt_fields": fields, **scaled}


@register_transform
class RandomAffine(T.RandomAffine):
    """Scales an image to a size, and moves, turns and scales it at random; arguments as in paddleseg.

    paddleseg's makes labels bytes, so that class 300 becomes 44.

    Args:
        size: (width, height) of the result.
        translation_offset: largest shift in pixels, either way.
        max_rotation: largest angle in degrees, either way.
        min_scale_factor: smallest factor.
        max_scale_factor: largest factor.
        im_padding_value: value outside of the image.
        label_padding_value: value of the label there.
    """

    def __call__(self, data: dict) -> dict:
        (width, height), (rows, columns) = self.size, data["img"].shape[:2]
        moved = [(random.random() - 0.5) * 2 * self.translation_offset for _ in range(2)]
        angle = random.random() * 2 * self.max_rotation - self.max_rotation
        scale = random.random() * (self.max_scale_factor - self.min_scale_factor) + self.min_scale_factor
        scale *= (width / (columns - 1) + height / (rows - 1)) / 2
        turn = cv2.getRotationMatrix2D((width / 2 + moved[0], height / 2 + moved[1]), angle, scale)
        shift = np.array([[1, 0, (width - columns + 1) / 2], [0, 1, (height - rows + 1) / 2], [0, 0, 1]])
        matrix = np.linalg.inv(np.vstack([turn @ shift, [0, 0, 1]]))[:2]  # from the result's pixels to the image's
        value = self.label_padding_value
        labels = {
            key: warp(holding(data[key], value), matrix, (width, height), True, value) for key in data.get("gt_fields", [])
        }
        image = warp(data["img"].astype(np.uint8), matrix, (width, height), False, self.im_padding_value)
        return {**data, "img": image, **labels}
