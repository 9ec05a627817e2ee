from paddleseg_psp.losses.cross_entropy import BootstrappedCrossEntropyLoss, CrossEntropyLoss, OhemCrossEntropyLoss
from paddleseg_psp.losses.regions import DiceLoss, LovaszHingeLoss, LovaszSoftmaxLoss, MixedLoss

__all__ = [
    "BootstrappedCrossEntropyLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MixedLoss",
    "OhemCrossEntropyLoss",
]
