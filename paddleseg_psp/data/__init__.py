from paddleseg_psp.data.checked import CheckedDataset, read_image
from paddleseg_psp.data.cityscapes import Cityscapes
from paddleseg_psp.data.loader import load_batches
from paddleseg_psp.data.sampler import SeededDataset, TrainingSampler

__all__ = ["CheckedDataset", "Cityscapes", "SeededDataset", "TrainingSampler", "load_batches", "read_image"]
