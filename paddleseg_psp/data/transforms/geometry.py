"""Transforms that move pixels: cropping, rotation, padding. paddleseg lacks them or has errors in them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_psp.registry import register_transform
from paddleseg_psp.sizes import height_width


@register_transform
class RandomPaddingCrop:
    """Crops an image and its label at random, padding them below and on the right where they are smaller.

    paddleseg's returns the label in place of the image if category_max_ratio is below 1.

    Args:
        crop_size: (width, height).
        im_padding_value: value of the padding; one number, or one for each channel (red, green, blue).
        label_padding_value: value of the label's padding.
        category_max_ratio: crops again, up to loop_times, if one class has this share of the pixels or more.
        ignore_index: the label value that is ignored.
        loop_times: number of attempts.
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
        self.crop_size = height_width(crop_size)
        self.im_padding_value, self.label_padding_value = im_padding_value, label_padding_value
        self.category_max_ratio, self.ignore_index, self.loop_times = category_max_ratio, ignore_index, loop_times

    def __call__(self, data: dict) -> dict:
        return self.scaled(data, data["img"].shape[:2])

    def scaled(self, data: dict, size: tuple[int, int], angle: float = 0.0) -> dict:
        """Crops as if everything had first been scaled to a size (height, width) and rotated by an angle in degrees."""
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
            # from the crop's pixels to the array's; the center of pixel i is at i + 0.5 in both, as cv2.resize has it
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
    """Returns the matrix [3, 3] that turns an image of a size (height, width) about its center, like semseg."""
    return np.vstack([cv2.getRotationMatrix2D((size[1] / 2, size[0] / 2), angle, 1), [0, 0, 1]])


def warp(
    array: np.ndarray, matrix: np.ndarray, size: tuple[int, int], is_label: bool, fill: float | Sequence[float] | None = None
) -> np.ndarray:
    """Returns an array of a size (width, height) whose pixel p is taken from matrix @ p of another.

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
        return cv2.warpAffine(array, matrix, size, flags=flags, borderValue=fills).reshape(*height_width(size), len(fills))
    planes = [cv2.warpAffine(array[..., i], matrix, size, flags=flags, borderValue=fills[i]) for i in range(len(fills))]
    return np.stack(planes, axis=2)


@register_transform
class RandomRotate:
    """Rotates an image and its label about their center without changing their size, like semseg and mmsegmentation.

    paddleseg's RandomRotation always rotates, and enlarges them.

    Args:
        prob: probability of a rotation.
        max_rotation: the largest angle, in degrees, either way.
        im_padding_value: value of the corners; one number, or one for each channel (red, green, blue).
        label_padding_value: value of the label there.
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
class PadShortSides:
    """Pads an image below and on the right where it is smaller than a size, for networks that need whole windows.

    paddleseg's Padding refuses images that are larger.

    Args:
        size: (width, height).
        im_padding_value: value of the padding; one number, or one for each channel (red, green, blue).
        label_padding_value: value of the label's padding.
    """

    def __init__(self, size: Sequence[int], im_padding_value: float = 127.5, label_padding_value: int = 255) -> None:
        self.size, self.im_padding_value, self.label_padding_value = size, im_padding_value, label_padding_value

    def __call__(self, data: dict) -> dict:
        size = data["img"].shape[:2]
        missing = [max(wanted - side, 0) for wanted, side in zip(height_width(self.size), size)]
        if not any(missing):
            return data

        image, added = data["img"], [(0, side) for side in missing]
        fill = np.broadcast_to(self.im_padding_value, 1 if image.ndim == 2 else image.shape[2]).tolist()
        value = self.label_padding_value
        fields = {key: np.pad(holding(data[key], value), added, constant_values=value) for key in data.get("gt_fields", [])}
        image = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=fill)
        return {**data, "img": image, "trans_info": [*data.get("trans_info", []), ("padding", size)], **fields}


def holding(label: np.ndarray, value: int) -> np.ndarray:
    """Returns a label, in a wider type if its own cannot hold a value."""
    return label.astype(np.promote_types(label.dtype, np.min_scalar_type(int(value))), copy=False)
