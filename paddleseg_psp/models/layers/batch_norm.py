"""Frozen batch normalization."""

from __future__ import annotations

from paddle import nn
from paddle.nn.layer.norm import _BatchNormBase


def freeze_batch_norm(layer: nn.Layer) -> None:
    """Freezes every batch normalization in a layer: it uses its running statistics, and nothing of it changes.

    For fine-tuning with batches too small for statistics of their own.
    """
    for norm in layer.sublayers(include_self=True):
        if isinstance(norm, (nn.BatchNorm, _BatchNormBase)):
            norm.register_forward_pre_hook(_evaluate)
            for parameter in norm.parameters():
                parameter.stop_gradient = True


def _evaluate(norm, _):
    norm.eval()  # train() on the network has reached every layer
