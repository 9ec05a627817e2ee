"""Write train.txt, val.txt and test.txt for a folder of images and a folder of labels, each class divided equally.

python tools/data/split_dataset_list.py data/mine images labels --split 0.8 0.2 --num_classes 3

Images and labels are paired by their paths within the two folders, without the ending (and postfix). A line is an image, a tab
and its label, relative to the first argument, as `type: Dataset` reads them. The same seed gives the same lists.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence

import numpy as np

from paddleseg_psp.commands.run import run
from paddleseg_psp.data import Dataset
from paddleseg_psp.data.checks.class_weights import count_classes
from paddleseg_psp.data.preparation.labels import write_lines
from paddleseg_psp.data.preparation.splitting import stratified_split
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

LISTS = ("train", "val", "test")


def find(folder: str, ending: str, postfix: str) -> dict[str, str]:
    """Returns {path within the folder without postfix and ending: path}."""
    end = f"{postfix}.{ending.lstrip('.')}"
    paths = glob.glob(os.path.join(glob.escape(folder), "**", f"*{glob.escape(end)}"), recursive=True)
    return {os.path.relpath(path, folder)[: -len(end)]: path for path in paths}


def split(args: argparse.Namespace) -> None:
    folders = [os.path.join(args.dataset_root, name) for name in (args.images_dir_name, args.labels_dir_name)]
    images, labels = (find(*item) for item in zip(folders, args.format, args.postfix))
    names = sorted(images.keys() & labels.keys())
    if not names:
        raise UserError(
            f"no image in {folders[0]} has a label in {folders[1]}: {len(images)} files end in {args.format[0]} there, "
            f"{len(labels)} in {args.format[1]} here (--format, --postfix)"
        )
    if not 1 < len(args.split) <= 3 or min(args.split) < 0 or not sum(args.split):
        raise UserError(f"--split takes the shares of train, val and, if wanted, test, not {args.split}")
    lines = ["\t".join(os.path.relpath(files[name], args.dataset_root) for files in (images, labels)) for name in names]
    everything = os.path.join(args.dataset_root, "all.txt")
    write_lines(everything, lines)
    dataset = Dataset([], args.dataset_root, args.num_classes, train_path=everything, ignore_index=args.ignore_index)
    presence = count_classes(dataset) > 0
    parts = stratified_split(presence, args.split, args.seed)
    for part, name in enumerate(LISTS[: len(args.split)]):
        chosen = np.nonzero(parts == part)[0]
        write_lines(os.path.join(args.dataset_root, f"{name}.txt"), [lines[index] for index in chosen])
        logger.info(f"{name}.txt: {len(chosen)} images; images of each class: {presence[chosen].sum(0).tolist()}")
    if absent := np.nonzero(~presence.any(0))[0].tolist():
        logger.warning(
            f"{len(absent)} of {args.num_classes} classes occur in no label: {', '.join(map(str, absent))} (pixels of "
            f"{args.ignore_index} are ignored; of masks of 0 and 255 the second class must be 1)"
        )
    for kind, left_over in (
        ("images without a label", images.keys() - labels.keys()),
        ("labels without an image", labels.keys() - images.keys()),
    ):
        if left_over:
            logger.warning(f"{len(left_over)} {kind} are left out, e.g. {sorted(left_over)[0]}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Divide a folder of images and labels into lists.")
    parser.add_argument("dataset_root")
    parser.add_argument("images_dir_name", help="folder of the images in dataset_root")
    parser.add_argument("labels_dir_name", help="folder of the labels in dataset_root")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--ignore_index", type=int, default=255, help="the label value that is ignored")
    parser.add_argument("--split", type=float, nargs="+", default=[0.8, 0.2], help="shares of train, val and test")
    parser.add_argument("--format", nargs=2, default=["jpg", "png"], help="endings of images and labels")
    parser.add_argument("--postfix", nargs=2, default=["", ""], help="what names of images and labels end in before that")
    parser.add_argument("--seed", type=int, default=0)
    run(split, parser, argv)
