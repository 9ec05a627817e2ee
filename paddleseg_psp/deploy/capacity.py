"""How large an image a network can take on this machine: found out by running it."""

from __future__ import annotations

import math
import time

import numpy as np
from scipy.optimize import nnls

from paddleseg_psp.deploy.memory import free_memory, peak, resident
from paddleseg_psp.deploy.predictor import Predictor
from paddleseg_psp.log import logger

CEILING = 2**23
SECONDS = 20.0
SHARE = 0.25  # of the free memory: while one image runs, two others wait decoded
_SIDES = (128, 192, 256, 384, 512, 768, 1024)
_ENOUGH = 1.0  # second: a longer run tells enough of longer ones


def largest_image(predictor: Predictor, seconds: float = SECONDS, memory: float | None = None) -> tuple[int, str]:
    """Returns how many pixels an image may have, and in words what limits them.

    Square images of growing sizes run, from reading's end to class maps, until one takes a second. What larger ones take is
    extrapolated by polynomials of the number of pixels: attention over whole images takes time, and without its own operator
    memory, with the square of that.

    Args:
        predictor: the network.
        seconds: that an image may take.
        memory: bytes that an image may take; by default a quarter of what is free.
    """
    memory = SHARE * free_memory() if memory is None else memory
    runs = _runs(predictor)
    if not runs:
        return CEILING, "the network failed on all sizes tried, so that its time and memory are not known"
    pixels, times, peaks = np.array(runs, float).T
    limits = {
        CEILING: "no image needs more",
        _most(pixels, times, seconds): f"a larger image would take more than {seconds:g} s",
        _most(pixels, peaks, memory): f"a larger image would take more than {memory / 1e9:.1f} GB, a quarter of what is free",
    }
    least = min(limits)
    return max(least, int(pixels[0])), limits[least]


def _runs(predictor):
    """Returns (pixels, seconds, bytes) for each size of image that was tried and that the network takes."""
    runs, before, free = [], resident(), free_memory()
    fixed = (-1, -1) if predictor.views.window else predictor.input_shape[2:]
    for size in dict.fromkeys(tuple(side if own == -1 else own for own in fixed) for side in _SIDES):
        shape = (*size, 3) if predictor.input_shape[1] == 3 else size
        image = np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)
        if not predictor.fits(predictor.prepare(image)[0].shape):
            continue
        try:
            if not runs:
                predictor.predict([image])  # the first run of all takes longer
            begun = time.monotonic()
            with peak() as most:
                predictor.predict([image])
        except Exception as error:
            logger.warning(f"The network fails on an image of {size[1]}x{size[0]} pixels: {' '.join(str(error).split())[:300]}")
            continue
        runs.append((size[0] * size[1], time.monotonic() - begun, most[0] - before))
        if runs[-1][1] > _ENOUGH or 8 * runs[-1][2] > free:
            break
    return runs


def _most(pixels, costs, budget):
    """Returns the largest number of pixels whose cost is within a budget, by a polynomial whose terms are not negative."""
    powers = [1] if len(pixels) == 1 else [0, 1] if len(pixels) == 2 else [0, 1, 2]
    terms = (pixels[:, np.newaxis] / CEILING) ** powers / costs[:, np.newaxis]  # relative errors are what counts
    found = dict(zip(powers, nnls(terms, np.ones(len(pixels)))[0]))
    constant, linear, square = (found.get(power, 0) for power in range(3))
    left = max(budget - constant, 0)
    root = linear + math.sqrt(linear**2 + 4 * square * left)
    return CEILING if 2 * left >= root else int(2 * left / root * CEILING)
