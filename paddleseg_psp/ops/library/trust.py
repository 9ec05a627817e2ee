"""Deciding which compiled libraries may be loaded: a library runs with all rights of its user (docs/security.md)."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from paddleseg_psp.files import atomic_path, sha256


def note_checksum(library: Path) -> None:
    """Writes the SHA-256 of a library beside it, as sha256sum does."""
    with atomic_path(str(_noted(library))) as path, open(path, "w", encoding="utf-8") as file:
        file.write(f"{sha256(str(library))}  {library.name}\n")


def is_trusted(library: Path) -> bool:
    """Returns whether a library can only come from this user or root, and has not changed since it was compiled."""
    files = {library, library.resolve()}  # a link, and what it leads to
    return not any(map(_reason, files)) and not any(reason_against(file.parent) for file in files) and _is_as_built(library)


def reason_against(folder: Path) -> str | None:
    """Returns why files in a folder may come from another user, who owns it or a parent folder, or may write there; else None.

    From a folder above it with the sticky bit, such as /tmp, others cannot remove it.
    """
    above = (_reason(part, sticky=True) for part in folder.resolve().parents)
    return next(filter(None, (_reason(folder), *above)), None)


def _reason(path, sticky=False):
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} cannot be seen ({error.strerror})"
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user"
    if _others_may_write(status) and not (sticky and status.st_mode & stat.S_ISVTX):
        return f"others may write {path}"
    return None


def _others_may_write(status):
    """Returns whether a file's mode lets others write it; a user's own group has no others."""
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid)))


def _is_own_group(number):
    if number != os.getegid():
        return False
    try:
        own, members = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(number).gr_mem
    except KeyError:  # a container's user without a name
        return True
    return set(members) <= {own}


def _is_as_built(library):
    try:
        return _noted(library).read_text(encoding="utf-8").split()[0] == sha256(str(library))
    except (OSError, IndexError, UnicodeDecodeError):
        return False


def _noted(library):
    return library.with_name(library.name + ".sha256")
