"""PSPNet: pyramid scene parsing network."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from paddleseg_psp.models.layers import Classifier, PyramidPooling, dropout_layer
from paddleseg_psp.models.segmentor import Segmentor
from paddleseg_psp.registry import register


class PSPNetHead(nn.Layer):
    """Pyramid pooling and a classifier on the main feature map, a convolutional classifier on the auxiliary one."""

    def __init__(
        self, pyramid: nn.Layer, num_classes: int, out_channels: int, dropout: nn.Layer, auxlayer: nn.Layer | None
    ) -> None:
        super().__init__()
        self.psp_module = pyramid
        self.dropout = dropout
        self.conv = nn.Conv2D(out_channels, num_classes, kernel_size=1)
        self.auxlayer = auxlayer

    def forward(self, auxiliary: Tensor, main: Tensor) -> list[Tensor]:
        logits = [self.conv(self.dropout(self.psp_module(main)))]
        if self.training and self.auxlayer is not None:
            logits.append(self.auxlayer(auxiliary))
        return logits


@register
class PSPNet(Segmentor):
    """PSPNet (Zhao et al., CVPR 2017): [N, 3, H, W] -> list of logits [N, num_classes, H, W].

    Parameter names are those of PaddleSeg's PSPNet. The auxiliary logits are there in training only.

    Args:
        num_classes: number of classes.
        backbone: a layer that returns a list of feature maps and lists their channels in `feat_channels`.
        backbone_indices: which feature maps the auxiliary and the main head take.
        pp_out_channels: channels in front of the classifier.
        bin_sizes: cells per side of each pyramid level; [] turns pyramid pooling off.
        enable_auxiliary_loss: train an auxiliary classifier.
        dropout: probability in front of both classifiers.
        align_corners: align corners in all resizing; True suits sizes 8k + 1, False even sizes.
        pretrained: path or URL of weights for the whole network.
        branch_channels: channels of each pyramid level; None divides the backbone's channels by the number of levels.
        aux_channels: channels inside the auxiliary classifier; None means a quarter of its input channels.
        conv_bias: give convolutions in front of normalizations a bias, without effect; PaddleSeg has them, semseg does not.
        channel_dropout: drop whole channels, like semseg and mmsegmentation.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        backbone_indices: Sequence[int] = (2, 3),
        pp_out_channels: int = 1024,
        bin_sizes: Sequence[int | None] = (1, 2, 3, 6),
        enable_auxiliary_loss: bool = True,
        dropout: float = 0.1,
        align_corners: bool = False,
        pretrained: str | None = None,
        branch_channels: int | None = None,
        aux_channels: int | None = None,
        conv_bias: bool = True,
        channel_dropout: bool = False,
    ) -> None:
        super().__init__(backbone, backbone_indices, align_corners)
        auxiliary, main = self.feature_channels
        pyramid = PyramidPooling(
            main, pp_out_channels, bin_sizes, align_corners=align_corners, branch_channels=branch_channels, conv_bias=conv_bias
        )
        auxlayer = None
        if enable_auxiliary_loss:
            aux_channels = aux_channels or auxiliary // 4
            auxlayer = Classifier(auxiliary, aux_channels, num_classes, dropout, channel_dropout, conv_bias)
        self.head = PSPNetHead(pyramid, num_classes, pp_out_channels, dropout_layer(dropout, channel_dropout), auxlayer)
        self.load_pretrained(pretrained)

    def logits(self, auxiliary: Tensor, main: Tensor) -> list[Tensor]:
        return self.head(auxiliary, main)
