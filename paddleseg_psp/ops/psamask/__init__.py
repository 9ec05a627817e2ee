"""Point-wise spatial attention (Zhao et al., PSANet, ECCV 2018, section 3)."""

import os
from numbers import Integral

import paddle
import paddle.nn.functional as F

from paddleseg_psp.ops.psamask import reference

PSA_TYPES = ("collect", "distribute")
IMPLEMENTATIONS = ("auto", "native", "reference")  # of psa_mask, by the environment variable PSA_MASK_IMPL


@paddle.jit.not_to_static  # it serves dynamic and static graphs as it is
def psa_mask(x, psa_type, mask_size):
    """Spreads the mask around each position over the whole map: [N, mask_h * mask_w, H, W] -> [N, H * W, H, W].

    With half = mask_size // 2, position (h, w) and its mask at (i, j) belong to the target (h + i - half_h, w + j - half_w).
    "collect" puts x[n, i * mask_w + j, h, w] at out[n, target, h, w], "distribute" at out[n, (h, w), target]. Targets outside
    the map are dropped; what no mask reaches is 0. Values are copied bit for bit, and so are gradients.

    The native operator does it, or plain Paddle operators where it cannot be built (a warning says so, once). The environment
    variable PSA_MASK_IMPL chooses: "auto" (this), "native" or "reference".

    Args:
        x (Tensor): float16, bfloat16, float32 or float64; N, H and W may be unknown in a static graph.
        psa_type (str): "collect" or "distribute".
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
    return paddle._C_ops._run_custom_op("paddleseg_psa_mask", x, psa_type, mask_height, mask_width)[0]


@paddle.jit.not_to_static
def psa_attention(value, mask, psa_type, mask_size, softmax=True, normalization=1.0):
    """Lets each position gather from ("collect") or spread to ("distribute") the others: [N, C, H, W] -> [N, C, H, W].

    It equals bmm(value [N, C, H * W], attention [N, H * W, H * W]) / normalization, where attention is psa_mask(mask), if
    `softmax` after a softmax over axis 1, in which positions that the mask does not reach take part with exp(0).

    Args:
        value (Tensor): [N, C, H, W].
        mask (Tensor): [N, mask_h * mask_w, H, W], of the same type.
        psa_type (str), mask_size: as in `psa_mask`.
        softmax (bool): normalizes the weights of each position.
        normalization (float): divides the result.

    Raises:
        TypeError, ValueError, RuntimeError: as `psa_mask`, and ValueError if value and mask do not fit each other.
    """
    if len(value.shape) != 4:
        raise ValueError(f"value must be [N, C, H, W], not of shape {list(value.shape)}")
    attention = psa_mask(mask, psa_type, mask_size).flatten(2)
    if any(value.shape[axis] != mask.shape[axis] and min(value.shape[axis], mask.shape[axis]) >= 0 for axis in (0, 2, 3)):
        raise ValueError(f"value {list(value.shape)} and mask {list(mask.shape)} must agree in N, H and W")
    return attend(value, attention, softmax, normalization)


@paddle.jit.not_to_static
def attend(value, attention, softmax=True, normalization=1.0):
    """Sums value [N, C, H, W] at all positions (axis 1 of attention [N, H * W, H * W]) for each (axis 2) -> [N, C, H, W].

    Args:
        softmax (bool): normalizes the weights of each position.
        normalization (float): divides the result.
    """
    if softmax:
        attention = F.softmax(attention, axis=1)
    attended = paddle.bmm(value.flatten(2), attention) / normalization
    return attended.reshape(reference.sizes(value))


def _checked_mask_size(mask_size):
    pair = list(mask_size) if isinstance(mask_size, (list, tuple)) else []
    if len(pair) != 2 or not all(isinstance(size, Integral) and size > 0 and size % 2 for size in pair):
        raise ValueError(f"mask_size must be (mask_h, mask_w), both odd so that the mask has a centre, not {mask_size}")
    return int(pair[0]), int(pair[1])


def _check(x, psa_type, channels):
    if psa_type not in PSA_TYPES:
        raise ValueError(f"psa_type must be one of {', '.join(PSA_TYPES)}, not {psa_type!r}")
    if len(x.shape) != 4 or x.shape[1] not in (channels, -1):
        raise ValueError(f"x must be [N, mask_h * mask_w = {channels}, H, W], not of shape {list(x.shape)}")
    if x.dtype not in (paddle.float32, paddle.float64, paddle.float16, paddle.bfloat16):
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, not {x.dtype}")


def _is_native():
    from paddleseg_psp.ops import build  # not above: `python -m paddleseg_psp.ops.build` would then import it twice

    choice = os.environ.get("PSA_MASK_IMPL", "auto")
    if choice not in IMPLEMENTATIONS:
        raise ValueError(f"PSA_MASK_IMPL must be one of {', '.join(IMPLEMENTATIONS)}, not {choice!r}")
    return choice != "reference" and build.load_operator(required=choice == "native")
