"""Ending cleanly after a signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from paddleseg_psp.engine import distributed


class Interrupted(Exception):
    """A run received a signal, saved and ended.

    Args:
        signum: the signal.
        message: what was saved, for the user.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum


class Interruption:
    """Inside the block SIGTERM, SIGINT and SIGHUP are recorded, so that the run can end where nothing is lost.

    A second SIGINT ends the process immediately. SIGHUP stays ignored under nohup.
    """

    def __init__(self, agree_every: int) -> None:
        """agree_every (int): iterations between the moments when several processes ask each other."""
        self._signum, self._at_once, self._agree_every = 0, False, agree_every

    def __enter__(self) -> Interruption:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # the only one that signals reach
            signals = [signal.SIGTERM, signal.SIGINT]
            hang_up = getattr(signal, "SIGHUP", None)  # absent on Windows
            if hang_up and signal.getsignal(hang_up) != signal.SIG_IGN:
                signals.append(hang_up)
            self._previous = {signum: signal.signal(signum, self._handle) for signum in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum, _):
        if signum == self._signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = signum
        if self._at_once:
            raise Interrupted(signum)

    def after(self, iteration: int) -> int:
        """Returns the signal to act on after this iteration, the same in all processes, or 0."""
        if distributed.world_size() == 1:
            return self._signum
        if iteration % self._agree_every:
            return 0
        return int(distributed.gather([self._signum]).max())

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block a signal raises Interrupted, since there is nothing to lose."""
        self._at_once = True
        try:
            if self._signum:
                raise Interrupted(self._signum)
            yield
        finally:
            self._at_once = False
