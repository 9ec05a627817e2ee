"""Parameters, multiply-adds and activations of a network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn


@dataclasses.dataclass
class Cost:
    """The cost of a part of a network at an input shape.

    Attributes:
        parameters: numbers that are learned.
        multiply_adds: of convolutions and products, as they are computed here.
        multiply_adds_published: the same for the network as papers and other programs have it: the pyramid's branches
            resized before they are fused, the attention's matrix with all its zeros.
        activations: bytes of the outputs of all its layers in float32, which training keeps for the backward pass.
    """

    parameters: int = 0
    multiply_adds: int = 0
    multiply_adds_published: int = 0
    activations: int = 0


@paddle.no_grad()
def costs(model: nn.Layer, shape: Sequence[int], training: bool = False, depth: int = 1) -> OrderedDict[str, Cost]:
    """Returns what the parts of a network cost at an input shape (N, C, H, W).

    Normalizations, activations, pooling and resizing count no multiply-adds, as is usual. A layer that computes with more
    than its sublayers says so in `own_multiply_adds(shape, as_published)`.

    Args:
        model: the network; it is left as it was.
        training: with what is there in training only: the auxiliary classifier.
        depth: 1 for direct sublayers as parts, 2 for theirs.

    Returns:
        The parts' costs, by name.
    """
    parts, handles = OrderedDict(), []

    def hook(part, count):
        def add(layer, inputs, output):
            if count:
                part.multiply_adds += int(count(layer, inputs[0], output, False))
                part.multiply_adds_published += int(count(layer, inputs[0], output, True))
            if _is_leaf(layer) and isinstance(output, paddle.Tensor):
                part.activations += output.size * 4

        return add

    for name, child in _parts(model, depth):
        parts[name] = part = Cost(sum(int(value.size) for value in child.parameters() if not value.stop_gradient))
        for layer in child.sublayers(include_self=True):
            count = next((count for kind, count in _COUNTS.items() if isinstance(layer, kind)), None)
            handles.append(layer.register_forward_post_hook(hook(part, _own if hasattr(layer, "own_multiply_adds") else count)))
    try:
        with _without_learning(model, training):
            model(paddle.zeros(shape))
    finally:
        for handle in handles:
            handle.remove()
    return parts


def multiply_adds(model: nn.Layer, shape: Sequence[int]) -> dict[str, int]:
    """Returns the multiply-adds of a network's direct sublayers in evaluation, {name: int}; see `costs`."""
    return OrderedDict((name, cost.multiply_adds) for name, cost in costs(model, shape).items())


def _parts(layer, depth, prefix=""):
    """Yields (name, layer) of the parts, each parameter in one of them."""
    for name, child in layer.named_children():
        grandchildren = list(child.named_children())
        covered = sum(len(item.parameters()) for _, item in grandchildren)
        if depth > 1 and grandchildren and covered == len(child.parameters()) and not hasattr(child, "own_multiply_adds"):
            yield from _parts(child, depth - 1, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _is_leaf(layer):
    return next(layer.children(), None) is None


@contextlib.contextmanager
def _without_learning(model, training):
    """Lets a network behave as in training, or not, while normalizations and dropout behave as in evaluation."""
    before = {layer: layer.training for layer in model.sublayers(include_self=True)}
    for layer in before:
        layer.training = training and not _is_leaf(layer)
    try:
        yield
    finally:
        for layer, was_training in before.items():
            layer.training = was_training


def _convolution(layer, _, output, as_published):
    return output.size * np.prod(layer.weight.shape[1:])


def _linear(layer, _, output, as_published):
    return output.size * layer.weight.shape[0]


def _own(layer, inputs, _, as_published):
    return layer.own_multiply_adds(inputs.shape, as_published)


_COUNTS = {nn.Conv2D: _convolution, nn.Linear: _linear}
