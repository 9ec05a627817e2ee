"""Find errors in a configuration's data before training.

python tools/check_data.py --config configs/psanet/psanet_resnet18_demo.yml --picture output/samples.png

Reads every image and label of the training and the validation set. Prints errors and warnings with their files, how often
each class occurs with weights that would balance them, and a verdict; draws samples as the network gets them. Exits with 1 on
errors.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data.checks.class_weights import inverse_log, median_frequency
from paddleseg_psp.data.checks.inspection import Inspection, as_trained, compare, inspect
from paddleseg_psp.files import atomic_path
from paddleseg_psp.visual import color_map, draw_comparison, write_image


def table(inspection: Inspection, names: Sequence[str]) -> list[str]:
    """Returns a line for each class: pixels, images, and the weights of the two rules."""
    counts = inspection.counts
    total = max(counts.sum(), 1)
    median, inverse = median_frequency(counts), inverse_log(counts) if counts.any() else np.ones(counts.shape[1])
    width = max(len("class"), *map(len, names))
    lines = [f"{'':>5} {'class':<{width}} {'pixels':>8} {'images':>7} {'median_frequency':>17} {'inverse_log':>12}"]
    for index, name in enumerate(names):
        share, images = counts[:, index].sum() / total, int((counts[:, index] > 0).sum())
        lines.append(f"{index:>5} {name:<{width}} {share:>8.3%} {images:>7} {median[index]:>17.3f} {inverse[index]:>12.3f}")
    return lines


def check(args: argparse.Namespace) -> None:
    config = Config(args.config, args.opts)
    inspections, errors = {}, 0
    datasets = {key: config.build_dataset(key) for key in ("train_dataset", "val_dataset") if key in config.data}
    config.check_datasets(*datasets.values())
    for key, dataset in datasets.items():
        names = [str(name) for name in getattr(dataset, "CLASS_NAMES", None) or range(dataset.num_classes)]
        found = inspections[key] = inspect(dataset, args.num_workers)
        print(f"\n{key}: {len(dataset.file_list)} images, {found.counts.sum() + found.ignored} pixels, {found.ignored} ignored")
        print("\n".join(table(found, names)))
        errors += _say(found.errors, found.warnings)
        if key == "train_dataset" and args.picture and not found.errors:
            _draw(dataset, names, config.palette(), args.picture)
    if len(inspections) == 2:
        errors += _say(*compare(inspections["train_dataset"], inspections["val_dataset"]))
    print(f"\nVerdict: {f'{errors} errors: fix them before training' if errors else 'ready for training'}")
    sys.exit(bool(errors))


def _say(errors, warnings):
    for kind, messages in (("ERROR", errors), ("warning", warnings)):
        for message in messages:
            print(f"{kind}: {message}")
    return len(errors)


def _draw(dataset, names, palette, path):
    rows = [(image, [label]) for image, label in as_trained(dataset, min(6, len(dataset.file_list)))]
    with atomic_path(os.path.abspath(path)) as temporary:
        write_image(temporary, draw_comparison(rows, ["label"], names, color_map(palette)))
    print(f"Samples as the network gets them are in {path}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser("Find errors in a configuration's data before training.", "num_workers")
    parser.add_argument("--picture", help="a PNG file for samples as the network gets them")
    run(check, parser, argv)
