"""Make labels from the JSON files of labelme.

python tools/data/labelme2seg.py data/mine/photos --save_dir data/mine/labels

Each a.json gives an a.png of class indices. Class 0 is the background; the others are those of class_names.txt in the save
folder, to which names that are new there are added, so that indices stay as they are when more is labelled. What is called
__ignore__ becomes 255.
"""

import argparse
import base64
import glob
import io
import json
import math
import os

import numpy as np
from paddleseg.utils import logger
from PIL import Image, ImageDraw

from paddleseg_psp.cli.run import run
from paddleseg_psp.data.preparation import make_labels, write_lines
from paddleseg_psp.errors import UserError

BACKGROUND, IGNORED = "_background_", "__ignore__"  # as labelme calls them
IGNORE_INDEX = 255


class Reader:
    """Reads a labelme file as classes [H, W] uint8; `values` is {name: index}."""

    def __init__(self, values):
        self.values = values

    def __call__(self, path):
        content = _load(path)
        image = Image.new("L", (content["imageWidth"], content["imageHeight"]), 0)
        for shape in content["shapes"]:
            _draw(image, shape, self.values[shape["label"]])
        return np.asarray(image)


def _draw(image, shape, value):
    """Draws one shape over those before it."""
    draw, kind = ImageDraw.Draw(image), shape.get("shape_type") or "polygon"
    points = [tuple(point) for point in shape["points"]]
    if kind == "polygon":
        draw.polygon(points, fill=value)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(side) for side in zip(*points))
        draw.rectangle((left, top, right, bottom), fill=value)
    elif kind == "circle":  # the centre and a point of the edge
        (x, y), radius = points[0], math.dist(*points)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    elif kind == "mask":  # a PNG of its bounding box
        mask = Image.open(io.BytesIO(base64.b64decode(shape["mask"]))).convert("L").point(lambda inside: 255 if inside else 0)
        image.paste(value, tuple(round(side) for side in points[0]), mask)
    else:
        raise ValueError(f"the {kind} {shape['label']!r} has no area")


def _load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _names(paths):
    """Returns the names of classes in labelme files, without those that are no classes."""
    names = set()
    for path in paths:
        try:
            names.update(shape["label"] for shape in _load(path)["shapes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no file of labelme: {type(error).__name__}: {error}")
    return sorted(names - {BACKGROUND, IGNORED})


def convert(args):
    paths = sorted(glob.glob(os.path.join(glob.escape(args.input_dir), "**", "*.json"), recursive=True))
    if not paths:
        raise UserError(f"there is no .json file below {args.input_dir}")
    save_dir = args.save_dir or os.path.join(args.input_dir, "annotations")
    listed, known = os.path.join(save_dir, "class_names.txt"), [BACKGROUND]
    if os.path.isfile(listed):
        with open(listed, encoding="utf-8") as file:
            known = file.read().splitlines()
    known += [name for name in _names(paths) if name not in known]
    if len(known) > IGNORE_INDEX:
        raise UserError(f"there are {len(known)} classes; a label has room for {IGNORE_INDEX}")
    write_lines(listed, known)
    values = {**{name: index for index, name in enumerate(known)}, BACKGROUND: 0, IGNORED: IGNORE_INDEX}
    tasks = [(path, os.path.join(save_dir, os.path.relpath(path, args.input_dir)[: -len("json")] + "png")) for path in paths]
    make_labels(tasks, Reader(values), values.values(), args.num_workers)
    logger.info(f"{len(known)} classes: {', '.join(known)}; their names are in {listed}")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Make labels from the JSON files of labelme.")
    parser.add_argument("input_dir", help="the folder with the JSON files")
    parser.add_argument("--save_dir", help="folder for the labels and class_names.txt; input_dir/annotations by default")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    run(convert, parser.parse_args(argv))


if __name__ == "__main__":
    main()
