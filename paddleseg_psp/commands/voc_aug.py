"""Join SBD's labels to PASCAL VOC 2012: SegmentationClassAug and the lists trainaug.txt (10,582 images) and aug.txt (9,118).

python tools/data/voc_aug.py data/VOCdevkit data/VOCdevkit/VOCaug --nproc 8

The first folder has VOC2012/, the second SBD's dataset/ (cls/*.mat, train.txt, val.txt), as benchmark.tgz unpacks to. trainaug
is VOC's train and all of SBD, without VOC's val. SegmentationClassAug gets the labels of SBD, and VOC's own where SBD has none;
`type: PascalVOC, mode: trainaug` reads VOC's own labels for VOC's train, as mmsegmentation and PaddleSeg do.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence

import numpy as np
from scipy.io import loadmat

from paddleseg_psp.commands.run import run
from paddleseg_psp.data.datasets.pascal_voc import CLASS_NAMES, PALETTE
from paddleseg_psp.data.preparation.labels import make_labels, write_lines
from paddleseg_psp.data.reading.decoding import read_label_values
from paddleseg_psp.data.reading.lists import read_list
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.visual import color_map

REAL_COUNT = 10582  # images of trainaug when both data sets are whole


def read_label(path: str) -> np.ndarray:
    """Returns the classes [H, W] uint8 of VOC's palette PNG or SBD's .mat."""
    if path.endswith(".png"):
        return read_label_values(path)
    return loadmat(path, variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0].astype(np.uint8)


def names(folder: str, *lists: str) -> set[str]:
    return {name for item in lists for name in read_list(os.path.join(folder, f"{item}.txt"))}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Join SBD's labels to PASCAL VOC 2012.")
    parser.add_argument("devkit_path", nargs="?", default="data/VOCdevkit", help="the folder with VOC2012")
    parser.add_argument("aug_path", nargs="?", help="the folder with SBD's dataset/ (default: <devkit_path>/VOCaug)")
    parser.add_argument("--nproc", "--num_workers", type=int, default=os.cpu_count(), help="processes")
    run(join, parser, argv)


def join(args: argparse.Namespace) -> None:
    voc = os.path.join(args.devkit_path, "VOC2012")
    sbd = os.path.join(args.aug_path or os.path.join(args.devkit_path, "VOCaug"), "dataset")
    lists = os.path.join(voc, "ImageSets", "Segmentation")
    for folder, archive in (
        (os.path.join(voc, "SegmentationClass"), "VOCtrainval_11-May-2012.tar"),
        (os.path.join(sbd, "cls"), "benchmark.tgz"),
    ):
        if not os.path.isdir(folder):
            raise UserError(f"there is no folder {folder}: unpack {archive}")
    train, val, added = names(lists, "train"), names(lists, "val"), names(sbd, "train", "val")
    own = {
        os.path.basename(path)[:-4]: path for path in glob.glob(os.path.join(glob.escape(voc), "SegmentationClass", "*.png"))
    }
    mats = {os.path.basename(path)[:-4]: path for path in glob.glob(os.path.join(glob.escape(sbd), "cls", "*.mat"))}
    trainaug = (train | added) - val
    sources = {**own, **mats}
    missing = sorted(trainaug - sources.keys())
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(trainaug)} images of trainaug have no label, e.g. {missing[0]}.mat in {sbd}/cls"
        )
    folder = os.path.join(voc, "SegmentationClassAug")
    tasks = [(sources[name], os.path.join(folder, f"{name}.png")) for name in sorted(mats.keys() | trainaug)]
    make_labels(tasks, read_label, {*range(len(CLASS_NAMES)), 255}, args.nproc, color_map(PALETTE))
    write_lines(os.path.join(lists, "trainaug.txt"), sorted(trainaug))
    write_lines(os.path.join(lists, "aug.txt"), sorted(trainaug - train))
    note = "" if len(trainaug) == REAL_COUNT else f" (the whole data sets give {REAL_COUNT})"
    logger.info(f"trainaug.txt has {len(trainaug)} images{note}, aug.txt {len(trainaug - train)}")
