"""Writing files so that a reader sees the whole old one or the whole new one."""

import contextlib
import os
import tempfile

from paddleseg_psp.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Gives a temporary path beside `path`; when the block ends well, that file is flushed and takes the place of `path`."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.getpid()}.{name}")  # keeps the extension, which writers go by
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def require_writable(folder, flag="--save_dir"):
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
