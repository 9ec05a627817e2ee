"""The pyramid pooling module of PSPNet."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.models.layers import ConvBNReLU

from paddleseg_psp.models.layers.resize import resize, spatial_size


def averaging_matrix(bins: int, length: int | Tensor, dtype: str) -> Tensor:
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

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        height, width = spatial_size(x)
        rows = averaging_matrix(self.bins, height, x.dtype)
        columns = averaging_matrix(self.bins, width, x.dtype)
        x = paddle.matmul(x, columns, transpose_y=True)  # [N, C, H, bins]
        x = paddle.matmul(x.transpose([0, 1, 3, 2]), rows, transpose_y=True)  # [N, C, bins (columns), bins (rows)]
        return x.transpose([0, 1, 3, 2])


@paddle.jit.not_to_static  # plain Python on sizes
def resizing_matrix(length: int | Tensor, bins: int, align_corners: bool, dtype: str) -> Tensor:
    """Returns the matrix [length, 3 * bins] that resizes `bins` values linearly to `length`, three times over.

    The first third is resized and moved by one to the end, the last one by one to the start, zeros coming in: what the three
    rows (or columns) of a 3×3 kernel see of it. `length` may be a scalar tensor of a static graph.
    """
    exact = "float64" if dtype == paddle.float64 else "float32"  # half precision is too coarse for places
    place = paddle.arange(length, dtype="int64").unsqueeze(1) + paddle.arange(-1, 2, dtype="int64")  # [length, 3]
    inside = paddle.logical_and(place >= 0, place < length).astype(exact)
    place, cells = place.astype(exact), paddle.arange(bins, dtype="int64").astype(exact)
    if align_corners:
        steps = max(length - 1, 1) if isinstance(length, int) else paddle.clip(length - 1, min=1).astype(exact)
        source = place * (bins - 1) / steps
    else:
        source = (place + 0.5) * bins / (length if isinstance(length, int) else length.astype(exact)) - 0.5
    source = paddle.clip(source, 0, bins - 1)
    weights = F.relu(1 - paddle.abs(source.unsqueeze(2) - cells)) * inside.unsqueeze(2)  # [length, 3, bins]
    return weights.reshape([-1, 3 * bins]).astype(dtype)


class PyramidPooling(nn.Layer):
    """Pools at several scales, reduces, resizes back, concatenates with the input and fuses: [N, C, H, W] -> [N, out, H, W].

    `plain_forward` does this step by step; `forward` gives the same by `fused_pyramid` in less time.

    Source: Zhao et al., Pyramid Scene Parsing Network (CVPR 2017), section 3.2. Parameter names and the order of concatenation
    (input, then the largest bin size first) are those of PaddleSeg's PPModule.

    Args:
        in_channels: C.
        out_channels: channels after the fusing 3×3 convolution.
        bin_sizes: cells per side at each scale; none at all leaves the fusing convolution alone. A scale of None is
            not pooled, as the second one of MindSpore's PSPNet.
        align_corners: how branches are resized.
        branch_channels: channels of each branch; C / len(bin_sizes) by default.
        conv_bias: biases in front of the normalizations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bin_sizes: Sequence[int | None] = (1, 2, 3, 6),
        align_corners: bool = False,
        branch_channels: int | None = None,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        if branch_channels is None:
            branch_channels = in_channels // max(len(bin_sizes), 1)
        bias = {"bias_attr": None if conv_bias else False}
        self.stages = nn.LayerList(
            [
                nn.Sequential(
                    nn.Identity() if bins is None else AdaptiveAveragePooling(bins),
                    ConvBNReLU(in_channels, branch_channels, kernel_size=1, **bias),
                )
                for bins in bin_sizes
            ]
        )
        channels = in_channels + branch_channels * len(bin_sizes)
        self.conv_bn_relu2 = ConvBNReLU(channels, out_channels, kernel_size=3, padding=1, **bias)
        self.bin_sizes = tuple(bin_sizes)
        self.align_corners = align_corners

    def pyramid(self, x: Tensor) -> Tensor:
        """Returns the input and its pooled, resized branches, concatenated along the channels."""
        size = spatial_size(x)
        branches = [resize(stage(x), size, self.align_corners) for stage in self.stages]
        return paddle.concat([x] + branches[::-1], axis=1)

    def plain_forward(self, x: Tensor) -> Tensor:
        """Returns what `forward` returns, step by step as in the paper: pool, convolve, resize, concatenate, fuse."""
        return self.conv_bn_relu2(self.pyramid(x))

    def forward(self, x: Tensor) -> Tensor:
        fuse, branches = self.conv_bn_relu2, [stage(x) for stage in self.stages]
        fused = fused_pyramid(x, branches, self.bin_sizes, fuse._conv.weight, fuse._conv.bias, self.align_corners)
        return fuse._relu(fuse._batch_norm(fused))

    def own_multiply_adds(self, shape: Sequence[int], as_published: bool = False) -> int:
        """Returns the multiply-adds of fusing an input [N, C, H, W]: of the convolution on it, and of the branches' cells.

        As published, the branches are resized to H × W before they are fused.
        """
        batch, channels, height, width = shape
        out, all_channels = self.conv_bn_relu2._conv.weight.shape[:2]
        if as_published:
            return batch * out * all_channels * 9 * height * width
        per_output = channels * 9 * height * width
        for bins in self.bin_sizes:
            branch_channels, cells = (all_channels - channels) // len(self.bin_sizes), 3 * (bins or 0)
            per_output += branch_channels * cells**2 + cells**2 * width + cells * width * height
            per_output += 0 if bins else branch_channels * 9 * height * width
        return batch * out * per_output


def fused_pyramid(
    x: Tensor,
    branches: Sequence[Tensor],
    bin_sizes: Sequence[int | None],
    kernel: Tensor,
    bias: Tensor | None,
    align_corners: bool,
) -> Tensor:
    """Returns the 3×3 convolution of a pyramid, without making the pyramid: [N, out, H, W].

    Resizing is linear and so is the convolution, so they change places: the kernel is applied to the few cells of a branch,
    and the results are resized. That saves almost half of the convolution, PSPNet's most expensive layer, and no array of
    resized branches is made.

    Args:
        x: the input, [N, C, H, W].
        branches: its pooled branches [N, B, bins, bins]; one whose bins are None is [N, B, H, W] and takes part as x does.
        bin_sizes: of the branches.
        kernel: [out, C + B * branches, 3, 3]; its input channels are those of x, then of the branches, the last one first.
        bias: [out], or None.
        align_corners: how branches are resized.
    """
    inputs = [x, *branches[::-1]]
    kernels = paddle.split(kernel, [array.shape[1] for array in inputs], axis=1) if branches else [kernel]
    whole: list[tuple] = []
    pooled: list[tuple] = []
    for bins, array, part in zip([None, *bin_sizes[::-1]], inputs, kernels):
        if bins is None:
            whole.append((array, part))
        else:
            pooled.append((array, part))
    if len(whole) > 1:
        whole = [tuple(paddle.concat(arrays, axis=1) for arrays in zip(*whole))]
    fused = F.conv2d(*whole[0], bias, padding=1)
    if not pooled:
        return fused
    return fused + _fused_branches(pooled, spatial_size(x), align_corners).astype(fused.dtype)


def _fused_branches(branches, size, align_corners):
    """Returns the sum of branches [N, B, bins, bins], each resized and convolved with its kernel [out, B, 3, 3]."""
    height, width = size
    lines, matrices = [], []
    for branch, kernel in branches:
        bins, out = branch.shape[2], kernel.shape[0]
        kernel = kernel.transpose([0, 2, 3, 1]).reshape([9 * out, -1])
        cells = paddle.matmul(kernel, branch.flatten(2)).reshape([-1, out, 3, 3, bins, bins])
        cells = cells.transpose([0, 1, 2, 4, 3, 5]).reshape([-1, out, 3 * bins, 3 * bins])
        columns = resizing_matrix(width, bins, align_corners, branch.dtype)
        lines.append(paddle.matmul(cells, columns, transpose_y=True))  # [N, out, 3 * bins, W]
        matrices.append(resizing_matrix(height, bins, align_corners, branch.dtype))
    return paddle.matmul(paddle.concat(matrices, axis=1), paddle.concat(lines, axis=2))
