"""VisualDL's records of a run, in one file, which a resumed run continues: VisualDL shows one file of a folder.

VisualDL's own LogWriter writes in a thread that dies of a full disk, after which the program waits for it for ever.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np
from visualdl.component.base_component import image, meta_data, scalar
from visualdl.proto.record_pb2 import Record

from paddleseg_psp.files import append, atomic_path

_LENGTH = struct.Struct("<Q")  # before each record


class VisualDLLog:
    """Writes scalars and pictures; each method raises OSError if it cannot.

    Args:
        folder: has the file or gets it; records of several, as earlier versions left them, go into the one that is shown.
        keeps: called with tag and iteration; whether a record that is there stays.
    """

    def __init__(self, folder: str, keeps: Callable[[str, int], bool]) -> None:
        names = sorted(name for name in os.listdir(folder) if name.startswith("vdlrecords."))
        paths = [os.path.join(folder, name) for name in names]
        self._path = paths[-1] if paths else os.path.join(folder, f"vdlrecords.{time.time():010.0f}.log")
        with atomic_path(self._path) as temporary, open(temporary, "wb") as file:
            file.write(_framed(meta_data(walltime=_now())))
            for record in (record for path in paths for record in _records(path)):
                if all(keeps(value.tag, value.id) and not value.HasField("meta_data") for value in record.values):
                    file.write(_framed(record))
        for path in paths[:-1]:
            os.remove(path)

    def add_scalar(self, tag: str, value: float, iteration: int) -> None:
        append(self._path, _framed(scalar(tag, value, iteration, _now())))

    def add_image(self, tag: str, picture: np.ndarray, iteration: int) -> None:
        """`picture` is [H, W, 3] (blue, green, red) uint8."""
        append(self._path, _framed(image(tag, picture[..., ::-1], iteration, _now())))


def _framed(record):
    content = record.SerializeToString()
    return _LENGTH.pack(len(content)) + content


def _records(path) -> Iterator[Record]:
    """Yields a file's records up to one that was cut off."""
    with open(path, "rb") as file:
        while len(header := file.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(header)
            if length > os.path.getsize(path) or len(content := file.read(length)) < length:
                return
            yield Record.FromString(content)


def _now():
    return round(1000 * time.time())
