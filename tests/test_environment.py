import os
import re

import pytest
from helpers import run_python

from paddleseg_psp import environment
from paddleseg_psp.environment import mkl_code_path
from paddleseg_psp.files import read_if_there

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
print("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"))
"""
PACKAGE_FIRST = "import hashlib, os, numpy, paddleseg_psp, paddle" + MULTIPLY
PADDLE_FIRST = "import hashlib, os, numpy, paddle, paddleseg_psp" + MULTIPLY


def multiply(script, **variables):
    """Runs a product in a fresh process with these variables alone; returns its threads, its digest and OMP_NUM_THREADS."""
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    process = run_python(["-c", script], environment={**clean, "MKL_VERBOSE": "1", **variables})
    assert process.returncode == 0, process.stderr
    (threads,) = set(re.findall(r"MKL_VERBOSE SGEMM.* NThr:(\d+)", process.stdout))
    return int(threads), *re.search(r"digest (\w+)\nOMP_NUM_THREADS (\w+)", process.stdout).groups()


@pytest.mark.parametrize("script", [PACKAGE_FIRST, PADDLE_FIRST], ids=["package first", "paddle first"])
def test_settings_take_effect(script):
    """MKL reports its threads; which code it runs shows in the last bits of a product."""
    threads, digest, variable = multiply(script)
    assert threads == CORES and variable == "None"
    if CHOSEN:
        assert digest == multiply(script, MKL_DEBUG_CPU_TYPE=CHOSEN)[1]
        assert digest != multiply(script, MKL_DEBUG_CPU_TYPE="0")[1]


@pytest.mark.parametrize("script", [PACKAGE_FIRST, PADDLE_FIRST], ids=["package first", "paddle first"])
def test_values_of_the_user_are_kept(script):
    threads, digest, variable = multiply(script, OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="0")
    assert threads == 1 and variable == "1"
    without_package = multiply("import hashlib, os, numpy, paddle" + MULTIPLY)
    assert digest == without_package[1]  # 0 is what MKL does by itself


def test_the_log_says_what_was_set():
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    script = "from paddleseg_psp import environment; print('\\n'.join(environment.describe()))"
    lines = run_python(["-c", script], environment=clean).stdout.splitlines()
    chosen = f"MKL_DEBUG_CPU_TYPE={CHOSEN}, " if CHOSEN else ""
    assert lines[-1] == f"set for CPU speed (your own values are kept): {chosen}threads={CORES}"
    kept = run_python(["-c", script], environment={**clean, "OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "0"}).stdout
    assert "set for CPU speed" not in kept
