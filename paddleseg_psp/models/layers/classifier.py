"""The classifiers of both networks."""

from __future__ import annotations

from paddle import nn
from paddleseg.models.layers import AuxLayer


def dropout_layer(rate: float, of_channels: bool) -> nn.Layer:
    """Returns a dropout of single values, or of whole channels, like semseg and mmsegmentation."""
    return nn.Dropout2D(rate) if of_channels else nn.Dropout(rate)


class Classifier(AuxLayer):
    """A 3×3 convolution, dropout and a 1×1 convolution to the classes: [N, C, H, W] -> [N, num_classes, H, W].

    Args:
        in_channels, channels, num_classes: of the input, between the convolutions, and of the logits.
        dropout_rate (float), channel_dropout (bool): see `dropout_layer`.
        conv_bias: a bias in front of the normalization, without effect; PaddleSeg's PSPNet has it.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dropout_rate: float, channel_dropout: bool, conv_bias: bool
    ) -> None:
        super().__init__(in_channels, channels, num_classes, bias_attr=None if conv_bias else False)
        self.dropout = dropout_layer(dropout_rate, channel_dropout)
