"""Settings of the process that must be in place before paddle is imported.

Paddle's CPU products go through a build of MKL that takes its slowest code path on AMD processors, and it uses one thread
unless told otherwise. On two cores of an AMD EPYC this makes a PSPNet-R50 training step 16 times slower than need be
(benchmarks/train_step.py measures it).
"""

import contextlib
import io
import os
import platform
import sys
import warnings

# The instruction sets that each of MKL's code paths uses, best first.
_MKL_CODE_PATHS = (
    ("7", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("5", {"avx2", "fma"}),
)

# Warnings that paddle gives everyone, whatever they do: at import, and at the first batch normalization.
_SILENCED = ("No ccache found", "When training, we now always track global mean and variance")

_applied = {}


def cpu_settings(cpu_info, cores):
    """Returns the variables that suit a processor.

    Args:
        cpu_info (str): the text of /proc/cpuinfo, or "" where there is none.
        cores (int): the processor cores this process may use.
    """
    settings = {"OMP_NUM_THREADS": str(cores)}
    if "AuthenticAMD" in cpu_info:
        flags = next((line.split(":", 1)[1].split() for line in cpu_info.splitlines() if line.startswith("flags")), [])
        code_path = next((path for path, needed in _MKL_CODE_PATHS if needed.issubset(flags)), None)
        if code_path:
            settings["MKL_DEBUG_CPU_TYPE"] = code_path
    return settings


def configure(environ=os.environ):
    """Sets the variables of `cpu_settings` that the user has not set, and imports paddle; too late once paddle is imported."""
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
    if "paddle" in sys.modules:
        return
    for name, value in cpu_settings(_read_cpu_info(), _cores(environ)).items():
        if name not in environ:
            environ[name] = _applied[name] = value
    _import_paddle()


def _import_paddle():
    """Imports paddle without its warning about an OMP_NUM_THREADS above 1, where the value is ours."""
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            import paddle  # noqa: F401
    finally:
        for line in messages.getvalue().splitlines():
            if not ("OMP_NUM_THREADS" in line and "OMP_NUM_THREADS" in _applied):
                print(line, file=sys.stderr)


def describe():
    """Returns the lines about the environment that head a log, as a list of str."""
    import cv2
    import numpy
    import paddle
    import paddleseg

    lines = [
        f"platform: {platform.platform()}, Python {platform.python_version()}",
        f"paddle {paddle.__version__} ({'CUDA ' + paddle.version.cuda() if paddle.is_compiled_with_cuda() else 'CPU'}), "
        f"paddleseg {paddleseg.__version__}, numpy {numpy.__version__}, OpenCV {cv2.__version__}",
        f"device: {paddle.device.get_device()}, {_cores(os.environ)} CPU cores",
    ]
    if _applied:
        chosen = ", ".join(f"{name}={value}" for name, value in _applied.items())
        lines.append(f"set for CPU speed (your own values are kept): {chosen}")
    return lines


def _cores(environ):
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(environ.get("PADDLE_LOCAL_SIZE", 1)))  # ranks of one machine share its cores


def _read_cpu_info():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
