"""Running a command so that it ends well: one line for an error, and an honest exit code."""

import os
import sys

from paddleseg_psp.errors import UserError


def run(command, args):
    """Calls command(args). On failure the last line says what is wrong and the process exits with 1 (130 when interrupted)."""
    try:
        command(args)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if args.debug:
            raise
        if isinstance(error, UserError):
            _fail(_plain(error), 1)
        _fail(f"{type(error).__name__}: {_plain(error)} (--debug shows where)", 1)


def _plain(error):
    """Returns a message in one line; of one that a reading process sent with its traceback, what the exception said."""
    text = str(error)
    marker = f"{UserError.__module__}.{UserError.__name__}: "
    return " ".join(text.rpartition(marker)[2].split())


def _fail(message, code):
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr, flush=True)
    if sys.exc_info()[0] is not None and os.environ.get("PADDLE_TRAINERS_NUM", "1") != "1":
        os._exit(code)  # other ranks wait for this one; unwinding the process group would wait for them
    sys.exit(code)
