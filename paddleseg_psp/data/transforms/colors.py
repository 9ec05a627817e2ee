"""Transforms that change colors: those of mmsegmentation and semseg that paddleseg lacks, and paddleseg's in less time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import cv2
import numpy as np
from paddleseg import transforms as T

from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register_transform


@register_transform
class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation and hue like mmsegmentation: each with probability 0.5, contrast second or last.

    Args:
        brightness_delta: the largest value added.
        contrast_range: smallest and largest factor of the contrast.
        saturation_range: smallest and largest factor of the saturation.
        hue_delta: the largest shift of the hue, in steps of two degrees.
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
    """Returns an image of values from 0 to 255 as uint8; values slightly outside, from cubic interpolation, are clipped.

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


@register_transform
class SwapRedAndBlue:
    """Reorders an image's channels to blue, green, red, for networks that were trained with that order (Caffe's)."""

    def __call__(self, data: dict) -> dict:
        return {**data, "img": np.ascontiguousarray(data["img"][..., ::-1])}


@register_transform
class RandomGaussianBlur:
    """Blurs an image with a kernel of one size, like semseg; paddleseg's RandomBlur draws the size.

    Args:
        prob: probability of a blur.
        kernel_size: odd size of the kernel.
    """

    def __init__(self, prob: float = 0.5, kernel_size: int = 5) -> None:
        if not 0 <= prob <= 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError("prob must be from 0 to 1, and kernel_size odd")
        self.prob, self.kernel_size = prob, kernel_size

    def __call__(self, data: dict) -> dict:
        if np.random.uniform() < self.prob:
            return {**data, "img": cv2.GaussianBlur(data["img"], (self.kernel_size, self.kernel_size), 0)}
        return data


@register_transform
class RandomDistort(T.RandomDistort):
    """Changes brightness, contrast, saturation, hue and sharpness in random order, like paddleseg but on bytes by OpenCV.

    From the same random numbers it makes the same picture as paddleseg's, up to rounding.

    Args:
        brightness_range: largest change of the factor from 1; likewise for contrast, saturation and sharpness.
        brightness_prob: probability of a change; likewise for the others.
        contrast_range: see brightness_range.
        contrast_prob: see brightness_prob.
        saturation_range: see brightness_range.
        saturation_prob: see brightness_prob.
        hue_range: largest shift of the hue, of 256 for a full turn.
        hue_prob: see brightness_prob.
        sharpness_range: see brightness_range.
        sharpness_prob: see brightness_prob.
    """

    def __call__(self, data: dict) -> dict:
        image = data["img"]
        if image.dtype != np.uint8 or image.ndim != 3:
            return super().__call__({**data, "img": as_bytes(image, self)})
        names = ["brightness", "contrast", "saturation", "sharpness", "hue"]
        random.shuffle(names)
        for name in names:
            if np.random.uniform(0, 1) < getattr(self, f"{name}_prob"):
                reach, middle = getattr(self, f"{name}_range"), 0 if name == "hue" else 1
                image = _DISTORTIONS[name](image, np.random.uniform(middle - reach, middle + reach))
        return {**data, "img": image}


def _brightness(image, factor):
    return cv2.LUT(image, np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8))


def _contrast(image, factor):
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.LUT(image, np.clip(mean + (np.arange(256) - mean) * factor, 0, 255).astype(np.uint8))


def _saturation(image, factor):
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def _sharpness(image, factor):
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    return cv2.addWeighted(image, factor, cv2.filter2D(image, -1, kernel / 13), 1 - factor, 0)


def _hue(image, shift):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(shift) % 256)  # wraps around, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_DISTORTIONS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "hue": _hue,
}
