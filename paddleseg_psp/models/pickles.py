"""Pickles of arrays, read as data: an interpreter of the operations that files of weights need, and of no others.

Python's own unpickler imports what a file names and calls it. Here a name of the file is looked up in a table of functions of
this package, which check what they are given; nothing is imported, no attribute is set, and memory is bounded by the file's
size before it is taken. docs/security.md has the rule.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from paddleseg_psp.errors import UserError, shown

_OPERATIONS, _BYTES_EACH = 2**18, 32  # so many are read of any file, and one more for so many of its bytes
_DEPTH = 64  # of lists in lists
_LINE = 256  # bytes of a name
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


class _Inert:
    """Stands for a class or an object that is not needed."""

    def __repr__(self):
        return "a foreign object"


INERT = _Inert()


class Name:
    """A name in a module, as a pickle states it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Type:
    """An array's type, whose byte order comes after it."""

    def __init__(self, code, *_):
        code = code if isinstance(code, str) else type(code).__name__
        if code not in _NUMBERS:
            raise UserError(f"it has an array of the type {shown(code)}, and only numbers are read")
        self.dtype = np.dtype(code)

    def build(self, state):
        if len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("an array's type has parts")
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">"}.get(state[1], "="))
        return self


class _Array:
    """An array, whose shape and values come after it."""

    value = None

    def __init__(self, *_):
        pass

    def build(self, state):
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")
        return self.value


def _array(data, kind, shape, order="C"):
    if not isinstance(kind, _Type) or not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array has no type or no bytes")
    if elements(shape) * kind.dtype.itemsize != len(data):
        raise ValueError(f"an array has {len(data)} bytes, which do not fit its shape")
    array = np.ndarray(shape, kind.dtype, data, order=order)
    return array if kind.dtype.isnative else array.astype(kind.dtype.newbyteorder("="))


def _scalar(kind, data):
    return _array(data, kind, ())[()]


def _encode(text, encoding):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes have another encoding than latin1")
    return bytearray(text, "latin1")


def as_tuple(items: object = ()) -> tuple:
    """Returns the tuple of a list's or tuple's items. Raises ValueError for anything else."""
    if not isinstance(items, (list, tuple)):
        raise ValueError("a tuple is made of what is no list")
    return tuple(items)


def _dict(pairs=()):
    found: dict = {}
    _put(found, chain.from_iterable(map(as_tuple, as_tuple(pairs))))
    return found


def _put(target, items):
    """Adds keys and values, which take turns; keys that are not text or numbers are passed over, with their values."""
    items = iter(items)
    for key, value in zip(items, items):
        if type(key) is str or (type(key) is int and abs(key) < 2**62):  # many others can be made to collide
            target[key] = value


# What a pickled dict of arrays refers to. None: it is named, and never called.
NAMES: dict[tuple[str, str], Callable | None] = {
    ("collections", "OrderedDict"): _dict,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): None,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("builtins", "tuple"): as_tuple,
    ("__builtin__", "tuple"): as_tuple,
    ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes no bytes
}


def elements(shape: object) -> int:
    """Returns the number of an array's elements. Raises ValueError for what is no shape."""
    if not isinstance(shape, (list, tuple)) or not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise ValueError("a shape has other parts than natural numbers")
    if len(shape) > 32:
        raise ValueError(f"an array has {len(shape)} dimensions")
    return math.prod(shape)


def require_bounded(content: object, parts: int, size: int) -> tuple[int, int]:
    """Looks at nested lists, tuples and dicts as whoever writes them out would: what is in two places counts twice.

    Returns:
        What is left of `parts` and `size`.

    Raises:
        ValueError: more than `parts` parts, more than `size` bytes of arrays and text, or too deep.
    """
    waiting = [iter((content,))]
    while waiting:
        for item in waiting[-1]:
            parts -= 1
            size -= (
                item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, (str, bytes, bytearray)) else 0
            )
            if parts < 0 or size < 0:
                raise ValueError("its parts together are much larger than the file")
            if isinstance(item, (dict, list, tuple)):
                waiting.append(chain(item, item.values()) if isinstance(item, dict) else iter(item))
                break
        else:
            waiting.pop()
        if len(waiting) > _DEPTH:
            raise ValueError(f"its lists are nested more than {_DEPTH} deep")
    return parts, size


class PickleReader:
    """Reads the pickles that follow one another in a file.

    Args:
        file: at the beginning of the first.
        names: (module, name) -> the function to call in its place, or None where it is never called.
        foreign: packages whose objects are passed over.
        persistent: returns the object that the pickle refers to as being outside.
        size: bytes of arrays that the file may have, by default all of it.
    """

    def __init__(
        self,
        file: BinaryIO,
        names: Mapping[tuple[str, str], Callable | None] = NAMES,
        foreign: Iterable[str] = (),
        persistent: Callable[[Any], object] | None = None,
        size: int | None = None,
    ) -> None:
        self._file, self._names, self._foreign, self._persistent = file, names, frozenset(foreign), persistent
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        self._size = self._end if size is None else size
        file.seek(start)

    def read(self) -> Any:
        """Returns what the next pickle holds: dicts, lists, tuples, text, numbers and arrays.

        Raises:
            UserError: it names or does what no file of weights needs.
            Exception: of many kinds: it is damaged.
        """
        self._left = self._end - self._file.tell()
        self._stack: list = []
        self._marks: list = []
        self._memo: dict = {}
        operations = _OPERATIONS + self._size // _BYTES_EACH
        for _ in range(operations):
            operation = self._take(1)
            if operation in _VALUES:
                self._stack.append(_VALUES[operation](self))
            elif operation in _EFFECTS:
                _EFFECTS[operation](self)
            elif operation == pickle.STOP:
                content = self._stack.pop()
                require_bounded(content, 2 * operations, 4 * self._size + 2**20)
                return content
            else:
                raise UserError(f"it has the operation {operation!r}, which no file of weights needs: do not trust it")
        raise ValueError("it has too many parts for its size")

    def _take(self, length):
        self._left -= length
        content = b"" if self._left < 0 else self._file.read(length)
        if len(content) != length:
            raise ValueError("it is truncated")
        return content

    def _number(self, form):
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _text(self, length, encoding="utf-8"):
        return self._take(self._number(length)).decode(encoding, "replace")

    def _bytes(self, length):
        """Returns bytes, of which an array can be made that may be written."""
        self._left -= (length := self._number(length))
        if self._left < 0:
            raise ValueError("it is truncated")
        content = bytearray(length)
        if self._file.readinto(content) != length:
            raise ValueError("it is truncated")
        return content

    def _line(self):
        line = self._file.readline(_LINE)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise ValueError("it has no end of a line")
        return line[:-1].decode("utf-8", "replace")

    def _integer(self):
        text = self._line()  # how Python 2 writes large ones
        return text == "01" if text in ("00", "01") else int(text[:20])

    def _get(self, index):
        item = self._memo[index]
        return item.value if isinstance(item, _Array) and item.value is not None else item

    def _pop(self, number):
        if number > len(self._stack):
            raise ValueError("its stack is empty")
        items = self._stack[len(self._stack) - number :]
        del self._stack[len(self._stack) - number :]
        return items

    def _since_mark(self):
        return self._pop(max(len(self._stack) - self._marks.pop(), 0))

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is no text")
        if (module, name) in self._names:
            return Name(module, name)
        if module.split(".")[0] in self._foreign or (self._foreign and (module, name) in _GETATTR):
            return INERT
        raise UserError(f"it refers to {shown(f'{module}.{name}')}, which no file of weights needs: do not trust it")

    def _call(self, called, arguments, *_):
        if called is INERT:
            return INERT
        function = self._names[called.module, called.name] if isinstance(called, Name) else None
        if function is None or not isinstance(arguments, tuple):
            what = f"{called.module}.{called.name}" if isinstance(called, Name) else type(called).__name__
            raise UserError(f"it calls {shown(what)}, which no file of weights needs: do not trust it")
        return function(*arguments)

    def _outside(self):
        if self._persistent is None:
            raise ValueError("it refers to what is not in it")
        return self._persistent(self._stack.pop())

    def _extend(self, items):
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, dict):
            _put(target, items)
        elif target is not INERT:
            raise ValueError(f"it adds to a {type(target).__name__}")

    def _build(self):
        (state,), target = self._pop(1), self._stack[-1]
        if isinstance(target, (_Array, _Type)):
            self._stack[-1] = target.build(as_tuple(state))
        elif target is not INERT and not isinstance(target, dict):
            raise ValueError(f"it sets attributes of a {type(target).__name__}")


_GETATTR = {("builtins", "getattr"), ("__builtin__", "getattr")}  # of foreign objects, in a file that has such
_VALUES: dict[bytes, Callable[[PickleReader], object]] = {
    pickle.NONE: lambda reader: None,
    pickle.NEWTRUE: lambda reader: True,
    pickle.NEWFALSE: lambda reader: False,
    pickle.BININT: lambda reader: reader._number("<i"),
    pickle.BININT1: lambda reader: reader._number("<B"),
    pickle.BININT2: lambda reader: reader._number("<H"),
    pickle.LONG1: lambda reader: int.from_bytes(reader._take(reader._number("<B")), "little", signed=True),
    pickle.INT: lambda reader: reader._integer(),
    pickle.BINFLOAT: lambda reader: reader._number(">d"),
    pickle.SHORT_BINSTRING: lambda reader: reader._text("<B", "latin1"),
    pickle.BINSTRING: lambda reader: reader._text("<I", "latin1"),
    pickle.SHORT_BINUNICODE: lambda reader: reader._text("<B"),
    pickle.BINUNICODE: lambda reader: reader._text("<I"),
    pickle.BINUNICODE8: lambda reader: reader._text("<Q"),
    pickle.SHORT_BINBYTES: lambda reader: reader._bytes("<B"),
    pickle.BINBYTES: lambda reader: reader._bytes("<I"),
    pickle.BINBYTES8: lambda reader: reader._bytes("<Q"),
    pickle.EMPTY_TUPLE: lambda reader: (),
    pickle.TUPLE1: lambda reader: tuple(reader._pop(1)),
    pickle.TUPLE2: lambda reader: tuple(reader._pop(2)),
    pickle.TUPLE3: lambda reader: tuple(reader._pop(3)),
    pickle.TUPLE: lambda reader: tuple(reader._since_mark()),
    pickle.FROZENSET: lambda reader: tuple(reader._since_mark()),
    pickle.EMPTY_LIST: lambda reader: [],
    pickle.EMPTY_SET: lambda reader: [],
    pickle.EMPTY_DICT: lambda reader: {},
    pickle.BINGET: lambda reader: reader._get(reader._number("<B")),
    pickle.LONG_BINGET: lambda reader: reader._get(reader._number("<I")),
    pickle.GLOBAL: lambda reader: reader._name(reader._line(), reader._line()),
    pickle.STACK_GLOBAL: lambda reader: reader._name(*reader._pop(2)),
    pickle.REDUCE: lambda reader: reader._call(*reader._pop(2)),
    pickle.NEWOBJ: lambda reader: reader._call(*reader._pop(2)),
    pickle.NEWOBJ_EX: lambda reader: reader._call(*reader._pop(3)),
    pickle.BINPERSID: lambda reader: reader._outside(),
}
_EFFECTS: dict[bytes, Callable[[PickleReader], object]] = {
    pickle.PROTO: lambda reader: reader._take(1),
    pickle.FRAME: lambda reader: reader._take(8),
    pickle.MARK: lambda reader: reader._marks.append(len(reader._stack)),
    pickle.BINPUT: lambda reader: reader._memo.update({reader._number("<B"): reader._stack[-1]}),
    pickle.LONG_BINPUT: lambda reader: reader._memo.update({reader._number("<I"): reader._stack[-1]}),
    pickle.MEMOIZE: lambda reader: reader._memo.update({len(reader._memo): reader._stack[-1]}),
    pickle.APPEND: lambda reader: reader._extend(reader._pop(1)),
    pickle.APPENDS: lambda reader: reader._extend(reader._since_mark()),
    pickle.ADDITEMS: lambda reader: reader._extend(reader._since_mark()),
    pickle.SETITEM: lambda reader: reader._extend(reader._pop(2)),
    pickle.SETITEMS: lambda reader: reader._extend(reader._since_mark()),
    pickle.BUILD: lambda reader: reader._build(),
}
