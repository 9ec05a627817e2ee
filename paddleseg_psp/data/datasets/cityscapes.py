"""Cityscapes, its classes and its official label table."""

from __future__ import annotations

import glob
import os

from paddleseg_psp.data.datasets.paired import PairedDataset, require_folder, require_labels, require_mode
from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register

CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
# The official table, in the order of label ids from 0; what is no class of CLASS_NAMES counts for nothing.
LABEL_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "caravan",
    "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
TRAIN_IDS = tuple(CLASS_NAMES.index(name) if name in CLASS_NAMES else 255 for name in LABEL_NAMES)
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


@register
class Cityscapes(PairedDataset):
    """Cityscapes in its own layout, images paired with labels by name (paddleseg pairs two sorted lists).

        <dataset_root>/leftImg8bit/<mode>/<city>/<name>_leftImg8bit.png
        <dataset_root>/gtFine/<mode>/<city>/<name>_gtFine_labelTrainIds.png

    Args:
        transforms: a list of transforms, see paddleseg.transforms.
        dataset_root: the folder of the data set.
        mode: "train", "val", or "test", which needs no labels.
        cache: keep all decoded images and labels in memory.

    Raises:
        UserError: a missing folder, no images, or an image without label.
    """

    NUM_CLASSES = 19
    CLASS_NAMES = CLASS_NAMES
    PALETTE = PALETTE

    def __init__(self, transforms: list, dataset_root: str, mode: str = "train", cache: bool = False) -> None:
        require_mode(mode, ("train", "val", "test"))
        self.dataset_root = dataset_root
        folder = os.path.join(dataset_root, "leftImg8bit", mode)
        require_folder(folder, "Cityscapes")
        images = sorted(glob.glob(os.path.join(glob.escape(folder), "*", "*_leftImg8bit.png")))
        if not images:
            raise UserError(f"there is no image */*_leftImg8bit.png below {folder}")
        pairs = [(image, _label_path(dataset_root, mode, image)) for image in images]
        if mode != "test":
            require_labels(pairs, "labelTrainIds files are made by python tools/data/convert_cityscapes.py")
        super().__init__(pairs, transforms, mode, cache)


def _label_path(root, mode, image):
    city = os.path.basename(os.path.dirname(image))
    name = os.path.basename(image).replace("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    return os.path.join(root, "gtFine", mode, city, name)
