from paddleseg_psp.data.datasets import ADE20K, Cityscapes, Dataset, PairedDataset, PascalVOC
from paddleseg_psp.data.reading import CheckedDataset, SeededDataset, TrainingSampler, checked, load_batches, read_image
from paddleseg_psp.data.transforms import RandomAffine, ScalePadding

__all__ = [
    "ADE20K",
    "CheckedDataset",
    "Cityscapes",
    "Dataset",
    "PairedDataset",
    "PascalVOC",
    "RandomAffine",
    "ScalePadding",
    "SeededDataset",
    "TrainingSampler",
    "checked",
    "load_batches",
    "read_image",
]
