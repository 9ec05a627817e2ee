from paddleseg_psp.data.ade20k import ADE20K
from paddleseg_psp.data.checked import CheckedDataset, checked
from paddleseg_psp.data.cityscapes import Cityscapes
from paddleseg_psp.data.decoding import read_image
from paddleseg_psp.data.listed import Dataset
from paddleseg_psp.data.loader import load_batches
from paddleseg_psp.data.paddleseg_transforms import RandomAffine, ScalePadding
from paddleseg_psp.data.pascal_voc import PascalVOC
from paddleseg_psp.data.sampler import SeededDataset, TrainingSampler

__all__ = [
    "ADE20K",
    "CheckedDataset",
    "Cityscapes",
    "Dataset",
    "PascalVOC",
    "RandomAffine",
    "ScalePadding",
    "SeededDataset",
    "TrainingSampler",
    "checked",
    "load_batches",
    "read_image",
]
