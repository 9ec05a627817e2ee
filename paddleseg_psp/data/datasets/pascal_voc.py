"""PASCAL VOC 2012 with the additional labels of SBD (Hariharan et al., Semantic Contours from Inverse Detectors, 2011)."""

from __future__ import annotations

import os

from paddleseg.utils.visualize import get_color_map_list

from paddleseg_psp.data.datasets.paired import PairedDataset, require_folder, require_labels, require_mode
from paddleseg_psp.data.reading.lists import read_list
from paddleseg_psp.registry import register

CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_COLORS = get_color_map_list(256)  # one flat list; VOC's colors without the first, black
PALETTE = ((0, 0, 0), *(tuple(_COLORS[3 * index : 3 * index + 3]) for index in range(len(CLASS_NAMES) - 1)))


@register
class PascalVOC(PairedDataset):
    """PASCAL VOC 2012 in its own layout.

        <dataset_root>/VOC2012/JPEGImages/<name>.jpg
        <dataset_root>/VOC2012/SegmentationClass/<name>.png
        <dataset_root>/VOC2012/SegmentationClassAug/<name>.png      (tools/data/voc_aug.py makes these two)
        <dataset_root>/VOC2012/ImageSets/Segmentation/<mode>.txt

    Args:
        transforms: a list of transforms, see paddleseg.transforms.
        dataset_root: the folder VOCdevkit.
        mode: "train" (1,464 images), "trainval" (2,913), "trainaug" (10,582: train, then what SBD adds) or "val" (1,449).
        cache: keep all decoded images and labels in memory.

    Raises:
        UserError: a missing folder or list, or an image without label.
    """

    NUM_CLASSES = 21
    CLASS_NAMES = CLASS_NAMES
    PALETTE = PALETTE

    def __init__(
        self, transforms: list, dataset_root: str = "data/VOCdevkit", mode: str = "train", cache: bool = False
    ) -> None:
        require_mode(mode, ("train", "trainval", "trainaug", "val"))
        self.dataset_root = dataset_root
        root = os.path.join(dataset_root, "VOC2012")
        require_folder(root, "PASCAL VOC 2012")
        lists = os.path.join(root, "ImageSets", "Segmentation")
        parts = {mode: "SegmentationClass"}
        if mode == "trainaug":
            parts = {"train": "SegmentationClass", "aug": "SegmentationClassAug"}
        pairs = []
        for part, labels in parts.items():
            for name in read_list(os.path.join(lists, f"{part}.txt")):
                image, label = os.path.join(root, "JPEGImages", f"{name}.jpg"), os.path.join(root, labels, f"{name}.png")
                pairs.append((image, label))
        require_labels(pairs, "those of SBD are made by python tools/data/voc_aug.py")
        super().__init__(pairs, transforms, mode, cache)
