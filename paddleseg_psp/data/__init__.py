from paddleseg_psp.data.checked import CheckedDataset, read_image
from paddleseg_psp.data.cityscapes import Cityscapes
from paddleseg_psp.data.loader import load_batches

__all__ = ["CheckedDataset", "Cityscapes", "load_batches", "read_image"]
