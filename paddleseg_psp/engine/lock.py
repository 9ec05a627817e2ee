"""A lock, so that only one training writes into a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from collections.abc import Iterator

from paddleseg_psp.engine import distributed
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "training.lock"
_held: set[int] = set()  # descriptors


def _close_all():
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    # A lock lasts as long as any process has its file open; reading processes may outlive a killed training by seconds.
    os.register_at_fork(after_in_child=_close_all)


@contextlib.contextmanager
def only_training(save_dir: str) -> Iterator[None]:
    """Locks save_dir against other trainings inside the block; the lock also ends with the process.

    Where the file system has no locks a warning says so.

    Raises:
        UserError: another training is running there.
    """
    if distributed.rank() > 0:
        yield
        return
    os.makedirs(save_dir, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.open(os.path.join(save_dir, LOCK), os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            held.callback(_close, descriptor)
            _held.add(descriptor)
            _lock(descriptor, save_dir)
        except OSError as error:
            logger.warning(
                f"--save_dir {save_dir} cannot be locked ({error.strerror}): start no second training there meanwhile"
            )
        yield


def _close(descriptor):
    if descriptor in _held:  # not in a fork
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor, save_dir):
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no flock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 1000).decode(errors="replace").strip() or "a process that has just started"
        raise UserError(
            f"another training is running in --save_dir {save_dir}: {owner}; choose another --save_dir, or wait for its end"
        )
    owner = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, owner.encode())
