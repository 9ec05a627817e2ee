from paddleseg_psp.data.transforms.colors import PhotoMetricDistortion, RandomDistort, RandomGaussianBlur, SwapRedAndBlue
from paddleseg_psp.data.transforms.geometry import PadShortSides, RandomPaddingCrop, RandomRotate
from paddleseg_psp.data.transforms.paddleseg import RandomAffine, ScalePadding
from paddleseg_psp.data.transforms.pipeline import Pipeline

__all__ = [
    "PadShortSides",
    "PhotoMetricDistortion",
    "Pipeline",
    "RandomAffine",
    "RandomDistort",
    "RandomGaussianBlur",
    "RandomPaddingCrop",
    "RandomRotate",
    "ScalePadding",
    "SwapRedAndBlue",
]
