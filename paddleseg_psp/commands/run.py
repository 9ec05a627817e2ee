"""Running a command so that it ends well: one line for an error, and an honest exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from paddleseg_psp.engine.interruption import Interrupted
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import tolerant_output


def run(command: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """Adds --debug to a parser and calls a command with the arguments.

    On failure the last line says what is wrong and the process exits with 1.

    Ended by a signal it exits with 128 and the signal's number, as a shell has it. That output cannot be shown, or written any
    more, is no failure.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    with tolerant_output():
        args = parser.parse_args(argv)
        _run(command, args)


def _run(command, args):
    try:
        command(args)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except Interrupted as interrupted:
        _fail(f"ended by {signal.Signals(interrupted.signum).name}: {interrupted}", 128 + interrupted.signum)
    except Exception as error:
        if args.debug:
            raise
        _fail(" ".join(_said(error).split()), 1)


def _said(error):
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:  # e.g. a full disk
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _fail(message, code):
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr, flush=True)
    if os.environ.get("PADDLE_TRAINERS_NUM", "1") != "1":
        os._exit(code)  # other ranks wait for this one; unwinding the process group would wait for them
    sys.exit(code)
