"""Backbones of this package; ResNet18_vd, ResNet50_vd, ResNet101_vd and others come from paddleseg."""

from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_psp.models.backbones.resnet import DEPTHS, STRIDES_AND_DILATIONS, ResNet, ResNet50_v1c, ResNet101_v1c

__all__ = ["DEPTHS", "STRIDES_AND_DILATIONS", "ResNet", "ResNet50_v1c", "ResNet101_v1c", "output_stride"]


@paddle.no_grad()
def output_stride(backbone: nn.Layer, index: int) -> int:
    """Returns the number of image pixels per position of feature map `index`, measured on a small input."""
    side, was_training = 64, backbone.training
    channels = next(parameter.shape[1] for parameter in backbone.parameters() if parameter.ndim == 4)
    backbone.eval()
    height = backbone(paddle.zeros([1, channels, side, side]))[index].shape[2]
    if was_training:
        backbone.train()
    return side // height
