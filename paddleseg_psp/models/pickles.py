"""Reading pickles of weights without running anything that is in them.

Python's own unpickler imports and calls what a file names, and trusts every length in it. This one does what files of weights
need and nothing else: a name in a file stands for a function here, or the file is refused (docs/security.md).
"""

from __future__ import annotations

import math
import os
import pickletools
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import IO, Any

import numpy as np

from paddleseg_psp.errors import UserError, shown

_OPERATIONS, _BYTES_EACH = 2**18, 32  # so many are read of any file, and one more for so many of its bytes
DEEPEST = 50
_MOST_SHARED = 4  # arrays may share numbers, as tied weights do, but not so many that they would fill the memory
_LARGEST_KEY = 2**60  # dictionaries are slow with numbers of equal hashes, which begin above
_NUMBERS = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248])")
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip


class Inert:
    """Stands for an object, or a class, that is not needed: nothing is imported or called for it."""


class Pending:
    """Stands for an array whose numbers may come later in the file; `result` returns it."""

    def result(self) -> np.ndarray:
        raise NotImplementedError


def unpickle(file: IO[bytes], find: Callable[[str, str], Any], persistent: Callable[[Any], object] | None = None) -> object:
    """Returns what a pickle holds: dicts, lists, tuples, sets, texts, numbers, `Pending` arrays and `Inert`s.

    Args:
        file: stands at the pickle, and after it behind it.
        find: gives for a module and a name the function here that stands for it, or an `Inert`, or raises UserError.
        persistent: gives the object that a persistent id stands for.

    Raises:
        UserError, ValueError, and others: the file is damaged, or would do more than hold values.
    """
    return _Machine(find, persistent).run(_Whole(file))


def most_operations(size: int) -> int:
    """Returns how many operations a pickle of some bytes may have; a network has some ten for each parameter."""
    return _OPERATIONS + size // _BYTES_EACH


def finished(value: Any, size: int) -> Any:
    """Returns what was unpickled from a file of some size with arrays in place of `Pending`s.

    Raises:
        ValueError: values nested more than DEEPEST times, or much larger than the file, as those that occur often.
    """
    done = _finished(value, {}, 0)
    require_bounded(done, 2 * most_operations(size), _MOST_SHARED * size + 2**20)
    return done


def _finished(value, known, depth):
    if depth > DEEPEST:
        raise ValueError(f"its values are nested more than {DEEPEST} times")
    if not isinstance(value, (dict, list, tuple, Pending)):
        return value
    if id(value) not in known:
        if isinstance(value, Pending):
            known[id(value)] = value.result()
        elif isinstance(value, dict):
            known[id(value)] = done = {}
            done.update((key, _finished(item, known, depth + 1)) for key, item in value.items())
        elif isinstance(value, list):
            known[id(value)] = done = []
            done.extend(_finished(item, known, depth + 1) for item in value)
        else:
            known[id(value)] = tuple(_finished(item, known, depth + 1) for item in value)
    return known[id(value)]


def require_bounded(content: object, parts: int, size: int) -> tuple[int, int]:
    """Measures nested lists, tuples and dicts as if written out: values in two places count twice.

    Returns:
        What is left of `parts` and `size`.

    Raises:
        ValueError: more than `parts` parts, more than `size` bytes of arrays and text, or too deep.
    """
    waiting = [iter((content,))]
    while waiting:
        for item in waiting[-1]:
            parts -= 1
            size -= item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, (str, bytes)) else 0
            if parts < 0 or size < 0:
                raise ValueError("its values together are much larger than the file")
            if isinstance(item, (dict, list, tuple)):
                waiting.append(chain(item, item.values()) if isinstance(item, dict) else iter(item))
                break
        else:
            waiting.pop()
        if len(waiting) > DEEPEST:
            raise ValueError(f"its values are nested more than {DEEPEST} times")
    return parts, size


class _Whole:
    """A file that refuses to read more than it has, before memory is allocated."""

    def __init__(self, file):
        self._file, position = file, file.tell()
        self.size = self._left = file.seek(0, os.SEEK_END) - position
        file.seek(position)

    def read(self, count):
        if count > self._left:
            raise ValueError("it ends too early")
        self._left -= count
        return self._file.read(count)

    def readline(self):
        line = self._file.readline()
        self._left -= len(line)
        return line


class _Machine:
    """The stack and memo that a pickle's operations work on; the operations are those of `pickletools`."""

    def __init__(self, find, persistent):
        self._find, self._persistent = find, persistent
        self._stack, self._outer, self._memo = [], [], {}

    def run(self, file):
        most = most_operations(file.size)
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            name = operation.name
            if count > most:
                raise ValueError(f"it has more than {most} entries")
            if name == "STOP":
                return self._stack.pop()
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"_do_{_SAME.get(name, name).lower()}", None)
                if step is None:
                    raise ValueError(f"it has the operation {name}, which no file of weights needs")
                step(argument)
        raise ValueError("it ends too early")

    def _items(self):
        """Returns the items above the last mark, and takes them and the mark from the stack."""
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _do_mark(self, _):
        self._outer.append(self._stack)
        self._stack = []

    def _do_pop(self, _):
        self._stack.pop() if self._stack else self._items()

    def _do_pop_mark(self, _):
        self._items()

    def _do_dup(self, _):
        self._stack.append(self._stack[-1])

    def _do_put(self, index):
        if not 0 <= index < 2**32:
            raise ValueError("it has an entry with an impossible number")
        self._memo[index] = self._stack[-1]

    def _do_memoize(self, _):
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_get(self, index):
        self._stack.append(self._memo[index])

    def _do_list(self, _):
        self._gather(list)

    def _gather(self, make):
        items = self._items()  # which changes the stack
        self._stack.append(make(items))

    def _do_append(self, _):
        item = self._stack.pop()
        self._extend(self._stack[-1], [item])

    def _do_appends(self, _):
        items = self._items()
        self._extend(self._stack[-1], items)

    def _extend(self, target, items):
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError(f"it appends to a {type(target).__name__}")

    def _do_tuple(self, _):
        self._gather(tuple)

    def _do_tuple1(self, _):
        self._replace(1, tuple)

    def _do_tuple2(self, _):
        self._replace(2, tuple)

    def _do_tuple3(self, _):
        self._replace(3, tuple)

    def _replace(self, count, make):
        if len(self._stack) < count:
            raise ValueError("an operation lacks its operands")
        self._stack[-count:] = [make(self._stack[-count:])]

    def _do_dict(self, _):
        self._gather(lambda items: ordered_dict(zip(items[::2], items[1::2])))

    def _do_setitem(self, _):
        value, key = self._stack.pop(), self._stack.pop()
        self._set(self._stack[-1], [key, value])

    def _do_setitems(self, _):
        items = self._items()
        self._set(self._stack[-1], items)

    def _set(self, target, items):
        if isinstance(target, dict):
            set_items(target, zip(items[::2], items[1::2]))
        elif not isinstance(target, Inert):
            raise ValueError(f"it sets items of a {type(target).__name__}")

    def _do_additems(self, _):
        items = self._items()
        self._stack[-1].update(map(_checked_key, items))

    def _do_frozenset(self, _):
        self._gather(lambda items: frozenset(map(_checked_key, items)))

    def _do_global(self, names):
        self._stack.append(self._find(*names.split(" ", 1)))

    def _do_stack_global(self, _):
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._find(*map(_text, (module, name))))

    def _do_reduce(self, _):
        self._replace(2, lambda pair: _called(*pair))

    def _do_newobj_ex(self, _):
        self._replace(3, lambda items: _called(*items[:2]))

    def _do_obj(self, _):
        self._gather(lambda items: _called(items[0], tuple(items[1:])))

    def _do_inst(self, names):
        self._gather(lambda items: _called(self._find(*names.split(" ", 1)), tuple(items)))

    def _do_build(self, _):
        state = self._stack.pop()
        if isinstance(target := self._stack[-1], (_Array, _Type)):
            target.build(state)
        elif not isinstance(target, (Inert, Pending, dict)):  # the attributes of others are not needed
            raise ValueError(f"it changes a {type(target).__name__}")

    def _do_binpersid(self, _):
        self._replace(1, lambda items: self._persistent_object(items[0]))

    def _persistent_object(self, identifier):
        if self._persistent is None:
            raise ValueError("it refers to objects outside of it")
        return self._persistent(identifier)


_SAME = {
    "BINGET": "GET", "LONG_BINGET": "GET", "BINPUT": "PUT", "LONG_BINPUT": "PUT", "NEWOBJ": "REDUCE",
}  # fmt: skip


def set_items(target: dict, pairs: Any) -> None:
    """Adds pairs to a dict whose keys are texts, numbers and the like."""
    for key, value in pairs:
        target[_checked_key(key)] = value


def _checked_key(key):
    if not isinstance(key, (str, bytes, float, type(None))) and not (isinstance(key, int) and abs(key) < _LARGEST_KEY):
        raise ValueError(f"it has a key that is a {type(key).__name__}, or too large a number")
    return key


def _text(value):
    if not isinstance(value, str):
        raise ValueError(f"a name in it is a {type(value).__name__}")
    return value


def _called(function, arguments):
    if isinstance(function, Inert):
        return Inert()
    if not callable(function) or not isinstance(arguments, tuple):
        raise ValueError(f"it calls a {type(function).__name__}")
    return function(*arguments)


def whole_numbers(values: object) -> tuple[int, ...]:
    """Returns a size or strides as a tuple, after checking that they are whole numbers from 0 on."""
    if not isinstance(values, (tuple, list)) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("a size in it is not made of whole numbers")
    return tuple(values)


class _Type:
    """A type of numbers; anything else that NumPy has, such as objects, is refused."""

    def __init__(self, name, *_):
        match = _NUMBERS.fullmatch(name if isinstance(name, str) else "")
        if not match:
            raise UserError(f"it has values of the type {shown(name)}, which no file of weights needs")
        self._name, self._order = match[2], match[1]

    def build(self, state):
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self._order = state[1]

    def array(self, data, shape, order="C"):
        """Returns the array of a shape whose numbers are in bytes, which it shares."""
        dtype = np.dtype(self._order + self._name)
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote them
        if not isinstance(data, (bytes, bytearray)) or len(data) != elements(shape) * dtype.itemsize:
            raise ValueError("an array in it has another size than its values")
        array = np.frombuffer(data, dtype).reshape(shape, order=order)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


class _Array(Pending):
    """What NumPy reconstructs and then builds."""

    def __init__(self, *_):
        self._value = None

    def build(self, state):
        _, shape, dtype, fortran, data = state
        self._value = _array(data, dtype, shape, "F" if fortran else "C")

    def result(self):
        if self._value is None:
            raise ValueError("an array in it has no values")
        return self._value


def _array(data, dtype, shape, order="C"):
    if not isinstance(dtype, _Type) or order not in ("C", "F"):
        raise ValueError("an array in it has no type")
    return dtype.array(data, shape, order)


def _scalar(dtype, data):
    return _array(data, dtype, ())[()]


def _encoded(text, encoding="latin1"):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in it are not written as pickle writes them")
    return text.encode("latin1")


def ordered_dict(pairs: Iterable = ()) -> dict:
    """Stands for collections.OrderedDict."""
    target: dict = {}
    set_items(target, pairs)
    return target


def bfloat16(halves: np.ndarray) -> np.ndarray:
    """Returns float32 numbers whose upper halves are given as uint16."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def elements(shape: object) -> int:
    """Returns the number of an array's elements. Raises ValueError for what is no shape."""
    return math.prod(whole_numbers(shape))


def make_tuple(items: Sequence = ()) -> tuple:
    """Stands for tuple, and for torch.Size."""
    if not isinstance(items, (tuple, list)):
        raise ValueError("a tuple in it is made of something else")
    return tuple(items)


# What a pickled dict of arrays refers to.
NAMES: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): ordered_dict,
    ("builtins", "tuple"): make_tuple,
    ("__builtin__", "tuple"): make_tuple,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): lambda: b"",  # how protocol 2 has no bytes
    ("__builtin__", "bytes"): lambda: b"",
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
}
for _module in ("numpy.core", "numpy._core"):
    NAMES[f"{_module}.multiarray", "_reconstruct"] = _Array
    NAMES[f"{_module}.multiarray", "scalar"] = _scalar
    NAMES[f"{_module}.numeric", "_frombuffer"] = _array  # protocol 5


def refuse(module: str, name: str) -> None:
    """Raises the UserError about a name that no file of weights needs."""
    raise UserError(f"it refers to {shown(f'{module}.{name}')}, which no file of weights needs: do not trust it")


def find_name(module: str, name: str) -> Any:
    """Returns what stands for a name of NAMES.

    Raises:
        UserError: another name.
    """
    return NAMES[module, name] if (module, name) in NAMES else refuse(module, name)
