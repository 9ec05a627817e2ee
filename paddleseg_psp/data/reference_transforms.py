"""Transforms of semseg's and mmsegmentation's recipes that paddleseg lacks; rotation and blurring are in `transforms`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register_transform


@register_transform
class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation and hue as mmsegmentation does: each half the time, contrast second or last.

    Args:
        brightness_delta: the largest value added.
        contrast_range, saturation_range: of the factors.
        hue_delta: the largest turn of the hue, in steps of two degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = contrast_range, saturation_range

    def __call__(self, data: dict) -> dict:
        image = as_bytes(data["img"], self)
        if _by_chance():
            image = _linear(image, 1, np.random.uniform(-self.brightness_delta, self.brightness_delta))
        contrast_comes_second = _by_chance()
        if contrast_comes_second:
            image = self._contrast(image)
        image = self._saturation_and_hue(image)
        if not contrast_comes_second:
            image = self._contrast(image)
        return {**data, "img": image}

    def _contrast(self, image):
        return _linear(image, np.random.uniform(*self.contrast_range), 0) if _by_chance() else image

    def _saturation_and_hue(self, image):
        saturation = np.random.uniform(*self.saturation_range) if _by_chance() else None
        turn = np.random.randint(-self.hue_delta, self.hue_delta) if _by_chance() else None
        if saturation is None and turn is None:
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        if saturation is not None:
            hsv[..., 1] = _linear(hsv[..., 1], saturation, 0)
        if turn is not None:
            hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def as_bytes(image: np.ndarray, transform: object) -> np.ndarray:
    """Returns an image of values from 0 to 255 as uint8, those a little beyond, as cubic interpolation gives them, cut.

    Raises:
        UserError: values far beyond, which bytes would wrap; names the transform.
    """
    if image.dtype == np.uint8:
        return image
    if image.min() < -64 or image.max() > 255 + 64:
        raise UserError(
            f"{type(transform).__name__} takes images of values from 0 to 255, not {image.min():g} to {image.max():g}: set "
            "max_value in the data set to the value that means white"
        )
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def _by_chance():
    return np.random.randint(2) == 1


def _linear(image, factor, added):
    table = np.clip(np.arange(256) * factor + added, 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(image), table)


def holding(label: np.ndarray, value: int) -> np.ndarray:
    """Returns a label, in a wider type where its own does not hold a value."""
    return label.astype(np.promote_types(label.dtype, np.min_scalar_type(int(value))), copy=False)


@register_transform
class PadShortSides:
    """Pads an image below and on the right where it is smaller than a size, for networks that want whole windows.

    paddleseg's Padding refuses images that are larger.

    Args:
        size: (width, height).
        im_padding_value: of the padding; one number, or one for each channel (red, green, blue).
        label_padding_value: of the label's.
    """

    def __init__(self, size: Sequence[int], im_padding_value: float = 127.5, label_padding_value: int = 255) -> None:
        self.size, self.im_padding_value, self.label_padding_value = size, im_padding_value, label_padding_value

    def __call__(self, data: dict) -> dict:
        size = data["img"].shape[:2]
        missing = [max(wanted - side, 0) for wanted, side in zip(self.size[::-1], size)]
        if not any(missing):
            return data

        image, added = data["img"], [(0, side) for side in missing]
        fill = np.broadcast_to(self.im_padding_value, 1 if image.ndim == 2 else image.shape[2]).tolist()
        value = self.label_padding_value
        fields = {key: np.pad(holding(data[key], value), added, constant_values=value) for key in data.get("gt_fields", [])}
        image = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=fill)
        return {**data, "img": image, "trans_info": [*data.get("trans_info", []), ("padding", size)], **fields}


@register_transform
class SwapRedAndBlue:
    """Gives an image's channels as blue, green, red, for networks that were trained so (Caffe's)."""

    def __call__(self, data: dict) -> dict:
        return {**data, "img": np.ascontiguousarray(data["img"][..., ::-1])}
