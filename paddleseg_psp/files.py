"""Writing files so that a reader sees the whole old one or the whole new one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from paddleseg_psp.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Gives a temporary path beside `path`; when the block ends well, that file is flushed and takes the place of `path`.

    Raises:
        OSError: the file could not be written; names `path`.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    start = f".{os.getpid()}."
    # keeps the extension, which writers go by; a file system takes 255 bytes
    temporary = os.path.join(folder, start + os.fsdecode(os.fsencode(name)[len(start) - 255 :]))
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, path)
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """Gives a temporary folder beside `path`; when the block ends well, its files are flushed and it takes the place of `path`.

    A folder that is there already is `path`.old for a moment, which is all there is if the process dies just then.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    temporary, old = os.path.join(parent, f".{os.getpid()}.{name}"), path + ".old"
    try:
        os.makedirs(temporary)
        yield temporary
        for entry in os.scandir(temporary):
            _flush(entry.path)
        _flush(temporary)
        if os.path.isdir(path):
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(temporary, path)
        _flush(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path):
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: str, flag: str = "--save_dir") -> None:
    """Raises UserError unless files, or the folder itself, can be made there; leaves nothing behind."""
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise UserError(f"{flag} {folder}: {existing} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{flag} {folder}: nothing can be written in {existing} ({error.strerror})")


def read_if_there(path: str) -> str:
    """Returns the text of a file, or "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def printable(path: str) -> str:
    """Returns a path for the log, which can write UTF-8 alone; other bytes of names are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def sha256(path: str) -> str:
    """Returns the checksum of a file in hexadecimal digits, as sha256sum prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
