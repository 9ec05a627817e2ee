"""Cross-entropy over pixels, plain and on the hardest pixels; paddleseg's own do not run on Paddle 3."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_psp.registry import register


class _PixelLoss(nn.Layer):
    def __init__(self, weight, ignore_index):
        super().__init__()
        self.ignore_index = ignore_index
        self.class_weight = None if weight is None else paddle.to_tensor(weight, dtype="float32")

    def _pixel_losses(self, logits, label):
        """Returns the loss of each pixel and its weight (0 where ignored), both [N, H, W]."""
        label = label.astype("int64")
        valid = label != self.ignore_index
        label = paddle.where(valid, label, paddle.zeros_like(label))
        loss = F.cross_entropy(logits, label.unsqueeze(1), reduction="none", axis=1).squeeze(1)
        weight = valid.astype(loss.dtype)
        if self.class_weight is not None:
            if len(self.class_weight) != logits.shape[1]:
                raise ValueError(f"the loss has {len(self.class_weight)} class weights for {logits.shape[1]} classes")
            weight = weight * self.class_weight[label]
        return loss, weight


@register
class CrossEntropyLoss(_PixelLoss):
    """Cross-entropy of logits [N, C, H, W] with labels [N, H, W], averaged over pixels -> scalar.

    Args:
        weight: a weight for each class; the average is then weighted.
        ignore_index: the label value that is ignored.
        top_k_percent_pixels: average over this share of the pixels, those with the largest loss.
        avg_non_ignore: divide by the weight of the pixels that are not ignored; False divides by the number of all pixels,
            like mmsegmentation.
    """

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        ignore_index: int = 255,
        top_k_percent_pixels: float = 1.0,
        avg_non_ignore: bool = True,
    ) -> None:
        super().__init__(weight, ignore_index)
        if not 0 < top_k_percent_pixels <= 1:
            raise ValueError(f"top_k_percent_pixels must be above 0 and at most 1, not {top_k_percent_pixels}")
        self.top_k_percent_pixels = top_k_percent_pixels
        self.avg_non_ignore = avg_non_ignore

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        loss, weight = self._pixel_losses(logits, label)
        loss, weight = (loss * weight).flatten(), weight.flatten()
        if self.top_k_percent_pixels < 1:
            loss, chosen = paddle.topk(loss, max(1, int(self.top_k_percent_pixels * loss.shape[0])))
            weight = paddle.gather(weight, chosen)
        if not self.avg_non_ignore:
            return loss.mean()
        return loss.sum() / paddle.clip(weight.sum(), min=1e-8)


@register
class OhemCrossEntropyLoss(_PixelLoss):
    """Cross-entropy over hard pixels only: those whose true class has a probability below `thresh`, at least `min_kept`.

    Online hard example mining; arguments as in PaddleSeg.

    Args:
        thresh: the probability above which a pixel is easy.
        min_kept: keep at least this many pixels of the batch, the hardest ones.
        ignore_index: the label value that is ignored.
        weight: a weight for each class.
    """

    def __init__(
        self, thresh: float = 0.7, min_kept: int = 10000, ignore_index: int = 255, weight: Sequence[float] | None = None
    ) -> None:
        super().__init__(weight, ignore_index)
        self.thresh = thresh
        self.min_kept = min_kept

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        loss, weight = self._pixel_losses(logits, label)
        loss, weight = loss.flatten(), weight.flatten()
        probability = paddle.exp(-loss.detach())
        probability = paddle.where(weight > 0, probability, paddle.full_like(probability, 2.0))  # ignored ones come last
        kept = min(self.min_kept, probability.shape[0])
        threshold = paddle.clip(paddle.kthvalue(probability, kept)[0], min=self.thresh) if kept else self.thresh
        weight = weight * (probability <= threshold).astype(weight.dtype)
        return (loss * weight).sum() / paddle.clip(weight.sum(), min=1e-8)


@register
class BootstrappedCrossEntropyLoss(_PixelLoss):
    """Cross-entropy over each image's hardest pixels, the mean over images: a loss above `loss_th`, or the `min_K` hardest.

    Online bootstrapping (Wu et al., Bridging Category-level and Instance-level Semantic Image Segmentation, 2016); arguments as
    in PaddleSeg, whose own fails on images of no more than `min_K` pixels.

    Args:
        min_K: keep at least this many pixels of an image, the hardest ones.
        loss_th: the loss above which a pixel is hard.
        weight: a weight for each class.
        ignore_index: the label value that is ignored.
    """

    def __init__(self, min_K: int, loss_th: float, weight: Sequence[float] | None = None, ignore_index: int = 255) -> None:
        super().__init__(weight, ignore_index)
        self.min_kept, self.threshold = min_K, loss_th

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        loss, weight = self._pixel_losses(logits, label)
        loss = paddle.sort((loss * weight).flatten(1), descending=True)
        pixels = loss.shape[1]
        kept = paddle.clip((loss > self.threshold).sum(1, keepdim=True), min=max(min(self.min_kept, pixels), 1))
        chosen = (paddle.arange(pixels) < kept).astype(loss.dtype)
        return ((loss * chosen).sum(1) / kept.squeeze(1).astype(loss.dtype)).mean()
