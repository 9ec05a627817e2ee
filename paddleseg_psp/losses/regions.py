"""Losses over regions, and mixtures: paddleseg's, mended where they are wrong."""

from __future__ import annotations

from paddle import Tensor
from paddleseg.models import losses

from paddleseg_psp.registry import register


@register
class DiceLoss(losses.DiceLoss):
    """One minus the Dice coefficient of logits [N, C, H, W] with labels [N, H, W], the mean over images and classes -> scalar.

    paddleseg's makes ignored pixels class 0 in the labels themselves, which the next loss then learns.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels.clone())


@register
class LovaszSoftmaxLoss(losses.LovaszSoftmaxLoss):
    """Lovasz-Softmax of logits [N, C, H, W] with labels [N, H, W] -> scalar (Berman et al., The Lovasz-Softmax Loss, 2018).

    paddleseg's gives no scalar where every pixel is ignored.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().forward(logits, labels)
        return loss if loss.ndim == 0 else logits.sum() * 0


@register
class LovaszHingeLoss(losses.LovaszHingeLoss):
    """Lovasz hinge of logits [N, 2 or 1, H, W] with labels [N, H, W] of 0 and 1 -> scalar (Berman et al., 2018).

    Of two logits the score is their difference, the log-odds of class 1. paddleseg's score is the logarithm of a probability,
    never above 1, so that pixels of class 0 hardly count and a perfect prediction costs 0.31.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits, labels)


@register
class MixedLoss(losses.MixedLoss):
    """The weighted sum of several losses -> scalar, of which each may be a mixture itself.

    Args:
        losses: losses.
        coef: their weights.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return sum(super().forward(logits, labels))
