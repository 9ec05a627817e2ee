"""Paint a small street data set in the Cityscapes layout, in which some classes can only be told apart by far context.

Every scene is a street that recedes from the picture's edges. One side, left or right at random, carries two cues; the other
side carries things that look the same for all classes, so that only the cues across the picture tell their class:

    cue                                   then, on the other side
    buildings (town)                      the ground is sidewalk and the panel is wall
    trees (country)                       the ground is terrain and the panel is fence
    blue disc sign (bus street)           the box-shaped vehicle is a bus
    orange triangle sign (works)          the box-shaped vehicle is a truck

Road, sky, car, pole, traffic sign, building and vegetation are classes that can be seen where they are. Some pictures have
ignored regions: the bonnet of the camera's car, the black border of rectification, litter bins and balls.

    python tools/make_demo_data.py --save_dir data/demo_cityscapes --train 200 --val 40 --size 256 128 --seed 0
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Union

import cv2
import numpy as np
from numpy.random import Generator

from paddleseg_psp.commands.run import run
from paddleseg_psp.errors import UserError

VERSION = 1  # of the pictures: raise it when the same arguments give other bytes
MANIFEST = "demo_data.json"
SPLITS = {"train": "demostadt", "val": "probeheim"}  # split: its city

EGO_VEHICLE, BORDER, OUT_OF_ROI, STATIC, DYNAMIC = 1, 2, 3, 4, 5
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 7, 8, 11, 12, 13, 17
SIGN, VEGETATION, TERRAIN, SKY, CAR, TRUCK, BUS = 20, 21, 22, 23, 26, 27, 28
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # label ids, in the order of train ids
TRAIN_ID = np.full(256, 255, np.uint8)  # TRAIN_ID[label id] = train id, 255 = ignored
TRAIN_ID[list(EVALUATED)] = np.arange(len(EVALUATED))


Range = tuple[float, float]  # low and high, or x and y
Color = tuple[float, ...]  # blue, green, red
Points = Union[Sequence[Range], np.ndarray]
Plane = Callable[[float, float], Range]


class Canvas:
    """A picture `image` [H, W, 3] (BGR) and its Cityscapes label ids `label` [H, W].

    Both are painted together in coordinates that run from 0 to 1, whatever the size. Shapes are designed for W = 2 H.
    """

    def __init__(self, width: int, height: int) -> None:
        self.scale = np.array([width, height])
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)

    def polygon(self, points: Points, color: Color, label: int | None = None) -> None:
        """Fill the polygon; without a label it is a mere detail of what lies below."""
        corners = np.round(np.array(points) * self.scale).astype(np.int32)
        cv2.fillPoly(self.image, [corners], color)
        if label is not None:
            cv2.fillPoly(self.label, [corners], label)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, label: int | None = None) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, label)

    def disc(self, x: float, y: float, radius: float, color: Color, label: int | None = None) -> None:
        """Fill a disc; the radius is a share of the height."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(np.stack([x + radius / 2 * np.cos(angle), y + radius * np.sin(angle)], 1), color, label)


def color(rng: Generator, hue: Range, saturation: Range, value: Range) -> Color:
    """A random BGR color from three ranges (low, high) in 0..1; hues wrap around."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    return shade(colorsys.hsv_to_rgb(h % 1, s, v)[::-1], 255)


def shade(bgr: Color, factor: float) -> Color:
    return tuple(float(np.clip(channel * factor, 0, 255)) for channel in bgr)


def masonry(rng: Generator) -> Color:
    """The color of walls, houses and panels alike."""
    return color(rng, (0, 0.14), (0.05, 0.45), (0.35, 0.75))


def paint_backdrop(canvas: Canvas, rng: Generator, vanish: Range) -> None:
    """Sky and road: what is in the middle of the picture and tells nothing."""
    top, low = color(rng, (0.52, 0.66), (0.05, 0.5), (0.6, 0.95)), color(rng, (0.02, 0.7), (0, 0.2), (0.75, 0.95))
    for y in np.linspace(0, vanish[1], 16, endpoint=False):
        mix = y / vanish[1]
        canvas.box(0, y, 1, 1, tuple((1 - mix) * a + mix * b for a, b in zip(top, low)), SKY)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(0, 1), rng.uniform(0, 0.25)
        for _ in range(4):
            canvas.disc(x + rng.uniform(-0.08, 0.08), y + rng.uniform(-0.02, 0.02), rng.uniform(0.02, 0.05), shade(low, 1.05))
    asphalt = color(rng, (0, 1), (0, 0.12), (0.28, 0.55))
    canvas.box(0, vanish[1], 1, 1, asphalt, ROAD)
    for near, far in ((0.75, 0.6), (0.5, 0.38), (0.3, 0.22), (0.16, 0.1)):  # dashes of the center line
        canvas.polygon(
            [
                (vanish[0] + side * t * 0.02 - t * 0.12, vanish[1] + t * 0.7)
                for side, t in ((-1, near), (1, near), (1, far), (-1, far))
            ],
            shade(asphalt, 1.7),
        )


def receding(vanish: Range, edge: float, top: float, base: float) -> Plane:
    """A vertical plane along the street: maps x and a share from top (0) to base (1) to a point in the picture."""

    def at(x, share):
        return x, vanish[1] + (x - vanish[0]) / (edge - vanish[0]) * (top + share * (base - top) - vanish[1])

    return at


def paint_town(canvas: Canvas, rng: Generator, at: Plane, end: float) -> None:
    """A row of houses with windows from the left edge to x = end."""
    borders = np.linspace(0, end, 4) + np.array([0, *rng.uniform(-0.015, 0.015, 2), 0])
    for x0, x1 in zip(borders, borders[1:]):
        plaster, glass, roof = masonry(rng), color(rng, (0.5, 0.7), (0.1, 0.4), (0.15, 0.35)), rng.uniform(-0.1, 0.1)
        canvas.polygon([at(x0, roof), at(x1, roof), at(x1, 1), at(x0, 1)], plaster, BUILDING)
        for row in np.arange(roof + 0.08, 0.85, 0.2):
            for left in (0.15, 0.6):
                a, b = x0 + left * (x1 - x0), x0 + (left + 0.25) * (x1 - x0)
                canvas.polygon([at(a, row), at(b, row), at(b, row + 0.11), at(a, row + 0.11)], glass)


def paint_country(canvas: Canvas, rng: Generator, at: Plane, end: float) -> None:
    """A row of trees and bushes from the left edge to x = end."""
    leaf = color(rng, (0.14, 0.4), (0.25, 0.6), (0.25, 0.55))
    canvas.polygon([at(0, 0.3), at(end, 0.3), at(end, 1), at(0, 1)], shade(leaf, 0.8), VEGETATION)
    for x in np.linspace(0, end - 0.02, 14):
        for share in rng.uniform(0, 0.75, 3):
            canvas.disc(*at(x, share), rng.uniform(0.04, 0.09) * (1.2 - x), shade(leaf, rng.uniform(0.65, 1.35)), VEGETATION)


def paint_sign(canvas: Canvas, rng: Generator, at: Plane, bus_street: bool) -> None:
    """A large blue disc or orange triangle on a post before the houses or trees."""
    x, y, r = rng.uniform(0.1, 0.22), rng.uniform(0.2, 0.32), rng.uniform(0.1, 0.13)
    canvas.box(x - 0.01, y, x + 0.01, at(x, 1)[1] + 0.03, color(rng, (0, 1), (0, 0.1), (0.3, 0.7)), POLE)
    white = color(rng, (0, 1), (0, 0.05), (0.85, 1))
    if bus_street:
        canvas.disc(x, y, r, white, SIGN)
        canvas.disc(x, y, 0.8 * r, color(rng, (0.58, 0.64), (0.75, 0.95), (0.55, 0.85)))
    else:
        for size, paint in ((1.2, white), (0.85, color(rng, (0.05, 0.09), (0.8, 1), (0.8, 1)))):
            canvas.polygon(
                [(x, y - size * r), (x + size * r / 2, y + 0.75 * size * r), (x - size * r / 2, y + 0.75 * size * r)],
                paint,
                SIGN if size > 1 else None,
            )


def paint_verge(canvas: Canvas, rng: Generator, vanish: Range, ground: int, panel: int) -> None:
    """Ground beside the road and a panel behind it on the right: it knows their label ids, yet never looks at them."""
    start, earth = rng.uniform(0.6, 0.66), color(rng, (0.05, 0.2), (0.05, 0.3), (0.35, 0.7))
    at = receding(vanish, 1, rng.uniform(0.66, 0.7), rng.uniform(0.86, 0.92))
    canvas.polygon([at(start, 0), at(1, 0), at(1, 1), at(start, 1)], earth, ground)
    for x, share in zip(rng.uniform(start, 1, 60), rng.uniform(0.05, 0.95, 60)):
        canvas.disc(*at(x, share), 0.008, shade(earth, rng.uniform(0.75, 1.25)))
    boards = masonry(rng)
    at = receding(vanish, 1, rng.uniform(0.2, 0.3), at(1, 0)[1])
    canvas.polygon([at(start, 0), at(1, 0), at(1, 1), at(start, 1)], boards, panel)
    for x in np.linspace(start, 1, 12):
        canvas.polygon([at(x, 0), at(x + 0.008, 0), at(x + 0.008, 1), at(x, 1)], shade(boards, 0.75))


def paint_vehicle(canvas: Canvas, rng: Generator, label: int) -> None:
    """A box-shaped vehicle on the right; it is handed its label id and never looks at it."""
    x, y, w, h = rng.uniform(0.72, 0.86), rng.uniform(0.84, 0.92), rng.uniform(0.1, 0.13), rng.uniform(0.32, 0.4)
    body = color(rng, (0, 1), (0.1, 0.8), (0.35, 0.85))
    for side in (-0.6, 0.6):
        canvas.disc(x + side * w, y, 0.05, (25, 25, 25), label)
    canvas.box(x - w, y - h, x + w, y, body, label)
    canvas.box(x - 0.9 * w, y - 0.85 * h, x + 0.9 * w, y - 0.55 * h, shade(body, 0.35))
    canvas.box(x - w, y - 0.25 * h, x + w, y - 0.2 * h, shade(body, 1.4))


def paint_car(canvas: Canvas, rng: Generator) -> None:
    """A small car in the middle of the picture."""
    x, y, w = rng.uniform(0.36, 0.54), rng.uniform(0.62, 0.85), rng.uniform(0.055, 0.08)
    h, body = 1.3 * w, color(rng, (0, 1), (0.1, 0.8), (0.3, 0.85))
    for side in (-0.6, 0.6):
        canvas.disc(x + side * w, y, 0.03, (25, 25, 25), CAR)
    canvas.box(x - w, y - h, x + w, y, body, CAR)
    canvas.polygon(
        [(x - 0.7 * w, y - h), (x - 0.4 * w, y - 2 * h), (x + 0.4 * w, y - 2 * h), (x + 0.7 * w, y - h)], shade(body, 0.5), CAR
    )


def paint_ignored(canvas: Canvas, rng: Generator) -> None:
    """In part of the scenes: a litter bin, a ball, the bonnet of the camera's car, the border that rectification leaves."""
    bin_, ball, bonnet, border = rng.random(4) < (0.3, 0.3, 0.5, 0.5)
    x = rng.uniform(0.3, 0.6)
    if bin_:
        canvas.box(x, 0.56, x + 0.03, 0.66, color(rng, (0, 1), (0.1, 0.6), (0.2, 0.6)), STATIC)
    if ball:
        canvas.disc(rng.uniform(0.2, 0.7), rng.uniform(0.7, 0.85), 0.03, color(rng, (0, 1), (0.4, 0.9), (0.4, 0.9)), DYNAMIC)
    if bonnet:
        height = rng.uniform(0.05, 0.1)
        canvas.polygon([(0.05, 1), (0.2, 1 - height), (0.8, 1 - height), (0.95, 1)], (40, 40, 40), EGO_VEHICLE)
    if border:
        canvas.box(0, 0.985, 1, 1, (0, 0, 0), OUT_OF_ROI)
        for x0, x1 in ((0, 0.01), (0.99, 1)):
            canvas.box(x0, 0, x1, 1, (0, 0, 0), BORDER)


def light(image: np.ndarray, rng: Generator) -> np.ndarray:
    """The image [H, W, 3] under a random light (brightness, tint, a gradient), with a mottled texture and sensor noise."""
    height, width = image.shape[:2]
    gain = rng.uniform(0.65, 1.15) * rng.uniform(0.92, 1.08, 3)
    left, right = rng.uniform(0.85, 1.15, 2)
    gradient = np.linspace(left, right, width)[:, None]
    mottle = sum(cv2.resize(rng.normal(1, 0.05, (rows, 2 * rows)), (width, height)) for rows in (8, 32)) / 2
    lit = cv2.GaussianBlur(image, (3, 3), 0) * (gain * gradient * mottle[..., None]) + rng.normal(0, 4, image.shape)
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)


def make_scene(
    size: tuple[int, int], seed: int, split: str, index: int, town: bool | None = None, bus_street: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: the picture [H, W, 3] (BGR, uint8) and its label ids [H, W] (uint8).

    `size` is (W, H). The scene depends on nothing but the arguments; `town` and `bus_street` are drawn unless given, and
    changing one of them changes no pixel but those of its own cue.
    """

    def rng(layer):
        return np.random.default_rng([seed, list(SPLITS).index(split), index, layer])

    draw = rng(0)
    drawn_town, drawn_bus, mirrored, vehicle, car = draw.random(5) < (0.5, 0.5, 0.5, 0.85, 0.8)
    town = drawn_town if town is None else town
    bus_street = drawn_bus if bus_street is None else bus_street
    vanish, end = (draw.uniform(0.46, 0.54), draw.uniform(0.42, 0.5)), draw.uniform(0.26, 0.32)
    front = receding(vanish, 0, draw.uniform(0.05, 0.15), draw.uniform(0.7, 0.78))  # of the houses or trees

    canvas = Canvas(*size)
    paint_backdrop(canvas, rng(1), vanish)
    (paint_town if town else paint_country)(canvas, rng(2), front, end)
    paint_sign(canvas, rng(3), front, bus_street)
    paint_verge(canvas, rng(4), vanish, *((SIDEWALK, WALL) if town else (TERRAIN, FENCE)))
    if car:
        paint_car(canvas, rng(5))
    if vehicle:
        paint_vehicle(canvas, rng(6), BUS if bus_street else TRUCK)
    paint_ignored(canvas, rng(7))
    image, label = light(canvas.image, rng(8)), canvas.label
    return (image[:, ::-1].copy(), label[:, ::-1].copy()) if mirrored else (image, label)


def scene_files(split: str, index: int) -> tuple[str, ...]:
    """The scene's files relative to the data set's folder: picture, label ids, train ids."""
    city = SPLITS[split]
    stem = f"{split}/{city}/{city}_{index:06d}_000019"
    return (
        f"leftImg8bit/{stem}_leftImg8bit.png",
        f"gtFine/{stem}_gtFine_labelIds.png",
        f"gtFine/{stem}_gtFine_labelTrainIds.png",
    )


def file_names(arguments: dict) -> set[str]:
    """Every file of the data set that `arguments` describe, relative to its folder."""
    return {MANIFEST, *(name for split in SPLITS for index in range(arguments[split]) for name in scene_files(split, index))}


def write_data(folder: Path, arguments: dict) -> None:
    """Write the data set that `arguments` describe into `folder`, the manifest last."""
    for split in SPLITS:
        for index in range(arguments[split]):
            image, label = make_scene(arguments["size"], arguments["seed"], split, index)
            for name, picture in zip(scene_files(split, index), (image, label, TRAIN_ID[label])):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    (folder / MANIFEST).write_text(json.dumps(arguments) + "\n")


def is_current(folder: Path, arguments: dict) -> bool:
    """Whether `folder` holds the data set of `arguments` already; raises UserError if replacing it would lose foreign files."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        made_with = json.loads((folder / MANIFEST).read_text())
        own = file_names(made_with)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} exists and was not made by this program: choose another --save_dir") from None
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if made_with == arguments and own <= found:
        return True
    if found - own:
        raise UserError(
            f"{folder} also holds {min(found - own)}, which this program did not make: move it away or choose another "
            "--save_dir"
        )
    return False


def make_demo_data(save_dir: str, train: int = 200, val: int = 40, size: tuple[int, int] = (256, 128), seed: int = 0) -> bool:
    """Write `train` + `val` scenes of `size` (W, H) to `save_dir` in the Cityscapes layout.

    Returns False, with nothing written, if they are there already. Else they are made beside `save_dir` and swapped in when
    complete. A folder that holds anything else is left alone: ValueError.
    """
    if min(train, val) < 1 or min(size) < 8 or seed < 0:
        raise UserError(
            f"train and val must be at least 1, W and H at least 8, seed at least 0; got train {train}, val {val}, "
            f"size {size[0]} {size[1]}, seed {seed}"
        )
    folder = Path(save_dir).resolve()
    arguments = {"version": VERSION, "train": train, "val": val, "size": list(size), "seed": seed}
    if is_current(folder, arguments):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        new = Path(staging, "new")
        write_data(new, arguments)
        if folder.exists():
            os.replace(folder, Path(staging, "old"))
        os.replace(new, folder)
    return True


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Paint street scenes in the Cityscapes layout that need context to be parsed.")
    parser.add_argument("--save_dir", default="data/demo_cityscapes", help="folder of the data set")
    parser.add_argument("--train", type=int, default=200, help="number of training scenes")
    parser.add_argument("--val", type=int, default=40, help="number of validation scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("W", "H"), help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    run(_make, parser, argv)


def _make(args):
    made = make_demo_data(args.save_dir, args.train, args.val, args.size, args.seed)
    state = "written" if made else "are already there"
    print(f"{args.save_dir}: {args.train} training and {args.val} validation scenes {state}")
