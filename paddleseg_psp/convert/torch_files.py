"""Reading and writing PyTorch's `.pth` files without PyTorch, and without running code from them.

The format is that of `torch.save`: a pickle whose tensors refer to storages, which follow it in a zip archive or, before
PyTorch 1.6, in the same stream.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.models.pickles import INERT, NAMES, Name, PickleReader, as_tuple, elements

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


def _tensor(storage, offset, size, stride, *_):
    """Returns the array of a tensor: a view of its storage."""
    if storage is INERT:
        return INERT
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor has no values")
    number = elements(size)
    elements((offset, *stride))  # natural numbers, too
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if len(size) != len(stride) or (number and last >= storage.size):
        raise ValueError("a tensor reaches beyond its values")
    if not number:
        return np.zeros(size, storage.dtype)
    steps = [step * storage.itemsize if length > 1 else 0 for length, step in zip(size, stride)]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


_NAMES = {
    **NAMES,
    **{("torch", kind): None for kind in _STORAGES},
    ("torch", "Size"): as_tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}


def read_torch(path: str) -> dict:
    """Returns what `torch.save` wrote into a file, tensors as arrays (bfloat16 as float32), foreign objects left out.

    Tensors that share values share them here, too.

    Raises:
        UserError: no such file, a truncated or foreign one, or one that would run code.
    """
    try:
        with open(path, "rb") as file:
            read = _read_archive if file.read(4) == b"PK\x03\x04" else _read_stream
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return read(file, size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        raise UserError(f"{path} was not loaded: {error}")
    except Exception as error:
        raise UserError(f"{path} is no complete PyTorch file ({type(error).__name__}: {shown(error)})")


def _storage(identifier):
    """Returns (kind, key, number of values) of a storage that a pickle refers to; kind is None for one of another kind."""
    _, kind, key, _, number, *_ = as_tuple(identifier)
    if not isinstance(key, str):
        raise ValueError("a storage has no name")
    return kind.name if isinstance(kind, Name) and kind.name in _STORAGES else None, key, elements((number,))


def _values(kind, content):
    values = np.frombuffer(content, _STORAGES[kind])
    return (values.astype("<u4") << 16).view("<f4") if kind == "BFloat16Storage" else values


def _read_archive(file, size):
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()) or sum(entry.file_size for entry in entries.values()) > size:
        raise ValueError("its entries overlap or are larger than the file")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries.values()):
        raise ValueError("its entries are compressed, which PyTorch's are not")
    pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
    if not pickles:
        raise ValueError("the archive has no data.pkl")
    root, storages = pickles[0].split("/")[0], {}
    if f"{root}/byteorder" in entries and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")

    def storage(identifier):
        kind, key, number = _storage(identifier)
        if kind and key not in storages:
            storages[key] = _values(kind, archive.read(f"{root}/data/{key}"))
            if storages[key].size < number:
                raise ValueError(f"values of the storage {key} are missing")
        return storages[key] if kind else INERT

    return PickleReader(io.BytesIO(archive.read(pickles[0])), _NAMES, _PASSED_OVER, storage, size).read()


def _read_stream(file, size):
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("unknown format")
    storages: dict = {}
    left = size  # bytes that storages may still have

    def storage(identifier):
        nonlocal left
        kind, key, number = _storage(identifier)
        if kind is None:
            raise ValueError(f"the storage {key} has values of another kind")
        if identifier[5] is not None:
            raise ValueError("it has views of storages, from before PyTorch 0.4")
        if key not in storages:
            left -= number * np.dtype(_STORAGES[kind]).itemsize
            if left < 0:
                raise ValueError(f"the storage {key} is larger than the file")
            storages[key] = kind, np.zeros(number, _values(kind, b"").dtype)
        return storages[key][1]

    reader = PickleReader(file, _NAMES, _PASSED_OVER, storage)
    _, _, content, keys = (reader.read() for _ in range(4))  # first the protocol's version, and the machine
    for key in keys:
        kind, values = storages[key]
        if int.from_bytes(file.read(8), "little") != values.size:
            raise ValueError(f"the storage {key} has another size than its tensors")
        found = _values(kind, file.read(values.size * np.dtype(_STORAGES[kind]).itemsize))
        if found.size < values.size:
            raise ValueError(f"values of the storage {key} are missing")
        values[:] = found
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
