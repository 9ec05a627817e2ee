"""What a network computes for an image."""

from collections import OrderedDict

import numpy as np
import paddle
from paddle import nn


@paddle.no_grad()
def multiply_adds(model, shape):
    """Returns the multiply-adds of a network's convolutions and products at an input shape (N, C, H, W), by part.

    The parts are the network's direct sublayers. Normalizations, activations, pooling and resizing are left out, as is usual.
    A layer that computes with more than its sublayers says so in `own_multiply_adds`.

    Returns:
        OrderedDict: part -> int.
    """
    counts, handles = OrderedDict(), []

    def hook(part, count):
        def add(layer, inputs, output):
            counts[part] += int(count(layer, inputs[0], output))

        return add

    for part, child in model.named_children():
        counts[part] = 0
        for layer in child.sublayers(include_self=True):
            count = next((count for kind, count in _COUNTS.items() if isinstance(layer, kind)), None)
            if hasattr(layer, "own_multiply_adds"):
                count = _own
            if count:
                handles.append(layer.register_forward_post_hook(hook(part, count)))
    was_training = model.training
    model.eval()
    try:
        model(paddle.zeros(shape))
    finally:
        for handle in handles:
            handle.remove()
        if was_training:
            model.train()
    return counts


def _convolution(layer, _, output):
    return output.size * np.prod(layer.weight.shape[1:])


def _linear(layer, _, output):
    return output.size * layer.weight.shape[0]


def _own(layer, inputs, _):
    return layer.own_multiply_adds(inputs.shape)


_COUNTS = {nn.Conv2D: _convolution, nn.Linear: _linear}
