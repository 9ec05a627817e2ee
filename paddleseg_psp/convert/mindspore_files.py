"""Reading MindSpore's `.ckpt` files without MindSpore: protocol buffers of named arrays."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.models.pickles import bfloat16, elements

_TYPES = {
    "Float64": "<f8", "Float32": "<f4", "Float16": "<f2", "BFloat16": "<u2",
    "Int64": "<i8", "Int32": "<i4", "Int16": "<i2", "Int8": "|i1",
    "UInt64": "<u8", "UInt32": "<u4", "UInt16": "<u2", "UInt8": "|u1", "Bool": "|b1",
}  # fmt: skip
_CHECKSUM = b"crc_num"  # at the end of a file that has one, with ten characters of it
_MOST = {"tensors": 2**15, "parts of a tensor": 64}  # of objects, which are larger here than in a file


def read_mindspore(path: str) -> dict:
    """Returns the dict {name: array} in a `.ckpt` file (bfloat16 as float32).

    Raises:
        UserError: no such file, a truncated, damaged, encrypted or foreign one.
    """
    try:
        with open(path, "rb") as file:
            content = _checked(memoryview(file.read()))
        chunks: dict = {}
        for number, value in _fields(content, "tensors"):
            if number != 1:
                raise ValueError(f"it has the field {number}")
            parts = dict(_fields(value, "parts of a tensor"))
            chunks.setdefault(str(parts[1], "utf-8"), []).append(parts[2])  # a large tensor comes in parts
        if not chunks:
            raise ValueError("it holds no tensors")
        return {name: _array(name, tensors) for name, tensors in chunks.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no complete MindSpore checkpoint, or an encrypted one ({shown(error)})")


def _checked(content):
    end = len(content) - len(_CHECKSUM) - 10
    if end < 0 or content[end : end + len(_CHECKSUM)] != _CHECKSUM:
        return content
    if int(bytes(content[-10:])) != binascii.crc32(content[:end]):
        raise ValueError("its checksum is wrong")
    return content[:end]


def _fields(message: memoryview, what: str) -> Iterator[tuple[int, Any]]:
    """Yields the number and value of each field of a message: a natural number, or bytes.

    Raises:
        ValueError: they are truncated, or too many.
    """
    position = 0
    for _ in range(_MOST[what]):
        if position == len(message):
            return
        key, position = _varint(message, position)
        value, position = _varint(message, position)
        if key & 7 == 2:
            start, position = position, position + value
            value = message[start:position]
        elif key & 7:
            raise ValueError(f"it has a field of the wire type {key & 7}")
        if position > len(message):
            raise ValueError("it is truncated")
        yield key >> 3, value
    raise ValueError(f"it has more than {_MOST[what]} {what}")


def _varint(message, position):
    """Returns a natural number and where it ends."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), message[position : position + 10]):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise ValueError("it is truncated")


def _array(name, tensors):
    """Returns an array from its messages: fields 1 are dimensions, 2 is the type, 3 has values."""
    fields = [list(_fields(tensor, "parts of a tensor")) for tensor in tensors]
    shape = [value for number, value in fields[0] if number == 1]
    kind = str(dict(fields[0])[2], "utf-8")
    if kind not in _TYPES:
        raise ValueError(f"{name} has the type {kind!r}")
    values = np.frombuffer(b"".join(dict(parts)[3] for parts in fields), _TYPES[kind])
    if shape == [0] and values.size == 1:
        shape = []  # how MindSpore writes a scalar
    if values.size != elements(shape):
        raise ValueError(f"{name} has {values.size} values for the shape {shape}")
    if kind == "BFloat16":
        values = bfloat16(values)
    return values.reshape(shape).copy()
