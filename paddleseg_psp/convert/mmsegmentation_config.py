"""What mmsegmentation's checkpoints say of their configuration: Python source, which is read and not run."""

from __future__ import annotations

import ast
import keyword
import re

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


def model_options(config: dict) -> tuple[dict, dict]:
    """Returns (model, backbone): the options of this package's network that a configuration states.

    Raises:
        UserError: strides that this package does not have.
    """
    network = config.get("model") or {}
    head, backbone = network.get("decode_head") or {}, network.get("backbone") or {}
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
    """Returns (mean, std, red first) of images, in bytes' units, or None where the configuration is silent."""
    stated = (
        (config.get("model") or {}).get("data_preprocessor") or config.get("data_preprocessor") or config.get("img_norm_cfg")
    )
    if not stated or "mean" not in stated:
        return None
    return stated["mean"], stated["std"], stated.get("bgr_to_rgb", stated.get("to_rgb", False))


def test_options(config: dict) -> dict:
    """Returns the mapping `test_config`: windows, as the configuration has them; {} for whole images."""
    stated = (config.get("model") or {}).get("test_cfg") or config.get("test_cfg") or {}
    if stated.get("mode") != "slide":
        return {}
    (height, width), (down, right) = stated["crop_size"], stated["stride"]
    return {"is_slide": True, "crop_size": [width, height], "stride": [right, down]}
