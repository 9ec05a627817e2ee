"""Reading MindSpore's `.ckpt` files without MindSpore: protocol buffers of named arrays."""

from __future__ import annotations

import binascii
import math

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import bfloat16

_TYPES = {
    "Float64": "<f8", "Float32": "<f4", "Float16": "<f2", "BFloat16": "<u2",
    "Int64": "<i8", "Int32": "<i4", "Int16": "<i2", "Int8": "|i1",
    "UInt64": "<u8", "UInt32": "<u4", "UInt16": "<u2", "UInt8": "|u1", "Bool": "|b1",
}  # fmt: skip
_CHECKSUM = b"crc_num"  # at the end of a file that has one, with ten characters of it


def _message_class():
    """Returns the class of MindSpore's Checkpoint message: values of a tag and a tensor of dims, type and content."""
    kinds, labels = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", package="mindspore_checkpoint", syntax="proto2")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field, label, kind, type_name) in enumerate(fields, 1):
            added.field.add(name=field, number=number, label=label, type=kind, type_name=type_name)

    package = ".mindspore_checkpoint."
    message(
        "Tensor",
        ("dims", labels.LABEL_REPEATED, kinds.TYPE_INT64, None),
        ("type", labels.LABEL_REQUIRED, kinds.TYPE_STRING, None),
        ("content", labels.LABEL_REQUIRED, kinds.TYPE_BYTES, None),
    )
    message(
        "Value",
        ("tag", labels.LABEL_REQUIRED, kinds.TYPE_STRING, None),
        ("tensor", labels.LABEL_OPTIONAL, kinds.TYPE_MESSAGE, package + "Tensor"),
    )
    message("Checkpoint", ("value", labels.LABEL_REPEATED, kinds.TYPE_MESSAGE, package + "Value"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(package[1:] + "Checkpoint"))


Checkpoint = _message_class()


def read_mindspore(path: str) -> dict:
    """Returns the dict {name: array} in a `.ckpt` file (bfloat16 as float32).

    Raises:
        UserError: no such file, a truncated, damaged, encrypted or foreign one.
    """
    try:
        with open(path, "rb") as file:
            content = _checked(file.read())
        chunks: dict = {}
        for value in Checkpoint.FromString(content).value:
            chunks.setdefault(value.tag, []).append(value.tensor)  # a large tensor comes in parts
        if not chunks:
            raise ValueError("it holds no tensors")
        return {name: _array(name, tensors) for name, tensors in chunks.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is no complete MindSpore checkpoint, or an encrypted one ({error})")


def _checked(content):
    end = len(content) - len(_CHECKSUM) - 10
    if end < 0 or content[end : end + len(_CHECKSUM)] != _CHECKSUM:
        return content
    if int(content[-10:]) != binascii.crc32(content[:end]):
        raise ValueError("its checksum is wrong")
    return content[:end]


def _array(name, tensors):
    kind, shape = tensors[0].type, list(tensors[0].dims)
    if kind not in _TYPES:
        raise ValueError(f"{name} has the type {kind or 'of no tensor'!r}")
    values = np.frombuffer(b"".join(tensor.content for tensor in tensors), _TYPES[kind])
    if shape == [0] and values.size == 1:
        shape = []  # how MindSpore writes a scalar
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        raise ValueError(f"{name} has {values.size} values for the shape {shape}")
    if kind == "BFloat16":
        values = bfloat16(values)
    return values.reshape(shape).copy()
