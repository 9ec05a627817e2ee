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
        message = " ".join(str(error).split())
        _fail(message if isinstance(error, UserError) else f"{type(error).__name__}: {message} (--debug shows where)", 1)


def _fail(message, code):
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr, flush=True)
    if os.environ.get("PADDLE_TRAINERS_NUM", "1") != "1":
        os._exit(code)  # other ranks wait for this one; unwinding the process group would wait for them
    sys.exit(code)
