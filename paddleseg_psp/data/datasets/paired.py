"""The base class of data sets of images and labels in files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from paddleseg.datasets import Dataset as PaddleSegDataset

from paddleseg_psp.data.reading.checked import CheckedSamples
from paddleseg_psp.data.transforms import Pipeline
from paddleseg_psp.errors import UserError


class PairedDataset(CheckedSamples, PaddleSegDataset):
    """Images paired with labels. Subclasses find the files and set NUM_CLASSES, CLASS_NAMES and PALETTE.

    Args:
        pairs: (image, label) paths; the label is None where there is none.
        transforms: a list of transforms, see paddleseg.transforms.
        mode: "val" and "test" leave labels as they are; any other is training.
        cache: hold all images and labels in memory, decoded.
    """

    NUM_CLASSES: int | None = None
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3
    MAX_VALUE: float | None = None
    PALETTE: Sequence[Sequence[int]] | None = None

    def __init__(self, pairs: Sequence[Sequence[str | None]], transforms: list, mode: str, cache: bool = False) -> None:
        self.file_list = [list(pair) for pair in pairs]
        self.transforms = Pipeline(transforms, self.IMG_CHANNELS)
        self.mode = mode
        self.cache = cache
        self.num_classes = self.NUM_CLASSES
        self.ignore_index = self.IGNORE_INDEX
        self.max_value = self.MAX_VALUE
        self.edge = False


def require_mode(mode: str, allowed: Sequence[str]) -> None:
    """Raises UserError for a mode that a data set does not have."""
    if mode not in allowed:
        raise UserError(f"mode must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {mode!r}")


def require_folder(folder: str, name: str) -> None:
    """Raises UserError if a data set's folder is not there."""
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; put {name} there (docs/data.md), or set dataset_root to where it is")


def require_labels(pairs: Sequence[Sequence[str]], advice: str) -> None:
    """Raises UserError if an image has no label."""
    missing = [pair for pair in pairs if not os.path.isfile(pair[1])]
    if missing:
        image, label = missing[0]
        raise UserError(f"{len(missing)} of {len(pairs)} images have no label, e.g. {image} needs {label}; {advice}")
