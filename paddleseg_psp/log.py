"""Log lines in PaddleSeg's format, and output whose failure (a closed terminal, a full disk) does not end the work."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

_FAILURES = (OSError, ValueError, AttributeError)  # of the disk or the pipe; of a closed stream; of one without that method
_told = False


class Tolerant:
    """A text stream over another whose writing never raises; what the other cannot encode is escaped.

    The first failure is told on stderr. Over None it shows nothing.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written, and returns the length of the text."""
        with self._telling():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._telling():
            self._stream.flush()

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except _FAILURES:
            return False

    @contextlib.contextmanager
    def _telling(self):
        global _told
        try:
            yield
        except _FAILURES as error:
            if self._stream is None or _told or isinstance(error, AttributeError):
                return
            _told = True
            atexit.register(_drop_unwritten)
            with contextlib.suppress(*_FAILURES):  # nowhere is left to say it
                print(f"Output is lost from here on, the work continues: {error}", file=sys.stderr, flush=True)


def _drop_unwritten():
    """Keeps Python's final flush from failing, which would turn a successful process into an error."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except _FAILURES:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def output() -> Tolerant:
    """Returns what is sys.stdout at the time, which tests and Jupyter replace, made tolerant."""
    return sys.stdout if isinstance(sys.stdout, Tolerant) else Tolerant(sys.stdout)


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Inside the block printing never raises, in other packages neither."""
    with contextlib.redirect_stdout(Tolerant(sys.stdout)), contextlib.redirect_stderr(Tolerant(sys.stderr)):  # type: ignore[type-var]
        try:
            yield
        finally:
            sys.stdout.flush()


class _ToStdout(logging.Handler):
    def emit(self, record):
        stream = output()
        stream.write(self.format(record) + "\n")
        stream.flush()


def _logger():
    handler = _ToStdout()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s]\t%(message)s", "%Y-%m-%d %H:%M:%S"))
    result = logging.getLogger("paddleseg_psp.log")
    result.addHandler(handler)
    result.addFilter(lambda _: os.environ.get("PADDLE_TRAINER_ID", "0") == "0")  # of several processes the first speaks
    result.setLevel(logging.INFO)
    result.propagate = False
    return result


logger = _logger()


@functools.lru_cache(maxsize=None)
def warn_once(message: str) -> None:
    """Logs a warning that this process has not logged yet."""
    logger.warning(message)
