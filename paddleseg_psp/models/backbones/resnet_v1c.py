"""ResNet with a deep stem, as semseg and mmsegmentation use it under PSPNet and PSANet."""

from paddle import nn
from paddleseg.models.layers import SyncBatchNorm

from paddleseg_psp.models.weights import load_weights
from paddleseg_psp.registry import register


class Bottleneck(nn.Layer):
    """1×1, 3×3 (with the stride and the dilation), 1×1 convolutions beside a shortcut: [N, C, H, W] -> [N, 4*width, H', W']."""

    def __init__(self, in_channels, width, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, width, 1, bias_attr=False)
        self.bn1 = SyncBatchNorm(width)
        self.conv2 = nn.Conv2D(width, width, 3, stride, padding=dilation, dilation=dilation, bias_attr=False)
        self.bn2 = SyncBatchNorm(width)
        self.conv3 = nn.Conv2D(width, 4 * width, 1, bias_attr=False)
        self.bn3 = SyncBatchNorm(4 * width)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2D(in_channels, 4 * width, 1, stride, bias_attr=False), SyncBatchNorm(4 * width)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetV1c(nn.Layer):
    """ResNet (He et al., CVPR 2016) with three 3×3 stem convolutions and dilated last stages.

    Args:
        depths (sequence of int): blocks of the four stages.
        output_stride (int): 8 or 16; stages beyond it are dilated instead of strided.
        in_channels (int): channels of the image.
        base_channels (int): width of the first stage's bottleneck.
        stem_channels (int): channels after the stem, twice those inside it. mmsegmentation has 64, semseg 128.
        contract_dilation (bool): halve the dilation of a dilated stage's first block, as mmsegmentation does; semseg does not.
        pretrained (str|None): path or URL of weights.

    Returns of forward: the feature maps of the four stages; `feat_channels` lists their channels.
    """

    def __init__(
        self,
        depths,
        output_stride=8,
        in_channels=3,
        base_channels=64,
        stem_channels=64,
        contract_dilation=False,
        pretrained=None,
    ):
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, not {output_stride}")
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if output_stride == 8 else ((1, 2, 2, 1), (1, 1, 1, 2))
        inner = stem_channels // 2
        self.stem = nn.Sequential(
            *self._stem_layer(in_channels, inner, 2),
            *self._stem_layer(inner, inner, 1),
            *self._stem_layer(inner, stem_channels, 1),
        )
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        self.feat_channels = [4 * base_channels * 2**stage for stage in range(4)]
        channels = stem_channels
        for stage, (depth, stride, dilation) in enumerate(zip(depths, strides, dilations)):
            first_dilation = dilation // 2 if contract_dilation and dilation > 1 else dilation
            width = base_channels * 2**stage
            blocks = [Bottleneck(channels, width, stride, first_dilation)]
            blocks += [Bottleneck(4 * width, width, 1, dilation) for _ in range(depth - 1)]
            self.add_sublayer(f"layer{stage + 1}", nn.Sequential(*blocks))
            channels = 4 * width
        if pretrained is not None:
            load_weights(self, pretrained)

    @staticmethod
    def _stem_layer(in_channels, out_channels, stride):
        conv = nn.Conv2D(in_channels, out_channels, 3, stride, padding=1, bias_attr=False)
        return conv, SyncBatchNorm(out_channels), nn.ReLU()

    def forward(self, x):
        x = self.maxpool(self.stem(x))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


@register
def ResNet50_v1c(**options):
    """ResNet-50 with a deep stem; options as for `ResNetV1c`."""
    return ResNetV1c((3, 4, 6, 3), **options)


@register
def ResNet101_v1c(**options):
    """ResNet-101 with a deep stem; options as for `ResNetV1c`."""
    return ResNetV1c((3, 4, 23, 3), **options)
