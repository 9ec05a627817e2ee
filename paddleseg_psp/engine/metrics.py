"""Metrics of semantic segmentation, from one confusion matrix."""

from __future__ import annotations

import numpy as np


class ConfusionMatrix:
    """Counts pixels by label (row) and prediction (column), exactly, leaving ignored pixels out.

    Classes absent from both predictions and labels have no IoU; means leave them out, as the literature does.

    Args:
        num_classes: number of classes.
        ignore_index: the label value that is ignored.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: np.ndarray, label: np.ndarray) -> None:
        """Counts the pixels of pred and label, integer arrays of one shape.

        Raises:
            ValueError: shapes differ, or a value that is neither a class nor, in the label, ignore_index.
        """
        pred, label = np.asarray(pred), np.asarray(label)
        if pred.shape != label.shape:
            raise ValueError(f"the prediction has the shape {pred.shape}, but the label {label.shape}")
        valid = label != self.ignore_index
        pred, label = pred[valid].astype(np.int64), label[valid].astype(np.int64)
        for name, values in (("label", label), ("prediction", pred)):
            if values.size and (values.min() < 0 or values.max() >= self.num_classes):
                raise ValueError(f"a {name} of {values.max()} is outside the {self.num_classes} classes")
        size = self.num_classes**2
        self.counts += np.bincount(label * self.num_classes + pred, minlength=size).reshape(self.counts.shape)

    @property
    def _correct(self):
        return np.diag(self.counts).astype(np.float64)

    def present(self) -> np.ndarray:
        """Returns a bool for each class: whether it occurs in a label or in a prediction."""
        return (self.counts.sum(0) + self.counts.sum(1)) > 0

    def class_iou(self) -> np.ndarray:
        """Returns intersection over union of each class; NaN where absent."""
        return _ratio(self._correct, self.counts.sum(0) + self.counts.sum(1) - self._correct)

    def class_accuracy(self) -> np.ndarray:
        """Returns the share of each class's pixels that is predicted correctly (recall); NaN if no label has the class."""
        return _ratio(self._correct, self.counts.sum(1))

    def class_precision(self) -> np.ndarray:
        """Returns the share of each class's predictions that is correct; NaN if it is never predicted."""
        return _ratio(self._correct, self.counts.sum(0))

    def class_dice(self) -> np.ndarray:
        """Returns the Dice coefficient of each class; NaN where absent."""
        return _ratio(2 * self._correct, self.counts.sum(0) + self.counts.sum(1))

    def mean_iou(self) -> float:
        """Returns the mean of `class_iou` over the classes present."""
        return _mean(self.class_iou())

    def mean_accuracy(self) -> float:
        """Returns the mean of `class_accuracy` over the classes that labels have."""
        return _mean(self.class_accuracy())

    def mean_dice(self) -> float:
        """Returns the mean of `class_dice` over the classes present."""
        return _mean(self.class_dice())

    def pixel_accuracy(self) -> float:
        """Returns the share of all pixels that is predicted correctly."""
        return float(_ratio(self._correct.sum(), self.counts.sum()))

    def kappa(self) -> float:
        """Returns Cohen's kappa, the agreement beyond chance."""
        total = self.counts.sum()
        chance = float(_ratio((self.counts.sum(0) / max(total, 1) * self.counts.sum(1)).sum(), total))
        return float(_ratio(self.pixel_accuracy() - chance, 1 - chance))


def _ratio(numerator, denominator):
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)


def _mean(values):
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
