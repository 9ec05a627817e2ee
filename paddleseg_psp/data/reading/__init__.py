from paddleseg_psp.data.reading.checked import CheckedDataset, checked
from paddleseg_psp.data.reading.decoding import read_image
from paddleseg_psp.data.reading.loader import load_batches
from paddleseg_psp.data.reading.sampler import SeededDataset, TrainingSampler

__all__ = ["CheckedDataset", "SeededDataset", "TrainingSampler", "checked", "load_batches", "read_image"]
