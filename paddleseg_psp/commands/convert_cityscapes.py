"""Make the labels for training, *_gtFine_labelTrainIds.png, from Cityscapes' own labels by its official table.

python tools/data/convert_cityscapes.py --cityscapes_path data/cityscapes --num_workers 8

They are made from *_gtFine_labelIds.png or, where those are missing, from *_gtFine_polygons.json.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from paddleseg_psp.commands.run import run
from paddleseg_psp.data.datasets.cityscapes import CLASS_NAMES, LABEL_NAMES, TRAIN_IDS
from paddleseg_psp.data.preparation.labels import blank_label, make_labels, read_annotations
from paddleseg_psp.data.reading.decoding import read_label_values
from paddleseg_psp.errors import UserError

IDS, POLYGONS, TRAIN = "_labelIds.png", "_polygons.json", "_labelTrainIds.png"


def read_label(path: str) -> np.ndarray:
    """Returns the train ids [H, W] uint8 of a labelIds or polygons file."""
    return from_polygons(path) if path.endswith(POLYGONS) else from_ids(path)


def from_ids(path: str) -> np.ndarray:
    ids = read_label_values(path)
    if ids.max() >= len(TRAIN_IDS):
        raise ValueError(f"its values go up to {ids.max()}; label ids are 0 to {len(TRAIN_IDS) - 1}")
    return np.array(TRAIN_IDS, np.uint8)[ids]


def from_polygons(path: str) -> np.ndarray:
    """Draws the objects in their order, later ones over earlier ones, as the official tool does."""
    content = read_annotations(path)
    image = blank_label(content["imgWidth"], content["imgHeight"], 255)
    draw = ImageDraw.Draw(image)
    for item in content["objects"]:
        name = item["label"]
        if name not in LABEL_NAMES and name.endswith("group"):  # several objects that were not told apart
            name = name[: -len("group")]
        if name == "license plate" or item.get("deleted"):  # part of its car
            continue
        draw.polygon([tuple(point) for point in item["polygon"]], fill=TRAIN_IDS[LABEL_NAMES.index(name)])
    return np.asarray(image)


def sources(folder: str) -> list[tuple[str, str]]:
    """Returns the (source, target) paths below gtFine, ids before polygons."""
    found = {}
    for ending in (POLYGONS, IDS):
        for path in glob.glob(os.path.join(glob.escape(folder), "*", "*", f"*_gtFine{ending}")):
            found[path[: -len(ending)] + TRAIN] = path
    return [(source, target) for target, source in sorted(found.items())]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make Cityscapes' labelTrainIds files.")
    parser.add_argument("--cityscapes_path", default="data/cityscapes", help="the folder with gtFine")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes")
    run(convert, parser, argv)


def convert(args: argparse.Namespace) -> None:
    folder = os.path.join(args.cityscapes_path, "gtFine")
    tasks = sources(folder)
    if not tasks:
        raise UserError(f"there is no */*/*_gtFine{IDS} or {POLYGONS} below {folder}: unpack gtFine_trainvaltest.zip there")
    make_labels(tasks, read_label, {*range(len(CLASS_NAMES)), 255}, args.num_workers)
