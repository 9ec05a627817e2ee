"""The metrics of a bundle on a labelled data set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from paddle.io import Dataset

from paddleseg_psp.bundle.predictor import Predictor
from paddleseg_psp.data import checked
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.progress import track


def evaluate_bundle(predictor: Predictor, dataset: Dataset, batch_size: int = 1) -> ConfusionMatrix:
    """Compares a bundle's class maps with the labels of a data set.

    Args:
        predictor: see `load_predictor`; its own transforms prepare the images.
        dataset: a data set of paddleseg or this package, mode "val".
        batch_size: images run together; those of one size can be.

    Returns:
        Over all images.

    Raises:
        UserError: a file that cannot be read, or a wrong label.
    """
    samples, matrix = checked(dataset), ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    batches = [range(start, min(start + batch_size, len(samples))) for start in range(0, len(samples), batch_size)]

    def read(batch):
        return [samples.read(index) for index in batch]

    with ThreadPoolExecutor(1) as reader:  # reads a batch while another runs
        waiting = reader.submit(read, batches[0])
        for following in track([*batches[1:], ()], len(batches), "[EVAL]"):
            pairs = waiting.result()
            waiting = reader.submit(read, following)
            for classes, (_, label) in zip(predictor.predict([image for image, _ in pairs]), pairs):
                matrix.update(classes, label)
    return matrix
