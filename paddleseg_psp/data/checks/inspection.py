"""Finding errors in a data set before training."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from paddle.io import Dataset
from PIL import Image, UnidentifiedImageError

from paddleseg_psp.data.checks.agreement import require_none
from paddleseg_psp.data.reading.checked import checked
from paddleseg_psp.data.reading.sampler import SeededDataset
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.progress import track

_MOSTLY = 0.5  # share of ignored pixels from which a label is worth a look
_ORIENTATION = 0x0112  # EXIF
_LOSSY = "the label {} is a JPEG, which changes values: save labels as PNG"


@dataclass
class Inspection:
    """What was found in a data set.

    Attributes:
        errors, warnings: each names its file.
        counts: int64 [images, classes], the pixels of each class in each label that could be read.
        ignored: ignored pixels.
        digests: for each digest of an image's pixels the files that have them.
    """

    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    ignored: int = 0
    digests: dict = field(default_factory=lambda: defaultdict(list))


def inspect(dataset: Dataset, processes: int = 1, indices: Sequence[int] | None = None) -> Inspection:
    """Reads images and labels and returns an Inspection.

    Args:
        dataset: a data set of paddleseg or this package, with labels.
        processes: how many read.
        indices: the samples to look at; None looks at all.
    """
    indices = range(len(dataset.file_list)) if indices is None else indices
    found, counts = Inspection(), []
    with ProcessPoolExecutor(max(1, processes)) as pool:
        samples = pool.map(partial(_inspect_sample, checked(dataset)), indices, chunksize=4)
        for index, (errors, warnings, classes, ignored, digest) in zip(indices, track(samples, len(indices), "[CHECK]")):
            found.errors += errors
            found.warnings += warnings
            found.ignored += ignored
            counts += [] if classes is None else [classes]
            if digest:
                found.digests[digest].append(dataset.file_list[index][0])
    found.counts = np.array(counts, np.int64).reshape(-1, dataset.num_classes)
    _inspect_lists(dataset.file_list, found)
    _inspect_classes(found, dataset)
    return found


def _inspect_sample(dataset, index):
    """Returns (errors, warnings, pixels of each class or None, ignored pixels, digest of the image or None)."""
    image_path, label_path = dataset.file_list[index]
    try:
        image, label = dataset.read(index)
    except UserError as error:
        return [_with_hint(str(error), dataset, label_path)], [], None, 0, None
    errors, warnings = [], []
    if not np.isfinite(image).all():
        errors.append(f"the image {image_path} has values that are not finite")
    elif image.min() == image.max():
        warnings.append(f"the image {image_path} has the same value everywhere")
    if not image_path.lower().endswith(".npy"):
        warnings += _inspect_file(image_path, image, getattr(dataset, "max_value", None))
    if _is_jpeg(label_path):
        errors.append(_LOSSY.format(label_path))
    ignored = int((label == dataset.ignore_index).sum())
    if ignored == label.size:
        warnings.append(f"the label {label_path} has ignored pixels only")
    elif ignored > _MOSTLY * label.size:
        warnings.append(f"the label {label_path} is ignored on {ignored / label.size:.0%} of its pixels")
    classes = np.bincount(label[label != dataset.ignore_index].ravel(), minlength=dataset.num_classes)
    return errors, warnings, classes, ignored, hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


def _inspect_file(path, image, max_value):
    try:
        with Image.open(path) as file:
            orientation, mode = file.getexif().get(_ORIENTATION, 1), file.mode
    except UnidentifiedImageError:  # OpenCV reads it, as a TIFF of three floats
        orientation, mode = 1, ""
    if orientation != 1:
        yield f"the image {path} is turned by its EXIF orientation ({orientation}): its label must be turned as well"
    if image.dtype != np.uint8 and max_value is None and image.shape[2:] in ((), (3,)):
        yield f"the image {path} has more than 8 bits a channel: set max_value to the value that means white (docs/data.md)"
    if mode in ("CMYK", "LA", "RGBA", "PA") and image.ndim == 3 and image.shape[2] == 3:
        yield f"the image {path} is {mode}: it is read as three colors"


def _is_jpeg(path):
    return path.lower().endswith((".jpg", ".jpeg"))


def _with_hint(message, dataset, path):
    """Adds the usual cause of wrong label values to a message."""
    if "has the values" not in message:
        return message
    values = np.unique(np.asarray(Image.open(path)))
    if set(values.tolist()) <= {*range(1, dataset.num_classes + 1), dataset.ignore_index}:
        return f"{message}. The classes seem to be numbered from 1"
    if set(values.tolist()) == {0, 255} and dataset.num_classes == 2:
        return f"{message}. The second class must be 1"
    if len(values) > dataset.num_classes:
        return f"{message}. So many values come from resizing with interpolation, from JPEG, or from colors saved as gray"
    return message


def _inspect_lists(pairs, found):
    for position, kind in enumerate(("image", "label")):
        seen = set()
        for pair in pairs:
            path = os.path.abspath(pair[position])
            if path in seen:
                found.warnings.append(f"the {kind} {pair[position]} is listed more than once")
            seen.add(path)
    for files in found.digests.values():
        if len(set(files)) > 1:
            found.warnings.append(f"the images {' and '.join(sorted(set(files))[:3])} are the same picture")


def _inspect_classes(found, dataset):
    if not len(found.counts):
        found.errors.append("no label could be read")
        return
    totals = found.counts.sum(0)
    absent, present = (np.nonzero(chosen)[0].tolist() for chosen in (totals == 0, totals))
    if len(present) < 2:
        problems = found.errors if checked(dataset).training else found.warnings
        problems.append(_too_few_classes(present, found.ignored, dataset))
    elif absent:
        found.warnings.append(
            f"{len(absent)} of {dataset.num_classes} classes occur in no label: {', '.join(map(str, absent))}"
        )


def too_few_classes(dataset: Dataset) -> str | None:
    """Returns what is wrong if all labels together have fewer than two classes; stops reading at the second class.

    Raises:
        UserError: a label that cannot be read, or has wrong values.
    """
    files, present, ignored = checked(dataset), set(), False
    order = np.random.default_rng(0).permutation(len(files)).tolist()  # neighbours in a list are often alike
    for index in track(order, len(order), "[CHECK]"):
        label = files.read_label(index)
        counted = label[label != dataset.ignore_index]
        ignored |= counted.size < label.size
        present |= {int(counted.min()), int(counted.max())} if counted.size else set()
        if len(present) > 1:
            return None
    return _too_few_classes(list(present), ignored, dataset)


def _too_few_classes(present, ignored, dataset):
    value = dataset.ignore_index
    if ignored and present == [0] and dataset.num_classes == 2:
        return f"the labels have the values 0 and {value} only: {value} is ignored, the second class must be 1"
    found = " and ".join([f"the class {index}" for index in present] + [f"{value}, which is ignored,"] * bool(ignored))
    return f"the labels have {found} only: there is nothing to learn; their values must be 0 to {dataset.num_classes - 1}"


def compare(train: Inspection, val: Inspection) -> tuple[list[str], list[str]]:
    """Returns (errors, warnings) about two Inspections, of the training and the validation data set."""
    errors = [
        f"the image {files[0]} of the validation set is the same picture as {train.digests[digest][0]} of the training set"
        for digest, files in val.digests.items()
        if digest in train.digests
    ]
    only = np.nonzero((train.counts.sum(0) == 0) & (val.counts.sum(0) > 0))[0].tolist()
    warnings = [f"the classes {', '.join(map(str, only))} occur in validation but not in training"] if only else []
    return errors, warnings


def quick_check(dataset: Dataset, samples: int = 8) -> None:
    """Reads the first, the last and some samples in between, and then labels until two classes were found.

    Raises:
        UserError: the first error found, after a line for each other; labels of one class where they are to train on.
    """
    count = len(dataset.file_list)
    files, problems = checked(dataset), []
    if lossy := next((label for _, label in dataset.file_list if _is_jpeg(label)), None):
        logger.warning(_LOSSY.format(lossy))
    for index in np.unique(np.linspace(0, count - 1, min(samples, count)).astype(int)).tolist():
        try:
            files.read(index)
        except UserError as error:
            problems.append(_with_hint(str(error), dataset, dataset.file_list[index][1]))
    require_none(problems)
    if problem := too_few_classes(dataset):
        if files.training:
            raise UserError(f"training data, e.g. {dataset.file_list[0][1]}: {problem}")
        logger.warning(f"Validation data, e.g. {dataset.file_list[0][1]}: {problem}")


def as_trained(dataset: Dataset, count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns `count` samples as the network gets them: (image [H, W, 3] uint8, blue first, label [H, W]) pairs.

    Each image is scaled to the range of its own values, which undoes any normalization for the eye. In the labels 255 is what
    the data set ignores.
    """
    seeded, pairs = SeededDataset(checked(dataset)), []
    for index in np.linspace(0, len(dataset.file_list) - 1, count).astype(int).tolist():
        sample = seeded[index, seed + index]
        image = np.moveaxis(sample["img"], 0, 2)[..., ::-1][..., -3:]
        image = cv2.normalize(np.ascontiguousarray(image), None, 0, 255, cv2.NORM_MINMAX).reshape(image.shape)
        image = np.repeat(image[..., :1], 3, axis=2) if image.shape[2] != 3 else image
        label = sample["label"].astype(int)
        pairs.append((image.astype(np.uint8), np.where(label == dataset.ignore_index, 255, label)))
    return pairs
