from paddleseg_psp.models.layers.batch_norm import freeze_batch_norm
from paddleseg_psp.models.layers.classifier import Classifier, dropout_layer
from paddleseg_psp.models.layers.point_wise_attention import PointWiseSpatialAttention, covering_mask_size
from paddleseg_psp.models.layers.pyramid_pooling import PyramidPooling
from paddleseg_psp.models.layers.resize import resize, spatial_size

__all__ = [
    "Classifier",
    "PointWiseSpatialAttention",
    "PyramidPooling",
    "covering_mask_size",
    "dropout_layer",
    "freeze_batch_norm",
    "resize",
    "spatial_size",
]
