"""Atomic files: a reader sees the complete old file or the complete new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator

from paddleseg_psp.errors import UserError

_LONG_NAME = 200  # bytes; file systems take 255 at most
_TEMPORARY = re.compile(r"\.\d+\.([0-9a-f]{8}\..+|iter_\d+)")  # the latter of earlier versions


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Yields a temporary path beside `path`. If the block succeeds, that file is flushed and replaces `path`.

    Raises:
        OSError: the file could not be written; names `path`.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = _temporary(path)
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
    """Yields a temporary folder beside `path`. If the block succeeds, its files are flushed and it replaces `path`.

    A folder that is there already is `path`.old for a moment, which is all there is if the process dies just then.
    """
    path = os.path.abspath(path)
    temporary, old = _temporary(path), path + ".old"
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
        _flush(os.path.dirname(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _temporary(path):
    """Returns a hidden path beside `path` that no other process uses, with its extension, which writers go by."""
    folder, name = os.path.split(os.path.abspath(path))
    if len(os.fsencode(name)) > _LONG_NAME:
        name = "long" + os.path.splitext(name)[1][-20:]
    return os.path.join(folder, f".{os.getpid()}.{secrets.token_hex(4)}.{name}")  # containers give the same process ids


def remove_left_overs(folder: str) -> None:
    """Removes files of killed writers; nothing else may be writing there."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if _TEMPORARY.fullmatch(entry.name):
            shutil.rmtree(entry.path) if entry.is_dir() else os.remove(entry.path)


def append(path: str, content: bytes) -> None:
    """Appends bytes to a file: all of them, or none and an OSError."""
    with open(path, "ab", buffering=0) as file:
        size = os.path.getsize(path)
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        except OSError:
            file.truncate(size)
            raise


def link_or_copy(source: str, target: str) -> None:
    """Gives a file a second name, or copies it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _flush(path):
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: str, flag: str = "--save_dir") -> None:
    """Raises UserError unless files, or the folder itself, can be created there; leaves nothing behind."""
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


def can_be_made(folder: str) -> bool:
    """Returns whether a folder is there or could be made."""
    try:
        if not os.path.isdir(folder):
            require_writable(folder)
        return True
    except UserError:
        return False


def read_if_there(path: str, most: int = -1) -> str:
    """Returns the text of a file, at most `most` characters, or "" if it cannot be read."""
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except OSError:
        return ""


def sha256(path: str) -> str:
    """Returns the checksum of a file in hexadecimal digits, as sha256sum prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
