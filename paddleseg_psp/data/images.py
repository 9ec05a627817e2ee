"""Which images an argument means, and how to call what is made of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence

from paddleseg_psp.data.paired import listed_path, read_list
from paddleseg_psp.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(path: str | None) -> tuple[list[str], str]:
    """Returns the images that --image_path means, sorted, and the folder that they are named from.

    It is one image, a folder, or a text file that lists images, one a line, relative to its own folder; what follows a tab, or
    a space where the whole line is no file, is left out, so that lists of images and labels do.

    Raises:
        UserError: no path, nothing there, or no image in it.
    """
    if path is None:
        raise UserError("--image_path is missing: name an image, a folder, or a text file listing images")
    if os.path.isdir(path):
        found = [
            os.path.join(folder, name)
            for folder, folders, names in os.walk(path)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    elif path.lower().endswith((*ENDINGS, ".npy")):
        found = [path]
    elif os.path.isfile(path):
        found = [_listed(os.path.dirname(path), line) for line in read_list(path)]
    else:
        raise UserError(f"--image_path {path}: there is no such file or folder")
    missing = [image for image in found if not os.path.isfile(image)]
    if missing:
        raise UserError(f"--image_path {path}: there is no file {missing[0]}")
    if not found:
        raise UserError(f"--image_path {path}: there is no image in it ({', '.join(ENDINGS)})")
    return sorted(found), path if os.path.isdir(path) else os.path.dirname(path)


def _listed(folder, line):
    """Returns the image of a line: all before a tab or, where that is no file, as much of it before a blank as is one."""
    line = line.split("\t")[0].strip()
    ends = [len(line), *(blank.start() for blank in reversed([*re.finditer(r"\s+", line)]))]
    paths = [listed_path(folder, line[:end]) for end in ends]
    return next(filter(os.path.isfile, paths), paths[-1])


def output_names(images: Sequence[str], folder: str) -> list[str]:
    """Returns a name without ending for what is made of each image: its path below the folder.

    Where an image is elsewhere, the folder that all images share is taken instead. Where two differ by their ending alone, they
    keep it: a.jpg and a.png give a.jpg and a.png, not twice a.
    """
    paths = [os.path.abspath(image) for image in images]
    root = os.path.abspath(folder)
    if any(os.path.commonpath([root, path]) != root for path in paths):
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
