"""The classifiers of both networks."""

from paddle import nn
from paddleseg.models.layers import AuxLayer


def dropout_layer(rate, of_channels):
    """Returns a dropout of single values, or of whole channels, as semseg and mmsegmentation have it."""
    return nn.Dropout2D(rate) if of_channels else nn.Dropout(rate)


class Classifier(AuxLayer):
    """A 3×3 convolution, dropout and a 1×1 convolution to the classes: [N, C, H, W] -> [N, num_classes, H, W].

    Args:
        in_channels, channels, num_classes (int): of the input, between the convolutions, and of the logits.
        dropout_rate (float), channel_dropout (bool): see `dropout_layer`.
        conv_bias (bool): a bias in front of the normalization, without effect; PaddleSeg's PSPNet has it.
    """

    def __init__(self, in_channels, channels, num_classes, dropout_rate, channel_dropout, conv_bias):
        super().__init__(in_channels, channels, num_classes, bias_attr=None if conv_bias else False)
        self.dropout = dropout_layer(dropout_rate, channel_dropout)
