"""Settings that make paddle fast on the CPU, applied when the package is imported.

Paddle's CPU products go through a build of MKL that takes its slowest code path on AMD processors, and it uses one thread
unless told otherwise (benchmarks/train_step.py measures what that costs).
"""

from __future__ import annotations

import os
import platform
import sys
import warnings

from paddleseg_psp.files import read_if_there

# The instruction sets that each of MKL's code paths uses, best first.
_MKL_CODE_PATHS = (
    ("7", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("5", {"avx2", "fma"}),
)

# Warnings that paddle gives everyone, whatever they do: at import, and at the first batch normalization.
_SILENCED = ("No ccache found", "When training, we now always track global mean and variance")

_applied: dict[str, str] = {}
paddle_error = None  # why paddle cannot be imported; a second attempt would give a misleading reason


def mkl_code_path(cpu_info: str) -> str | None:
    """Returns the value of MKL_DEBUG_CPU_TYPE that suits an AMD processor, or None for others.

    Args:
        cpu_info: the text of /proc/cpuinfo, or "" where there is none.
    """
    if "AuthenticAMD" not in cpu_info:
        return None
    flags = next((line.split(":", 1)[1].split() for line in cpu_info.splitlines() if line.startswith("flags")), [])
    return next((path for path, needed in _MKL_CODE_PATHS if needed.issubset(flags)), None)


def configure() -> None:
    """Chooses MKL's code path and the number of threads, unless the user has set MKL_DEBUG_CPU_TYPE or OMP_NUM_THREADS.

    Without paddle there is nothing to choose for: the module that needs it will say so, and the doctor what to do.
    """
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
    code_path = mkl_code_path(read_if_there("/proc/cpuinfo"))
    if code_path and "MKL_DEBUG_CPU_TYPE" not in os.environ:
        os.environ["MKL_DEBUG_CPU_TYPE"] = code_path  # MKL reads it at its first use
        _applied["MKL_DEBUG_CPU_TYPE"] = code_path
    users_threads = _users_threads()
    try:
        import paddle
    except Exception as error:  # an OSError, too: paddle makes a folder in the home
        global paddle_error
        paddle_error = error
        return
    if users_threads is None:
        paddle.base.core.set_num_threads(_cores())
        _applied["threads"] = _cores()
        os.environ.pop("OMP_NUM_THREADS", None)  # written by paddle; other processes would take it for the user's


def _users_threads():
    """Returns the OMP_NUM_THREADS that the user has set, or None.

    Paddle itself writes a 1 there when it is imported, also in its launcher, whose processes then have it from the start.
    """
    value = os.environ.get("OMP_NUM_THREADS")
    started = os.getppid() if "PADDLE_TRAINER_ENDPOINTS" in os.environ else "self"
    written = "paddle" in sys.modules or started != "self"
    if written and value == "1" and "OMP_NUM_THREADS=" not in read_if_there(f"/proc/{started}/environ"):
        return None
    return value


def describe() -> list[str]:
    """Returns the lines about the environment that head a log, as a list of str."""
    import cv2
    import numpy
    import paddle
    import paddleseg

    lines = [
        f"platform: {platform.platform()}, Python {platform.python_version()}",
        f"paddle {paddle.__version__} ({'CUDA ' + paddle.version.cuda() if paddle.is_compiled_with_cuda() else 'CPU'}), "
        f"paddleseg {paddleseg.__version__}, numpy {numpy.__version__}, OpenCV {cv2.__version__}",
        f"device: {paddle.device.get_device()}, {_cores()} CPU cores",
    ]
    if _applied:
        chosen = ", ".join(f"{name}={value}" for name, value in _applied.items())
        lines.append(f"set for CPU speed (your own values are kept): {chosen}")
    return lines


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores():
    host, _, _ = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").partition(":")
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    here = sum(endpoint.partition(":")[0] == host for endpoint in endpoints)  # processes of this machine share its cores
    return max(1, processors() // max(1, here))
