"""Small data in the layout of real data sets, as they are downloaded."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

from paddleseg_psp.data.datasets.pascal_voc import PALETTE


def make_cityscapes(root):
    """Makes two images, one with label ids and one with polygons only. Returns those ids, and the path of the polygons."""
    numbers = np.random.RandomState(0)
    for split, city, name in (("train", "aachen", "aachen_000000_000019"), ("val", "münster", "münster_000001_000019")):
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / city).mkdir(parents=True)
        image = Image.fromarray(numbers.randint(0, 255, (40, 60, 3), dtype=np.uint8))
        image.save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
    ids = np.arange(40 * 60).reshape(40, 60).astype(np.uint8) % 34
    Image.fromarray(ids).save(root / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png")
    objects = [
        {"label": "sky", "polygon": [[0, 0], [59, 0], [59, 39], [0, 39]]},
        {"label": "road", "polygon": [[0, 20], [59, 20], [59, 39], [0, 39]]},
        {"label": "cargroup", "polygon": [[10, 10], [30, 10], [30, 29], [10, 29]]},
        {"label": "license plate", "polygon": [[12, 20], [16, 20], [16, 24], [12, 24]]},
        {"label": "ego vehicle", "polygon": [[0, 35], [59, 35], [59, 39], [0, 39]]},
    ]
    content = {"imgHeight": 40, "imgWidth": 60, "objects": objects}
    path = root / "gtFine" / "val" / "münster" / "münster_000001_000019_gtFine_polygons.json"
    path.write_text(json.dumps(content))
    return ids, path


def make_voc(devkit):
    """Makes eight images: 0 and 1 in VOC's train, 2 in its val; 1 to 7 in SBD. Returns their names and labels."""
    numbers = np.random.RandomState(0)
    root, sbd = devkit / "VOC2012", devkit / "VOCaug" / "dataset"
    for folder in (root / "JPEGImages", root / "SegmentationClass", root / "ImageSets" / "Segmentation", sbd / "cls"):
        folder.mkdir(parents=True)
    names, labels = [f"2008_{number:06}" for number in range(8)], {}
    for number, name in enumerate(names):
        Image.fromarray(numbers.randint(0, 255, (30, 50, 3), dtype=np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        if number < 3:
            label = numbers.randint(0, 21, (30, 50), dtype=np.uint8)
            label[:2] = 255
            image = Image.fromarray(label)
            image.putpalette(np.resize(np.array(PALETTE, np.uint8), (256, 3)).tobytes())
            image.save(root / "SegmentationClass" / f"{name}.png")
            labels["voc", name] = label
        if number > 0:
            label = numbers.randint(0, 21, (30, 50), dtype=np.uint8)
            parts = {"Boundaries": np.zeros(20, object), "Segmentation": label, "CategoriesPresent": np.unique(label)}
            savemat(sbd / "cls" / f"{name}.mat", {"GTcls": parts})
            labels["sbd", name] = label
    lists = root / "ImageSets" / "Segmentation"
    for path, chosen in (
        (lists / "train.txt", names[:2]),
        (lists / "val.txt", names[2:3]),
        (lists / "trainval.txt", names[:3]),
        (sbd / "train.txt", names[1:5]),
        (sbd / "val.txt", names[5:]),
    ):
        path.write_text("".join(f"{name}\n" for name in chosen))
    return names, labels


def make_ade(root):
    """Makes one image of training, with all classes. Returns its label."""
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            (root / kind / split).mkdir(parents=True)
    label = np.arange(151, dtype=np.uint8)[:150].reshape(10, 15)
    label[0, 0], label[9, 14] = 0, 150
    Image.fromarray(np.zeros((10, 15, 3), np.uint8)).save(root / "images" / "training" / "ADE_train_00000001.jpg")
    Image.fromarray(label).save(root / "annotations" / "training" / "ADE_train_00000001.png")
    return label
