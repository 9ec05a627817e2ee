"""Compares the metrics of predicted class maps with recorded ones; exits with 1 where they differ.

python test_tipc/compare_results.py --metric_file=LOG --predict_dir=MAPS --gt_dir=LABELS --num_classes=19
"""

import argparse
import glob
import math
import os
import re

import numpy as np
from PIL import Image

from paddleseg_psp.commands.run import run
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError

_PREDICTION, _LABEL = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"


def recorded_metrics(path):
    """Returns the last `mIoU: x` and `Acc: x` in a text file, such as the log of val.py."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    metrics = {name: re.findall(rf"(?<!\w){name}: ([\d.]+|nan)", text) for name in ("mIoU", "Acc")}
    for name, values in metrics.items():
        if not values:
            raise UserError(f"{path} has no '{name}: …'")
    return {name: float(values[-1]) for name, values in metrics.items()}


def predicted_metrics(predict_dir, gt_dir, num_classes):
    """Returns mIoU and Acc of the maps in predict_dir against the labels of the same names in gt_dir."""
    matrix = ConfusionMatrix(num_classes)
    labels = sorted(glob.glob(os.path.join(gt_dir, "**", f"*{_LABEL}"), recursive=True))
    if not labels:
        raise UserError(f"there is no *{_LABEL} below {gt_dir}")
    for label in labels:
        name = os.path.relpath(label, gt_dir).replace(_LABEL, _PREDICTION)
        prediction = os.path.join(predict_dir, name)
        if not os.path.isfile(prediction):
            raise UserError(f"{label} has no prediction {prediction}")
        try:
            matrix.update(np.asarray(Image.open(prediction)), np.asarray(Image.open(label)))
        except (OSError, ValueError) as error:
            raise UserError(f"{prediction} and {label}: {error}")
    return {"mIoU": matrix.mean_iou(), "Acc": matrix.pixel_accuracy()}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Compare the metrics of class maps with recorded ones.")
    parser.add_argument("--metric_file", required=True, help="text with the recorded 'mIoU: …' and 'Acc: …'")
    parser.add_argument("--predict_dir", required=True, help="class maps of inference")
    parser.add_argument("--gt_dir", required=True, help="labels")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--atol", type=float, default=1e-3)
    parser.add_argument("--rtol", type=float, default=1e-3)
    run(_compare, parser, argv)


def _compare(args):
    recorded = recorded_metrics(args.metric_file)
    predicted = predicted_metrics(args.predict_dir, args.gt_dir, args.num_classes)
    differing = []
    for name, value in predicted.items():
        print(f"{name}: {value:.4f} from inference, {recorded[name]:.4f} recorded")
        if not math.isclose(value, recorded[name], rel_tol=args.rtol, abs_tol=args.atol):
            differing.append(name)
    if differing:
        raise UserError(f"{' and '.join(differing)} differ by more than {args.atol} + {args.rtol} of the recorded value")


if __name__ == "__main__":
    main()
