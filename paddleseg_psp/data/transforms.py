"""Transforms of training that paddleseg lacks or has wrong, and its others in less time.

Images are scaled, rotated and cropped in one step, of which only the crop is computed; they stay bytes until they are
normalized.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from paddleseg import transforms as T
from paddleseg.transforms import functional

from paddleseg_psp.data.reference_transforms import PhotoMetricDistortion, SwapRedAndBlue, as_bytes, holding
from paddleseg_psp.registry import register_transform


@register_transform
class RandomPaddingCrop:
    """Crops an image and its label at random, padding them below and on the right where they are smaller.

    paddleseg's, with category_max_ratio below 1, gives the label in place of the image.

    Args:
        crop_size: (width, height).
        im_padding_value: of the padding; one number, or one for each channel (red, green, blue).
        label_padding_value: of the padding.
        category_max_ratio: crops again, up to loop_times, where one class has this share of the pixels or more.
        ignore_index: the label value that does not count.
        loop_times: attempts.
    """

    def __init__(
        self,
        crop_size: Sequence[int] = (512, 512),
        im_padding_value: float = 127.5,
        label_padding_value: int = 255,
        category_max_ratio: float = 1.0,
        ignore_index: int = 255,
        loop_times: int = 10,
    ) -> None:
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f"crop_size must be a width and a height, not {crop_size}")
        if not 0 < category_max_ratio <= 1 or loop_times < 1:
            raise ValueError("category_max_ratio must be above 0 and at most 1, and loop_times at least 1")
        self.crop_size = tuple(reversed(crop_size))
        self.im_padding_value, self.label_padding_value = im_padding_value, label_padding_value
        self.category_max_ratio, self.ignore_index, self.loop_times = category_max_ratio, ignore_index, loop_times

    def __call__(self, data: dict) -> dict:
        return self.scaled(data, data["img"].shape[:2])

    def scaled(self, data: dict, size: tuple[int, int], angle: float = 0.0) -> dict:
        """Crops as if everything had been scaled to a size (height, width), then rotated by an angle in degrees, before."""
        label = data.get("label")
        for _ in range(self.loop_times):
            offset = [np.random.randint(max(whole - crop, 0) + 1) for whole, crop in zip(size, self.crop_size)]
            if self.category_max_ratio == 1 or label is None or self._is_mixed(self._cut(label, size, angle, offset, True)):
                break
        fields = {key: self._cut(data[key], size, angle, offset, True) for key in data.get("gt_fields", [])}
        return {**data, "img": self._cut(data["img"], size, angle, offset, False), **fields}

    def _is_mixed(self, label):
        counts = np.bincount(label[label != self.ignore_index].ravel())
        return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.category_max_ratio

    def _cut(self, array, size, angle, offset, is_label):
        """Returns the crop at an offset (row, column) of an array scaled to a size and rotated."""
        height, width = (min(crop, whole) for crop, whole in zip(self.crop_size, size))
        value = self.label_padding_value if is_label else self.im_padding_value
        array = holding(array, value) if is_label else array
        if array.shape[:2] == tuple(size) and not angle:
            cut = array[offset[0] : offset[0] + height, offset[1] : offset[1] + width]
        else:
            # from the crop's pixels to the array's; the centre of pixel i is at i + 0.5 in both, as cv2.resize has it
            step_y, step_x = (own / whole for own, whole in zip(array.shape, size))
            scaling = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]])
            shift = np.array([[1, 0, offset[1]], [0, 1, offset[0]], [0, 0, 1]])
            cut = warp(array, scaling @ _rotation(size, -angle) @ shift, (width, height), is_label, value if angle else None)
        if cut.shape[:2] == self.crop_size:
            return cut
        padded = np.empty((*self.crop_size, *cut.shape[2:]), cut.dtype)
        padded[...] = np.rint(value) if cut.dtype == np.uint8 else value
        padded[: cut.shape[0], : cut.shape[1]] = cut
        return padded


_WARPED = (np.uint8, np.uint16, np.int16, np.float64)  # types that OpenCV warps


def _rotation(size, angle):
    """Returns the matrix [3, 3] that turns an image of a size (height, width) about its centre, as semseg has it."""
    return np.vstack([cv2.getRotationMatrix2D((size[1] / 2, size[0] / 2), angle, 1), [0, 0, 1]])


def warp(
    array: np.ndarray, matrix: np.ndarray, size: tuple[int, int], is_label: bool, fill: float | Sequence[float] | None = None
) -> np.ndarray:
    """Returns an array of a size (width, height) whose pixel p is at matrix @ p in another.

    What lies outside is `fill`, a number or one for each channel, or, for None, the other's nearest pixel.
    """
    if is_label and array.dtype not in _WARPED:
        return warp(array.astype(np.float64), matrix, size, True, fill).astype(array.dtype)
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR)
    if fill is None:
        return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if array.ndim == 2:
        return cv2.warpAffine(array, matrix, size, flags=flags, borderValue=fill)
    fills = np.broadcast_to(fill, array.shape[2]).tolist()
    if len(fills) <= 4:
        return cv2.warpAffine(array, matrix, size, flags=flags, borderValue=fills).reshape(*size[::-1], len(fills))
    planes = [cv2.warpAffine(array[..., i], matrix, size, flags=flags, borderValue=fills[i]) for i in range(len(fills))]
    return np.stack(planes, axis=2)


@register_transform
class RandomRotate:
    """Rotates an image and its label about their centre; their size stays, as in semseg and mmsegmentation.

    paddleseg's RandomRotation always rotates, and enlarges them.

    Args:
        prob: how often.
        max_rotation: the largest angle, in degrees, either way.
        im_padding_value: of what comes in at the corners; one number, or one for each channel (red, green, blue).
        label_padding_value: of the label there.
    """

    def __init__(
        self, prob: float = 0.5, max_rotation: float = 10, im_padding_value: float = 127.5, label_padding_value: int = 255
    ) -> None:
        if not 0 <= prob <= 1 or not 0 < max_rotation <= 180:
            raise ValueError("prob must be from 0 to 1, and max_rotation above 0 and at most 180 degrees")
        self.prob, self.max_rotation = prob, max_rotation
        self.im_padding_value, self.label_padding_value = im_padding_value, label_padding_value

    def __call__(self, data: dict) -> dict:
        angle = self.draw()
        if not angle:
            return data
        height, width = size = data["img"].shape[:2]
        matrix = _rotation(size, -angle)[:2]
        value = self.label_padding_value
        fields = {
            key: warp(holding(data[key], value), matrix, (width, height), True, value) for key in data.get("gt_fields", [])
        }
        return {**data, "img": warp(data["img"], matrix, (width, height), False, self.im_padding_value), **fields}

    def draw(self) -> float:
        """Returns an angle in degrees, 0 for no rotation."""
        return np.random.uniform(-self.max_rotation, self.max_rotation) if np.random.uniform() < self.prob else 0.0


@register_transform
class RandomGaussianBlur:
    """Blurs an image with a kernel of one size, as semseg does; paddleseg's RandomBlur draws the size.

    Args:
        prob: how often.
        kernel_size: odd.
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
    """paddleseg's changes of brightness, contrast, saturation, hue and sharpness in random order, on bytes by OpenCV.

    Arguments as there. From the same random numbers it makes the same picture, to rounding.
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
    """A scaling of paddleseg, a rotation (or None), and the crop after them."""

    def __init__(self, scaling, rotation, crop):
        self._scaling, self._rotation, self._crop = scaling, rotation, crop

    def __call__(self, data):
        height, width = data["img"].shape[:2]
        factor = _choose_factor(self._scaling)
        angle = self._rotation.draw() if self._rotation else 0.0
        return self._crop.scaled(data, (int(round(factor * height)), int(round(factor * width))), angle)


def _choose_factor(scaling):
    """Returns a factor as ResizeStepScaling draws it."""
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
    """paddleseg's Compose, in less time where training scales, rotates and crops, then flips and colours, then normalizes.

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
    """Returns the transforms, each scaling, rotation (if any) and crop in a row replaced by one."""
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
