"""The CPU kernels under the thread, address and undefined-behaviour sanitizers; `make test-sanitizers` runs these alone."""

import os
import shutil
import subprocess

import pytest

from paddleseg_psp.ops import library


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize("sanitizers, instructions", [("thread", 2), ("address,undefined", 0), ("address,undefined", 2)])
def test_kernels_are_clean(sanitizers, instructions, tmp_path):
    """Threads are the standard library's here, since GCC's OpenMP is not known to the thread sanitizer."""
    sources = [*sorted(library.SOURCES.glob("*_cpu.cc")), os.path.join(os.path.dirname(__file__), "sanitized.cc")]
    flags = [
        f"-fsanitize={sanitizers}",
        "-fno-sanitize-recover=all",
        f"-DPSA_INSTRUCTIONS={instructions}",
        f"-I{library.SOURCES}",
    ]
    command = ["g++", "-O1", "-g", "-std=c++17", "-Wno-psabi", "-Wno-ignored-attributes", "-pthread", *flags, *sources]
    subprocess.run([*command, "-o", tmp_path / "run"], check=True)
    result = subprocess.run([tmp_path / "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0 and result.stdout == "all written\n", result.stdout
