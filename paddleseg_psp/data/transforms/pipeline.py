"""A faster Compose.

Training images are scaled, rotated and cropped in one step, of which only the crop is computed; they stay bytes until they are
normalized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from paddleseg import transforms as T
from paddleseg.transforms import functional

from paddleseg_psp.data.transforms.colors import PhotoMetricDistortion, RandomGaussianBlur, SwapRedAndBlue, as_bytes
from paddleseg_psp.data.transforms.geometry import RandomPaddingCrop, RandomRotate


class _ScaledCrop:
    """A scaling of paddleseg, a rotation (or None), and the crop after them."""

    def __init__(self, scaling, rotation, crop):
        self._scaling, self._rotation, self._crop = scaling, rotation, crop

    def __call__(self, data):
        height, width = data["img"].shape[:2]
        factor = _choose_factor(self._scaling)
        angle = self._rotation.draw() if self._rotation else 0.0
        return self._crop.scaled(data, (int(round(factor * height)), int(round(factor * width))), angle)


def _choose_factor(scaling):
    """Returns a random factor like ResizeStepScaling."""
    low, high, step = scaling.min_scale_factor, scaling.max_scale_factor, scaling.scale_step_size
    if low == high:
        return low
    if step == 0:
        return np.random.uniform(low, high)
    return float(np.random.choice(np.linspace(low, high, int((high - low) / step + 1))))


# What does the same on bytes as on floats, to rounding.
_TAKE_BYTES = (
    _ScaledCrop, RandomPaddingCrop, RandomRotate, RandomGaussianBlur, PhotoMetricDistortion, SwapRedAndBlue,
    T.ResizeByShort, T.LimitLong, T.RandomHorizontalFlip, T.RandomVerticalFlip, T.RandomDistort, T.RandomBlur,
)  # fmt: skip

# What of paddleseg makes bytes of floats, and wraps what is above 255.
_MAKE_BYTES = (T.RandomDistort, T.RandomBlur, T.RandomAffine, T.ScalePadding)


class Pipeline(T.Compose):
    """paddleseg's Compose, faster for trainings that scale, rotate and crop, then flip and color, then normalize.

    Attributes:
        takes_bytes (bool): whether training images may be uint8.
    """

    def __init__(self, transforms: Sequence[Callable[[dict], dict]], img_channels: int = 3) -> None:
        super().__init__(_with_scaled_crops(transforms), img_channels=img_channels)
        *before, last = self.transforms or [None]
        self.takes_bytes = (
            img_channels == 3
            and bool(before)
            and isinstance(last, T.Normalize)
            and all(isinstance(item, _TAKE_BYTES) for item in before)
        )
        if self.takes_bytes:
            values = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis], 3, axis=2)
            self._normalized = functional.normalize(values, last.mean, last.std).astype(np.float32)  # of each byte and channel

    def __call__(self, data: dict) -> dict:
        if not (self.takes_bytes and isinstance(data["img"], np.ndarray) and data["img"].dtype == np.uint8):
            for transform in self.transforms:
                if isinstance(transform, _MAKE_BYTES) and isinstance(data["img"], np.ndarray):
                    as_bytes(data["img"], transform)
            return super().__call__(data)
        data = {"trans_info": [], **data, "img": cv2.cvtColor(data["img"], cv2.COLOR_BGR2RGB)}
        for transform in self.transforms[:-1]:
            data = transform(data)
        planes = cv2.split(np.ascontiguousarray(data["img"], np.uint8))
        data["img"] = np.empty((3, *planes[0].shape), np.float32)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, self._normalized[:, 0, channel], data["img"][channel])  # written in place
        return data


def _with_scaled_crops(transforms):
    """Returns the transforms, with each sequence of scaling, rotation (if any) and crop replaced by one transform."""
    result = []
    for transform in transforms:
        rotation = result.pop() if _ends(result, T.ResizeStepScaling, RandomRotate) else None
        if isinstance(transform, RandomPaddingCrop) and _ends(result, T.ResizeStepScaling):
            result[-1] = _ScaledCrop(result[-1], rotation, transform)
        else:
            result += [transform] if rotation is None else [rotation, transform]
    return result


def _ends(items, *types):
    return len(items) >= len(types) and all(map(isinstance, items[-len(types) :], types))
