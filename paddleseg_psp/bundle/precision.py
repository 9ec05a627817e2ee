"""What a lower precision costs: pixels whose class changes on a user's own images, and mIoU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from paddle.io import Dataset

from paddleseg_psp.bundle.description import read_description
from paddleseg_psp.bundle.predictor import PRECISIONS, load_predictor
from paddleseg_psp.data import checked
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError
from paddleseg_psp.progress import track


class PrecisionCost(NamedTuple):
    """What a precision costs in one backend.

    Attributes:
        backend: of the bundle.
        images: number of images.
        changed: share of their pixels whose class changes.
        miou: mean IoU in float32 and in the precision.
    """

    backend: str
    images: int
    changed: float
    miou: tuple[float, float]


def precision_costs(bundle: str, dataset: Dataset, precision: str = "bf16", images: int = 100) -> list[PrecisionCost]:
    """Compares a precision with float32 on a labelled data set, in each backend of a bundle that has the precision.

    Args:
        bundle: the folder.
        dataset: a data set of paddleseg or this package, mode "val".
        precision: "bf16".
        images: at most so many, spread evenly over the data set.

    Raises:
        UserError: a processor without bfloat16, a file that cannot be read, or a wrong label.
    """
    has_onnx = "onnx" in read_description(os.path.join(bundle, "deploy.yaml"))
    available = {"paddle": True, "openvino": has_onnx and importlib.util.find_spec("openvino") is not None}
    return [_cost(bundle, dataset, name, precision, images) for name in PRECISIONS[precision] if available[name]]


def _cost(bundle, dataset, backend, precision, images):
    samples = checked(dataset)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(images, len(samples))).astype(int))
    predictors = [load_predictor(bundle, backend, precision=name) for name in ("fp32", precision)]
    matrices = [ConfusionMatrix(dataset.num_classes, dataset.ignore_index) for _ in predictors]
    changed = pixels = 0
    for index in track(chosen, len(chosen), f"[{precision.upper()}]"):
        image, label = samples.read(index)
        own, other = (predictor.predict([image])[0] for predictor in predictors)
        for matrix, classes in zip(matrices, (own, other)):
            matrix.update(classes, label)
        changed, pixels = changed + int((own != other).sum()), pixels + own.size
    return PrecisionCost(backend, len(chosen), changed / pixels, tuple(matrix.mean_iou() for matrix in matrices))


def require_cheap(costs: Sequence[PrecisionCost], most_changed: float) -> None:
    """Raises UserError if more than a share of the pixels change their class in any backend."""
    for cost in costs:
        if not cost.changed <= most_changed:  # nan allows nothing
            raise UserError(
                f"in bf16 {cost.changed:.3%} of the pixels change their class in {cost.backend}, more than --most_changed "
                f"{most_changed:g}; mIoU goes from {cost.miou[0]:.4f} to {cost.miou[1]:.4f}"
            )


def cost_table(costs: Sequence[PrecisionCost]) -> list[str]:
    """Returns the lines of a model card about bfloat16."""
    rows = [f"| {name} | {images} | {changed:.3%} | {own:.4f} | {other:.4f} |" for name, images, changed, (own, other) in costs]
    head = "| run by | images | pixels whose class changes | mIoU in float32 | mIoU in bfloat16 |"
    return ["", "## In bfloat16 (`--precision bf16`)", "", head, "| --- | --- | --- | --- | --- |", *rows]
