"""Reading and writing PyTorch's `.pth` files without PyTorch, and without running code from them.

The format is that of `torch.save`: a pickle whose tensors refer to storages, which follow it in a zip archive or, before
PyTorch 1.6, in the same stream.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.models.pickles import (
    NAMES,
    Inert,
    Pending,
    bfloat16,
    elements,
    finished,
    make_tuple,
    refuse,
    unpickle,
    whole_numbers,
)

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled, at the start of a file from before PyTorch 1.6
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
# What checkpoints hold besides tensors: logs, options, optimizers. It is neither imported nor made.
_PASSED_OVER = ("torch", "numpy", "mmengine", "mmcv", "mmseg", "mmcls", "mmpretrain", "argparse")
_HARMLESS = ("getattr", "set", "frozenset", "slice", "complex", "bytearray")


class _Storage:
    """A flat array, whose values may come later, and how they are to be read."""

    def __init__(self, kind, values):
        self.kind, self.values = kind, values

    @functools.cached_property
    def numbers(self):
        return bfloat16(self.values) if self.kind == "BFloat16Storage" else self.values


class _Tensor(Pending):
    """A view of a storage."""

    def __init__(self, storage, offset, size, stride, *_):
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no values")
        (self._offset,), self._size, self._stride = map(whole_numbers, ([offset], size, stride))
        self._storage, self._count = storage, elements(size)
        last = self._offset + sum((length - 1) * step for length, step in zip(self._size, self._stride))
        most = len(storage.values)
        if len(self._size) != len(self._stride) or self._count > most or (self._count and last >= most):
            raise ValueError("a tensor reaches beyond its values")

    def result(self):
        numbers = self._storage.numbers
        if not self._count:
            return np.zeros(self._size, numbers.dtype)
        strides = [step * numbers.itemsize for step in self._stride]
        return np.lib.stride_tricks.as_strided(numbers[self._offset :], self._size, strides)


_NAMES: dict[tuple[str, str], Any] = {
    **NAMES,
    **{("torch", kind): kind for kind in _STORAGES},
    ("torch", "Size"): make_tuple,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}


def _find(module, name):
    """Returns what stands for a name in a pickle of PyTorch's."""
    if (module, name) in _NAMES:
        return _NAMES[module, name]
    if module.split(".")[0] in _PASSED_OVER or (module in ("builtins", "__builtin__") and name in _HARMLESS):
        return Inert()
    return refuse(module, name)


def read_torch(path: str) -> dict:
    """Returns what `torch.save` wrote into a file, tensors as arrays (bfloat16 as float32), foreign objects left out.

    Raises:
        UserError: no such file, a truncated or foreign one, or one that would run code.
    """
    try:
        with open(path, "rb") as file:
            size = os.path.getsize(path)
            read = _read_archive if file.read(4) == b"PK\x03\x04" else _read_stream
            file.seek(0)
            return finished(read(file, size), size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        raise UserError(f"{path} was not loaded: {error}")
    except Exception as error:
        raise UserError(f"{path} is no complete PyTorch file ({type(error).__name__}: {shown(error)})")


def _read_archive(file, size):
    archive = zipfile.ZipFile(file)
    _require_plain(archive, size)
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if not pickles:
        raise ValueError("the archive has no data.pkl")
    root, storages = pickles[0].split("/")[0], {}
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")

    def storage(identifier):
        kind, key, count, *_ = _storage_identity(identifier)
        if key not in storages:
            values = np.frombuffer(archive.read(f"{root}/data/{key}"), _STORAGES[kind])
            storages[key] = _Storage(kind, values)
        return _of_kind(storages[key], kind, count)

    return unpickle(io.BytesIO(archive.read(pickles[0])), _find, storage)


def _require_plain(archive, size):
    """Raises ValueError unless an archive's files are as PyTorch writes them: not compressed, so it is larger than they."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("the archive is compressed, which PyTorch's are not")
    if sum(entry.file_size for entry in entries) > size or len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("the archive's files overlap")


def _storage_identity(identifier):
    """Returns (kind, key, number of values, the rest) of what a pickle says of a tensor's values."""
    if not isinstance(identifier, tuple) or len(identifier) < 5:
        raise ValueError("a tensor's values are not named as PyTorch names them")
    _, kind, key, _, count, *rest = identifier
    if not isinstance(kind, str) or kind not in _STORAGES or not isinstance(key, (str, int)):
        raise ValueError("a tensor has values of a type that no network has")
    return (kind, key, *whole_numbers([count]), *rest)


def _of_kind(storage, kind, count):
    if storage.kind != kind or storage.values.size < count:
        raise ValueError(f"values of a storage are missing: {count} of {kind}")
    return storage


def _read_stream(file, size):
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("unknown format")
    for _ in range(2):  # the protocol's version, the machine it was written on
        unpickle(file, _find)
    storages, left = {}, size

    def storage(identifier):
        nonlocal left
        kind, key, count, *view = _storage_identity(identifier)
        if any(item is not None for item in view):
            raise ValueError("it has views of storages, from before PyTorch 0.4")
        if key not in storages:
            left -= count * np.dtype(_STORAGES[kind]).itemsize
            if left < 0:
                raise ValueError(f"the storage {key} is larger than the file")
            storages[key] = _Storage(kind, np.zeros(count, _STORAGES[kind]))
        return _of_kind(storages[key], kind, count)

    content = unpickle(file, _find, storage)
    for key in unpickle(file, _find):
        values = storages[key].values
        if file.readinto(count := bytearray(8)) != 8 or int.from_bytes(count, "little") != values.size:
            raise ValueError(f"the storage {key} has another size than its tensors")
        if file.readinto(memoryview(values).cast("B")) != values.nbytes:
            raise ValueError(f"values of the storage {key} are missing")
    return content


class _Global:
    """Pickles as a reference to a name in a module, without the module."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __reduce__(self):
        return self.name

    def __call__(self):
        """Never called: picklers want something that could be."""


class _StoredTensor:
    """Pickles as PyTorch's tensor of a storage."""

    def __init__(self, key, array):
        self.key, self.array = key, array

    def __reduce__(self):
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        arguments = (_StorageReference(self.key, self.array), 0, self.array.shape, strides, False, OrderedDict())
        return _Global("torch._utils", "_rebuild_tensor_v2"), arguments


class _StorageReference:
    def __init__(self, key, array):
        self.key, self.array = key, array


class _TorchPickler(pickle._Pickler):  # the one in Python, whose treatment of names can be replaced
    def persistent_id(self, item):
        if not isinstance(item, _StorageReference):
            return None
        kind = next(kind for kind, dtype in _STORAGES.items() if item.array.dtype == dtype)
        return "storage", _Global("torch", kind), item.key, "cpu", item.array.size

    def save_global(self, item, name=None):
        if not isinstance(item, _Global):
            return super().save_global(item, name)
        self.write(pickle.GLOBAL + f"{item.module}\n{item.name}\n".encode())
        self.memoize(item)


def write_torch(path: str, weights: dict, **content: object) -> None:
    """Writes {"state_dict": weights, **content} as `torch.save` does (PyTorch 1.6 and later read it).

    Args:
        path: of the file.
        weights: name -> array.
        content: what else to keep; plain values.
    """
    stored = OrderedDict(
        (name, _StoredTensor(str(index), np.ascontiguousarray(array).reshape(np.shape(array))))
        for index, (name, array) in enumerate(weights.items())
    )
    pickled = io.BytesIO()
    _TorchPickler(pickled, protocol=2).dump({"state_dict": stored, **content})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/byteorder", "little")
        for tensor in stored.values():
            archive.writestr(f"archive/data/{tensor.key}", tensor.array.tobytes())
        archive.writestr("archive/version", "3\n")
