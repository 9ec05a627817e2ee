"""ADE20K as of the scene parsing challenge 2016, 150 classes."""

import glob
import os

from paddleseg_psp.data.paired import PairedDataset, require_folder, require_labels, require_mode
from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register

_FOLDERS = {"train": "training", "val": "validation"}


@register
class ADE20K(PairedDataset):
    """ADE20K in its own layout. In its labels 0 means "other", which is ignored here, and 1 to 150 are the classes.

        <dataset_root>/images/training/<name>.jpg       (20,210 images; validation/ has 2,000)
        <dataset_root>/annotations/training/<name>.png
        <dataset_root>/objectInfo150.txt                (names of the classes, for reports)

    Args:
        transforms (list): transforms, see paddleseg.transforms.
        dataset_root (str): the folder ADEChallengeData2016.
        mode (str): "train" or "val".
        cache (bool): hold everything in memory, decoded.

    Raises:
        UserError: a missing folder, no images, or an image without label.
    """

    NUM_CLASSES = 150

    def __init__(self, transforms, dataset_root="data/ADEChallengeData2016", mode="train", cache=False):
        require_mode(mode, tuple(_FOLDERS))
        self.dataset_root = dataset_root
        folder = os.path.join(dataset_root, "images", _FOLDERS[mode])
        require_folder(folder, "ADEChallengeData2016")
        images = sorted(glob.glob(os.path.join(glob.escape(folder), "*.jpg")))
        if not images:
            raise UserError(f"there is no image *.jpg in {folder}")
        labels = os.path.join(dataset_root, "annotations", _FOLDERS[mode])
        pairs = [(image, os.path.join(labels, os.path.basename(image)[:-4] + ".png")) for image in images]
        require_labels(pairs, "unpack ADEChallengeData2016.zip whole")
        self.CLASS_NAMES = _class_names(os.path.join(dataset_root, "objectInfo150.txt"))
        super().__init__(pairs, transforms, mode, cache)

    @staticmethod
    def decode_label(label):
        """Returns the classes 0 to 149 of a label [H, W] uint8, and 255 where it has 0."""
        return label - 1  # uint8: 0 becomes 255


def _class_names(path):
    """Returns the first name of each class in the challenge's table, or None without one."""
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return tuple(row[-1].split(",")[0].strip() for row in rows if len(row) > 1) or None
