"""Custom data sets: images and labels in lists of files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from paddleseg_psp.data.datasets.paired import PairedDataset, require_folder, require_labels, require_mode
from paddleseg_psp.data.reading.lists import listed_path, read_lines
from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register


@register
class Dataset(PairedDataset):
    """Images and labels in a text file: each line has the path of an image, a separator, and the path of its label.

    Paths are relative to dataset_root and may hold any character. A tab between the two always separates them; otherwise
    `separator` does, where it leaves two paths of files that exist. Blanks around a path are left out.

    Args:
        transforms: a list of transforms, see paddleseg.transforms.
        dataset_root: the folder of the data set.
        num_classes: classes; label values are 0 to num_classes - 1, or ignore_index.
        mode: "train", "val" or "test", which needs no labels.
        train_path: the list for mode "train".
        val_path: the list for mode "val".
        test_path: the list for mode "test".
        separator: text between an image and its label.
        ignore_index: the label value that is ignored.
        img_channels: channels of the images: 1 reads gray, 3 color, any other number TIFF or .npy files with that many.
        class_names: a name for each class.
        palette: a (red, green, blue) color for each class.
        cache: keep all decoded images and labels in memory.
        max_value: the value of white in images of more than 8 bits, e.g. 4095 for 12 bits; values are scaled from there
            to 255.

    Raises:
        UserError: a missing file or folder, a line that does not name two files, names or colors that are not one a class, or
            a max_value that is not above 0.
    """

    def __init__(
        self,
        transforms: list,
        dataset_root: str,
        num_classes: int,
        mode: str = "train",
        train_path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        separator: str = " ",
        ignore_index: int = 255,
        img_channels: int = 3,
        class_names: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        cache: bool = False,
        max_value: float | None = None,
    ) -> None:
        require_mode(mode, ("train", "val", "test"))
        require_folder(dataset_root, "the images")
        path = {"train": train_path, "val": val_path, "test": test_path}[mode]
        if path is None:
            raise UserError(f"{mode}_path is missing: the list of images and labels")
        for key, values in (("class_names", class_names), ("palette", palette)):
            if values is not None and len(values) != num_classes:
                raise UserError(f"{key} has {len(values)} entries for {num_classes} classes")
        if max_value is not None and not 0 < max_value < float("inf"):
            raise UserError(f"max_value must be above 0, the value in the images that means white, not {max_value!r}")
        if not separator or not isinstance(separator, str):
            raise UserError(f"separator: expected what stands between an image and its label, found {separator!r}")
        self.dataset_root = dataset_root
        self.NUM_CLASSES, self.IGNORE_INDEX, self.IMG_CHANNELS = num_classes, ignore_index, img_channels
        self.CLASS_NAMES, self.PALETTE, self.MAX_VALUE = class_names, palette, max_value
        labelled = mode != "test"
        pairs = [self._pair(line, separator, labelled, f"{path}, line {number}") for number, line in read_lines(path)]
        if not pairs:
            raise UserError(f"the list {path} is empty")
        if labelled:
            require_labels(pairs, f"the list is {path}")
        super().__init__(pairs, transforms, mode, cache)

    def _pair(self, line, separator, labelled, where):
        def full(path):
            return listed_path(self.dataset_root, path)

        separator = "\t" if "\t" in line else separator
        ways = _ways(line, re.escape(separator))
        if not ways and separator == " ":  # a blank of full width, or one that does not break
            ways = _ways(line, r"\s")
        if not labelled:
            images = [full(line), *(full(image) for image, _ in reversed(ways))]
            return next(filter(os.path.isfile, images), images[-1]), None
        if len(ways) > 1:  # the separator is in a path too
            ways = [way for way in ways if all(map(os.path.isfile, map(full, way)))]
        if len(ways) != 1:
            raise UserError(
                f"{where}: {line!r} does not name two files with {separator!r} between them (a tab always separates)"
            )
        return full(ways[0][0]), full(ways[0][1])


def _ways(line, separator):
    """Returns the (image, label) pairs that a line can mean, for each place where the separator, a pattern, is in it."""
    places = [(place.start(), place.end()) for place in re.finditer(separator, line)]
    return list(dict.fromkeys((line[:start].strip(), line[end:].strip()) for start, end in places))
