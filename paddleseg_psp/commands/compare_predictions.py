"""Draws images, labels and predictions side by side with a legend.

python tools/compare_predictions.py --image_dir IMAGES --label_dir LABELS --prediction "name=MAPS" --save_path picture.png
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from paddleseg_psp.commands.run import run
from paddleseg_psp.data import read_image
from paddleseg_psp.data.datasets.cityscapes import CLASS_NAMES, PALETTE
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.visual import color_map, write_image
from paddleseg_psp.visual.comparison import draw_comparison


def compare(args: argparse.Namespace) -> None:
    images = sorted(glob.glob(os.path.join(glob.escape(args.image_dir), "**", "*_leftImg8bit.png"), recursive=True))
    if not images:
        raise UserError(f"--image_dir {args.image_dir}: there is no *_leftImg8bit.png below it")
    sources = [("label", args.label_dir, "_gtFine_labelTrainIds.png")]
    for item in args.prediction:
        title, _, folder = item.rpartition("=")
        sources.append((title or os.path.basename(folder), folder, "_leftImg8bit.png"))
    chosen = images[:: max(1, len(images) // args.rows)][: args.rows]
    rows = []
    for image in chosen:
        name = os.path.relpath(image, args.image_dir)
        maps = [read_classes(os.path.join(folder, name.replace("_leftImg8bit.png", end))) for _, folder, end in sources]
        rows.append((read_image(image), maps))
    picture = draw_comparison(rows, [title for title, _, _ in sources], CLASS_NAMES, color_map(PALETTE))
    with atomic_path(args.save_path) as path:
        write_image(path, picture)
    print(f"{len(rows)} of {len(images)} images are shown in {args.save_path}")


def read_classes(path: str) -> np.ndarray:
    """Returns the class map [H, W] in a PNG, by its pixel values (not their colors)."""
    try:
        return np.asarray(Image.open(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw images, labels and predictions side by side.")
    parser.add_argument("--image_dir", required=True, help="folder of *_leftImg8bit.png")
    parser.add_argument("--label_dir", required=True, help="folder of *_gtFine_labelTrainIds.png with the same layout")
    parser.add_argument("--prediction", action="append", default=[], metavar="TITLE=DIR", help="class maps; may be repeated")
    parser.add_argument("--rows", type=int, default=3, help="images to show")
    parser.add_argument("--save_path", required=True, help="the picture to write")
    run(compare, parser, argv)
