"""Losses over regions, and mixtures: paddleseg's, with fixes."""

from __future__ import annotations

from paddle import Tensor
from paddleseg.models import losses

from paddleseg_psp.registry import register


@register
class DiceLoss(losses.DiceLoss):
    """One minus the Dice coefficient of logits [N, C, H, W] with labels [N, H, W], the mean over images and classes -> scalar.

    paddleseg's turns ignored pixels into class 0 in the labels themselves, which the next loss then learns.

    Args:
        weight: a weight for each class.
        ignore_index: the label value that is ignored.
        smooth: added to numerator and denominator.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels.clone())


@register
class LovaszSoftmaxLoss(losses.LovaszSoftmaxLoss):
    """Lovasz-Softmax of logits [N, C, H, W] with labels [N, H, W] -> scalar (Berman et al., The Lovasz-Softmax Loss, 2018).

    paddleseg's returns no scalar if every pixel is ignored.

    Args:
        ignore_index: the label value that is ignored.
        classes: "present" averages over the classes in the labels, "all" over all classes; a list names classes.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().forward(logits, labels)
        return loss if loss.ndim == 0 else logits.sum() * 0


@register
class LovaszHingeLoss(losses.LovaszHingeLoss):
    """Lovasz hinge of logits [N, 2 or 1, H, W] with labels [N, H, W] of 0 and 1 -> scalar (Berman et al., 2018).

    Of two logits the score is their difference, the log-odds of class 1. paddleseg's score is the logarithm of a probability,
    never above 1, so that pixels of class 0 hardly count and a perfect prediction costs 0.31.

    Args:
        ignore_index: the label value that is ignored.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits, labels)


@register
class MixedLoss(losses.MixedLoss):
    """The weighted sum of several losses -> scalar, of which each may be a mixture itself.

    Args:
        losses: a list of losses.
        coef: the weight of each.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return sum(super().forward(logits, labels))
