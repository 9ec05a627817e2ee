"""How large an image a network can take on this machine: measured by running it."""

from __future__ import annotations

import math
import time

import numpy as np
from scipy.optimize import lsq_linear

from paddleseg_psp.bundle.predictor import Predictor
from paddleseg_psp.log import logger
from paddleseg_psp.service.headers import THIN
from paddleseg_psp.service.memory import free_memory, peak, resident

CEILING = 2**23
SECONDS = 20.0
SHARE = 0.25  # of the free memory: while one image runs, two others wait decoded
_SIDES = (128, 256, 512, 768, 1024)
_ENOUGH = 2.0  # seconds: a longer run tells enough of larger images


def largest_image(
    predictor: Predictor, attends: bool, seconds: float = SECONDS, memory: float | None = None
) -> tuple[int, str]:
    """Returns the largest number of pixels for an image, and what limits it, in words.

    Images of growing sizes run, until one takes two seconds, and what larger ones take is extrapolated: time and memory grow
    with the number of pixels, and where a network attends to all of an image with its square too.

    Args:
        predictor: the network.
        attends: whether it does, as PSANet.
        seconds: that an image may take.
        memory: bytes that an image may take; by default a quarter of what is free.
    """
    attends = attends and predictor.views.window is None
    memory = SHARE * free_memory() if memory is None else memory
    runs = _runs(predictor)
    if not runs:
        return CEILING, "the network failed on all sizes tried, so that its time and memory are not known"
    pixels, times, peaks = np.array(runs, float).T
    limits = [
        (CEILING, "no image needs more"),
        (_most(pixels, times, seconds, attends), f"a larger image would take more than {seconds:g} s"),
        (_most(pixels, peaks, memory, attends), f"a larger image would take more than {memory / 1e9:.1f} GB"),
    ]
    least, reason = min(limits, key=lambda limit: limit[0])
    return max(least, int(pixels[0])), reason


def _runs(predictor):
    """Returns (pixels, seconds, bytes) for each size of image that was tried and that the network takes."""
    runs, before, free = [], resident(), free_memory()
    for size in _sizes(predictor):
        image = _image(predictor, size)
        if not predictor.fits(predictor.prepare(image)[0].shape):
            continue
        try:
            seconds, most = _run(predictor, image)
            if not runs and seconds < _ENOUGH:
                seconds, most = _run(predictor, image)  # the first of all takes longer than others
        except Exception as error:
            height, width = image.shape[:2]
            logger.warning(f"The network fails on an image of {width}x{height} pixels: {' '.join(str(error).split())[:300]}")
            if runs:
                break
            continue
        runs.append((image.shape[0] * image.shape[1], seconds, most - before))
        if seconds > _ENOUGH or 8 * runs[-1][2] > free:
            break
    return runs


def _sizes(predictor):
    """Returns the sizes (height, width) to try."""
    window, fixed = predictor.views.window, predictor.input_shape[2:]
    if window:
        return list(dict.fromkeys(tuple(max(side, own) for own in window) for side in _SIDES))
    return list(dict.fromkeys(tuple(side if own == -1 else own for own in fixed) for side in _SIDES))


def _image(predictor, size):
    """Returns noise of a size, eight times as wide if the transforms resize it, because thin images may then cost the most."""
    channels = (3,) if predictor.input_shape[1] == 3 else ()
    image = np.random.RandomState(0).randint(0, 256, (*size, *channels), dtype=np.uint8)
    same = predictor.prepare(image)[0].shape[1:] == size
    return image if same else np.concatenate([image] * THIN, axis=1)


def _run(predictor, image):
    """Returns how many seconds an image takes, and the most bytes that the process holds meanwhile."""
    begun = time.monotonic()
    with peak() as most:
        predictor.predict([image])
    return time.monotonic() - begun, most[0]


def _most(pixels, costs, budget, attends):
    """Returns the largest number of pixels whose cost is within a budget: a polynomial of it, of the runs' costs."""
    powers = [1] if len(pixels) == 1 else [0, 1, 2] if attends and len(pixels) > 2 else [0, 1]
    lowest = [0 if power else -np.inf for power in powers]  # a large image never takes less; memory may have been there before
    terms = (pixels[:, np.newaxis] / CEILING) ** powers
    found = dict(zip(powers, lsq_linear(terms, costs, (lowest, np.inf)).x))
    constant, linear, square = (found.get(power, 0) for power in range(3))
    left = max(budget - constant, 0)
    root = linear + math.sqrt(linear**2 + 4 * square * left)
    return CEILING if 2 * left >= root else int(2 * left / root * CEILING)
