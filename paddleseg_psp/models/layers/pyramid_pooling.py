"""The pyramid pooling module of PSPNet."""

import paddle
from paddle import nn
from paddleseg.models.layers import ConvBNReLU

from paddleseg_psp.models.layers.resize import resize, spatial_size


def averaging_matrix(bins, length, dtype):
    """Returns the matrix [bins, length] whose row i averages the positions of bin i of an adaptive average pooling.

    Bin i covers floor(i * length / bins) to ceil((i + 1) * length / bins), as in `adaptive_avg_pool2d`.
    `length` may be a scalar tensor of a static graph.
    """
    index = paddle.arange(bins, dtype="int64").unsqueeze(1)
    start = index * length // bins
    end = ((index + 1) * length + bins - 1) // bins
    position = paddle.arange(length, dtype="int64").unsqueeze(0)
    inside = paddle.logical_and(position >= start, position < end)
    return inside.astype(dtype) / (end - start).astype(dtype)


class AdaptiveAveragePooling(nn.Layer):
    """Averages x [N, C, H, W] into bins × bins cells -> [N, C, bins, bins].

    Adaptive average pooling is linear, so it is written as a product with an averaging matrix on each side. The exporter to
    ONNX gets `adaptive_avg_pool2d` wrong where H or W is no multiple of bins, and aborts on unknown sizes; products are exact.
    """

    def __init__(self, bins):
        super().__init__()
        self.bins = bins

    def forward(self, x):
        height, width = spatial_size(x)
        rows = averaging_matrix(self.bins, height, x.dtype)
        columns = averaging_matrix(self.bins, width, x.dtype)
        x = paddle.matmul(x, columns, transpose_y=True)  # [N, C, H, bins]
        x = paddle.matmul(x.transpose([0, 1, 3, 2]), rows, transpose_y=True)  # [N, C, bins (columns), bins (rows)]
        return x.transpose([0, 1, 3, 2])


class PyramidPooling(nn.Layer):
    """Pools at several scales, reduces, resizes back, concatenates with the input and fuses: [N, C, H, W] -> [N, out, H, W].

    Source: Zhao et al., Pyramid Scene Parsing Network (CVPR 2017), section 3.2. Parameter names and the order of concatenation
    (input, then the largest bin size first) are those of PaddleSeg's PPModule.

    Args:
        in_channels (int): C.
        out_channels (int): channels after the fusing 3×3 convolution.
        bin_sizes (sequence of int): cells per side at each scale; an empty one leaves the fusing convolution alone.
        dim_reduction (bool): reduce each branch to C / len(bin_sizes) channels.
        align_corners (bool): how branches are resized.
    """

    def __init__(self, in_channels, out_channels, bin_sizes=(1, 2, 3, 6), dim_reduction=True, align_corners=False):
        super().__init__()
        branch_channels = in_channels // max(len(bin_sizes), 1) if dim_reduction else in_channels
        self.stages = nn.LayerList(
            [
                nn.Sequential(AdaptiveAveragePooling(bins), ConvBNReLU(in_channels, branch_channels, kernel_size=1))
                for bins in bin_sizes
            ]
        )
        self.conv_bn_relu2 = ConvBNReLU(in_channels + branch_channels * len(bin_sizes), out_channels, kernel_size=3, padding=1)
        self.align_corners = align_corners

    def pyramid(self, x):
        """Returns the input and its pooled, resized branches, concatenated along the channels."""
        size = spatial_size(x)
        branches = [resize(stage(x), size, self.align_corners) for stage in self.stages]
        return paddle.concat([x] + branches[::-1], axis=1)

    def forward(self, x):
        return self.conv_bn_relu2(self.pyramid(x))
