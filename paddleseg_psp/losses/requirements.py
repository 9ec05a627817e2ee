"""Checks of losses in a configuration: which of paddleseg's losses train here, for how many classes, with which arguments."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

from paddleseg_psp.errors import UserError

_ONE_NETWORK = "compares two networks, and one is trained here"
# paddleseg's losses that are refused: why, and what to take. A loss here gets one output [N, classes, H, W] and the labels.
REFUSED = {
    "DetailAggregateLoss": "wants an output of edges, counts ignored pixels as edges and draws its own weights at random; set "
    "STDCSeg's use_boundary_8: false and take CrossEntropyLoss for each output left",
    "DistillCrossEntropyLoss": f"{_ONE_NETWORK}; take CrossEntropyLoss",
    "DualTaskLoss": "does not run on Paddle 3; take CrossEntropyLoss",
    "EdgeAttentionLoss": "wants two outputs of the network at once, classes and edges; take CrossEntropyLoss",
    "KLLoss": f"{_ONE_NETWORK}; take CrossEntropyLoss",
    "L1Loss": "compares images, not classes; take CrossEntropyLoss",
    "MSELoss": "compares images, not classes; take CrossEntropyLoss",
    "MaskFormerLoss": "wants the masks of MaskFormer; take CrossEntropyLoss with another network",
    "OhemEdgeAttentionLoss": "wants two outputs of the network at once, classes and edges; take OhemCrossEntropyLoss",
    "PixelContrastCrossEntropyLoss": "wants two outputs of the network at once, classes and embeddings; take CrossEntropyLoss",
    "PointCrossEntropyLoss": "does not run on Paddle 3; take CrossEntropyLoss with another network",
    "RMILoss": "does not run on Paddle 3; take LovaszSoftmaxLoss or DiceLoss, which look at regions, too",
    "RelaxBoundaryLoss": "does not run on Paddle 3; take CrossEntropyLoss",
    "SECrossEntropyLoss": "wants an output of one value a class and image; take CrossEntropyLoss with another network",
    "SemanticConnectivityLoss": "teaches nothing: no gradient gets through the predicted classes that it counts; leave it out",
}
# Losses of two classes, and their like for any number.
TWO_CLASSES = {"FocalLoss": "MultiClassFocalLoss", "LovaszHingeLoss": "LovaszSoftmaxLoss"}


def check_loss(spec: dict, component: Callable, where: str, classes: int | None, ignored: int) -> None:
    """Checks a loss's mapping, without those nested in it.

    Args:
        spec: `type` and the loss's arguments.
        component: what `type` names.
        where: the key in the configuration, for messages.
        classes: of the network; None where it is not known.
        ignored: the label value that is ignored.

    Raises:
        UserError: a loss that does not train here, or arguments that do not fit the classes or the ignored value.
    """
    name, theirs = spec["type"], component.__module__.startswith("paddleseg.")
    if theirs and name in REFUSED:
        raise UserError(f"{where}.type: {name} {REFUSED[name]}")
    if spec.get("ignore_index", ignored) != ignored:
        raise UserError(f"{where}.ignore_index: {spec['ignore_index']}, but the data set ignores {ignored}")
    if name == "BCELoss" and spec.get("edge_label"):
        raise UserError(f"{where}.edge_label: data sets here have no labels of edges; leave it out")
    if name == "MultiClassFocalLoss" and not isinstance(spec.get("alpha", 1.0), Real):
        raise UserError(f"{where}.alpha: expected a number, found {spec['alpha']!r}")
    if classes is None:
        return
    if name in TWO_CLASSES and classes != 2:
        raise UserError(f"{where}.type: {name} is for 2 classes, and there are {classes}; take {TWO_CLASSES[name]}")
    for key in ("num_classes", "num_class"):
        if spec.get(key, classes) != classes:
            raise UserError(f"{where}.{key}: {spec[key]}, but the network has {classes} classes; leave it out")
    weight = spec.get("weight")
    if isinstance(weight, (list, tuple)) and len(weight) != classes:
        raise UserError(f"{where}.weight: {len(weight)} class weights for {classes} classes; give one for each")
