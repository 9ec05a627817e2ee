"""Detecting the network of a file of weights from the shapes of its tensors and the conventions of its framework."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

from paddleseg_psp.errors import UserError
from paddleseg_psp.models.backbones import DEPTHS

# What tensors do not show. A configuration inside the file, or --opts, may say otherwise.
_HABITS = {
    "mmsegmentation": {"channel_dropout": True, "align_corners": False},
    "semseg": {"channel_dropout": True, "align_corners": True},
    "mindspore": {"align_corners": True},
    "paddle": {"align_corners": False},
}


def describe_network(shape: Callable[[str], tuple | None], framework: str) -> dict:
    """Returns the mapping `model` of a configuration.

    Args:
        shape: from a name of this package to the shape of the file's tensor, or None where it has none.
        framework: see `names.find_framework`.

    Raises:
        UserError: a network that this package does not have, or an option that tensors cannot tell.
    """
    backbone = describe_backbone(shape, framework)
    has_pyramid = shape("head.psp_module.stages.0.1._conv.weight") or (
        framework == "paddle" and shape("head.psp_module.conv_bn_relu2._conv.weight")
    )
    describe = _pspnet if has_pyramid else _psanet
    return {**describe(shape, framework, backbone), **_HABITS[framework.split()[0]]}


def _pspnet(shape, framework, backbone):
    levels = _how_many(lambda level: f"head.psp_module.stages.{level}.1._conv.weight", shape)
    bins = {0: [], 4: [1, None if "unpooled" in framework else 2, 3, 6]}
    auxiliary = shape("head.auxlayer.conv_bn_relu._conv.weight")
    return {
        "type": "PSPNet",
        "num_classes": _channels(shape, "head.conv.weight"),
        "backbone": backbone,
        "pp_out_channels": _channels(shape, "head.psp_module.conv_bn_relu2._conv.weight"),
        "bin_sizes": bins.get(levels),
        "branch_channels": _channels(shape, "head.psp_module.stages.0.1._conv.weight") if levels else None,
        "conv_bias": shape("head.psp_module.conv_bn_relu2._conv.bias") is not None,
        "enable_auxiliary_loss": auxiliary is not None,
        "aux_channels": _channels(shape, "head.auxlayer.conv_bn_relu._conv.weight") if auxiliary is not None else None,
    }


def _psanet(shape, framework, backbone):
    if not shape("head.conv_bn_relu._conv.weight"):
        raise UserError("it has neither a pyramid nor a classifier that PSPNet or PSANet has")
    auxiliary = shape("aux_head.conv_bn_relu._conv.weight")
    described = {
        "type": "PSANet",
        "num_classes": _channels(shape, "head.conv.weight"),
        "backbone": backbone,
        "head_channels": _channels(shape, "head.conv_bn_relu._conv.weight"),
        "enable_auxiliary_loss": auxiliary is not None,
        "use_psa": shape("psa.proj._conv.weight") is not None,
    }
    if auxiliary is not None:
        described["aux_channels"] = _channels(shape, "aux_head.conv_bn_relu._conv.weight")
    if described["use_psa"]:
        described.update(_attention(shape, framework))
    return described


def _attention(shape, framework):
    positions = _channels(shape, "psa.attention.1.weight")
    side = math.isqrt(positions)
    square = side if side * side == positions else None
    even_mask_is_compact = square and square % 2 == 0 and framework != "mmsegmentation"
    return {
        "convention": "mmsegmentation" if framework == "mmsegmentation" else "semseg",
        "mid_channels": _channels(shape, "psa.reduce_layer._conv.weight"),
        "psa_type": "bi-direction" if shape("psa.reduce_p._conv.weight") else None,
        "compact": bool(even_mask_is_compact),
        "shrink_factor": 2,
        "mask_h": square,
        "mask_w": square,
        "normalization_factor": 1.0,
        "psa_softmax": True,
    }


def require_known(model: dict, shape: Callable[[str], tuple | None]) -> None:
    """Raises UserError where an option is still missing or contradicts the file's tensors."""
    if model["type"] == "PSPNet":
        levels = _how_many(lambda level: f"head.psp_module.stages.{level}.1._conv.weight", shape)
        if model["bin_sizes"] is None or len(model["bin_sizes"]) != levels:
            raise UserError(
                f"its pyramid has {levels} levels, whose bins tensors do not tell: give --opts model.bin_sizes=[1,2,…]"
            )
    if model.get("use_psa"):
        _require_known_attention(model, _channels(shape, "psa.attention.1.weight"))


def _require_known_attention(model, positions):
    if model["psa_type"] is None:
        raise UserError(
            "its attention has one direction, and tensors do not tell which: give --opts model.psa_type=collect or distribute"
        )
    mask_h, mask_w = model["mask_h"], model["mask_w"]
    if not mask_h or not mask_w or mask_h * mask_w != positions:
        raise UserError(
            f"its mask has {positions} positions, and not {mask_h} x {mask_w}: give --opts model.mask_h=… model.mask_w=…"
        )


def describe_backbone(shape: Callable[[str], tuple | None], framework: str) -> dict:
    """Returns the mapping `model.backbone` of a configuration.

    Raises:
        UserError: a backbone that this package does not have.
    """
    if shape("backbone.bb_0_0.conv0._conv.weight"):  # paddleseg's ResNet_vd
        blocks, bottleneck = "backbone.bb_{}_{}.conv0._conv.weight", "backbone.bb_0_0.conv2._conv.weight"
        return {"type": f"ResNet{_depth(blocks, 0, bottleneck, shape)}_vd", "output_stride": 8}
    for block in ("downsample.2.weight", "downsample.2._mean"):
        if shape(f"backbone.layer2.0.{block}"):
            raise UserError(
                "it is a ResNet-D, with pooling in its shortcuts; take PaddleSeg's ResNet_vd, which is the same network"
            )
    depth = _depth("backbone.layer{}.{}.conv1.weight", 1, "backbone.layer1.0.conv3.weight", shape)
    deep = shape("backbone.stem.6.weight") is not None
    first, last = ("backbone.stem.0.weight", "backbone.stem.6.weight") if deep else ["backbone.conv1.weight"] * 2
    described = {
        "type": f"ResNet{depth}_{'v1c' if deep else 'v1b'}",
        "output_stride": 8,
        "in_channels": _channels(shape, first, axis=1),
        "base_channels": _channels(shape, "backbone.layer1.0.conv1.weight"),
        "stem_channels": _channels(shape, last),
        "contract_dilation": framework == "mmsegmentation",
    }
    usual = {"in_channels": 3, "base_channels": 64, "contract_dilation": False}
    return {key: value for key, value in described.items() if usual.get(key, ()) != value}


def _depth(block_name, first_stage, bottleneck, shape):
    blocks = tuple(
        _how_many(lambda block, stage=stage: block_name.format(first_stage + stage, block), shape) for stage in range(4)
    )
    for depth, expected in DEPTHS.items():
        if blocks == expected and (depth >= 50) == bool(shape(bottleneck)):
            return depth
    raise UserError(
        f"its backbone has {', '.join(map(str, blocks))} blocks, which no ResNet here has: 18, 34, 50, 101, 152 layers"
    )


def _channels(shape, own, axis=0):
    """Returns the length of an axis of the file's tensor for a parameter.

    Raises:
        UserError: there is no such tensor, or it has no such axis.
    """
    found = shape(own)
    if found is None or len(found) <= axis:
        raise UserError(f"its tensor for {own} is missing or no kernel, without which the network cannot be found out")
    return found[axis]


def _how_many(name, shape):
    return next(number for number in count() if shape(name(number)) is None)
