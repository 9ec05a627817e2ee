"""Settings that make paddle work and be fast on the CPU, applied when the package and paddle are imported.

Paddle's CPU products go through a build of MKL that takes its slowest code path on AMD processors, and it uses one thread
by default (dev/benchmarks/train_step.py measures what that costs). It and others make folders in the home when they are
imported, which not every container has.
"""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import sys
import tempfile
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from paddleseg_psp.files import can_be_made, read_if_there

# The instruction sets that each of MKL's code paths uses, best first.
_MKL_CODE_PATHS = (
    ("7", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("5", {"avx2", "fma"}),
)

# Warnings that paddle gives everyone, whatever they do: at import, and at the first batch normalization.
_SILENCED = ("No ccache found", "When training, we now always track global mean and variance")

# Folders that paddleseg and visualdl make in the home at import. Paddle makes another where it may.
_IN_SEG_HOME = ("dataset", "tmp", "pretrained_model")
_IN_HOME = (".visualdl/conf", ".visualdl/fastdeployserver", ".visualdl/x2paddle")
_PADDLES = ".cache/paddle/dataset"

_applied: dict[str, str] = {}
_home: str | None = None  # what the temporary home stands in for


def mkl_code_path(cpu_info: str) -> str | None:
    """Returns the value of MKL_DEBUG_CPU_TYPE that suits an AMD processor, or None for others.

    Args:
        cpu_info: the text of /proc/cpuinfo, or "" where there is none.
    """
    if "AuthenticAMD" not in cpu_info:
        return None
    flags = next((line.split(":", 1)[1].split() for line in cpu_info.splitlines() if line.startswith("flags")), [])
    return next((path for path, needed in _MKL_CODE_PATHS if needed.issubset(flags)), None)


def _ensure_home():
    """Gives the process a temporary home, removed at its end, if folders that are made at import cannot be made in its own."""
    global _home
    home = os.path.expanduser("~")  # as it stands where the user has none
    seg_home = os.environ.get("SEG_HOME") or os.path.join(home, ".paddleseg")
    needed = [os.path.join(seg_home, name) for name in _IN_SEG_HOME] + [os.path.join(home, name) for name in _IN_HOME]
    if os.access(home, os.W_OK):
        needed.append(os.path.join(home, _PADDLES))
    if os.path.isabs(home) and all(map(can_be_made, needed)):
        return
    try:
        temporary = tempfile.mkdtemp(prefix="paddleseg_psp.")
    except OSError:  # no place to write at all: the import says so
        return
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["HOME"], _home = temporary, home


def configure() -> None:
    """Chooses MKL's code path and the number of threads, unless the user has set MKL_DEBUG_CPU_TYPE or OMP_NUM_THREADS.

    A home that cannot be written is replaced. Paddle itself is not imported; the number of threads is set as soon as it is.
    """
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)
    code_path = mkl_code_path(read_if_there("/proc/cpuinfo"))
    if code_path and "MKL_DEBUG_CPU_TYPE" not in os.environ:
        os.environ["MKL_DEBUG_CPU_TYPE"] = code_path  # MKL reads it at its first use
        _applied["MKL_DEBUG_CPU_TYPE"] = code_path
    users_threads = _users_threads()
    _ensure_home()
    if users_threads is None:
        if "paddle" in sys.modules:
            _set_threads()
        else:
            sys.meta_path.insert(0, _PaddleFinder())


class _PaddleFinder(MetaPathFinder):
    """Sets the number of threads when Paddle has been imported; an environment variable would also change other programs."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != "paddle":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _set_threads()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _set_threads():
    from paddleseg_psp import paddle_internals  # which imports paddle

    paddle_internals.set_threads(_cores())
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
    """Returns the lines about the environment at the start of a log."""
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
    if _home:
        lines.append(
            f"home: {_home} cannot be written, so the process has {os.environ['HOME']} until it ends, downloads and compiled "
            "operators included (set HOME to keep them)"
        )
    if _applied:
        chosen = ", ".join(f"{name}={value}" for name, value in _applied.items())
        lines.append(f"set for CPU speed (your own values are kept): {chosen}")
    return lines


def has_bfloat16() -> bool:
    """Returns whether this processor multiplies bfloat16 (AVX512_BF16 or AMX); others emulate or ignore it."""
    flags = read_if_there("/proc/cpuinfo").partition("\nflags")[2].partition("\n")[0].split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores():
    host, _, _ = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").partition(":")
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    here = sum(endpoint.partition(":")[0] == host for endpoint in endpoints)  # processes of this machine share its cores
    return max(1, processors() // max(1, here))
