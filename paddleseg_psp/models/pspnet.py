"""PSPNet: pyramid scene parsing network."""

from paddle import nn
from paddleseg.models.layers import AuxLayer

from paddleseg_psp.models.layers import PyramidPooling
from paddleseg_psp.models.segmentor import Segmentor
from paddleseg_psp.registry import register


class PSPNetHead(nn.Layer):
    """Pyramid pooling and a classifier on the main feature map, a convolutional classifier on the auxiliary one."""

    def __init__(self, num_classes, channels, pp_out_channels, bin_sizes, enable_auxiliary_loss, dropout, align_corners):
        super().__init__()
        auxiliary_channels, main_channels = channels
        self.psp_module = PyramidPooling(main_channels, pp_out_channels, bin_sizes, align_corners=align_corners)
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv2D(pp_out_channels, num_classes, kernel_size=1)
        self.auxlayer = None
        if enable_auxiliary_loss:
            self.auxlayer = AuxLayer(auxiliary_channels, auxiliary_channels // 4, num_classes, dropout_prob=dropout)

    def forward(self, auxiliary, main):
        logits = [self.conv(self.dropout(self.psp_module(main)))]
        if self.training and self.auxlayer is not None:
            logits.append(self.auxlayer(auxiliary))
        return logits


@register
class PSPNet(Segmentor):
    """PSPNet (Zhao et al., CVPR 2017): [N, 3, H, W] -> list of logits [N, num_classes, H, W].

    Parameter names are those of PaddleSeg's PSPNet. The auxiliary logits are there in training only.

    Args:
        num_classes (int): classes.
        backbone (Layer): see `Segmentor`.
        backbone_indices: feature maps of the auxiliary and of the main head.
        pp_out_channels (int): channels in front of the classifier.
        bin_sizes: cells per side of the pyramid's levels; [] turns pyramid pooling off.
        enable_auxiliary_loss (bool): train an auxiliary classifier.
        dropout (float): in front of both classifiers.
        align_corners (bool): in all resizing; True suits sizes 8k + 1, False even sizes.
        pretrained (str|None): path or URL of weights for the whole network.
    """

    def __init__(
        self,
        num_classes,
        backbone,
        backbone_indices=(2, 3),
        pp_out_channels=1024,
        bin_sizes=(1, 2, 3, 6),
        enable_auxiliary_loss=True,
        dropout=0.1,
        align_corners=False,
        pretrained=None,
    ):
        super().__init__(backbone, backbone_indices, align_corners)
        self.head = PSPNetHead(
            num_classes,
            self.feature_channels,
            pp_out_channels,
            bin_sizes,
            enable_auxiliary_loss,
            dropout,
            align_corners,
        )
        self.load_pretrained(pretrained)

    def logits(self, auxiliary, main):
        return self.head(auxiliary, main)
