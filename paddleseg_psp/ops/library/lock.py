"""One process at a time builds a library into a folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 600  # seconds to wait for another process that builds; a build takes some ten

_log = logging.getLogger("paddleseg_psp")


@contextlib.contextmanager
def only_builder(lock_file: Path) -> Iterator[bool]:
    """Lets one process at a time in; yields False if the file system has no locks.

    The kernel forgets a lock when its process ends, however it ends.

    Raises:
        RuntimeError: another process has kept the others waiting for PATIENCE seconds.
    """
    import fcntl  # absent on Windows

    with open(lock_file, "w") as lock:
        start, told, locked = time.monotonic(), False, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
                break
            except BlockingIOError:
                waited = time.monotonic() - start
            except OSError:  # a file system without locks: then each builds for itself, and the last one's file stays
                break
            if waited > PATIENCE:
                raise RuntimeError(
                    f"another process has been building it for {PATIENCE} s, or holds {lock_file} for another reason. "
                    f"End that process, or name another folder in PADDLESEG_PSP_CACHE."
                )
            if waited > 1 and not told:
                _log.warning(f"Waiting for another process that builds PSANet's operators ({lock_file})")
                told = True
            time.sleep(0.1)
        yield locked
