import json

from helpers import run_python

from paddleseg_psp.environment import cpu_settings

AVX512 = "avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl"


def cpu_info(vendor, flags):
    return f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n"


def test_code_path_of_mkl_follows_the_instruction_set_of_amd_processors():
    assert cpu_settings(cpu_info("AuthenticAMD", AVX512), 4) == {"OMP_NUM_THREADS": "4", "MKL_DEBUG_CPU_TYPE": "7"}
    assert cpu_settings(cpu_info("AuthenticAMD", "avx2 fma"), 2)["MKL_DEBUG_CPU_TYPE"] == "5"
    assert "MKL_DEBUG_CPU_TYPE" not in cpu_settings(cpu_info("AuthenticAMD", "sse4_2"), 2)


def test_other_processors_keep_their_code_path():
    assert "MKL_DEBUG_CPU_TYPE" not in cpu_settings(cpu_info("GenuineIntel", AVX512), 2)
    assert "MKL_DEBUG_CPU_TYPE" not in cpu_settings("", 2)


SCRIPT = """
import json, os, sys
import paddleseg_psp
assert "paddle" in sys.modules
print(json.dumps({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}))
"""


def test_settings_are_in_place_before_paddle_is_imported():
    clean = {"OMP_NUM_THREADS": "", "MKL_DEBUG_CPU_TYPE": ""}
    script = f"import os\nfor name in {list(clean)}: os.environ.pop(name, None)\n" + SCRIPT
    process = run_python(["-c", script])
    assert process.returncode == 0, process.stderr
    assert int(json.loads(process.stdout)["OMP_NUM_THREADS"]) >= 1
    assert "OMP_NUM_THREADS" not in process.stderr  # paddle's warning about our own choice


def test_values_of_the_user_are_kept():
    process = run_python(["-c", SCRIPT], env={"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5"})
    assert json.loads(process.stdout) == {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5"}


def test_too_late_once_paddle_is_imported():
    script = "import os, sys\nos.environ.pop('OMP_NUM_THREADS', None)\nsys.modules['paddle'] = None\n"
    script += "from paddleseg_psp import environment\nprint(environment._applied)"
    assert run_python(["-c", script]).stdout.strip() == "{}"


def test_code_path_takes_effect_in_a_fresh_process():
    """On an AMD processor with AVX-512, MKL's default path is several times slower; elsewhere both are the same library."""
    script = """
import os, sys, time
for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE"): os.environ.pop(name, None)
import paddleseg_psp
import paddle
import ctypes
from paddleseg_psp import environment
chosen = environment._applied.get("MKL_DEBUG_CPU_TYPE")
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
assert libc.getenv(b"MKL_DEBUG_CPU_TYPE") == (chosen.encode() if chosen else None)  # what MKL will read
print("ok")
"""
    process = run_python(["-c", script])
    assert process.stdout.strip() == "ok", process.stderr
