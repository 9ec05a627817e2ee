"""Registers psa_mask and psa_attention with Paddle, from a library that is found or built on first use."""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path

import paddle

from paddleseg_psp import paddle_internals
from paddleseg_psp.ops.library.variant import build_library, cache_folder, find_library

OPERATORS = ("paddleseg_psa_mask", "paddleseg_psa_attention")  # by which graphs name them

_log = logging.getLogger("paddleseg_psp")
_lock = threading.Lock()


def load_operator(required: bool = False) -> bool:
    """Registers the native operators with Paddle, compiling them first if necessary; later calls return the same answer.

    A process that runs an exported model must call it before it reads the model.

    Args:
        required: raise where the operator cannot be had, instead of returning False.

    Returns:
        Whether the operators can run natively on the current device. If not, the first call logs a warning that says why
        and what to do.

    Raises:
        RuntimeError: `required`, and the operator cannot be had.
    """
    problem = _problem()
    if problem and required:
        raise RuntimeError(f"The native operators are needed here, but {problem}")
    if problem:
        _warn_once(f"PSANet uses plain Paddle operators, many times slower than its native ones, because {problem}")
    return not problem


@functools.lru_cache(maxsize=None)
def _register():
    """Finds or builds the library and registers it. Returns (whether it has the CUDA kernels, what went wrong or None)."""
    if _registered():
        return True, None
    try:
        library = find_library() or build_library(cache_folder())
    except OSError as error:
        return False, f"they could not be built: {error}. PADDLESEG_PSP_CACHE names the folder to build them into."
    except RuntimeError as error:
        return False, str(error)
    problem = register(library)
    if problem:
        return False, f"{problem}\nDelete it, and it will be built again."
    return library.name.startswith("psamask-cuda"), None


def _registered():
    """Returns whether the operators are there: registering them again would abort the process."""
    return paddle_internals.is_registered(OPERATORS[0])


def register(library: Path) -> str | None:
    """Registers the operators in a library with Paddle, unless they are. Returns what went wrong, or None."""
    if _registered():
        return None
    try:
        paddle_internals.register_operators(str(library))
    except Exception as error:  # Paddle raises what it likes here
        return f"{library} cannot be loaded: {error}"
    return None


def _problem():
    """Returns why the operators cannot run natively on the current device, or None."""
    with _lock:
        has_cuda, problem = _register()
    if not problem and not has_cuda and paddle.get_device().startswith("gpu"):
        problem = "nvcc was not found, so that they run on the CPU only. Install the CUDA toolkit of Paddle's version."
    return problem


@functools.lru_cache(maxsize=None)
def _warn_once(message):
    _log.warning(message)
