"""Show where a trained network is wrong: confusion of classes, metrics of each class, and the worst images.

python tools/analyse.py --config configs/psanet/psanet_resnet18_demo.yml --model_path output/best_model/model.pdparams \
    --save_dir output/analysis --worst 8

Writes confusion.csv (pixels, label by prediction) and confusion.png, classes.csv, images.csv (worst first) and worst/<k>.png:
image, label, prediction, and white pixels where they differ.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Sequence

import numpy as np

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.inputs import chosen_views, trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data import checked
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.engine.views import OPTIONS
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.visual import color_map, colorize, draw_confusion_matrix, viewable, write_image


def write_table(path: str, rows: Iterable[Iterable]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def analyse(args: argparse.Namespace) -> None:
    config = Config(args.config, args.opts)
    views = chosen_views(config, args)
    require_writable(args.save_dir)
    set_up(args.device)
    dataset = config.build_dataset("val_dataset")
    model = trained_model(config, args.model_path)
    images, worst = [], []

    def look(index, pred, label):
        matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
        matrix.update(pred, label)
        images.append((matrix.mean_iou(), matrix.pixel_accuracy(), dataset.file_list[index][0]))
        worst.append((matrix.pixel_accuracy(), index, pred.astype(np.uint16)))
        worst.sort(key=lambda item: item[:2])
        del worst[args.worst :]

    matrix = evaluate(model, dataset, views, num_workers=args.num_workers, each=look)
    names = [str(name) for name in getattr(dataset, "CLASS_NAMES", None) or range(dataset.num_classes)]
    folder = os.path.abspath(args.save_dir)
    write_table(
        os.path.join(folder, "confusion.csv"),
        [["label \\ prediction", *names], *([name, *row] for name, row in zip(names, matrix.counts))],
    )
    with atomic_path(os.path.join(folder, "confusion.png")) as path:
        draw_confusion_matrix(matrix.counts, names, path)
    columns = [matrix.class_iou(), matrix.class_accuracy(), matrix.class_precision(), matrix.class_dice(), matrix.counts.sum(1)]
    write_table(
        os.path.join(folder, "classes.csv"),
        [["class", "IoU", "accuracy", "precision", "Dice", "pixels"], *zip(names, *columns)],
    )
    write_table(
        os.path.join(folder, "images.csv"), [["mIoU", "pixel accuracy", "image"], *sorted(images, key=lambda row: row[1])]
    )
    colors, samples = color_map(config.palette()), checked(dataset)
    for place, (_, index, pred) in enumerate(worst, 1):
        with atomic_path(os.path.join(folder, "worst", f"{place}.png")) as path:
            image, label = samples.read(index)
            assert label is not None  # a data set of mode "val" has labels
            write_image(path, picture(image, label, pred, dataset.ignore_index, colors))
    print(f"Wrong on {1 - matrix.pixel_accuracy():.2%} of the pixels; most of all {_confused(matrix.counts, names)}")
    print(f"Tables and pictures are in {args.save_dir}")


def picture(image: np.ndarray, label: np.ndarray, pred: np.ndarray, ignore_index: int, colors: np.ndarray) -> np.ndarray:
    """Returns image, label, prediction and their differences side by side, [H, 4 W, 3] uint8 (blue, green, red)."""
    wrong = np.where((pred != label) & (label != ignore_index), 255, 0).astype(np.uint8)
    maps = [colorize(values.astype(np.uint8), colors) for values in (label, pred)]
    return np.concatenate([viewable(image), *maps, viewable(wrong)], axis=1)


def _confused(counts, names):
    wrong = counts - np.diag(np.diag(counts))
    label, pred = np.unravel_index(wrong.argmax(), wrong.shape)
    return f"{names[label]} taken for {names[pred]} ({wrong.max() / max(wrong.sum(), 1):.0%} of them)"


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(
        "Show where a trained network is wrong on the configuration's val_dataset.",
        "model_path", "save_dir", "num_workers", *OPTIONS,
        save_dir="./output/analysis",
    )  # fmt: skip
    parser.add_argument("--worst", type=int, default=8, help="number of worst images to draw")
    run(analyse, parser, argv)
