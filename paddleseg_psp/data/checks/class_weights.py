"""Weights of classes in a loss, from how often the classes occur."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from paddle.io import Dataset
from tqdm import tqdm

from paddleseg_psp.data.reading.checked import checked
from paddleseg_psp.log import logger


def count_classes(dataset: Dataset) -> np.ndarray:
    """Counts the pixels of each class in all labels of a data set.

    Returns:
        int64 array [images, classes].

    Raises:
        UserError: a label that cannot be read, or has wrong values.
    """
    logger.info(f"Counting the classes in {len(dataset.file_list)} labels")

    samples = checked(dataset)

    def count(index):
        label = samples.read_label(index)
        return np.bincount(label[label != samples.ignore_index], minlength=dataset.num_classes)

    with ThreadPoolExecutor() as readers:
        return np.stack(list(tqdm(readers.map(count, range(len(samples))), total=len(samples), disable=None)))


def median_frequency(counts: np.ndarray) -> np.ndarray:
    """Returns the median of the classes' frequencies over each class's; 1 for classes that never occur.

    A class's frequency is its share of the pixels of the images that have it (Eigen and Fergus, Predicting Depth, Surface
    Normals and Semantic Labels, 2015, section 6.3.2).
    """
    seen = np.where(counts > 0, counts.sum(1, keepdims=True), 0).sum(0)
    frequency = np.divide(counts.sum(0), seen, out=np.full(counts.shape[1], np.nan), where=seen > 0)
    return np.nan_to_num(np.nanmedian(frequency) / frequency, nan=1.0)


def inverse_log(counts: np.ndarray) -> np.ndarray:
    """Returns 1 / ln(1.02 + share of all pixels) of each class (Paszke et al., ENet, 2016, section 5.2)."""
    return 1 / np.log(1.02 + counts.sum(0) / counts.sum())


CLASS_WEIGHTS = {"median_frequency": median_frequency, "inverse_log": inverse_log}
