"""What data sets must agree on, so that a network trained on one can be evaluated on the other."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from paddle.io import Dataset

from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger


def require_classes(classes: object, where: str) -> None:
    """Raises UserError for fewer than two classes; None means that the number is not known yet."""
    if classes is not None and (not isinstance(classes, Integral) or classes < 2):
        raise UserError(
            f"{where}: {classes!r}, but a pixel's class is the largest of the network's logits, which takes two; for one kind "
            "of object set 2 and label the background 0, the object 1"
        )


def require_agreement(train: Dataset, val: Dataset, where: str) -> None:
    """Raises UserError if two data sets differ in their classes, class names or ignored value; logs further differences.

    Args:
        train, val: data sets with `num_classes` and `ignore_index`, and CLASS_NAMES where they know them.
        where: what to head messages with.
    """
    require_none(f"{where}: val_dataset.{difference}" for difference in _differences(train, val))


def _differences(train, val):
    for key in ("num_classes", "ignore_index"):
        own, other = getattr(val, key), getattr(train, key)
        if own != other:
            yield f"{key}: {own}, but the training data set has {other}; give both data sets the same"
    names = [getattr(dataset, "CLASS_NAMES", None) or () for dataset in (val, train)]
    for index, (own, other) in enumerate(zip(*names)):
        if own != other:
            yield f"class_names.{index}: {own!r}, but class {index} is {other!r} in the training data set; give both the same"
            break


def require_none(problems: Iterable[str]) -> None:
    """Raises UserError for the first of some problems, and logs the others."""
    problems = list(problems)
    for problem in problems[1:]:
        logger.error(problem)
    if problems:
        raise UserError(problems[0])
