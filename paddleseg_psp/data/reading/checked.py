"""Reading the samples of data sets, with checks for all kinds of wrong files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import paddle
from paddle.io import Dataset
from paddleseg.datasets import Dataset as PaddleSegDataset
from tqdm import tqdm

from paddleseg_psp.data.reading.decoding import read_image, read_label_values
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger


class CheckedSamples(paddle.io.Dataset):
    """Reads a data set's samples: each file is checked as it is read, each label becomes int64 classes.

    `dataset[index]` in training is img [C, H, W] float32 and label [H, W] int64, both transformed. In mode "val" the label has
    its file's size, and trans_info has the steps that lead from the network's output back to it; "test" has no label.

    Subclasses have `file_list` of (image, label) paths, `transforms` (a paddleseg Compose), `mode`, `num_classes` and
    `ignore_index`, as all data sets of paddleseg do, and may have `decode_label`, CLASS_NAMES, `cache` and `max_value`.

    Raises (on reading a sample):
        UserError: names the file and what is wrong with it.
    """

    CLASS_NAMES: Sequence[str] | None = None
    cache = False
    max_value: float | None = None
    _held: list | None = None

    def __len__(self) -> int:
        return len(self.file_list)

    @property
    def training(self) -> bool:
        return self.mode not in ("val", "test")

    @property
    def label_type(self) -> np.dtype:
        """The smallest type that OpenCV takes and that holds the classes and ignore_index; labels have it in transforms."""
        return np.result_type(np.min_scalar_type(self.num_classes - 1), np.min_scalar_type(self.ignore_index))

    @staticmethod
    def decode_label(label: np.ndarray) -> np.ndarray:
        """Returns the classes for a label's values, an integer array."""
        return label

    def files(self, index: int) -> str:
        """Returns the name of a sample in messages."""
        return " and ".join(filter(None, self.file_list[index]))

    def hold(self) -> None:
        """Reads all samples into memory if `cache` is set and they are not there yet."""
        if self.cache and self._held is None:
            self._held = self._read_all()

    def __getitem__(self, index: int) -> dict:
        image, label = self.read(index) if self._held is None else self._held[index]
        if not (self.training and image.dtype == np.uint8 and getattr(self.transforms, "takes_bytes", False)):
            image = image.astype("float32")
        if self.training:
            sample = self.transforms({"img": image, "label": label, "gt_fields": ["label"]})
            return {"img": sample["img"], "label": sample["label"].astype(np.int64)}
        sample = self.transforms({"img": image, "gt_fields": []})
        labels = {} if label is None else {"label": label.astype(np.int64)}
        return {"img": sample["img"], "trans_info": sample["trans_info"], **labels}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns an image [H, W, C] (or [H, W]) as `read_image` does, and its classes [H, W]; None for them in mode "test"."""
        image_path = self.file_list[index][0]
        image = read_image(image_path, self.transforms.img_channels, self.max_value)
        if self.mode == "test":
            return image, None
        label = self.read_label(index)
        if label.shape != image.shape[:2]:
            raise UserError(
                f"the label {self.file_list[index][1]} is {label.shape[1]}x{label.shape[0]} but its image {image_path} is "
                f"{image.shape[1]}x{image.shape[0]}"
            )
        return image, label

    def read_label(self, index: int) -> np.ndarray:
        """Returns the classes [H, W] of a label as `label_type`, for any type of file."""
        path = self.file_list[index][1]
        label = _whole_numbers(read_label_values(path), path)
        values = _values(label)
        classes = self.decode_label(values)
        wrong = values[((classes < 0) | (classes >= self.num_classes)) & (classes != self.ignore_index)]
        if wrong.size:
            pixels = int(np.isin(label, wrong).sum())
            shown = ", ".join(map(str, wrong[:5].tolist())) + (", …" if wrong.size > 5 else "")
            raise UserError(
                f"the label {path} has the values {shown} on {pixels} pixels; allowed are 0 to {self.num_classes - 1}, and "
                f"{self.ignore_index} for ignored pixels"
            )
        if classes is not values:
            label = classes[np.searchsorted(values, label)]
        return label.astype(self.label_type, copy=False)

    def _read_all(self):
        logger.info(f"Reading {len(self)} images and labels into memory")
        with ThreadPoolExecutor() as readers:
            held = list(tqdm(readers.map(self.read, range(len(self))), total=len(self), disable=None))
        size = sum(array.nbytes for pair in held for array in pair if array is not None)
        logger.info(f"They take {size / 2**30:.2f} GB")
        return held


class CheckedDataset(CheckedSamples):
    """The samples of a data set of paddleseg, read by `CheckedSamples`.

    Raises:
        UserError: the data set reads its samples in a way of its own, which would be left out.
    """

    def __init__(self, dataset: Dataset) -> None:
        kind = type(dataset)
        if not hasattr(dataset, "decode_label") and kind.__getitem__ is not PaddleSegDataset.__getitem__:
            raise UserError(
                f"the data set {kind.__name__} reads its samples by a __getitem__ of its own, which is not used here: convert "
                "its labels to PNGs of classes and list them (type: Dataset), or give it decode_label in place of __getitem__"
            )
        for name in ("file_list", "transforms", "mode", "num_classes", "ignore_index"):
            setattr(self, name, getattr(dataset, name))
        for name in ("CLASS_NAMES", "decode_label", "cache", "max_value"):
            setattr(self, name, getattr(dataset, name, getattr(self, name)))


def checked(dataset: Dataset) -> CheckedSamples:
    """Returns a data set as `CheckedSamples`: this package's own as they are, paddleseg's by `CheckedDataset`."""
    return dataset if isinstance(dataset, CheckedSamples) else CheckedDataset(dataset)


def _whole_numbers(label, path):
    """Returns a label as integers.

    Raises:
        UserError: a value that is no whole number.
    """
    if label.dtype.kind != "f":
        return label.astype(np.uint8) if label.dtype == bool else label
    wrong = np.argwhere(~(np.isfinite(label) & (label == np.rint(label))))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"the label {path} has values that are no whole numbers on {len(wrong)} pixels, the first {label[row, column]} in "
            f"row {row}, column {column}; save class indices as a PNG of 8 or 16 bits"
        )
    return label.astype(np.int64)


def _values(label):
    """Returns the values that occur, sorted; a histogram finds them forty times as fast as sorting."""
    if label.dtype == np.uint8:
        return np.nonzero(cv2.calcHist([label], [0], None, [256], [0, 256]).ravel())[0].astype(np.uint8)
    if label.dtype == np.uint16:
        return np.nonzero(np.bincount(label.ravel(), minlength=1))[0]
    return np.unique(label)
