"""PSANet's operators from plain Paddle operators: the reference for tests, the replacement without a compiler, and for ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def psa_mask(x: Tensor, psa_type: str, mask_size: Sequence[int]) -> Tensor:
    """Does what `paddleseg_psp.ops.psa_mask` does, with the same shapes, only by concatenating zeros, reshaping and slicing.

    It copies bit for bit and differentiates, in dynamic and in static graphs, with any of N, H and W unknown; paddle2onnx
    exports it, with unknown sizes too. (`paddle.nn.functional.pad` in place of the zeros would be exported to wrong numbers.)
    It takes several times the memory of its result. In bfloat16 it has no gradient on a CPU, for want of Paddle's. Arguments
    are not checked.
    """
    mask_height, mask_width = mask_size
    _, _, height, width = sizes(x)
    x = x.transpose([0, 2, 3, 1]).reshape([0, 0, 0, mask_height, mask_width])  # [N, H, W, mask_h, mask_w]
    x = x.transpose([0, 1, 3, 2, 4]).reshape([-1, width, mask_width, 1])
    x = _to_feature_indices(x).reshape([-1, height, mask_height, width * width])
    x = _to_feature_indices(x).reshape([-1, height, height, width, width])  # [N, h, target h, w, target w]
    x = x.transpose([0, 2, 4, 1, 3] if psa_type == "collect" else [0, 1, 3, 2, 4])
    return x.reshape([-1, height * width, height, width])


def psa_attention(value: Tensor, mask: Tensor, psa_type: str, mask_size: Sequence[int], softmax: bool = True) -> Tensor:
    """Does what `paddleseg_psp.ops.psa_attention` does, with the same shapes and without its checks and normalization."""
    if mask_size is not None:
        attention = psa_mask(mask, psa_type, mask_size).flatten(2)
    else:
        attention = mask.flatten(2) if psa_type == "collect" else mask.flatten(2).transpose([0, 2, 1])
    if softmax:
        attention = F.softmax(attention, axis=1)
    return paddle.bmm(value.flatten(2), attention).reshape(sizes(value))


def _to_feature_indices(x):
    """Moves each row of mask-indexed x [A, size, mask_size, B] over its targets: [A, size, size, B].

    Row p must move right by p. Cutting a flat array of rows of L elements into rows of L - 1 does just that.
    """
    batch, size, mask_size, inner = sizes(x)
    zeros = paddle.zeros([batch, size, size, inner], x.dtype)
    start = mask_size // 2 + 1  # so that the mask's center comes to column size - 1 of 2 * size
    x = paddle.concat([zeros, x, zeros], axis=2)[:, :, start : start + 2 * size]
    x = x.flatten(1, 2)[:, size - 1 : 2 * size * size - 1]
    return x.reshape([0, size, 2 * size - 1, -1])[:, :, :size]


def sizes(x: Tensor) -> list:
    """Returns the shape of x: ints where the graph knows them, otherwise scalar tensors."""
    if min(x.shape) >= 0:
        return x.shape
    shape = paddle.shape(x)
    return [size if size >= 0 else shape[axis] for axis, size in enumerate(x.shape)]
