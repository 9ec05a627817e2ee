"""Cityscapes, its classes and its official label table."""

import glob
import os

from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose

from paddleseg_psp.errors import UserError
from paddleseg_psp.registry import register

CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


@register
class Cityscapes(Dataset):
    """Cityscapes in its own layout, images paired with labels by name (paddleseg pairs two sorted lists).

        <dataset_root>/leftImg8bit/<mode>/<city>/<name>_leftImg8bit.png
        <dataset_root>/gtFine/<mode>/<city>/<name>_gtFine_labelTrainIds.png

    Args:
        transforms (list): transforms, see paddleseg.transforms.
        dataset_root (str): the folder.
        mode (str): "train", "val", or "test", which needs no labels.

    Raises:
        UserError: a missing folder, no images, or an image without label.
    """

    NUM_CLASSES = 19
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3
    CLASS_NAMES = CLASS_NAMES
    PALETTE = PALETTE

    def __init__(self, transforms, dataset_root, mode="train"):
        if mode not in ("train", "val", "test"):
            raise UserError(f"mode must be train, val or test, not {mode!r}")
        self.dataset_root = dataset_root
        self.transforms = Compose(transforms)
        self.mode = mode
        self.num_classes = self.NUM_CLASSES
        self.ignore_index = self.IGNORE_INDEX
        self.edge = False
        self.file_list = self._pairs(os.path.join(dataset_root, "leftImg8bit", mode))

    def _pairs(self, image_folder):
        if not os.path.isdir(image_folder):
            raise UserError(
                f"there is no folder {image_folder}; put Cityscapes there (README, section 'Real Cityscapes'), or set "
                "dataset_root to where it is"
            )
        images = sorted(glob.glob(os.path.join(glob.escape(image_folder), "*", "*_leftImg8bit.png")))
        if not images:
            raise UserError(f"there is no image */*_leftImg8bit.png below {image_folder}")
        pairs = [[image, _label_path(self.dataset_root, self.mode, image)] for image in images]
        missing = [pair for pair in pairs if not os.path.isfile(pair[1])]
        if missing and self.mode != "test":
            image, label = missing[0]
            raise UserError(
                f"{len(missing)} of {len(images)} images have no label, e.g. {image} needs {label}; labelTrainIds files are "
                "made from Cityscapes' own by csCreateTrainIdLabelImgs of the package cityscapesScripts"
            )
        return pairs


def _label_path(root, mode, image):
    city = os.path.basename(os.path.dirname(image))
    name = os.path.basename(image).replace("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    return os.path.join(root, "gtFine", mode, city, name)
