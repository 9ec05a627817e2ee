"""Finds the psa_mask operator or builds it, once, and registers it with Paddle.

    python -m paddleseg_psp.ops.build

builds it into the package ahead of its first use. What is not found there is built on first use into $PADDLESEG_PSP_CACHE
(by default ~/.cache/paddleseg_psp). $CXX chooses the compiler; with a Paddle for CUDA, nvcc is used too.
"""

import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import paddle
from paddle.base import core, framework

from paddleseg_psp.files import atomic_path

OPERATOR = "paddleseg_psa_mask"
SOURCES = Path(__file__).parent / "psamask" / "csrc"
PREBUILT = Path(__file__).parent / "_lib"

_HOW_TO_GET_IT = (
    "Install g++ (Debian, Ubuntu: apt-get install g++) or name another C++17 compiler in CXX; "
    "`python -m paddleseg_psp.ops.build` then builds the operator and says if something is wrong."
)

_log = logging.getLogger("paddleseg_psp")
_lock = threading.Lock()


def load_operator(required=False):
    """Registers the native operator with Paddle, building it first where need be; later calls only repeat the answer.

    A process that runs an exported model must call it before it reads the model.

    Args:
        required (bool): raise where the operator cannot be had, instead of returning False.

    Returns:
        bool: whether psa_mask can run natively on the current device. If not, the first call logs a warning that says why
        and what to do.

    Raises:
        RuntimeError: `required`, and the operator cannot be had.
    """
    problem = _problem()
    if problem and required:
        raise RuntimeError(f"The native operator psa_mask is needed here, but {problem}")
    if problem:
        _warn_once(f"psa_mask uses plain Paddle operators, slower than the native one, because {problem}")
    return not problem


def cache_folder():
    """Returns the folder of operators built on first use."""
    return Path(os.environ.get("PADDLESEG_PSP_CACHE") or os.path.expanduser("~/.cache/paddleseg_psp"))


def find_library():
    """Returns the path of a library that fits this Paddle, these sources and this compiler, or None."""
    return next(filter(None, (variant.find() for variant in _variants())), None)


def build_library(folder):
    """Builds the library into a folder, unless another process has done so meanwhile, and returns its path.

    Raises:
        RuntimeError: there is no compiler, or it fails.
        OSError: the folder cannot be written.
    """
    variants = _variants()
    for variant in variants:
        if not variant.missing:
            return variant.build(folder)
    raise RuntimeError(f"{variants[-1].missing[0]} was not found. {_HOW_TO_GET_IT}")


class _Variant:
    """A library for the CPU alone or for CUDA too: how it is built here, and the file name that tells it from others."""

    def __init__(self, cuda):
        compiler = shlex.split(os.environ.get("CXX") or "g++")
        self.tools = [compiler] + ([["nvcc"]] if cuda else [])
        self.missing = [tool[0] for tool in self.tools if not shutil.which(tool[0])]
        self.sources = sorted([*SOURCES.glob("*.cc"), *(SOURCES.glob("*.cu") if cuda else [])])
        paddle_folder = Path(paddle.__file__).parent
        openmp = paddle_folder / "libs" / "libiomp5.so"  # Paddle's own threads; a second OpenMP would compete with them
        self.libraries = [paddle_folder / "base" / "libpaddle.so"] + ([openmp] if openmp.exists() else [])
        self.includes = [paddle_folder / "include", paddle_folder / "include" / "third_party"]

        # Those of paddle.utils.cpp_extension.
        self.flags = ["-O3", "-std=c++17", "-w", "-DPADDLE_WITH_CUSTOM_KERNEL", "-D_GLIBCXX_USE_CXX11_ABI=1"]
        host_flags = ["-fPIC"] + (["-fopenmp"] if openmp.exists() else [])
        if cuda:
            self.command = ["nvcc", "-ccbin", compiler[-1]]
            self.flags += ["-DPADDLE_WITH_CUDA", "-x", "cu", "-arch=all-major", "-Xcompiler", ",".join(host_flags)]
        else:
            self.command = compiler
            self.flags += host_flags

        sources = [part for path in sorted(SOURCES.glob("*.*")) for part in (path.name.encode(), path.read_bytes())]
        version = [paddle.version.full_version, paddle.version.commit, str(paddle.version.cuda()), platform.machine()]
        self.stem = "-".join(
            ["psamask", "cuda" if cuda else "cpu", f"paddle{paddle.__version__}", _digest(version + self.flags + sources)]
        )

    def file_name(self):
        compilers = [part for tool in self.tools for part in (shutil.which(tool[0]), _output([*tool, "--version"]))]
        return f"{self.stem}-{_digest(compilers)}.so"

    def find(self):
        """Returns the path of the library or None. Where there is no compiler, any compiler's will do."""
        pattern = f"{self.stem}-*.so" if self.missing else self.file_name()
        return next((path for folder in (PREBUILT, cache_folder()) for path in sorted(folder.glob(pattern))), None)

    def build(self, folder):
        import fcntl  # absent on Windows

        folder.mkdir(parents=True, exist_ok=True)
        library = folder / self.file_name()
        with open(library.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process ends, however it ends
            if not library.exists():
                with atomic_path(library) as path, tempfile.TemporaryDirectory() as objects:
                    self._compile(path, objects)
        return library

    def _compile(self, library, objects):
        includes = [argument for folder in self.includes for argument in ("-isystem", str(folder))]
        for source in self.sources:
            _run([*self.command, *self.flags, *includes, "-c", str(source), "-o", f"{objects}/{source.name}.o"])
        inputs = [f"{objects}/{source.name}.o" for source in self.sources]
        # Paddle's symbols are found through libpaddle.so, also those it gets elsewhere, so a linker must not leave it out.
        _run([*self.command, "-shared", *inputs, "-Xlinker", "--no-as-needed", *map(str, self.libraries), "-o", library])


def _variants():
    """Returns the variants that suit this Paddle, the better one first."""
    return [_Variant(cuda) for cuda in ((True, False) if paddle.is_compiled_with_cuda() else (False,))]


@functools.lru_cache(maxsize=None)
def _register():
    """Finds or builds the library and registers it. Returns (whether it has the CUDA kernels, what went wrong or None)."""
    if OPERATOR in framework.OpProtoHolder.instance().op_proto_map:  # registering it again would abort the process
        return True, None
    try:
        library = find_library() or build_library(cache_folder())
        operators = core.load_op_meta_info_and_register_op(str(library))
    except OSError as error:
        return False, f"it could not be built: {error}. PADDLESEG_PSP_CACHE names the folder to build it into."
    except RuntimeError as error:
        return False, str(error)
    framework.OpProtoHolder.instance().update_op_proto(operators)
    return library.name.startswith("psamask-cuda"), None


def _problem():
    """Returns why psa_mask cannot run natively on the current device, or None."""
    with _lock:
        has_cuda, problem = _register()
    if not problem and not has_cuda and paddle.get_device().startswith("gpu"):
        problem = "nvcc was not found, so that it runs on the CPU only. Install the CUDA toolkit of Paddle's version."
    return problem


@functools.lru_cache(maxsize=None)
def _warn_once(message):
    _log.warning(message)


def _run(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        output = "\n".join(result.stdout.strip().splitlines()[-20:])
        raise RuntimeError(f"the compiler failed.\n{shlex.join(command)}\n{output}\n{_HOW_TO_GET_IT}")


def _output(command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def main():
    """Builds the operator into the package, or into the cache where the package is read-only; prints where it is."""
    try:
        try:
            library = build_library(PREBUILT)
        except OSError as error:
            print(f"{PREBUILT} cannot be written ({error.strerror}): building into {cache_folder()}")
            library = build_library(cache_folder())
        core.load_op_meta_info_and_register_op(str(library))
    except (OSError, RuntimeError) as error:
        sys.exit(f"The operator psa_mask was not built: {error}")
    print(f"psa_mask: {library}")


if __name__ == "__main__":
    main()
