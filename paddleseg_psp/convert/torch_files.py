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

from paddleseg_psp.errors import UserError

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
_NUMPY = {"_reconstruct", "scalar", "dtype", "ndarray"}


class _Inert:
    """Stands for an object of a class that is not needed."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return _Inert()

    def __setstate__(self, _):
        pass

    def __setitem__(self, _, __):
        pass

    def append(self, _):
        pass

    extend = append


class _Storage:
    """A flat array, whose values may come later, and how they are to be read."""

    def __init__(self, kind, count):
        self.kind, self.values = kind, np.zeros(count, _STORAGES[kind])


def _tensor(storage, offset, size, stride, *_):
    """Returns the array of a tensor: a view of its storage."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= storage.values.size):
        raise ValueError("a tensor reaches beyond its values")
    bytes_each = storage.values.itemsize
    view = np.lib.stride_tricks.as_strided(storage.values[offset:], size, [step * bytes_each for step in stride])
    return view if storage.kind != "BFloat16Storage" else _BFloat16(view)


class _BFloat16:
    def __init__(self, view):
        self.view = view


def _ready(value):
    """Returns what was read with arrays of its own, in types that NumPy has."""
    if isinstance(value, _BFloat16):
        return (value.view.astype("<u4") << 16).view("<f4")
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, dict):
        return {key: _ready(item) for key, item in value.items()}
    return type(value)(_ready(item) for item in value) if type(value) in (list, tuple) else value


class _TorchUnpickler(pickle.Unpickler):
    def __init__(self, file, storage=lambda _: None):
        super().__init__(file, encoding="latin1")
        self.persistent_load = storage  # called with what the pickle says of a tensor's values

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return name
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module.split(".")[0] == "numpy" and name in _NUMPY) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if module.split(".")[0] in _PASSED_OVER or (module in ("builtins", "__builtin__") and name == "getattr"):
            return _Inert
        raise UserError(f"it refers to {module}.{name}, which no file of weights needs: do not trust it")


def read_torch(path: str) -> dict:
    """Returns what `torch.save` wrote into a file, tensors as arrays (bfloat16 as float32), foreign objects left out.

    Raises:
        UserError: no such file, a truncated or foreign one, or one that would run code.
    """
    try:
        with open(path, "rb") as file:
            read = _read_archive if file.read(4) == b"PK\x03\x04" else _read_stream
            file.seek(0)
            return _ready(read(file))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        raise UserError(f"{path} was not loaded: {error}")
    except Exception as error:
        raise UserError(f"{path} is no complete PyTorch file ({type(error).__name__}: {error})")


def _read_archive(file):
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if not pickles:
        raise ValueError("the archive has no data.pkl")
    root, storages = pickles[0].split("/")[0], {}
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")

    def storage(identifier):
        _, kind, key, _, count = identifier
        if key not in storages:
            content = archive.read(f"{root}/data/{key}")
            storages[key] = _Storage(kind, 0)
            storages[key].values = np.frombuffer(content, _STORAGES[kind])
            if storages[key].values.size < count:
                raise ValueError(f"values of the storage {key} are missing")
        return storages[key]

    return _TorchUnpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_stream(file):
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("unknown format")
    for _ in range(2):  # the protocol's version, the machine it was written on
        _TorchUnpickler(file).load()
    storages = {}

    def storage(identifier):
        _, kind, key, _, count, view = identifier
        if view is not None:
            raise ValueError("it has views of storages, from before PyTorch 0.4")
        if key not in storages:
            if count * np.dtype(_STORAGES[kind]).itemsize > size:
                raise ValueError(f"the storage {key} is larger than the file")
            storages[key] = _Storage(kind, count)
        return storages[key]

    content = _TorchUnpickler(file, storage).load()
    for key in _TorchUnpickler(file).load():
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
