"""How a network sees an image: whole or by windows, once or at several scales and flips.

The same code serves networks of Paddle, whose arrays are tensors, and exported ones, whose arrays are NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np

from paddleseg_psp.errors import UserError, suggestion
from paddleseg_psp.sizes import height_width, width_height

OPTIONS = ("aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide", "crop_size", "stride")


class NumpyArrays:
    """The array operations of `Views` for NumPy arrays [N, C, H, W]."""

    array = staticmethod(np.ascontiguousarray)
    numpy = staticmethod(np.asarray)
    flip = staticmethod(np.flip)

    @staticmethod
    def resize(x: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Resizes bilinearly to size (height, width), as `align_corners=False` has it."""
        planes = [
            cv2.resize(plane, width_height(size), interpolation=cv2.INTER_LINEAR) for plane in x.reshape(-1, *x.shape[2:])
        ]
        return np.stack(planes).reshape(*x.shape[:2], *size)

    @staticmethod
    def softmax(x: np.ndarray) -> np.ndarray:
        exponentials = np.exp(x - x.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    @staticmethod
    def argmax(x: np.ndarray) -> np.ndarray:
        return x.argmax(1)


@dataclass(frozen=True)
class Views:
    """How a network sees an image; the default is the whole image, once.

    Attributes:
        augment: average the probabilities of each scale and flip.
        scales: of the image.
        flip_horizontal: look at the mirrored image too.
        flip_vertical: look at the image upside down too.
        window: (height, width) of the windows whose logits are averaged, or None for the whole image.
        step: (rows, columns) between windows.
    """

    augment: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    window: tuple[int, int] | None = None
    step: tuple[int, int] | None = None

    @classmethod
    def chosen(cls, views: Views | None, options: dict) -> Views:
        """Returns the given views, or those of options by PaddleSeg's names; see `from_options`.

        Raises:
            ValueError: both are given.
        """
        if views is not None and options:
            raise ValueError(f"give views or {', '.join(options)}, not both")
        return cls.from_options(options, "arguments") if views is None else views

    @classmethod
    def from_options(cls, options: dict, where: str = "test_config") -> Views:
        """Returns the views for the mapping `test_config` of a configuration, or for flags of the same names.

        Args:
            options: a part of OPTIONS; sizes are (width, height), as PaddleSeg's flags and configurations have them.
            where: heads messages.

        Raises:
            UserError: an unknown key or a wrong value.
        """
        for key in options:
            if key not in OPTIONS:
                raise UserError(f"{where}: there is no option {key!r}{suggestion(key, OPTIONS)}")
        given = {key: value for key, value in options.items() if value is not None}
        for key in ("aug_eval", "flip_horizontal", "flip_vertical", "is_slide"):
            if not isinstance(given.get(key, False), bool):
                raise UserError(f"{where}: {key}: expected true or false, found {given[key]!r}")
        scales = given.get("scales", 1.0)
        scales = list(scales) if isinstance(scales, (list, tuple)) else [scales]
        if not scales or not all(_is_number(scale) and 0 < scale < float("inf") for scale in scales):
            raise UserError(f"{where}: scales: expected numbers above 0, found {given['scales']!r}")
        window = step = None
        if given.get("is_slide"):
            window, step = (_size(given, key, where) for key in ("crop_size", "stride"))
            if any(own > side for own, side in zip(step, window)):
                raise UserError(
                    f"{where}: stride {given['stride']} must be at most crop_size {given['crop_size']}, or pixels between "
                    "windows are not seen"
                )
        if not given.get("aug_eval"):  # without it PaddleSeg, too, leaves scales and flips out
            return cls(window=window, step=step)
        horizontal, vertical = (given.get(key, False) for key in ("flip_horizontal", "flip_vertical"))
        return cls(True, tuple(map(float, scales)), horizontal, vertical, window, step)

    def options(self) -> dict:
        """Returns the mapping from which `from_options` makes the same views, without options that have no effect."""
        options: dict[str, Any] = {}
        if self.augment:
            options.update(aug_eval=True, scales=list(self.scales))
            options.update({key: True for key in ("flip_horizontal", "flip_vertical") if getattr(self, key)})
        if self.window and self.step:
            options.update(is_slide=True, crop_size=list(width_height(self.window)), stride=list(width_height(self.step)))
        return options

    def scores(self, look: Callable, image: Any, arrays: Any) -> Any:
        """Returns the scores [N, K, H, W] of prepared images [N, C, H, W]: logits or, of several views, sums of probabilities.

        Args:
            look: gives the logits [N, K, h, w] of images [N, C, h, w].
            image: of the kind that `arrays` works on.
            arrays: `NumpyArrays`, or the same for another kind of array.
        """
        if not self.augment:
            return self._logits(look, image, arrays)
        total = 0
        for view, axes in self._augmented(image, arrays):
            logits = self._logits(look, view, arrays)
            logits = arrays.flip(logits, axes) if axes else logits
            total = total + arrays.softmax(arrays.resize(logits, image.shape[2:]))
        return total

    def strips(self, look: Callable, image: Any, arrays: Any) -> Iterator[np.ndarray]:
        """Yields the logits [N, K, rows, W], averaged over windows, of images from top to bottom.

        Each strip comes as soon as no other window changes it, so that a large image needs no memory for all its logits. The
        last window of a row or column ends with the image, as in mmsegmentation and PaddleSeg.
        """
        assert self.window and self.step
        height, width = image.shape[2:]
        tops = _starts(height, self.window[0], self.step[0])
        total, count = np.zeros((0, 0, 0, 0), np.float32), np.zeros((0, width), np.float32)
        for top, following in zip(tops, [*tops[1:], height]):
            bottom = min(top + self.window[0], height)
            for left in _starts(width, self.window[1], self.step[1]):
                columns = slice(left, left + self.window[1])
                logits = arrays.numpy(look(arrays.array(image[:, :, top:bottom, columns])))
                if left == 0:
                    total = _extended(total, (*logits.shape[:2], bottom - top, width))
                    count = _extended(count, (bottom - top, width))
                total[..., columns] += logits
                count[:, columns] += 1
            done = following - top
            yield total[:, :, :done] / count[:done]
            total, count = total[:, :, done:], count[done:]

    def inputs(self, image: Any, arrays: Any) -> list:
        """Returns all inputs of the network for prepared images [N, C, H, W]: their windows, scaled and flipped."""
        views = [view for view, _ in self._augmented(image, arrays)] if self.augment else [image]
        return [arrays.array(view[(slice(None), slice(None), *part)]) for view in views for part in self._parts(view.shape[2:])]

    def input_sizes(self, size: Sequence[int]) -> set[tuple[int, int]]:
        """Returns the sizes (height, width) of the network's inputs for a prepared image of a size."""
        views = [_scaled(size, scale) for scale in self.scales] if self.augment else [size]
        parts = [part for view in views for part in self._parts(view)]
        return {tuple(side.stop - side.start for side in part) for part in parts}  # type: ignore[misc]

    def part_with(self, size: Sequence[int], point: Sequence[int]) -> tuple[slice, slice]:
        """Returns the rows and columns of the window whose middle is nearest to a point (row, column) of an image of a size."""

        def distance(part):
            return sum(((side.start + side.stop) / 2 - place) ** 2 for side, place in zip(part, point))

        return min(self._parts(size), key=distance)

    def _parts(self, size):
        if self.window is None:
            return [(slice(0, size[0]), slice(0, size[1]))]
        starts = [_starts(*item) for item in zip(size, self.window, self.step)]
        ends = [[min(start + side, whole) for start in own] for own, side, whole in zip(starts, self.window, size)]
        return [tuple(map(slice, *zip(*part))) for part in product(zip(starts[0], ends[0]), zip(starts[1], ends[1]))]

    def _augmented(self, image, arrays):
        """Yields each scaled and flipped image, and the axes that it was flipped along."""
        vertical, horizontal = [[], [2]][: 1 + self.flip_vertical], [[], [3]][: 1 + self.flip_horizontal]
        flips = [rows + columns for rows, columns in product(vertical, horizontal)]
        for scale in self.scales:
            scaled = arrays.resize(image, _scaled(image.shape[2:], scale))
            for axes in flips:
                yield arrays.array(arrays.flip(scaled, axes) if axes else scaled), axes

    def _logits(self, look, image, arrays):
        if self.window is None:
            return look(image)
        return arrays.array(np.concatenate(list(self.strips(look, image, arrays)), axis=2))


WHOLE = Views()


def resizes(steps: Sequence) -> bool:
    """Returns whether an image was resized by the steps that transforms note in trans_info."""
    return any(name != "padding" for name, _ in steps)


def restored(scores: Any, steps: Sequence, arrays: Any) -> Any:
    """Returns scores [N, K, h, w] at the size that an image had before the steps of trans_info."""
    for name, (height, width) in reversed(steps):
        scores = scores[:, :, :height, :width] if name == "padding" else arrays.resize(scores, (height, width))
    return scores


def _extended(array, shape):
    """Returns zeros of a shape whose first rows are those of an array; rows are the last axis but one."""
    extended = np.zeros(shape, np.float32)
    if array.size:
        extended[..., : array.shape[-2], :] = array
    return extended


def _scaled(size, scale):
    return [max(int(side * scale + 0.5), 1) for side in size]


def _starts(size, window, step):
    last = max(size - window, 0)
    return [*range(0, last, step), last]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _size(options, key, where):
    """Returns an option (width, height) as (height, width)."""
    value = options.get(key)
    if value is None:
        raise UserError(f"{where}: is_slide needs crop_size and stride, each W H (--crop_size, --stride)")
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(isinstance(side, int) and side > 0 for side in value):
        raise UserError(f"{where}: {key}: expected a width and a height above 0, found {value!r}")
    return height_width(value)
