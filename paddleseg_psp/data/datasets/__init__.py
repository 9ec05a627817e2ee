from paddleseg_psp.data.datasets.ade20k import ADE20K
from paddleseg_psp.data.datasets.cityscapes import Cityscapes
from paddleseg_psp.data.datasets.listed import Dataset
from paddleseg_psp.data.datasets.paired import PairedDataset
from paddleseg_psp.data.datasets.pascal_voc import PascalVOC

__all__ = ["ADE20K", "Cityscapes", "Dataset", "PairedDataset", "PascalVOC"]
