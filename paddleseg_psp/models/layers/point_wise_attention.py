"""The point-wise spatial attention module of PSANet."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddleseg.models.layers import ConvBNReLU

from paddleseg_psp.models.layers.conventions import CONVENTIONS
from paddleseg_psp.models.layers.resize import resize, spatial_size
from paddleseg_psp.ops import psa_attention

BRANCHES = ("collect", "distribute", "bi-direction")  # PaddleSeg's 0, 1, 2 are the positions in this list


def covering_mask_size(
    size: Sequence[int], shrink_factor: int, output_stride: int = 8, compact: bool = False
) -> tuple[int, ...]:
    """Returns the smallest mask (height, width) with which every position of the shrunk feature map reaches every other.

    Args:
        size: the (height, width) of the input image, in pixels.
        shrink_factor: the shrinking in front of the attention.
        output_stride: pixels of the image per position of the backbone's feature map.
        compact: the mask of compact mode, which is the feature map itself.
    """
    shrunk = [(side - 1) // (output_stride * shrink_factor) + 1 for side in size]
    return tuple(shrunk) if compact else tuple(2 * side - 1 for side in shrunk)


class PointWiseSpatialAttention(nn.Layer):
    """Lets each position collect from, and distribute to, all others by learned weights: [N, C, H, W] -> [N, 2C, H, W].

    The result is the input concatenated with the attended feature. Source: Zhao et al., PSANet (ECCV 2018), section 3, and the
    authors' implementation (semseg); parameter names and the order of the two branches ([distribute, collect]) are those of
    PSANet_paddle.

    Args:
        in_channels: channels of the input, C.
        mid_channels: channels inside the attention.
        psa_type: "collect", "distribute" or "bi-direction", or PaddleSeg's 0, 1, 2.
        compact: predict the attention over the whole map directly instead of over a mask around each position; then
            (mask_h, mask_w) must be the shrunk map, and inputs of another size are refused.
        shrink_factor: shrinks the map by this factor before attention; 1 leaves it.
        mask_h: height of the mask in positions of the shrunk map, odd; see `covering_mask_size`. The "mmsegmentation"
            convention allows even sizes too, which reach one position less far up and left.
        mask_w: width of the mask; see mask_h.
        normalization_factor: divides the attended feature; None means mask_h * mask_w.
        psa_softmax: apply a softmax to the weights of each position.
        convention: "semseg" or "mmsegmentation": whose implementation it equals; see `conventions.py` for the differences.
        align_corners: used by "mmsegmentation" alone, for resizing when shrink_factor is 1.

    Raises:
        ValueError: an option outside the allowed ones, an even mask, or in compact mode an input of another size.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int = 512,
        psa_type: str | int = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        mask_h: int = 59,
        mask_w: int = 59,
        normalization_factor: float | None = 1.0,
        psa_softmax: bool = True,
        convention: str = "semseg",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.psa_type = BRANCHES[psa_type] if isinstance(psa_type, int) and 0 <= psa_type < len(BRANCHES) else psa_type
        if self.psa_type not in BRANCHES:
            raise ValueError(f"psa_type must be one of {', '.join(BRANCHES)} or 0, 1, 2, not {psa_type!r}")
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}")
        if not compact and not CONVENTIONS[convention].takes_even_masks and (mask_h % 2 == 0 or mask_w % 2 == 0):
            raise ValueError(f"mask_h and mask_w must be odd, so that the mask has a center, not {mask_h} and {mask_w}")
        if shrink_factor < 1:
            raise ValueError(f"shrink_factor must be at least 1, not {shrink_factor}")
        self.compact = compact
        self.shrink_factor = shrink_factor
        self.mask_size = (mask_h, mask_w)
        self.normalization = mask_h * mask_w if normalization_factor is None else normalization_factor
        self.psa_softmax = psa_softmax
        self.convention = CONVENTIONS[convention]
        self.align_corners = align_corners
        self.alone = self.psa_type != "bi-direction"
        branches = 1 if self.alone else 2

        self.reduce_layer, self.attention = self._branch(in_channels, mid_channels)
        if not self.alone:
            self.reduce_p, self.attention_p = self._branch(in_channels, mid_channels)
        self.proj = ConvBNReLU(
            mid_channels * branches, in_channels, 1, padding=self.convention.projection_padding, bias_attr=False
        )

    def _branch(self, in_channels, mid_channels):
        reduce = ConvBNReLU(in_channels, mid_channels, 1, bias_attr=False)
        attention = nn.Sequential(
            ConvBNReLU(mid_channels, mid_channels, 1, bias_attr=False),
            nn.Conv2D(mid_channels, self.mask_size[0] * self.mask_size[1], 1, bias_attr=False),
        )
        return reduce, attention

    def full_mask_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the mask (height, width) that would reach everywhere on a feature map of a size (height, width)."""
        shrunk, _ = self._shrunk_size([int(side) for side in size])
        return tuple(shrunk) if self.compact else tuple(2 * side - 1 for side in shrunk)

    def forward(self, x: Tensor) -> Tensor:
        size = spatial_size(x)
        shrunk, align_corners = self._shrunk_size(size)
        if not self.alone:
            collected = self._attend(x, self.reduce_layer, self.attention, "collect", shrunk, align_corners)
            distributed = self._attend(x, self.reduce_p, self.attention_p, "distribute", shrunk, align_corners)
            attended = paddle.concat([distributed, collected], axis=1)
        else:
            attended = self._attend(x, self.reduce_layer, self.attention, self.psa_type, shrunk, align_corners)
        attended = self.proj(attended)
        if self.convention.resizes_back(self.shrink_factor):
            attended = resize(attended, size, align_corners)
        return paddle.concat([x, attended], axis=1)

    def own_multiply_adds(self, shape: Sequence[int], as_published: bool = False) -> int:
        """Returns the multiply-adds of the weighted sums for an input [N, C, H, W]: of what the masks reach.

        As published, they are products with a matrix of all positions by all positions.
        """
        size, _ = self._shrunk_size(shape[2:])
        masks = [2 * length for length in size] if self.compact else self.mask_size
        rows, columns = (
            sum(min(place + mask // 2, length - 1) - max(place - (mask - 1) // 2, 0) + 1 for place in range(length))
            for mask, length in zip(masks, size)
        )
        pairs = (size[0] * size[1]) ** 2 if as_published else rows * columns
        directions = 1 if self.alone else 2
        return shape[0] * self.reduce_layer._conv.weight.shape[0] * pairs * directions

    @paddle.jit.not_to_static  # plain Python on sizes
    def _shrunk_size(self, size):
        """Returns the size at which attention runs and whether resizing to and from it aligns corners."""
        return self.convention.shrunk_size(size, self.shrink_factor, self.align_corners)

    def _attend(self, x, reduce, attention, direction, size, align_corners):
        value = reduce(x)
        if self.shrink_factor != 1:
            value = resize(value, size, align_corners)
        mask = attention(value)
        if value.dtype != mask.dtype:  # with automatic mixed precision, resizing gives float32 and a convolution float16
            value = value.astype(mask.dtype)
        if not self.compact:
            mask, mask_size = self.with_odd_sides(mask, size)
            return psa_attention(value, mask, direction, mask_size, self.psa_softmax, self.normalization)
        self._check_compact_size(value.shape[2:])
        direction = self.convention.compact_direction(direction, self.alone)
        return psa_attention(value, mask, direction, None, self.psa_softmax, self.normalization)

    def with_odd_sides(self, mask: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
        """Returns masks [N, mask_h * mask_w, H, W] and their size, with zeros in front of an even side, so that it is odd.

        A position with the value 0 counts as one that the mask does not reach.
        """
        mask_h, mask_w = self.mask_size
        if mask_h % 2 and mask_w % 2:
            return mask, self.mask_size
        mask = mask.reshape([-1, mask_h, mask_w, size[0] * size[1]])
        if mask_h % 2 == 0:
            mask = paddle.concat([paddle.zeros_like(mask[:, :1]), mask], axis=1)  # not F.pad, which ONNX gets wrong
        if mask_w % 2 == 0:
            mask = paddle.concat([paddle.zeros_like(mask[:, :, :1]), mask], axis=2)
        odd = mask_h + 1 - mask_h % 2, mask_w + 1 - mask_w % 2
        return mask.reshape([-1, odd[0] * odd[1], *size]), odd

    def _check_compact_size(self, size):
        if min(size) > 0 and tuple(size) != self.mask_size:
            raise ValueError(
                f"compact attention was built for a shrunk map of {self.mask_size[0]}x{self.mask_size[1]}, "
                f"but the input gives {size[0]}x{size[1]}: use the training crop's size, or compact: false"
            )
