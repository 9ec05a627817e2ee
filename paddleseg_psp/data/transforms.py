"""Transforms of training that paddleseg lacks or has wrong, and its others in less time.

Images are scaled and cropped in one step, of which only the crop is computed; they stay bytes until they are normalized.
"""

import random

import cv2
import numpy as np
from paddleseg import transforms as T
from paddleseg.transforms import functional

from paddleseg_psp.registry import register

# Transforms of paddleseg that do the same on bytes as on floats.
_TAKE_BYTES = (T.RandomHorizontalFlip, T.RandomVerticalFlip, T.RandomDistort, T.RandomBlur)


@register
class RandomPaddingCrop:
    """Crops an image and its label at random, padding them below and on the right where they are smaller.

    paddleseg's, with category_max_ratio below 1, gives the label in place of the image.

    Args:
        crop_size: (width, height).
        im_padding_value, label_padding_value: of the padding.
        category_max_ratio (float): crops again, up to loop_times, where one class has this share of the pixels or more.
        ignore_index (int): the label value that does not count.
        loop_times (int): attempts.
    """

    def __init__(
        self,
        crop_size=(512, 512),
        im_padding_value=127.5,
        label_padding_value=255,
        category_max_ratio=1.0,
        ignore_index=255,
        loop_times=10,
    ):
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f"crop_size must be a width and a height, not {crop_size}")
        if not 0 < category_max_ratio <= 1 or loop_times < 1:
            raise ValueError("category_max_ratio must be above 0 and at most 1, and loop_times at least 1")
        self.crop_size = tuple(reversed(crop_size))
        self.im_padding_value, self.label_padding_value = im_padding_value, label_padding_value
        self.category_max_ratio, self.ignore_index, self.loop_times = category_max_ratio, ignore_index, loop_times

    def __call__(self, data):
        return self.scaled(data, data["img"].shape[:2])

    def scaled(self, data, size):
        """Crops as if everything had been scaled to a size (height, width) before."""
        label = data.get("label")
        for _ in range(self.loop_times):
            offset = [np.random.randint(max(whole - crop, 0) + 1) for whole, crop in zip(size, self.crop_size)]
            if self.category_max_ratio == 1 or label is None or self._is_mixed(self._cut(label, size, offset, True)):
                break
        fields = {key: self._cut(data[key], size, offset, True) for key in data.get("gt_fields", [])}
        return {**data, "img": self._cut(data["img"], size, offset, False), **fields}

    def _is_mixed(self, label):
        counts = np.bincount(label[label != self.ignore_index].ravel())
        return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.category_max_ratio

    def _cut(self, array, size, offset, is_label):
        """Returns the crop at an offset (row, column) of an array scaled to a size."""
        height, width = (min(crop, whole) for crop, whole in zip(self.crop_size, size))
        if array.shape[:2] == tuple(size):
            cut = array[offset[0] : offset[0] + height, offset[1] : offset[1] + width]
        else:  # the centre of pixel i is at i + 0.5 in both, as cv2.resize has it
            step_y, step_x = (own / whole for own, whole in zip(array.shape, size))
            matrix = np.array([[step_x, 0, (offset[1] + 0.5) * step_x - 0.5], [0, step_y, (offset[0] + 0.5) * step_y - 0.5]])
            flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR)
            cut = cv2.warpAffine(array, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if cut.shape[:2] == self.crop_size:
            return cut
        value = self.label_padding_value if is_label else self.im_padding_value
        channels = 1 if cut.ndim == 2 else cut.shape[2]
        below, right = (crop - own for crop, own in zip(self.crop_size, cut.shape))
        if channels <= 4:
            return cv2.copyMakeBorder(cut, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(value,) * channels)
        return np.pad(cut, ((0, below), (0, right), (0, 0)), constant_values=value)


@register
class RandomDistort(T.RandomDistort):
    """paddleseg's changes of brightness, contrast, saturation, hue and sharpness in random order, on bytes by OpenCV.

    Arguments as there. From the same random numbers it makes the same picture, to rounding.
    """

    def __call__(self, data):
        image = data["img"]
        if image.dtype != np.uint8 or image.ndim != 3:
            return super().__call__(data)
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
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


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


class _ScaledCrop:
    """A scaling of paddleseg and the crop after it."""

    def __init__(self, scaling, crop):
        self._scaling, self._crop = scaling, crop

    def __call__(self, data):
        height, width = data["img"].shape[:2]
        factor = _choose_factor(self._scaling)
        return self._crop.scaled(data, (int(round(factor * height)), int(round(factor * width))))


def _choose_factor(scaling):
    """Returns a factor as ResizeStepScaling draws it."""
    low, high, step = scaling.min_scale_factor, scaling.max_scale_factor, scaling.scale_step_size
    if low == high:
        return low
    if step == 0:
        return np.random.uniform(low, high)
    return float(np.random.choice(np.linspace(low, high, int((high - low) / step + 1))))


class Pipeline(T.Compose):
    """paddleseg's Compose, in less time where training scales and crops, then flips and colours, then normalizes.

    Attributes:
        takes_bytes (bool): whether training images may be uint8.
    """

    def __init__(self, transforms, img_channels=3):
        super().__init__(_with_scaled_crops(transforms), img_channels=img_channels)
        *before, last = self.transforms or [None]
        crops = before and isinstance(before[0], (RandomPaddingCrop, _ScaledCrop))
        self.takes_bytes = (
            img_channels == 3
            and bool(crops)
            and isinstance(last, T.Normalize)
            and all(isinstance(item, _TAKE_BYTES) for item in before[1:])
        )
        if self.takes_bytes:
            values = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis], 3, axis=2)
            self._normalized = functional.normalize(values, last.mean, last.std).astype(np.float32)  # of each byte and channel

    def __call__(self, data):
        if not (self.takes_bytes and isinstance(data["img"], np.ndarray) and data["img"].dtype == np.uint8):
            return super().__call__(data)
        data = self.transforms[0]({"trans_info": [], **data})
        data["img"] = cv2.cvtColor(data["img"], cv2.COLOR_BGR2RGB)
        for transform in self.transforms[1:-1]:
            data = transform(data)
        planes = cv2.split(np.ascontiguousarray(data["img"], np.uint8))
        data["img"] = np.stack([cv2.LUT(plane, self._normalized[:, 0, channel]) for channel, plane in enumerate(planes)])
        return data


def _with_scaled_crops(transforms):
    result = []
    for transform in transforms:
        if isinstance(transform, RandomPaddingCrop) and result and isinstance(result[-1], T.ResizeStepScaling):
            result[-1] = _ScaledCrop(result[-1], transform)
        else:
            result.append(transform)
    return result
