"""The configuration inside mmsegmentation's checkpoints: Python source, which is parsed and not run."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable
from typing import Any

from paddleseg_psp.errors import UserError
from paddleseg_psp.models.backbones import STRIDES_AND_DILATIONS
from paddleseg_psp.models.pickles import require_bounded

_LONGEST = 2**18  # characters
_OPERATORS = 100  # in a text: Python's parser overflows the stack where thousands follow one another
_PARTS, _SIZE = 2**16, 2**20  # of what the text gives
_WORDS = set(keyword.kwlist) - {"True", "False", "None"}
_TOKEN = re.compile(
    r"""(?P<blank>[^\S\n]+|\\?\n|\#[^\n]*)
    |(?P<string>(?:[rRbBuU]{0,2})(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<number>\.?\d\w*\.?(?:\d\w*)?(?:(?<=[eE])[-+]\d+)?)
    |(?P<name>\w+)
    |(?P<mark>[()\[\]{},:=])
    |(?P<operator>.)""",
    re.VERBOSE | re.DOTALL,
)


def read_config(text: object) -> dict:
    """Returns the variables {name: value} that a resolved configuration sets to literals and calls of `dict`.

    What is no text, or none that a training writes, has no variables.
    """
    values: dict = {}
    left = _PARTS, _SIZE
    try:
        statements = ast.parse(text).body if isinstance(text, str) and _is_simple(text) else []
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                value = _evaluate(statement.value, values)
            except (ValueError, TypeError):
                continue  # an expression of another kind, such as a function
            try:
                left = require_bounded(value, *left)
            except ValueError:
                return {}
            values[statement.targets[0].id] = value
    return values


def _is_simple(text):
    """Returns whether Python can parse a text within bounds: short, without long numbers and with few operators."""
    if len(text) > _LONGEST:
        return False
    operators, last = 0, ""
    for match in _TOKEN.finditer(text.replace("\r", "\n")):
        token, kind = match[0], match.lastgroup
        if kind == "blank":
            continue
        if kind in ("name", "number") and len(token) > 100:
            return False
        if kind == "operator":
            operators += token not in "+-" or last not in ("", *"([{,:=")  # else a sign
        elif token in _WORDS or (token in "([" and last in (")", "]", "}")):
            operators += 1
        last = token
    return operators <= _OPERATORS


def _evaluate(node, names):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _evaluate(keyword.value, names) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {_key(key): _evaluate(value, names) for key, value in pairs if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item, names) for item in node.elts]
    if isinstance(node, ast.Name):
        return names.get(node.id)
    return ast.literal_eval(node)


def _key(node):
    key = ast.literal_eval(node)
    if not isinstance(key, (str, int)):  # others can be made to collide
        raise ValueError(f"a key is a {type(key).__name__}")
    return key


# What a configuration may say, and of which kind. It is data: nothing else enters a network or a configuration of ours
# (docs/security.md).
def _is_number(least, most):
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_whole(least, most):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_list(check, least, most):
    return lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(check, value))


def _is_one_of(*values):
    return lambda value: isinstance(value, (str, bool)) and value in values


_SIDE, _BOOLEAN = _is_whole(1, 10**5), _is_one_of(True, False)
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "align_corners": (_BOOLEAN, "True or False"),
    "psa_type": (_is_one_of("collect", "distribute", "bi-direction"), "collect, distribute or bi-direction"),
    "compact": (_BOOLEAN, "True or False"),
    "shrink_factor": (_is_whole(1, 64), "a whole number from 1 to 64"),
    "normalization_factor": (lambda value: value is None or _is_number(1e-6, 1e6)(value), "a number above 0, or None"),
    "psa_softmax": (_BOOLEAN, "True or False"),
    "pool_scales": (_is_list(_is_whole(1, 1000), 1, 16), "a list of whole numbers from 1 to 1000"),
    "dropout_ratio": (_is_number(0, 0.999), "a number from 0 to below 1"),
    "mask_size": (_is_list(_is_whole(1, 1000), 2, 2), "two whole numbers from 1 to 1000"),
    "contract_dilation": (_BOOLEAN, "True or False"),
    "style": (_is_one_of("pytorch", "caffe"), "pytorch or caffe"),
    "strides": (_is_list(_is_whole(1, 8), 4, 4), "four whole numbers from 1 to 8"),
    "dilations": (_is_list(_is_whole(1, 64), 4, 4), "four whole numbers from 1 to 64"),
    "mean": (_is_list(_is_number(-1e6, 1e6), 1, 1000), "a list of numbers"),
    "std": (_is_list(_is_number(1e-6, 1e6), 1, 1000), "a list of numbers above 0"),
    "to_rgb": (_BOOLEAN, "True or False"),
    "bgr_to_rgb": (_BOOLEAN, "True or False"),
    "mode": (_is_one_of("slide", "whole"), "slide or whole"),
    "crop_size": (_is_list(_SIDE, 2, 2), "two whole numbers from 1 to 100000"),
    "stride": (_is_list(_SIDE, 2, 2), "two whole numbers from 1 to 100000"),
}


def _stated(mapping, where):
    """Returns the known values in a mapping of the configuration, checked.

    Raises:
        UserError: a value of another kind.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise UserError(f"its configuration's {where}: expected a mapping, found {mapping!r:.80}")
    known = {}
    for key, (check, allowed) in _KINDS.items():
        value = mapping.get(key)
        if key in mapping and check(value):
            known[key] = value
        elif value is not None:
            raise UserError(f"its configuration's {where}.{key}: expected {allowed}, found {value!r:.80}")
    return known


def _part(config, *names):
    """Returns the mapping under names of a configuration, checked, or {} if there is none."""
    for depth, name in enumerate(names):
        if not isinstance(config, (dict, type(None))):
            raise UserError(f"its configuration's {'.'.join(names[:depth])}: expected a mapping, found {config!r:.80}")
        config = (config or {}).get(name)
    return _stated(config, ".".join(names))


def model_options(config: dict) -> tuple[dict, dict]:
    """Returns (model, backbone): the options of this package's network that a configuration states.

    Raises:
        UserError: values of another kind, or strides that this package does not have.
    """
    head, backbone = _part(config, "model", "decode_head"), _part(config, "model", "backbone")
    renamed = {"pool_scales": "bin_sizes", "dropout_ratio": "dropout"}
    same = ("align_corners", "psa_type", "compact", "shrink_factor", "normalization_factor", "psa_softmax")
    model = {renamed.get(key, key): head[key] for key in (*same, *renamed) if key in head}
    if "mask_size" in head:
        model["mask_h"], model["mask_w"] = head["mask_size"]
    options = {key: backbone[key] for key in ("contract_dilation", "style") if key in backbone}
    if "strides" in backbone and "dilations" in backbone:
        strides, dilations = (tuple(backbone[key]) for key in ("strides", "dilations"))
        for output_stride, (own_strides, own_dilations) in STRIDES_AND_DILATIONS.items():
            if strides == own_strides:
                options["output_stride"] = output_stride
                if dilations != own_dilations:
                    options["dilations"] = list(dilations)
        if "output_stride" not in options:
            raise UserError(f"its backbone has the strides {strides}, which no ResNet here has")
    return model, options


def preprocessing(config: dict) -> tuple[list, list, bool] | None:
    """Returns (mean, std, red first) of images on a scale of 0 to 255, or None if the configuration has none.

    Raises:
        UserError: values of another kind.
    """
    stated = _part(config, "model", "data_preprocessor") or _part(config, "data_preprocessor") or _part(config, "img_norm_cfg")
    if "mean" not in stated or "std" not in stated:
        return None
    if len(stated["mean"]) != len(stated["std"]):
        raise UserError("its configuration has a mean and a std of different lengths")
    return stated["mean"], stated["std"], stated.get("bgr_to_rgb", stated.get("to_rgb", False))


def test_options(config: dict) -> dict:
    """Returns the mapping `test_config`: windows, as the configuration has them; {} for whole images.

    Raises:
        UserError: values of another kind.
    """
    stated = _part(config, "model", "test_cfg") or _part(config, "test_cfg")
    if stated.get("mode") != "slide":
        return {}
    if missing := {"crop_size", "stride"} - stated.keys():
        raise UserError(f"its configuration's test_cfg has windows without a {' and a '.join(sorted(missing))}")
    (height, width), (down, right) = stated["crop_size"], stated["stride"]
    return {"is_slide": True, "crop_size": [width, height], "stride": [right, down]}
