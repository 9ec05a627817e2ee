"""PSPNet-R50 in PyTorch, layer for layer this package's PSPNet on ResNet50_v1c: what benchmarks compare with."""

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn_relu(in_channels, out_channels, kernel, stride=1, dilation=1, bias=False):
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    def __init__(self, in_channels, width, stride, dilation):
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(in_channels, width, 1),
            conv_bn_relu(width, width, 3, stride, dilation),
            conv_bn_relu(width, 4 * width, 1)[:2],
        )
        changes = stride != 1 or in_channels != 4 * width
        self.shortcut = conv_bn_relu(in_channels, 4 * width, 1, stride)[:2] if changes else nn.Identity()

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


class PSPNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, 32, 3, 2), conv_bn_relu(32, 32, 3), conv_bn_relu(32, 64, 3), nn.MaxPool2d(3, 2, 1)
        )
        channels, stages = 64, []
        for depth, width, stride, dilation in ((3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4)):
            blocks = [Bottleneck(channels, width, stride, dilation)]
            blocks += [Bottleneck(4 * width, width, 1, dilation) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = 4 * width
        self.stages = nn.ModuleList(stages)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv_bn_relu(2048, 512, 1, bias=True)) for bins in (1, 2, 3, 6)
        )
        self.fuse = conv_bn_relu(4096, 1024, 3, bias=True)
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(1024, classes, 1))
        self.auxiliary = nn.Sequential(conv_bn_relu(1024, 256, 3, bias=True), nn.Dropout(0.1), nn.Conv2d(256, classes, 1))

    def forward(self, x):
        size, features = x.shape[2:], []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        branches = [F.interpolate(branch(x), x.shape[2:], mode="bilinear", align_corners=False) for branch in self.branches]
        outputs = [self.classify(self.fuse(torch.cat([x, *branches[::-1]], 1)))]
        if self.training:
            outputs.append(self.auxiliary(features[2]))
        return [F.interpolate(output, size, mode="bilinear", align_corners=False) for output in outputs]
