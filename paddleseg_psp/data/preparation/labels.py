"""Writing label files in parallel: each is complete or absent, and existing ones are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from paddleseg_psp.data.reading.decoding import MAX_PIXELS
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.log import logger
from paddleseg_psp.progress import track

_CHUNK = 8  # files that a process gets at a time


def make_labels(
    tasks: Sequence, read: Callable, allowed: Iterable[int], processes: int, palette: np.ndarray | None = None
) -> int:
    """Writes a label PNG for each task and verifies it; files that exist, are valid and newer than their source are kept.

    Args:
        tasks: (source, target) paths.
        read: a function of a module that gives the classes [H, W] uint8 of a source; it may raise any exception.
        allowed: the values that labels may have.
        processes: how many work at once.
        palette: uint8 [256, 3] (red, green, blue) to store with the classes, or None.

    Returns:
        Labels written; the others were there and right.

    Raises:
        UserError: names the first source that cannot be read, or has values that are not allowed, and how many there are.
    """
    tasks = list(tasks)
    make = partial(_make_label, read=read, allowed=np.isin(np.arange(256), list(allowed)), palette=palette)
    results: list = []
    try:
        with ProcessPoolExecutor(max(1, processes)) as pool:
            for result in track(pool.map(make, tasks, chunksize=_CHUNK), len(tasks), "[LABELS]"):
                results.append(result)
    except BrokenProcessPool:  # SciPy crashes on some broken .mat files
        raise UserError(
            f"a process that made labels was killed, at {tasks[len(results)][0]} or at most {_CHUNK * max(1, processes)} files "
            "later: by a damaged file or for want of memory, which fewer --num_workers save"
        )
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise UserError(f"{len(problems)} of {len(tasks)} labels could not be made: {problems[0]}")
    written = sum(results)
    logger.info(f"{written} labels written, {len(tasks) - written} were there")
    return written


def _make_label(task, read, allowed, palette):
    """Returns whether the label was written (it was missing or broken), or what is wrong."""
    source, target = task
    if _is_made(target, source, allowed):
        return False
    try:
        label = read(source)
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"{source} cannot be read: {' '.join(str(error).split())}"
    found = sum(np.bincount(row, minlength=256) for row in label)  # by rows, since a label may have a thousand million pixels
    wrong = np.flatnonzero((found > 0) & ~allowed)
    if wrong.size:
        return f"{source} has the values {', '.join(map(str, wrong[:5].tolist()))}, which no class has"
    with atomic_path(target) as path:
        image = Image.fromarray(label)
        if palette is not None:
            image.putpalette(palette.tobytes())
        image.save(path)
        if not np.array_equal(np.asarray(Image.open(path)), label):
            return f"{target} could not be written: it differs from what was written"
    return True


def _is_made(path, source, allowed):
    try:
        label = np.asarray(Image.open(path))
        newer = os.path.getmtime(path) >= os.path.getmtime(source)
    except Exception:  # not there, or broken
        return False
    return newer and label.ndim == 2 and label.dtype == np.uint8 and bool(allowed[label].all())


def read_annotations(path: str) -> Any:
    """Returns what a JSON file of annotations holds.

    Raises:
        OSError, ValueError: it cannot be read, or is not JSON.
    """
    with open(path, "rb") as file:  # json goes by the byte order mark
        try:
            return json.load(file)
        except RecursionError:
            raise ValueError("its values are nested too deeply")


def blank_label(width: float, height: float, value: int) -> Image.Image:
    """Returns a label full of one value, to draw on.

    Raises:
        ValueError: a side that is no whole number above 0, or more pixels than an image can have that is read here.
    """
    sides = (width, height)
    if not all(isinstance(side, (int, float)) and 0 < side <= MAX_PIXELS and side == int(side) for side in sides):
        raise ValueError(f"its width and height are {width!r:.20} and {height!r:.20}, not two numbers of pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"its width and height are {width} and {height}: no image of so many pixels is read here")
    return Image.new("L", (int(width), int(height)), value)


def write_lines(path: str, lines: Iterable[str]) -> None:
    """Writes a text file atomically; names that are not UTF-8 are written as `read_lines` reads them."""
    with atomic_path(os.path.abspath(path)) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in lines)
