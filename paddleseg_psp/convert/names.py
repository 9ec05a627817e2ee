"""Names of this package's parameters in other frameworks, and the order of their channels there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import numpy as np

from paddleseg_psp.errors import UserError

# Rules turn this package's name into another's, one after the other; a function turns what the pattern found.
_TORCH_STATISTICS = [(r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var")]


def _numbered(prefix, conv_bn_relu, numbers):
    """Rules for a ConvBNReLU whose convolution and normalization are two places of a sequence."""
    conv, norm = numbers
    return [(rf"^{conv_bn_relu}\._conv\.", rf"{prefix}.{conv}."), (rf"^{conv_bn_relu}\._batch_norm\.", rf"{prefix}.{norm}.")]


_MMSEGMENTATION = [
    (r"^head\.psp_module\.stages\.", "decode_head.psp_modules."),
    (r"^head\.psp_module\.conv_bn_relu2\.", "decode_head.bottleneck."),
    (r"^head\.auxlayer\.conv_bn_relu\.", "auxiliary_head.convs.0."),
    (r"^head\.auxlayer\.conv\.", "auxiliary_head.conv_seg."),
    (r"^psa\.reduce_layer\.", "decode_head.reduce."),
    (r"^psa\.", "decode_head."),
    (r"^head\.conv_bn_relu\.", "decode_head.bottleneck."),
    (r"^head\.conv\.", "decode_head.conv_seg."),
    (r"^aux_head\.conv_bn_relu\.", "auxiliary_head.convs.0."),
    (r"^aux_head\.conv\.", "auxiliary_head.conv_seg."),
    (r"\._conv\.", ".conv."),
    (r"\._batch_norm\.", ".bn."),
    *_TORCH_STATISTICS,
]
_SEMSEG_HEADS = [
    *_numbered("cls", r"(?:head\.psp_module\.conv_bn_relu2|head\.conv_bn_relu)", (0, 1)),
    *_numbered("aux", r"(?:head\.auxlayer|aux_head)\.conv_bn_relu", (0, 1)),
    (r"^(?:head\.auxlayer|aux_head)\.conv\.", "aux.4."),
    (r"^head\.conv\.", "cls.4."),
]
_SEMSEG = [
    *_numbered(r"ppm.features.\1", r"head\.psp_module\.stages\.(\d+)\.1", (1, 2)),
    (r"^psa\.(attention|attention_p)\.1\.weight", r"psa.\1.3.weight"),
    (r"^psa\.reduce_layer\.", "psa.reduce."),
    *_numbered(r"psa.\1", r"psa\.(reduce|reduce_p|proj)", (0, 1)),
    *_numbered(r"psa.\1", r"psa\.(attention|attention_p)\.0", (0, 1)),
    *_SEMSEG_HEADS,
    (r"^backbone\.stem\.", "layer0."),
    (r"^backbone\.conv1\.", "layer0.0."),
    (r"^backbone\.bn1\.", "layer0.1."),
    (r"^backbone\.", ""),
    *_TORCH_STATISTICS,
]
_MINDSPORE_NORMS = {"weight": "gamma", "bias": "beta", "_mean": "moving_mean", "_variance": "moving_variance"}
_MINDSPORE = [
    *((rf"^head\.psp_module\.stages\.{i}\.1\.", f"ppm.stage{i + 1}.") for i in range(4)),
    (r"^(ppm\.stage\d)\._conv\.", r"\1.1."),
    (r"^(ppm\.stage\d)\._batch_norm\.", r"\1.2."),
    *_SEMSEG_HEADS,
    (r"^aux\.", "auxiliary_branch."),
    (r"^backbone\.layer(\d)\.", lambda found: f"backbone.layer{int(found[1]) + 1}."),
    (r"^backbone\.stem\.", "backbone.layer1."),
    (r"^backbone\.conv1\.", "backbone.layer1.0."),
    (r"^backbone\.bn1\.", "backbone.layer1.1."),
    (r"\.downsample\.", ".down_sample_layer."),
]
_UNPOOLED = [(rf"^(ppm\.stage2)\.{number}\.", rf"\1.{number - 1}.") for number in (1, 2)]  # it has no pooling in front
_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
_PLACES_IN_BACKBONE = [(r"^backbone\.", ""), *_TORCH_STATISTICS]
_RULES = {
    "paddle": [],
    "mmsegmentation": _MMSEGMENTATION,
    "semseg": _SEMSEG,
    "mindspore": _MINDSPORE,
    "mindspore with an unpooled level": [*_MINDSPORE, *_UNPOOLED],
    "mindspore backbone": [
        (r"^backbone\.stem\.(\d)\.", lambda found: f"{_STEM[found[1]]}."),
        (r"\.downsample\.", ".down_sample_layer."),
        (r"^backbone\.", ""),
    ],
    "paddle backbone": [(r"^backbone\.", "")],
    "torchvision backbone": _PLACES_IN_BACKBONE,
    "mmpretrain backbone": _PLACES_IN_BACKBONE,
    "mmpretrain classifier's backbone": _TORCH_STATISTICS,
    "semseg backbone": [(r"^backbone\.stem\.(\d)\.", lambda found: f"{_STEM[found[1]]}."), *_PLACES_IN_BACKBONE],
    "timm backbone": [(r"^backbone\.stem\.7\.", "bn1."), (r"^backbone\.stem\.", "conv1."), *_PLACES_IN_BACKBONE],
}
# What files hold besides the network: counters of normalizations, MindSpore's optimizers, and the classifier of a backbone.
NOT_OF_THE_NETWORK = r"\.num_batches_tracked$|^(global_step|epoch_num|step_num|learning_rate|momentum)$|^(moments|accum|stat)\."
NOT_OF_THE_BACKBONE = r"^(head\.)?(fc|classifier|out|end_point)\."


def source_name(own: str, framework: str, is_norm: bool = False) -> str:
    """Returns what a parameter of this package, by the network's full name, is called in a framework.

    Args:
        own: such as "backbone.layer1.0.conv1.weight".
        framework: see `find_framework`.
        is_norm: it belongs to a batch normalization.
    """
    name = own
    for pattern, replacement in _RULES[framework]:
        name = re.sub(pattern, replacement, name)
    if is_norm and framework.startswith("mindspore"):
        place, _, leaf = name.rpartition(".")
        name = f"{place}.{_MINDSPORE_NORMS[leaf]}"
    return name


def source_names(own_names: Iterable[str], framework: str) -> dict[str, str]:
    """Returns {this package's name: the framework's} for all parameters of a network."""
    norms = {name.rpartition(".")[0] for name in own_names if name.endswith("._mean")}
    return {name: source_name(name, framework, name.rpartition(".")[0] in norms) for name in own_names}


_MARKS = (  # a framework, and patterns that must all be found among the names
    ("mmsegmentation", r"^decode_head\.conv_seg\."),
    ("mindspore with an unpooled level", r"^ppm\.stage2\.0\."),
    ("mindspore", r"^ppm\.stage1\."),
    ("mindspore backbone", r"^bn1\.gamma$"),
    ("semseg", r"^layer0\.0\.weight$", r"^cls\.0\."),
    ("paddle", r"^(head\.psp_module|head\.conv_bn_relu)\."),
    ("paddle backbone", r"^bb_0_0\.|^layer1\.0\.bn1\._mean$"),
    ("timm backbone", r"^conv1\.0\.weight$"),
    ("semseg backbone", r"^conv3\.weight$", r"^layer1\."),
    ("mmpretrain backbone", r"^stem\.0\.weight$"),
    ("mmpretrain classifier's backbone", r"^backbone\.(stem\.0|conv1)\.weight$"),
    ("torchvision backbone", r"^conv1\.weight$", r"^layer1\."),
)


def find_framework(names: Collection[str]) -> str:
    """Returns the framework that uses these names.

    Raises:
        UserError: none that is known.
    """
    for framework, *marks in _MARKS:
        if all(any(re.search(mark, name) for name in names) for mark in marks):
            return framework
    raise UserError(
        f"its {len(names)} tensors ({', '.join(list(names)[:3])}, …) are of no network that is known: a PSPNet or PSANet of "
        "mmsegmentation, semseg, MindSpore, PaddleSeg or PSANet_paddle, or a ResNet of torchvision, timm, mmpretrain or semseg"
    )


def channel_order(own: str, own_shapes: dict, framework: str) -> np.ndarray | None:
    """Returns the framework's input channels in this package's order, or None if both orders are the same.

    Two convolutions have concatenated inputs: that after the pyramid (here the input, then the last level first; in the
    others the first level first) and that after PSANet's attention in both directions (here distribute, collect; in the
    others collect, distribute).
    """
    if framework.startswith("paddle"):
        return None
    if own == "head.psp_module.conv_bn_relu2._conv.weight":
        levels = [
            shape[0] for name, shape in own_shapes.items() if re.search(r"psp_module\.stages\.\d+\.1\._conv\.weight", name)
        ]
        channels = own_shapes[own][1]
        first = channels - sum(levels)
        parts = np.split(np.arange(first, channels), list(np.cumsum(levels)[:-1]))
        return np.concatenate([np.arange(first), *parts[::-1]])
    if own == "psa.proj._conv.weight" and "psa.reduce_p._conv.weight" in own_shapes:
        channels = own_shapes[own][1]
        return np.roll(np.arange(channels), channels // 2)
    return None
