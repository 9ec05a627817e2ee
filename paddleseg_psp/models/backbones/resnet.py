"""ResNet like semseg's, mmsegmentation's and torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor, nn
from paddleseg.models.layers import SyncBatchNorm

from paddleseg_psp.models.weights import load_weights
from paddleseg_psp.registry import register

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STYLES = ("pytorch", "caffe")
STRIDES_AND_DILATIONS = {  # of the four stages, by output stride
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


class _Block(nn.Layer):
    """Some convolutions beside a shortcut: [N, C, H, W] -> [N, expansion * width, H', W']."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2D(in_channels, out_channels, 1, stride, bias_attr=False), SyncBatchNorm(out_channels)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + shortcut)


class BasicBlock(_Block):
    """Two 3×3 convolutions, of which the first has the stride and the dilation."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__(in_channels, width, stride)
        self.conv1 = nn.Conv2D(in_channels, width, 3, stride, padding=dilation, dilation=dilation, bias_attr=False)
        self.bn1 = SyncBatchNorm(width)
        self.conv2 = nn.Conv2D(width, width, 3, padding=1, bias_attr=False)
        self.bn2 = SyncBatchNorm(width)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    """1×1, 3×3 (with the dilation), 1×1 convolutions; the 3×3 one has the stride, in Caffe's style the first one."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, style: str = "pytorch") -> None:
        super().__init__(in_channels, 4 * width, stride)
        strides = (1, stride) if style == "pytorch" else (stride, 1)
        self.conv1 = nn.Conv2D(in_channels, width, 1, strides[0], bias_attr=False)
        self.bn1 = SyncBatchNorm(width)
        self.conv2 = nn.Conv2D(width, width, 3, strides[1], padding=dilation, dilation=dilation, bias_attr=False)
        self.bn2 = SyncBatchNorm(width)
        self.conv3 = nn.Conv2D(width, 4 * width, 1, bias_attr=False)
        self.bn3 = SyncBatchNorm(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))


class ResNet(nn.Layer):
    """ResNet (He et al., CVPR 2016) with dilated last stages.

    It returns the feature maps of the four stages; `feat_channels` lists their channels.

    Args:
        depth: 18, 34, 50, 101 or 152.
        output_stride: 8, 16 or 32; stages beyond it are dilated instead of strided.
        in_channels: channels of the image.
        base_channels: width of the first stage's blocks.
        deep_stem: three 3×3 convolutions at the start ("v1c") instead of one 7×7 ("v1b", torchvision's).
        stem_channels: channels after the stem; inside a deep one there are half as many. mmsegmentation has 64, semseg
            128.
        dilations: dilations of the four stages; None means those that the output stride needs.
        contract_dilation: halve the dilation of a dilated stage's first block, as mmsegmentation does; semseg does not.
        style: "pytorch" or "caffe": whether a bottleneck's 3×3 or first 1×1 convolution has the stride; below depth 50 both
            are the same.
        pretrained: path or URL of weights.

    Raises:
        ValueError: a depth, output stride or style outside the allowed ones.
    """

    def __init__(
        self,
        depth: int,
        output_stride: int = 8,
        in_channels: int = 3,
        base_channels: int = 64,
        deep_stem: bool = True,
        stem_channels: int = 64,
        dilations: Sequence[int] | None = None,
        contract_dilation: bool = False,
        style: str = "pytorch",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("depth", depth, DEPTHS),
            ("output_stride", output_stride, STRIDES_AND_DILATIONS),
            ("style", style, STYLES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value}")
        self._add_stem(in_channels, stem_channels, deep_stem)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        block = BasicBlock if depth < 50 else Bottleneck
        options = {} if depth < 50 else {"style": style}
        self.feat_channels = [block.expansion * base_channels * 2**stage for stage in range(4)]
        strides, needed = STRIDES_AND_DILATIONS[output_stride]
        channels = stem_channels
        for stage, (blocks, stride, dilation) in enumerate(zip(DEPTHS[depth], strides, dilations or needed)):
            first_dilation = dilation // 2 if contract_dilation and dilation > 1 else dilation
            width, out_channels = base_channels * 2**stage, self.feat_channels[stage]
            layers = [block(channels, width, stride, first_dilation, **options)]
            layers += [block(out_channels, width, 1, dilation, **options) for _ in range(blocks - 1)]
            self.add_sublayer(f"layer{stage + 1}", nn.Sequential(*layers))
            channels = out_channels
        if pretrained is not None:
            load_weights(self, pretrained)

    def _add_stem(self, in_channels, stem_channels, deep):
        self.stem = None
        if not deep:
            self.conv1 = nn.Conv2D(in_channels, stem_channels, 7, 2, padding=3, bias_attr=False)
            self.bn1 = SyncBatchNorm(stem_channels)
            self.relu = nn.ReLU()
            return
        inner, layers = stem_channels // 2, []
        for inputs, outputs, stride in ((in_channels, inner, 2), (inner, inner, 1), (inner, stem_channels, 1)):
            layers.append(nn.Conv2D(inputs, outputs, 3, stride, padding=1, bias_attr=False))
            layers += [SyncBatchNorm(outputs), nn.ReLU()]
        self.stem = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.stem(x) if self.stem is not None else self.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


@register
def ResNet18_v1b(**options: Any) -> ResNet:
    """ResNet-18; options as for `ResNet`."""
    return ResNet(18, deep_stem=False, **options)


@register
def ResNet18_v1c(**options: Any) -> ResNet:
    """ResNet-18 with a deep stem; options as for `ResNet`."""
    return ResNet(18, deep_stem=True, **options)


@register
def ResNet34_v1b(**options: Any) -> ResNet:
    """ResNet-34; options as for `ResNet`."""
    return ResNet(34, deep_stem=False, **options)


@register
def ResNet34_v1c(**options: Any) -> ResNet:
    """ResNet-34 with a deep stem; options as for `ResNet`."""
    return ResNet(34, deep_stem=True, **options)


@register
def ResNet50_v1b(**options: Any) -> ResNet:
    """ResNet-50; options as for `ResNet`."""
    return ResNet(50, deep_stem=False, **options)


@register
def ResNet50_v1c(**options: Any) -> ResNet:
    """ResNet-50 with a deep stem; options as for `ResNet`."""
    return ResNet(50, deep_stem=True, **options)


@register
def ResNet101_v1b(**options: Any) -> ResNet:
    """ResNet-101; options as for `ResNet`."""
    return ResNet(101, deep_stem=False, **options)


@register
def ResNet101_v1c(**options: Any) -> ResNet:
    """ResNet-101 with a deep stem; options as for `ResNet`."""
    return ResNet(101, deep_stem=True, **options)


@register
def ResNet152_v1b(**options: Any) -> ResNet:
    """ResNet-152; options as for `ResNet`."""
    return ResNet(152, deep_stem=False, **options)


@register
def ResNet152_v1c(**options: Any) -> ResNet:
    """ResNet-152 with a deep stem; options as for `ResNet`."""
    return ResNet(152, deep_stem=True, **options)
