import os
import re
import subprocess
import sys

import pytest

from paddleseg_psp import environment
from paddleseg_psp.environment import mkl_code_path
from paddleseg_psp.files import read_if_there
from tests.helpers import ROOT, own_mounts, run_python

AVX512 = "avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl"
CHOSEN = mkl_code_path(read_if_there("/proc/cpuinfo"))
CORES = environment._cores()


def cpu_info(vendor, flags):
    return f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n"


def test_code_path_of_mkl_follows_the_instruction_set_of_amd_processors():
    assert mkl_code_path(cpu_info("AuthenticAMD", AVX512)) == "7"
    assert mkl_code_path(cpu_info("AuthenticAMD", "avx2 fma")) == "5"
    assert mkl_code_path(cpu_info("AuthenticAMD", "sse4_2")) is None


def test_other_processors_keep_their_code_path():
    assert mkl_code_path(cpu_info("GenuineIntel", AVX512)) is None
    assert mkl_code_path("") is None


MULTIPLY = """
x = paddle.to_tensor(numpy.random.RandomState(0).randn(256, 256).astype("float32"))
print("digest", hashlib.sha256(paddle.matmul(x, x).numpy().tobytes()).hexdigest())
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_DEBUG_CPU_TYPE"))
"""
PADDLE_ALONE = "import hashlib, os, numpy, paddle" + MULTIPLY
PACKAGE_FIRST = "import hashlib, os, numpy, paddleseg_psp, paddle" + MULTIPLY
PADDLE_FIRST = "import hashlib, os, numpy, paddle, paddleseg_psp" + MULTIPLY


def multiply(script, **variables):
    """Runs a product in a fresh process with these variables alone.

    Returns its threads, its digest, and the OMP_NUM_THREADS and MKL_DEBUG_CPU_TYPE that it ends with.
    """
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    process = run_python(["-c", script], environment={**clean, "MKL_VERBOSE": "1", **variables})
    assert process.returncode == 0, process.stderr
    (threads,) = set(re.findall(r"MKL_VERBOSE SGEMM.* NThr:(\d+)", process.stdout))
    return int(threads), *re.search(r"digest (\w+)\n(\w+) (\w+)", process.stdout).groups()


@pytest.mark.parametrize("script", [PACKAGE_FIRST, PADDLE_FIRST], ids=["package first", "paddle first"])
def test_settings_take_effect(script):
    """MKL reports its threads; on AMD, which code it runs shows in the last bits of a product."""
    threads, digest, omp_threads, code_path = multiply(script)
    assert threads == CORES and omp_threads == "None" and code_path == str(CHOSEN)
    if CHOSEN:
        assert digest == multiply(PADDLE_ALONE, MKL_DEBUG_CPU_TYPE=CHOSEN, OMP_NUM_THREADS=str(CORES))[1]
        assert digest != multiply(script, MKL_DEBUG_CPU_TYPE="0")[1]


@pytest.mark.parametrize("script", [PACKAGE_FIRST, PADDLE_FIRST], ids=["package first", "paddle first"])
def test_values_of_the_user_are_kept(script):
    """On AMD the product shows that they hold; what 0 means elsewhere is MKL's affair."""
    users = {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "0"}
    threads, digest, *variables = multiply(script, **users)
    assert threads == 1 and variables == ["1", "0"]
    if CHOSEN:
        assert digest == multiply(PADDLE_ALONE, **users)[1]


HOME = """
import os, paddleseg_psp, paddle, paddleseg, visualdl
print(os.environ["HOME"], *paddleseg_psp.environment.describe(), sep="\\n")
"""


@pytest.mark.parametrize("place", ["nowhere", "a file", "another's folder in it"])
def test_a_home_that_cannot_be_written(tmp_path, place):
    """As in a container by docker --user: a temporary one takes its place, and goes with the process."""
    home = {"nowhere": "/proc/nohome", "a file": tmp_path / "file"}.get(place, tmp_path)
    (tmp_path / "file").touch()
    if home == tmp_path:
        (home / ".visualdl").touch()
    process = run_python(["-c", HOME], env={"HOME": str(home)})
    assert process.returncode == 0, process.stderr
    own, *lines = process.stdout.splitlines()
    assert f"home: {home} cannot be written, so the process has {own} until it ends" in "\n".join(lines)
    assert not os.path.exists(own)
    assert sorted(os.listdir(tmp_path)) == ([".visualdl", "file"] if home == tmp_path else ["file"])


def test_a_read_only_home_that_has_the_folders_is_kept(tmp_path):
    for name in (*environment._IN_HOME, *(f".paddleseg/{name}" for name in environment._IN_SEG_HOME)):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".visualdl" / "conf" / "config.json").write_text("{}")
    mount = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && cd {ROOT} && exec "$@"'
    shell = [*own_mounts(), "bash", "-c", mount, "-", sys.executable, "-c", HOME]
    process = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0] == str(tmp_path) and "home:" not in process.stdout


def test_the_log_says_what_was_set():
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    script = "from paddleseg_psp import environment; print('\\n'.join(environment.describe()))"
    lines = run_python(["-c", script], environment=clean).stdout.splitlines()
    chosen = f"MKL_DEBUG_CPU_TYPE={CHOSEN}, " if CHOSEN else ""
    assert lines[-1] == f"set for CPU speed (your own values are kept): {chosen}threads={CORES}"
    kept = run_python(["-c", script], environment={**clean, "OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "0"}).stdout
    assert "set for CPU speed" not in kept


def test_the_package_alone_imports_no_paddle():
    """Nor does the program, so that it lists its commands at once; the public names do when they are used."""
    script = """
import sys
import paddleseg_psp
from paddleseg_psp.commands import main
assert not {"paddle", "paddleseg", "cv2"} & set(sys.modules)
for name in paddleseg_psp.__all__:
    assert callable(getattr(paddleseg_psp, name)), name
assert paddleseg_psp.train.__module__ == "paddleseg_psp.engine.trainer" and "paddle" in sys.modules
try:
    paddleseg_psp.trian
except AttributeError as error:
    print(error)
"""
    process = run_python(["-c", script])
    assert process.stdout == "module 'paddleseg_psp' has no attribute 'trian'\n", process.stderr
