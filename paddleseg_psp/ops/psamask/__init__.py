"""Point-wise spatial attention (Zhao et al., PSANet, ECCV 2018, section 3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral

import paddle
from paddle import Tensor

from paddleseg_psp.ops.library import load_operator
from paddleseg_psp.ops.psamask import reference
from paddleseg_psp.paddle_internals import run_operator

PSA_TYPES = ("collect", "distribute")
IMPLEMENTATIONS = ("auto", "native", "reference")  # by the environment variable PSA_MASK_IMPL


@paddle.jit.not_to_static  # it serves dynamic and static graphs as it is
def psa_mask(x: Tensor, psa_type: str, mask_size: Sequence[int]) -> Tensor:
    """Spreads the mask around each position over the whole map: [N, mask_h * mask_w, H, W] -> [N, H * W, H, W].

    With half = mask_size // 2, position (h, w) and its mask at (i, j) belong to the target (h + i - half_h, w + j - half_w).
    "collect" puts x[n, i * mask_w + j, h, w] at out[n, target, h, w], "distribute" at out[n, (h, w), target]. Targets outside
    the map are dropped; what no mask reaches is 0. Values are copied bit for bit, and so are gradients.

    The native operator does it, or plain Paddle operators where it cannot be built (a warning says so, once). The environment
    variable PSA_MASK_IMPL chooses: "auto" (this), "native" or "reference".

    Args:
        x: float16, bfloat16, float32 or float64; N, H and W may be unknown in a static graph.
        psa_type: "collect" or "distribute".
        mask_size: (mask_h, mask_w), both odd.

    Raises:
        TypeError: x is not floating-point.
        ValueError: any other argument outside the above, or a PSA_MASK_IMPL that does not exist.
        RuntimeError: PSA_MASK_IMPL=native, but the native operator cannot be had.

    Source: Zhao et al., PSANet: Point-wise Spatial Attention Network for Scene Parsing (ECCV 2018), section 3.
    """
    mask_height, mask_width = _checked_mask_size(mask_size)
    _check(x, psa_type, mask_height * mask_width)
    if not _is_native():
        return reference.psa_mask(x, psa_type, (mask_height, mask_width))
    return run_operator("paddleseg_psa_mask", x, psa_type, mask_height, mask_width)[0]


@paddle.jit.not_to_static
def psa_attention(
    value: Tensor, mask: Tensor, psa_type: str, mask_size: Sequence[int], softmax: bool = True, normalization: float = 1.0
) -> Tensor:
    """Lets each position gather from ("collect") or spread to ("distribute") the others: [N, C, H, W] -> [N, C, H, W].

    It equals bmm(value [N, C, H * W], attention [N, H * W, H * W]) / normalization, where attention is psa_mask(mask), if
    `softmax` after a softmax over axis 1, in which positions that the mask does not reach take part with exp(0).

    With mask_size None the mask is compact: attention is mask.reshape([N, H * W, H * W]), for "distribute" its transpose.

    The native operator never stores attention. Like `psa_mask`, it makes way for plain Paddle operators, which do.

    Args:
        value: [N, C, H, W], float16, bfloat16, float32 or float64.
        mask: [N, mask_h * mask_w, H, W], compact [N, H * W, H, W], of the same type.
        psa_type: "collect" or "distribute".
        mask_size: (mask_h, mask_w), both odd, or None.
        softmax: normalizes the weights of each position.
        normalization: divides the result.

    Raises:
        TypeError, ValueError, RuntimeError: as `psa_mask`, and if value and mask do not fit each other.
    """
    compact = mask_size is None
    mask_height, mask_width = (0, 0) if compact else _checked_mask_size(mask_size)
    positions = mask.shape[2] * mask.shape[3] if len(mask.shape) == 4 and min(mask.shape[2:]) >= 0 else -1
    _check(mask, psa_type, positions if compact else mask_height * mask_width, "H * W" if compact else "mask_h * mask_w")
    if len(value.shape) != 4:
        raise ValueError(f"value must be [N, C, H, W], not of shape {list(value.shape)}")
    if any(value.shape[axis] != mask.shape[axis] and min(value.shape[axis], mask.shape[axis]) >= 0 for axis in (0, 2, 3)):
        raise ValueError(f"value {list(value.shape)} and mask {list(mask.shape)} must agree in N, H and W")
    if value.dtype != mask.dtype:
        raise TypeError(f"value and mask must be of one type, not {value.dtype} and {mask.dtype}")
    if _is_native():
        arguments = value, mask, psa_type, mask_height, mask_width, softmax
        attended = run_operator("paddleseg_psa_attention", *arguments)[0]
    else:
        attended = reference.psa_attention(value, mask, psa_type, mask_size, softmax)
    return attended if normalization == 1 else attended / normalization


def _checked_mask_size(mask_size):
    pair = list(mask_size) if isinstance(mask_size, (list, tuple)) else []
    if len(pair) != 2 or not all(isinstance(size, Integral) and size > 0 and size % 2 for size in pair):
        raise ValueError(f"mask_size must be (mask_h, mask_w), both odd so that the mask has a center, not {mask_size}")
    return int(pair[0]), int(pair[1])


def _check(x, psa_type, channels, meaning="mask_h * mask_w"):
    if psa_type not in PSA_TYPES:
        raise ValueError(f"psa_type must be one of {', '.join(PSA_TYPES)}, not {psa_type!r}")
    if len(x.shape) != 4 or (x.shape[1] != channels and min(x.shape[1], channels) >= 0):
        raise ValueError(f"the mask must be [N, {meaning} = {channels}, H, W], not of shape {list(x.shape)}")
    if x.dtype not in (paddle.float32, paddle.float64, paddle.float16, paddle.bfloat16):
        raise TypeError(f"the mask must be float16, bfloat16, float32 or float64, not {x.dtype}")


def _is_native():
    choice = os.environ.get("PSA_MASK_IMPL", "auto")
    if choice not in IMPLEMENTATIONS:
        raise ValueError(f"PSA_MASK_IMPL must be one of {', '.join(IMPLEMENTATIONS)}, not {choice!r}")
    return choice != "reference" and load_operator(required=choice == "native")
