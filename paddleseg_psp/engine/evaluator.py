"""Evaluation of a network on a labelled data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.io import Dataset

from paddleseg_psp.data import checked, load_batches
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.inference import predict_classes, warn_of_small_masks
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.engine.precision import autocast
from paddleseg_psp.engine.views import Views
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.progress import track


@paddle.no_grad()
def evaluate(
    model: nn.Layer,
    eval_dataset: Dataset,
    views: Views | None = None,
    num_workers: int = 0,
    precision: str = "fp32",
    amp_level: str = "O1",
    print_detail: bool = True,
    each: Callable | None = None,
    **options: Any,
) -> ConfusionMatrix:
    """Compares a network's predictions with the labels of a data set; each of several processes takes its share.

    Args:
        model: returns a list whose first entry has the logits.
        eval_dataset: a data set of paddleseg or this package, mode "val".
        views: how the network sees an image; by default the whole image, once.
        num_workers: processes that read files.
        precision: "fp32", "fp16" or "bf16"; see `paddleseg_psp.engine.precision`.
        amp_level: "O1" or "O2".
        print_detail: show a progress bar and log the metrics.
        each: called with each image's index, prediction and label, arrays [H, W].
        options: PaddleSeg's arguments in place of views: aug_eval, scales, flip_horizontal, flip_vertical, is_slide, crop_size
            and stride (both width, height).

    Returns:
        Over all images.

    Raises:
        UserError: a wrong option, file or label, or a data set without labels.
    """
    views = Views.chosen(views, options)
    if eval_dataset.mode == "test":
        raise UserError("a data set of mode test has no labels to evaluate with: take mode val")
    model.eval()
    warn_of_small_masks(model)
    distributed.share_buffers(model)
    dataset, matrix = checked(eval_dataset), ConfusionMatrix(eval_dataset.num_classes, eval_dataset.ignore_index)
    dataset.hold()
    share = range(distributed.rank(), len(dataset), distributed.world_size())
    samples = load_batches(dataset, [[index] for index in share], num_workers)
    if print_detail:
        logger.info(f"Start evaluating (total_samples: {len(dataset)}, total_iters: {len(share)})...")
    shown = print_detail and distributed.rank() == 0
    with contextlib.closing(samples):
        for sample, index in zip(track(samples, len(share), "[EVAL]") if shown else samples, share):
            with autocast(model, precision, amp_level):
                pred = predict_classes(model, sample["img"], sample["trans_info"][0], views)
            label = sample["label"].numpy()[0]
            matrix.update(pred, label)
            if each:
                each(index, pred, label)
    matrix.counts = distributed.total(matrix.counts)
    if print_detail:
        log_metrics(matrix, len(dataset), dataset.CLASS_NAMES)
    return matrix


def log_metrics(matrix: ConfusionMatrix, images: int, class_names: Sequence[str] | None = None) -> None:
    """Logs the metrics of a confusion matrix, the first line in PaddleSeg's format."""
    logger.info(
        f"[EVAL] #Images: {images} mIoU: {matrix.mean_iou():.4f} Acc: {matrix.pixel_accuracy():.4f} "
        f"Kappa: {matrix.kappa():.4f} Dice: {matrix.mean_dice():.4f}"
    )
    absent = int((~matrix.present()).sum())
    left_out = f" (of {matrix.num_classes - absent} classes; {absent} occur nowhere and are left out)" if absent else ""
    logger.info(f"[EVAL] mAcc: {matrix.mean_accuracy():.4f}{left_out}")
    logger.info("[EVAL] Class IoU: \n" + str(np.round(matrix.class_iou(), 4)))
    logger.info("[EVAL] Class Precision: \n" + str(np.round(matrix.class_precision(), 4)))
    logger.info("[EVAL] Class Recall: \n" + str(np.round(matrix.class_accuracy(), 4)))
    if class_names:
        width = max(map(len, class_names))
        rows = [
            f"  {name:<{width}}  {iou:7.4f}  {accuracy:7.4f}"
            for name, iou, accuracy in zip(class_names, matrix.class_iou(), matrix.class_accuracy())
            if not np.isnan(iou)
        ]
        logger.info("\n".join([f"[EVAL] {'class':<{width}}      IoU      Acc", *rows]))
