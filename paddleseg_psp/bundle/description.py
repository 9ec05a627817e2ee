"""What a bundle's deploy.yaml says, checked, and the bundle's files.

A bundle is data, of whoever made it (docs/security.md): its values are of the kinds that belong there, its files are in its
folder, and its graphs have no operators that read or write other files.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.files import sha256

_REQUIRED = ("model", "params", "transforms", "input_shape", "output_op")
_LARGEST = 2**17  # bytes of a deploy.yaml; thousands of class names and colors are fewer
# Operators of Paddle's that reach files, programs or other machines, by the beginnings of their names. Segmentation has none.
_REFUSED_OPERATORS = re.compile(r"(save|load|read|print|py|run_program|send|recv|c_|partial_|tensorrt|go$|listen_and_serv)")
_BYTES = {  # of a parameter's numbers
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "FP32": 4, "INT64": 8, "FP64": 8,
}  # fmt: skip


def _is_text(value):
    return isinstance(value, str) and len(value) <= 1000


def _is_whole(least, most):
    return lambda value: type(value) is int and least <= value <= most


def _is_list(check, least=0, most=2**16):
    return lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(check, value))


def _is_shape(value):
    return _is_list(lambda side: side == -1 or _is_whole(1, 2**16)(side), 4, 4)(value)


def _is_views(value):
    """Returns whether a value has no more options than a test_config; `Views` checks them."""
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        return False
    parts = [(key, part) for key, item in value.items() for part in (item if isinstance(item, list) else [item])]
    largest = {"scales": 16}
    return len(parts) <= 100 and all(
        abs(part) <= largest.get(key, 2**16) for key, part in parts if isinstance(part, (int, float))
    )


_FILE = (lambda value: _is_text(value) and "\0" not in value, "the name of a file in the bundle")
_TEXT = (_is_text, "a text")
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": _FILE, "params": _FILE, "onnx": _FILE, "onnx_int8": _FILE, "operators": _FILE,
    "transforms": (_is_list(lambda value: isinstance(value, dict), 0, 100), "a list of mappings"),
    "input_shape": (_is_shape, "four whole numbers, -1 for what may vary"),
    "output_op": (lambda value: value in ("argmax", "softmax", "none"), "argmax, softmax or none"),
    "output_dtype": _TEXT, "weights": _TEXT, "paddle_version": _TEXT,
    "ignore_index": (_is_whole(-(2**31), 2**31), "a whole number"),
    "max_value": (lambda value: type(value) in (int, float) and 0 < value < 2**32, "a number above 0"),
    "multiply_adds_per_pixel": (_is_whole(0, 2**62), "a whole number"),
    "mask_size": (_is_list(_is_whole(1, 2**16), 2, 2), "two whole numbers"),
    "class_names": (_is_list(_is_text), "a list of texts"),
    "palette": (_is_list(_is_list(_is_whole(0, 255), 3, 3)), "a list of (red, green, blue) from 0 to 255"),
    "test_config": (_is_views, "a mapping of options with scales up to 16 and windows up to 65536"),
    "sha256": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "a mapping of files to texts"),
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Refuses short texts whose content would fill the memory: aliases of aliases, endless numbers."""

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None and self._size(node, {}) > 4 * _LARGEST:
            raise ValueError("its aliases (*) mean more than a description says")
        return node

    def _size(self, node, sizes):
        """Returns the number of characters of a node, counting aliases each time; an alias of itself has no end."""
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > 100:
                raise ValueError(f"a number of more than 100 digits{node.start_mark}")
            return 1 + len(node.value)
        if node not in sizes:
            sizes[node] = float("inf")
            parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
            sizes[node] = 1 + sum(self._size(part, sizes) for part in parts)
        return sizes[node]


def _said(error):
    return f"{type(error).__name__}: {shown(' '.join(str(error).split()))}"


def read_description(path: str) -> dict:
    """Returns the content of a deploy.yaml as a dict; known keys have values of the right kind.

    Raises:
        UserError: no such file, not one that export.py writes, or a value of another kind.
    """
    if os.path.exists(path) and (not os.path.isfile(path) or os.path.getsize(path) > _LARGEST):
        raise UserError(f"{path} is no deploy.yaml of export.py: expected a file of at most {_LARGEST} bytes")
    try:
        with open(path, "rb") as file:
            description = yaml.load(file, _Loader)["Deploy"]
        missing = [key for key in _REQUIRED if key not in description]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the folder or the deploy.yaml that export.py wrote")
    except Exception as error:  # PyYAML has many for broken values
        raise UserError(f"{path} is no deploy.yaml of export.py: {_said(error)}")
    if missing or not isinstance(description, dict):
        raise UserError(f"{path} is no deploy.yaml of export.py: it lacks {', '.join(missing or _REQUIRED)}")
    for key, (check, allowed) in _KEYS.items():
        if description.get(key) is not None and not check(description[key]):
            raise UserError(f"{path}: {key}: expected {allowed}, found {description[key]!r:.80}")
    return description


def bundle_file(folder: str, description: dict, key: str) -> str:
    """Returns the path of a bundle's file, which is in its folder and has the checksum that deploy.yaml gives for it.

    Raises:
        UserError: it is missing, outside (by its name or by a link), no regular file, or damaged.
    """
    name = description[key]
    path = os.path.join(folder, name)
    inside = os.path.realpath(folder or ".")
    if os.path.commonpath([inside, os.path.realpath(path)]) != inside:
        raise UserError(f"{os.path.join(folder, 'deploy.yaml')}: {key}: {name} is not in the bundle's folder")
    if not os.path.isfile(path):
        what = "no regular file" if os.path.exists(path) else "missing"
        raise UserError(f"the bundle is incomplete: {path} is {what}; export it again")
    expected = (description.get("sha256") or {}).get(name)
    if expected and sha256(path) != expected:
        raise UserError(
            f"{path} is damaged or was replaced: its SHA-256 is not the one in deploy.yaml; copy or export the bundle again, "
            "or, if you replaced the file, remove its line there"
        )
    return path


def require_plain_graph(path: str) -> None:
    """Raises UserError for a Paddle graph with operators that access files, programs or other machines."""
    refused = sorted(name for name in _operators(path) if _REFUSED_OPERATORS.match(name))
    if refused:
        raise UserError(f"{path} has the operators {', '.join(refused)[:200]}, which no network needs: do not trust it")


def _operators(path):
    """Returns the names of a graph's operators, and of the types of values in it."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        if path.endswith(".json"):
            names: set[str] = set()
            # also those that a second entry of the same name would hide
            json.loads(content, object_pairs_hook=lambda pairs: names.update(v for k, v in pairs if k == "#" and _is_text(v)))
            return {name.rpartition(".")[2] for name in names}
        from paddle.static import Program

        return {operator.type for block in Program.parse_from_string(content).blocks for operator in block.ops}
    except Exception as error:  # of Paddle's own reader, too
        raise UserError(f"{path} is no graph: {_said(error)}")


def require_whole_parameters(path: str) -> None:
    """Raises UserError for a parameter file that claims other sizes than it has, for which Paddle would allocate memory."""
    from paddle.base.proto.framework_pb2 import VarType

    sizes = {number: _BYTES[name] for name, number in VarType.Type.items() if name in _BYTES}
    left = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            while left > 0:
                _, levels, _, length = struct.unpack("<IQIi", file.read(20))  # versions, levels of LoD, of a description
                kind = VarType.TensorDesc.FromString(file.read(length) if 0 < length < 1000 else b"")
                size = sizes[kind.data_type] * math.prod(kind.dims)
                left -= 20 + length + size
                if levels or left < 0 or not all(0 <= side < 2**40 for side in kind.dims):
                    raise ValueError("a tensor reaches beyond it")
                file.seek(size, os.SEEK_CUR)
    except Exception as error:  # of protobuf's many
        raise UserError(f"{path} has no whole parameters ({_said(error)}); export it again")


def require_own_values(path: str) -> None:
    """Raises UserError for an ONNX file that keeps values in other files, which could be any files."""
    with open(path, "rb") as file:
        content = file.read()
    if b"location" not in content:  # the key under which a file is named
        return
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf's many
        raise UserError(f"{path} is no ONNX file: {_said(error)}")
    for tensor in _tensors(model, onnx.TensorProto):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{path} keeps values of {tensor.name or 'a constant'!r:.80} in another file: do not trust it")


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Yields the messages of a kind in a message of protocol buffers."""
    for field, value in message.ListFields():
        if field.message_type:
            for item in value if hasattr(value, "extend") else [value]:
                if isinstance(item, kind):
                    yield item
                yield from _tensors(item, kind)
