"""The compiled library of psa_mask and psa_attention: compiler flags, and a file name for each combination of versions.

A library is built into the package ahead of its first use by `paddleseg-psp build-operator`. One that is not found there is
built on first use into $PADDLESEG_PSP_CACHE (by default ~/.cache/paddleseg_psp). $CXX chooses the compiler; with a Paddle for
CUDA, nvcc is used too.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import paddle

from paddleseg_psp.ops.library.lock import only_builder
from paddleseg_psp.ops.library.trust import is_trusted, note_checksum, reason_against

_OPS = Path(__file__).parents[1]
SOURCES = _OPS / "psamask" / "csrc"
PREBUILT = _OPS / "_lib"

_HOW_TO_GET_IT = (
    "Install g++ 7 or newer (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; conda: conda install -c "
    "conda-forge cxx-compiler; macOS: xcode-select --install) or name another C++17 compiler in CXX; "
    "`paddleseg-psp build-operator` then builds the operators and says if something is wrong."
)


def cache_folder() -> Path:
    """Returns the folder of operators built on first use."""
    return Path(os.environ.get("PADDLESEG_PSP_CACHE") or os.path.expanduser("~/.cache/paddleseg_psp"))


def find_library() -> Path | None:
    """Returns the path of a library that fits this Paddle, these sources and this compiler, or None."""
    return next(filter(None, (variant.find() for variant in _variants())), None)


def build_library(folder: Path) -> Path:
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


class Variant:
    """A library for the CPU only or for CUDA too: how it is compiled here, and its file name."""

    def __init__(self, cuda: bool) -> None:
        self.compiler = _compiler()
        self.tools = [self.compiler] + ([["nvcc"]] if cuda else [])
        self.missing = [tool[0] for tool in self.tools if not shutil.which(tool[0])]
        self.sources = sorted([*SOURCES.glob("*.cc"), *(SOURCES.glob("*.cu") if cuda else [])])
        paddle_folder = Path(paddle.__file__).parent
        openmp = paddle_folder / "libs" / "libiomp5.so"  # Paddle's own threads; a second OpenMP would compete with them
        self.libraries = [paddle_folder / "base" / "libpaddle.so"] + ([openmp] if openmp.exists() else [])
        self.includes = [paddle_folder / "include", paddle_folder / "include" / "third_party"]

        # Those of paddle.utils.cpp_extension.
        self.flags = ["-O3", "-std=c++17", "-w"]
        self.host_flags = ["-fPIC"] + (["-fopenmp"] if openmp.exists() else [])
        self.paddle_flags = ["-DPADDLE_WITH_CUSTOM_KERNEL", "-D_GLIBCXX_USE_CXX11_ABI=1"]
        if cuda:
            self.linker = ["nvcc", "-ccbin", self.compiler[-1]]
            self.paddle_flags += ["-DPADDLE_WITH_CUDA", "-x", "cu", "-arch=all-major", "-Xcompiler", ",".join(self.host_flags)]
        else:
            self.linker = self.compiler
            self.paddle_flags += self.host_flags

        sources = [part for path in sorted(SOURCES.glob("*.*")) for part in (path.name.encode(), path.read_bytes())]
        version = [paddle.version.full_version, paddle.version.commit, str(paddle.version.cuda()), platform.machine()]
        self.stem = "-".join(
            [
                "psamask",
                "cuda" if cuda else "cpu",
                f"paddle{paddle.__version__}",
                _digest(version + self.flags + self.host_flags + self.paddle_flags + sources),
            ]
        )

    def file_name(self) -> str:
        compilers = [part for tool in self.tools for part in (shutil.which(tool[0]), _output([*tool, "--version"]))]
        return f"{self.stem}-{_digest(compilers)}.so"

    def find(self) -> Path | None:
        """Returns the path of the library or None. Where there is no compiler, any compiler's will do."""
        pattern = f"{self.stem}-*.so" if self.missing else self.file_name()
        found = (path for folder in (PREBUILT, cache_folder()) for path in sorted(folder.glob(pattern)))
        return next(filter(is_trusted, found), None)

    def build(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        _close_to_others(folder)
        library = folder / self.file_name()
        with only_builder(library.with_suffix(".lock")) as locked:
            for leftover in folder.glob(f"{library.stem}.*.building"):  # of builds that were killed
                if locked:  # or it may be in use
                    shutil.rmtree(leftover, ignore_errors=True)
            if not is_trusted(library):
                with tempfile.TemporaryDirectory(prefix=f"{library.stem}.", suffix=".building", dir=folder) as workshop:
                    os.replace(self._compile(workshop), library)
                note_checksum(library)
        return library

    def _compile(self, folder):
        """Compiles all sources into a library in the folder and returns its path."""
        header = self.includes[0] / "paddle" / "phi" / "api" / "all.h"
        if not header.exists():
            raise RuntimeError(
                f"Paddle's header {header} is missing. Install it again: pip install --force-reinstall paddlepaddle"
            )
        includes = [argument for folder in self.includes for argument in ("-isystem", str(folder))]
        objects = [f"{folder}/{source.name}.o" for source in self.sources]
        commands = [
            [*self._command(source), *includes, "-c", str(source), "-o", output]
            for source, output in zip(self.sources, objects)
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(_run, commands))
        library = f"{folder}/library.so"
        # Paddle's symbols are found through libpaddle.so, also those it gets elsewhere, so a linker must not leave it out.
        needed = ["-Xlinker", "--no-as-needed", *map(str, self.libraries)]
        _run([*self.linker, "-shared", *objects, *needed, "-o", library])
        with open(library, "rb+") as file:
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
        return library

    def _command(self, source):
        kernels = source.name.endswith("_cpu.cc")  # plain C++ with extensions that nvcc need not understand
        return [*self.compiler, *self.flags, *self.host_flags] if kernels else [*self.linker, *self.flags, *self.paddle_flags]


def _close_to_others(folder):
    """Removes other users' write access from a folder for libraries.

    Raises:
        RuntimeError: it cannot be had, for it or a folder above it is another user's.
    """
    status = folder.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o022:
        folder.chmod(status.st_mode & 0o7755)
    if reason := reason_against(folder):
        raise RuntimeError(
            f"{reason}, and could replace what is built in {folder}. PADDLESEG_PSP_CACHE names another folder to build into."
        )


def _variants():
    """Returns the variants that suit this Paddle, the better one first."""
    return [Variant(cuda) for cuda in ((True, False) if paddle.is_compiled_with_cuda() else (False,))]


def _compiler():
    try:
        return shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError as error:
        raise RuntimeError(f"CXX={os.environ['CXX']} is not a command: {error}. {_HOW_TO_GET_IT}")


def _run(command):
    result = _process(command)
    if result.returncode:
        output = "\n".join(result.stdout.decode(errors="replace").strip().splitlines()[-20:])
        killed = f" (signal {-result.returncode})" if result.returncode < 0 else ""
        raise RuntimeError(f"the compiler failed{killed}.\n{shlex.join(command)}\n{output}\n{_HOW_TO_GET_IT}")


def _output(command):
    return _process(command).stdout


def _process(command):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise RuntimeError(f"{command[0]} does not run ({error.strerror}). {_HOW_TO_GET_IT}")


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]
