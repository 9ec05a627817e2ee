"""Validation during a training: metrics, pictures, the best model."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.io import Dataset

from paddleseg_psp.data import checked
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.checkpoint import Checkpoints, Progress
from paddleseg_psp.engine.evaluator import evaluate
from paddleseg_psp.engine.inference import predict_classes
from paddleseg_psp.engine.interruption import Interruption
from paddleseg_psp.engine.training_log import TrainingLog
from paddleseg_psp.engine.views import Views
from paddleseg_psp.engine.weight_average import WeightAverage
from paddleseg_psp.files import atomic_path
from paddleseg_psp.visual import color_map, draw_comparison, viewable, write_image
from paddleseg_psp.visual.masks import IGNORED

_PICTURES = 3


class Validation:
    """Evaluates a network with its averaged weights, if it has any, and keeps the best.

    Args:
        model (Layer), average (WeightAverage), checkpoints (Checkpoints): of the training.
        dataset: a data set of paddleseg or this package, mode "val"; None evaluates nothing.
        save_dir: gets validation/iter_<n>_<k>.png, the same few images each time.
        views: how the network sees an image.
        options: further arguments of `evaluate`.
        palette: a (red, green, blue) color for each class, for pictures.
    """

    def __init__(
        self,
        model: nn.Layer,
        average: WeightAverage,
        checkpoints: Checkpoints,
        dataset: Dataset,
        save_dir: str,
        views: Views,
        options: dict,
        palette: Sequence[Sequence[int]] | None,
    ) -> None:
        self._model, self._average, self._checkpoints = model, average, checkpoints
        self._dataset, self._save_dir, self._palette = dataset, save_dir, palette
        self._views, self._options = views, options

    def run(self, progress: Progress, interruption: Interruption, log: TrainingLog) -> None:
        """Evaluates the network unless that was done, and adds the result to `progress` and its checkpoint.

        Raises:
            Interrupted: the evaluation was cut short.
        """
        if self._dataset is None or progress.evaluated == progress.iteration:
            return
        iteration, is_main = progress.iteration, distributed.rank() == 0
        with self._average.applied():
            with interruption.at_once():
                matrix = evaluate(self._model, self._dataset, self._views, **self._options)
            progress.evaluated, progress.without_gain = iteration, progress.without_gain + 1
            miou = float(np.nan_to_num(matrix.mean_iou()))  # not a number where all labels are ignored
            if progress.best_miou is None or miou > progress.best_miou:
                progress.best_miou, progress.best_iteration, progress.without_gain = miou, iteration, 0
                if is_main:
                    self._checkpoints.save_best(
                        {
                            "iteration": iteration,
                            "images": len(self._dataset.file_list),
                            "mIoU": miou,
                            "pixel accuracy": matrix.pixel_accuracy(),
                            "mean accuracy": matrix.mean_accuracy(),
                        }
                    )
        log.evaluation(matrix, progress)
        self._checkpoints.update(progress)
        if is_main:
            with self._average.applied(), interruption.at_once(), log.dispensable("a validation picture"):
                self._pictures(iteration, log)
        self._model.train()

    @paddle.no_grad()
    def _pictures(self, iteration, log):
        """Writes pictures of a few images: image, label, prediction."""
        dataset, colors = checked(self._dataset), color_map(self._palette)
        names = dataset.CLASS_NAMES or [str(index) for index in range(dataset.num_classes)]
        for number, index in enumerate(np.unique(np.linspace(0, len(dataset) - 1, _PICTURES).astype(int))):
            sample = dataset[index]
            network_input = paddle.to_tensor(sample["img"][np.newaxis])
            pred = predict_classes(self._model, network_input, sample["trans_info"], self._views)
            image = viewable(dataset.read(index)[0])
            label = np.where(sample["label"] == dataset.ignore_index, IGNORED, sample["label"])
            picture = draw_comparison([(image, [label, pred])], ["label", "prediction"], names, colors)
            with atomic_path(os.path.join(self._save_dir, "validation", f"iter_{iteration}_{number}.png")) as path:
                write_image(path, picture)
            log.picture(number, picture, iteration)
