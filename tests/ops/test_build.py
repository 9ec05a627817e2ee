"""Finding and building the operator, each in fresh processes on a copy of the package that has no built operator."""

import errno
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddleseg_psp.ops.library import lock, registration, variant
from tests.helpers import ROOT

COMPUTE = """
import paddle
from paddleseg_psp.ops import psa_mask
from paddleseg_psp.ops import library
from paddleseg_psp.ops.psamask.reference import psa_mask as reference

x = paddle.rand([1, 9, 4, 5])
for psa_type in ("collect", "distribute"):
    assert (psa_mask(x, psa_type, (3, 3)) == reference(x, psa_type, (3, 3))).all()
print("native:", library.load_operator())
"""
REQUIRE = "from paddleseg_psp.ops import library; library.load_operator(required=True)"


@pytest.fixture
def package(tmp_path):
    """Returns the folder of a copy of the package, beside which there is an empty folder `cache`."""
    ignored = shutil.ignore_patterns("_lib", "__pycache__")
    shutil.copytree(os.path.join(ROOT, "paddleseg_psp"), tmp_path / "copy" / "paddleseg_psp", ignore=ignored)
    (tmp_path / "cache").mkdir()
    return tmp_path / "copy"


def start(package, *arguments, start_new_session=False, **environment):
    environment = {**os.environ, "PADDLESEG_PSP_CACHE": str(package.parent / "cache"), **environment}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=package,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run(package, *arguments, **environment):
    return finish(start(package, *arguments, **environment))


def compiler(folder, *lines):
    """Makes a compiler out of a shell script; each of its runs adds its arguments as a line to the file `log`."""
    path = folder / "compiler"
    path.write_text("\n".join(["#!/bin/sh", f'echo "$@" >> {folder}/log', *lines]))
    path.chmod(0o755)
    return str(path)


def fake_library(path):
    """Writes a file that was built as far as its checksum goes."""
    path.write_bytes(b"library")
    path.with_name(path.name + ".sha256").write_text(f"{hashlib.sha256(b'library').hexdigest()}  {path.name}\n")


def libraries(folder):
    return sorted(path for path in folder.rglob("*.so"))


def test_importing_builds_and_loads_nothing(package):
    script = (
        "import paddleseg_psp.ops, paddleseg_psp.ops.build\n"
        "from paddle.base.framework import OpProtoHolder\n"
        "assert 'paddleseg_psa_mask' not in OpProtoHolder.instance().op_proto_map"
    )
    code, out, err = run(package, "-c", script)
    assert code == 0, err
    assert "ccache" not in err
    assert not list((package.parent / "cache").iterdir()) and not libraries(package)


@pytest.mark.slow
def test_eight_processes_build_once(package):
    cxx = compiler(package.parent, 'exec g++ "$@"')
    results = [finish(process) for process in [start(package, "-c", COMPUTE, CXX=cxx) for _ in range(8)]]
    assert [(code, out) for code, out, err in results] == [(0, "native: True\n")] * 8, results
    assert (package.parent / "log").read_text().count("-shared") == 1

    # The lock file that stays does not block, and a later process builds nothing.
    assert list((package.parent / "cache").glob("*.lock"))
    assert run(package, "-c", COMPUTE, CXX=cxx)[:2] == (0, "native: True\n")
    assert (package.parent / "log").read_text().count("-shared") == 1


@pytest.mark.slow
def test_killed_builds_block_nothing(package):
    """Killed at random moments, with its compiler and without, which then goes on by itself."""
    cache, generator = package.parent / "cache", random.Random(1)
    killed = 0
    for attempt in range(6):
        process = start(package, "-m", "paddleseg_psp.ops.build", start_new_session=True)
        while process.poll() is None and not list((package / "paddleseg_psp" / "ops").rglob("*.building")):
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 6))
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL) if attempt % 2 else process.kill()
        process.communicate()
        if libraries(package):  # it was quicker
            shutil.rmtree(package / "paddleseg_psp" / "ops" / "_lib")
    assert killed >= 3

    code, out, err = run(package, "-m", "paddleseg_psp.ops.build")
    assert code == 0, err
    (library,) = libraries(package)
    beside = [library.with_suffix(".lock").name, library.name, f"{library.name}.sha256"]
    assert sorted(path.name for path in library.parent.iterdir()) == beside
    assert run(package, "-c", COMPUTE, CXX="/nonexistent/g++")[:2] == (0, "native: True\n")
    assert not list(cache.iterdir())


def test_waiting_for_another_process_ends(folders, monkeypatch):
    name = variant.Variant(cuda=False).file_name()
    monkeypatch.setattr(lock, "PATIENCE", 1.5)
    said = []
    monkeypatch.setattr(lock._log, "warning", said.append)
    with open(folders / "cache" / name.replace(".so", ".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=rf"for 1\.5 s, or holds {re.escape(held.name)}"):
            variant.build_library(folders / "cache")
    assert said == [f"Waiting for another process that builds PSANet's operators ({held.name})"]


def test_file_system_without_locks(folders, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(variant, "_run", lambda command: fake_library(Path(command[command.index("-o") + 1])))
    assert variant.build_library(folders / "cache").exists()


def test_leftovers_of_killed_builds_are_removed(folders, monkeypatch):
    leftover = folders / "cache" / variant.Variant(cuda=False).file_name().replace(".so", ".xyz.building")
    leftover.mkdir()
    (leftover / "library.so").write_text("half of it")
    monkeypatch.setattr(variant, "_run", lambda command: fake_library(Path(command[command.index("-o") + 1])))
    library = variant.build_library(folders / "cache")
    beside = (library.with_suffix(".lock"), library.with_name(library.name + ".sha256"))
    assert sorted((folders / "cache").iterdir()) == sorted([library, *beside])


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_damaged_libraries(package):
    """A library is as it was built, to the bit, or it is built again."""
    code, out, err = run(package, "-m", "paddleseg_psp.ops.build")
    assert code == 0, err
    (library,) = libraries(package)
    whole, sums = library.read_bytes(), library.with_name(library.name + ".sha256")
    assert subprocess.run(["sha256sum", "-c", sums.name], cwd=library.parent, capture_output=True).returncode == 0
    damaged = [whole[:0], whole[:3], whole[:-1], flipped(whole, 100), flipped(whole, len(whole) // 2), flipped(whole, -1)]
    for content in damaged:
        library.write_bytes(content)
        code, out, err = run(package, "-c", "from paddleseg_psp.ops import library; print(library.find_library())")
        assert (code, out) == (0, "None\n"), (len(content), err)
    code, out, err = run(package, "-m", "paddleseg_psp.ops.build")
    assert code == 0 and len(library.read_bytes()) == len(whole), err
    for text in ("", "nonsense"):
        sums.write_text(text)
        assert run(package, "-c", "from paddleseg_psp.ops import library; print(library.find_library())")[1] == "None\n"

    library.write_bytes(whole.replace(b"libpaddle.so", b"libpuddle.so"))
    sums.write_text(f"{hashlib.sha256(library.read_bytes()).hexdigest()}  {library.name}\n")
    code, out, err = run(package, "-c", REQUIRE)
    assert code != 0 and f"{library} cannot be loaded" in err and "Delete it" in err


def planted(folders, change):
    """Returns a library in the cache after a change of whose it is."""
    library = folders / "cache" / variant.Variant(cuda=False).file_name()
    fake_library(library)
    assert variant.find_library() == library
    change(library)
    return library


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda library: os.chown(library, 4321, 4321), marks=as_root),
        pytest.param(lambda library: os.chown(library.parent, 4321, 4321), marks=as_root),
        pytest.param(lambda library: os.chown(library.parent.parent, 4321, 4321), marks=as_root),
        lambda library: library.chmod(0o757),
        lambda library: library.parent.chmod(0o777),
        lambda library: library.parent.chmod(0o1777),  # sticky: others could have put it there
        lambda library: library.parent.parent.chmod(0o777),
        pytest.param(lambda library: (os.chown(library.parent, 0, 4321), library.parent.chmod(0o775)), marks=as_root),
    ],
)
def test_what_others_may_have_put_there_is_not_loaded(folders, change):
    planted(folders, change)
    assert variant.find_library() is None


@as_root
def test_a_link_to_what_others_own(folders):
    library = planted(folders, lambda library: None)
    theirs = folders / "theirs.so"
    os.rename(library, theirs)
    library.symlink_to(theirs)
    assert variant.find_library() == library  # ours
    os.chown(theirs, 4321, 4321)
    assert variant.find_library() is None


def test_folders_that_only_others_can_close(folders, monkeypatch):
    monkeypatch.setattr(variant, "_run", lambda command: fake_library(Path(command[command.index("-o") + 1])))
    (folders / "cache").chmod(0o777)
    assert variant.find_library() is None
    library = variant.build_library(folders / "cache")  # the user's own folder is closed
    assert variant.find_library() == library and (folders / "cache").stat().st_mode & 0o777 == 0o755
    (folders / "open").mkdir()
    (folders / "open").chmod(0o777)
    (folders / "open" / "cache").mkdir()
    with pytest.raises(RuntimeError, match=r"others may write .*open, and could replace what is built.*PADDLESEG_PSP_CACHE"):
        variant.build_library(folders / "open" / "cache")


@as_root
def test_a_cache_of_another_user(folders, monkeypatch):
    monkeypatch.setattr(variant, "_run", lambda command: fake_library(Path(command[command.index("-o") + 1])))
    os.chown(folders / "cache", 4321, 4321)
    with pytest.raises(RuntimeError, match="cache belongs to another user"):
        variant.build_library(folders / "cache")


def test_missing_headers_of_paddle_are_named(folders, monkeypatch):
    cpu = variant.Variant(cuda=False)
    cpu.includes = [folders / "nothing"]
    with pytest.raises(RuntimeError, match="all.h is missing. Install it again: pip install --force-reinstall paddlepaddle"):
        cpu.build(folders / "cache")
    assert not libraries(folders / "cache")


@pytest.mark.parametrize("environment", [{"CXX": "/nonexistent/g++"}, {"PATH": ""}], ids=str)
def test_without_a_compiler_the_reference_computes_and_says_so_once(package, environment):
    code, out, err = run(package, "-c", COMPUTE, **environment)
    assert (code, out) == (0, "native: False\n"), err
    assert err.count("PSANet uses plain Paddle operators") == 1 and err.count("was not found") == 1
    assert "apt-get install g++" in err

    code, out, err = run(package, "-c", COMPUTE, PSA_MASK_IMPL="native", **environment)
    assert code != 0 and "RuntimeError: The native operators are needed here, but" in err
    code, out, err = run(package, "-c", REQUIRE, **environment)
    assert code != 0 and "apt-get install g++" in err


def test_a_failing_compiler_is_quoted(package):
    cxx = compiler(package.parent, "echo 'internal error: out of luck'", "exit 1")
    code, out, err = run(package, "-c", REQUIRE, CXX=cxx)
    assert code != 0 and "out of luck" in err and "_cpu.cc" in err

    code, out, err = run(package, "-m", "paddleseg_psp.ops.build", CXX=cxx)
    assert code == 1 and "Traceback" not in err
    assert "the operators were not built: the compiler failed" in err and "out of luck" in err
    assert not libraries(package.parent)


def test_a_cache_that_cannot_be_written_is_named(package):
    code, out, err = run(package, "-c", COMPUTE, PADDLESEG_PSP_CACHE="/dev/null/cache")
    assert (code, out) == (0, "native: False\n"), err
    assert "/dev/null/cache" in err and "PADDLESEG_PSP_CACHE" in err


def test_ahead_of_time_build_is_used_without_a_compiler(package):
    code, out, err = run(package, "-m", "paddleseg_psp.ops.build")
    assert code == 0, err
    (library,) = libraries(package)
    assert out == f"psa_mask and psa_attention: {library}\n" and library.parent == package / "paddleseg_psp" / "ops" / "_lib"
    for environment in ({}, {"CXX": "/nonexistent/g++"}):
        assert run(package, "-c", COMPUTE, **environment)[:2] == (0, "native: True\n")
    assert not list((package.parent / "cache").iterdir())

    # What was built from other sources is not used.
    with open(package / "paddleseg_psp" / "ops" / "psamask" / "csrc" / "psamask.h", "a") as file:
        file.write("// changed\n")
    assert run(package, "-c", COMPUTE, CXX="/nonexistent/g++")[:2] == (0, "native: False\n")


def test_ahead_of_time_build_into_a_read_only_package(package):
    (package / "paddleseg_psp" / "ops" / "_lib").write_text("a file, so that no folder can be made here")
    code, out, err = run(package, "-m", "paddleseg_psp.ops.build")
    assert code == 0, err
    (library,) = libraries(package.parent / "cache")
    assert "cannot be written" in out and out.endswith(f"psa_mask and psa_attention: {library}\n")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Lets `build` in this process look into a copy of the sources, and into empty folders for built operators."""
    shutil.copytree(variant.SOURCES, tmp_path / "csrc")
    monkeypatch.setattr(variant, "SOURCES", tmp_path / "csrc")
    monkeypatch.setattr(variant, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setenv("PADDLESEG_PSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo version 1"))
    monkeypatch.setattr(variant.paddle, "is_compiled_with_cuda", lambda: False)
    for name in ("prebuilt", "cache"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_file_names_tell_what_differs(folders, monkeypatch):
    names = [variant.Variant(cuda=False).file_name()]

    def differs():
        names.append(variant.Variant(cuda=False).file_name())
        return names.count(names[-1]) == 1

    assert not differs()
    compiler(folders, "echo version 2")
    assert differs()
    monkeypatch.setattr(variant.paddle.version, "full_version", "3.9.9")
    assert differs()
    (folders / "csrc" / "psamask_cpu.cc").write_text("int changed;")
    assert differs()
    (folders / "elsewhere").mkdir()
    monkeypatch.setenv("CXX", compiler(folders / "elsewhere", "echo version 2"))
    assert differs()


def test_what_fits_is_found(folders, monkeypatch):
    assert variant.find_library() is None
    name = variant.Variant(cuda=False).file_name()
    for folder in ("cache", "prebuilt"):  # the package comes first
        fake_library(folders / folder / name)
        assert variant.find_library() == folders / folder / name
    (folders / "cache" / name).unlink()

    compiler(folders, "echo version 2")
    assert variant.find_library() is None  # another compiler's
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    assert variant.find_library() == folders / "prebuilt" / name  # but better than none
    (folders / "csrc" / "psamask.h").write_text("// other sources")
    assert variant.find_library() is None


def test_paddle_for_cuda_prefers_its_kernels(folders, monkeypatch):
    monkeypatch.setattr(variant.paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setenv("PATH", str(folders))
    (folders / "nvcc").write_text("#!/bin/sh\n")
    (folders / "nvcc").chmod(0o755)
    for cuda in (False, True):
        name = variant.Variant(cuda).file_name()
        fake_library(folders / "prebuilt" / name)
        assert variant.find_library() == folders / "prebuilt" / name
    (folders / "nvcc").unlink()
    assert variant.find_library().name == name


def test_on_a_gpu_the_cpu_kernels_alone_are_not_enough(monkeypatch):
    monkeypatch.setattr(registration, "_register", lambda: (False, None))
    assert registration.load_operator()
    monkeypatch.setattr(variant.paddle, "get_device", lambda: "gpu:0")
    assert not registration.load_operator()
    with pytest.raises(RuntimeError, match="nvcc"):
        registration.load_operator(required=True)


needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")


@needs_nvcc
def test_cuda_kernels_compile(tmp_path):
    for source in variant.SOURCES.glob("*.cu"):
        files = ["-c", source, "-o", tmp_path / "kernels.o"]
        subprocess.run(["nvcc", "-std=c++17", "-Werror", "all-warnings", *files], check=True)


@needs_nvcc
@pytest.mark.slow
def test_library_for_cuda_builds(tmp_path):
    library = variant.Variant(cuda=True).build(tmp_path)
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], stdout=subprocess.PIPE, text=True, check=True).stdout
    for device in ("cpu", "cuda"):
        for name in ("psamask_forward", "psamask_backward", "psa_attention_forward", "psa_attention_backward"):
            assert f" T {name}_{device}\n" in symbols


@pytest.mark.slow
def test_installing_compiles_the_operator_into_the_package(tmp_path):
    """From sources that have no library yet; run from another folder, nothing is compiled any more."""
    sources = tmp_path / "sources"
    shutil.copytree(
        ROOT, sources, ignore=lambda folder, names: [name for name in names if name.startswith((".", "_lib", "data"))]
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        tmp_path / "site",
    ]
    subprocess.run([*map(str, command), str(sources)], check=True)
    script = "import paddleseg_psp; from paddleseg_psp.ops import library; print(library.find_library())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PADDLESEG_PSP_CACHE": str(tmp_path / "cache")}
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.startswith(str(tmp_path / "site" / "paddleseg_psp" / "ops" / "_lib"))


@pytest.mark.parametrize("cxx, message", [("g++ 'x", "is not a command"), ("{}/text", "{}/text does not run")])
def test_a_compiler_that_is_none(folders, monkeypatch, cxx, message):
    (folders / "text").write_bytes(b"\x7fELF nonsense")
    (folders / "text").chmod(0o755)
    monkeypatch.setenv("CXX", cxx.format(folders))
    with pytest.raises(RuntimeError, match=message.format(folders)):
        variant.build_library(folders / "cache")


def test_a_compiler_named_blank_is_gcc(folders, monkeypatch):
    monkeypatch.setenv("CXX", " ")
    assert variant.Variant(cuda=False).compiler == ["g++"]


def test_messages_of_a_compiler_need_not_be_utf8(folders):
    compiler(folders, '[ "$1" = --version ] && exit', "printf '\\351chec\\n'; exit 1")
    with pytest.raises(RuntimeError, match="\ufffdchec"):
        variant.build_library(folders / "cache")


def test_without_locks_a_folder_that_may_be_in_use_is_left_alone(folders, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    stem = variant.Variant(cuda=False).file_name()[: -len(".so")]
    (folders / "cache" / f"{stem}.other.building").mkdir()
    monkeypatch.setattr(variant.Variant, "_compile", lambda self, folder: shutil.copy(shutil.which("true"), folder))
    variant.build_library(folders / "cache")
    assert (folders / "cache" / f"{stem}.other.building").exists()
