from paddleseg_psp.data.checked import CheckedDataset, read_image
from paddleseg_psp.data.cityscapes import Cityscapes

__all__ = ["CheckedDataset", "Cityscapes", "read_image"]
