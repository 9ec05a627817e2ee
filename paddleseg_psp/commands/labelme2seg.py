"""Make labels from the JSON files of labelme.

python tools/data/labelme2seg.py data/mine/photos --save_dir data/mine/labels

Each a.json gives an a.png of class indices, with shapes drawn like labelme draws them. Class 0 is the background. The others
are those of class_names.txt in the save folder (labelme's own labels.txt works too). New names are appended there, so indices
stay the same when you label more. The name __ignore__ becomes 255.
"""

from __future__ import annotations

import argparse
import base64
import glob
import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from paddleseg_psp.commands.run import run
from paddleseg_psp.data.preparation.labels import blank_label, make_labels, read_annotations, write_lines
from paddleseg_psp.data.reading.lists import listed_path, read_lines
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

BACKGROUND, IGNORED = "_background_", "__ignore__"  # as labelme calls them
IGNORE_INDEX = 255
FARTHEST = 2**20  # pixels; Pillow goes through each row of a circle, in the image or not
LINE_WIDTH, POINT_RADIUS = 10, 5  # as labelme draws them
POINTS = {  # how many each kind of shape has; X-AnyLabeling writes rotations, and rectangles by four corners
    "polygon": (3, math.inf), "rectangle": (2, 4), "oriented_rectangle": (4, 4), "rotation": (4, 4), "circle": (2, 2),
    "line": (2, 2), "linestrip": (2, math.inf), "point": (1, 1), "points": (1, math.inf), "mask": (2, 2),
}  # fmt: skip


class Reader:
    """Reads a labelme file as classes [H, W] uint8; `values` is {name: index}."""

    def __init__(self, values: dict[str, int]) -> None:
        self.values = values

    def __call__(self, path: str) -> np.ndarray:
        content = _load(path)
        width, height = _size(content, path)
        image = blank_label(width, height, value=0)
        for number, shape in enumerate(content["shapes"], 1):
            name = _name(shape)
            try:
                _draw(image, shape, self.values[name])
            except Exception as error:  # Pillow has many for a broken mask
                raise ValueError(f"shape {number} ({name}): {error}")
        return np.asarray(image)


def _draw(image, shape, value):
    """Draws one shape over those before it, as labelme does."""
    draw, kind = ImageDraw.Draw(image), shape.get("shape_type") or "polygon"
    points = _points(shape, kind)
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        draw.polygon(points, fill=value, outline=value)
    elif kind == "rectangle":
        (left, *_, right), (top, *_, bottom) = (sorted(side) for side in zip(*points))
        draw.rectangle((left, top, right, bottom), fill=value)
    elif kind in ("circle", "point", "points"):  # a circle is its center and a point of its edge
        radius = math.dist(*points) if kind == "circle" else POINT_RADIUS
        for x, y in points[:1] if kind == "circle" else points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=value, width=LINE_WIDTH, joint="curve" if kind == "linestrip" else None)
    else:
        image.paste(value, tuple(map(round, points[0])), _mask(shape, points, image.size))


def _points(shape, kind):
    """Returns the points (x, y) of a shape. Raises ValueError for another number of them, or what is none."""
    if kind not in POINTS:
        raise ValueError(f"there is no kind of shape {kind!r}; known are {', '.join(POINTS)}")
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError("its points are no pairs of numbers")
    fewest, most = POINTS[kind]
    if not fewest <= len(points) <= most:
        limit = fewest if most == fewest else f"{fewest} or more" if most == math.inf else f"{fewest} to {most}"
        raise ValueError(f"a {kind} takes {limit} points, not {len(points)}")
    if not (np.abs(points) <= FARTHEST).all():  # not a number, too
        raise ValueError(f"its points are not finite, or farther away than {FARTHEST} pixels")
    return points


def _mask(shape, points, largest):
    """Returns an image of a mask, 255 inside, as far as its two corners reach if they are whole numbers."""
    if not shape.get("mask"):
        raise ValueError("it has no mask")
    image = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
    if any(side > most for side, most in zip(image.size, largest)):
        raise ValueError("its mask is larger than the image")
    mask = np.asarray(image)
    if mask.ndim != 2:
        raise ValueError(f"its mask has {mask.shape[2]} channels, not one")
    (left, top), (right, bottom) = points
    if all(side.is_integer() for side in (left, top, right, bottom)):
        mask = mask[: max(0, int(bottom - top) + 1), : max(0, int(right - left) + 1)]
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def _name(shape):
    """Returns the class of a shape without blanks around it. Raises ValueError if it has none."""
    label = shape.get("label")
    name = " ".join(label.split()) if isinstance(label, str) else ""
    if not name or not name.isprintable():
        raise ValueError(f"its label is {label!r:.80}, no name of a class")
    return name


def _size(content, path):
    """Returns the width and height of what was labelled: as the file says or, where it does not, of its image."""
    size = content.get("imageWidth"), content.get("imageHeight")
    if None in size:
        source = listed_path(os.path.dirname(path), str(content.get("imagePath")))
        if content.get("imageData"):
            source = io.BytesIO(base64.b64decode(content["imageData"]))
        elif not os.path.isfile(source):
            raise ValueError(f"it has no imageWidth and imageHeight, nor is its image {source} there")
        with Image.open(source) as image:
            return ImageOps.exif_transpose(image).size
    return size


def _load(path):
    """Returns what a labelme file holds. Raises ValueError if it is none."""
    content = read_annotations(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ValueError("it has no list of shapes")
    return content


def _drawn_names(paths):
    """Returns the names of classes in labelme files, without those that are no classes."""
    names = set()
    for path in paths:
        try:
            shapes = _load(path)["shapes"]
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no file of labelme: {type(error).__name__}: {error}")
        for number, shape in enumerate(shapes, 1):
            try:
                names.add(_name(shape))
            except ValueError as error:
                raise UserError(f"{path}, shape {number}: {error}")
    return names - {BACKGROUND, IGNORED}


def _listed_names(path, drawn):
    """Returns the names in class_names.txt in the order of their indices.

    Raises:
        UserError: a line that shifts indices (empty, or with a name that was there before), or a class among those drawn that
            has the index of the background.
    """
    lines = read_lines(path)
    first = 2 if lines[:1] == [(1, IGNORED)] else 1  # labelme's labels.txt, whose indices begin at -1
    found = {}
    for expected, (number, line) in enumerate(lines[first - 1 :], first):
        name = " ".join(line.split())
        if number != expected:
            raise UserError(f"{path}, line {expected} is empty: remove it, or write there the class of that index")
        if name in found:
            raise UserError(f"{path}, line {number}: {name!r} is in line {found[name]} already")
        if name == IGNORED or name == BACKGROUND and found:
            raise UserError(f"{path}, line {number}: {name} is no class of this index: it belongs in the first line")
        found[name] = number
    background = next(iter(found), BACKGROUND)
    if background in drawn and background.strip("_").lower() != "background":
        raise UserError(
            f"{path}, line {first}: {background!r} would have index 0, as what is not labelled: write {BACKGROUND} above it"
        )
    return list(found) or [BACKGROUND]


def convert(args: argparse.Namespace) -> None:
    paths = sorted(glob.glob(os.path.join(glob.escape(args.input_dir), "**", "*.json"), recursive=True))
    if not paths:
        raise UserError(f"there is no .json file below {args.input_dir}")
    save_dir = args.save_dir or os.path.join(args.input_dir, "annotations")
    listed, drawn = os.path.join(save_dir, "class_names.txt"), _drawn_names(paths)
    edited = os.stat(listed).st_mtime_ns if os.path.isfile(listed) else None
    known = [BACKGROUND] if edited is None else _listed_names(listed, drawn)
    known += sorted(drawn.difference(known))
    if len(known) > IGNORE_INDEX:
        raise UserError(f"there are {len(known)} classes; a label has room for {IGNORE_INDEX}")
    write_lines(listed, known)
    if edited is not None:  # names that are added leave indices as they are
        os.utime(listed, ns=(edited, edited))
    values = {**{name: index for index, name in enumerate(known)}, BACKGROUND: 0, IGNORED: IGNORE_INDEX}
    tasks = [(path, os.path.join(save_dir, os.path.relpath(path, args.input_dir)[: -len("json")] + "png")) for path in paths]
    for _, target in tasks:
        if os.path.isfile(target) and os.stat(target).st_mtime_ns < os.stat(listed).st_mtime_ns:
            os.unlink(target)  # its indices may be others
    make_labels(tasks, Reader(values), values.values(), args.num_workers)
    logger.info(f"{len(known)} classes: {', '.join(known)}; their names are in {listed}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make labels from the JSON files of labelme.")
    parser.add_argument("input_dir", help="the folder with the JSON files")
    parser.add_argument("--save_dir", help="folder for the labels and class_names.txt; input_dir/annotations by default")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes")
    run(convert, parser, argv)
