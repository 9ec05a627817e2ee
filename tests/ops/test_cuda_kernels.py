"""The CUDA kernels, run on the CPU by tests/gpu/cuda_on_cpu.h, against their definition. tests/gpu runs them on a GPU."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests import psa_kernels
from tests.helpers import ROOT, run_python
from tests.psa_kernels import COMPACT, SOURCES, TYPES, inputs, mask_channels

# N, C, H, W, mask size
SHAPES = [
    (2, 5, 5, 7, (3, 5)),
    (1, 3, 3, 4, (9, 11)),
    (1, 70, 4, 6, (3, 21)),  # more channels than a tile's
    (1, 4, 1, 1, (1, 1)),
    (1, 4, 9, 1, (5, 3)),
    (1, 20, 2, 67, (3, 71)),  # wider than a tile
    (1, 3, 2, 150, (1, 5)),
    (2, 9, 4, 5, COMPACT),
    (1, 5, 1, 66, COMPACT),
]
TOLERANCES = {"float32": 1e-5, "float64": 1e-13, "float16": 2e-3, "bfloat16": 1.6e-2}  # relative


def build(folder, *flags):
    """Compiles the CUDA sources for the CPU."""
    for name in ("psamask_cuda.cu", "psa_attention_cuda.cu"):
        with open(os.path.join(SOURCES, name)) as file:
            code = file.read()
        code = re.sub(r"#include <cuda\w*\.h>\n", "", code).replace(
            "#include <algorithm>", '#include "cuda_on_cpu.h"\n#include <algorithm>', 1
        )
        code, launches = re.subn(r"([\w]+(?:<\w+(?:<\w+>)?>)?)<<<(.+?), (\w+), 0, .+?>>>\(", r"launch(\2, \3, \1, ", code)
        assert launches == code.count("launch(") > 0 and "<<<" not in code
        (folder / name.replace(".cu", ".cc")).write_text(code)
    includes = [f"-I{SOURCES}", f"-I{os.path.join(ROOT, 'tests', 'gpu')}"]
    command = ["g++", "-O1", "-g", "-std=c++17", "-w", "-shared", "-fPIC", "-pthread", *includes, *flags]
    subprocess.run([*command, "psamask_cuda.cc", "psa_attention_cuda.cc", "-o", "kernels.so"], cwd=folder, check=True)
    return folder / "kernels.so"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    return psa_kernels.load(build(tmp_path_factory.mktemp("cuda_on_cpu")))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[4] is not COMPACT], ids=str)
def test_psa_mask(shape, psa_type, dtype, kernels):
    n, _, height, width, _ = shape
    x = np.random.standard_normal((n, mask_channels(shape), height, width)).astype(dtype)
    grad_out = np.random.standard_normal((n, height * width, height * width)).astype(dtype)
    out, grad_x = psa_kernels.run_psa_mask(kernels, x, grad_out, shape, psa_type)
    np.testing.assert_array_equal(out, psa_kernels.psa_mask(x, shape, psa_type))
    np.testing.assert_array_equal(
        grad_x.reshape(n, -1, height * width), psa_kernels.psa_mask_gradient(grad_out, shape, psa_type)
    )


@pytest.mark.parametrize("element", ["float32", "float64"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_psa_attention(shape, psa_type, softmax, element, kernels):
    psa_kernels.check_psa_attention(kernels, shape, psa_type, softmax, element, TOLERANCES[element])


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize("psa_type", TYPES)
def test_psa_attention_in_low_precision(psa_type, element, kernels):
    psa_kernels.check_psa_attention(kernels, SHAPES[0], psa_type, True, element, TOLERANCES[element])


@pytest.mark.parametrize("offset", [-1e4, 1e4])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_huge_logits(shape, psa_type, offset, kernels):
    value, mask, grad_out = inputs(shape, "float64")
    arrays = value, mask + offset, grad_out
    results = psa_kernels.run_psa_attention(kernels, arrays, shape, psa_type, True, "float64")
    for result, wanted in zip(results, psa_kernels.psa_attention(*arrays, shape, psa_type, True)):
        np.testing.assert_allclose(result.ravel(), wanted.ravel(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad, kernels):
    shape = (1, 3, 4, 5, (3, 3))
    value, mask, grad_out = inputs(shape)
    mask[0, 4, 2, 2] = bad
    out = psa_kernels.run_psa_attention(kernels, (value, mask, grad_out), shape, "collect", True, "float32")[0]
    assert np.isnan(out[:, :, 2, 2]).all() and np.isfinite(np.delete(out.reshape(3, 20), 12, axis=1)).all()


RACES = """
import sys
import numpy as np
from tests import psa_kernels

np.random.seed(0)
kernels = psa_kernels.load(sys.argv[1])
for shape in ((1, 20, 3, 18, (3, 5)), (1, 5, 2, 9, None)):
    for psa_type in psa_kernels.TYPES:
        psa_kernels.check_psa_attention(kernels, shape, psa_type, True, "float32", 1e-5)
shape = (1, 1, 2, 35, (3, 5))
x, grad_out = (np.random.standard_normal((1, channels, 2, 35)).astype("float32") for channels in (15, 70))
for psa_type in psa_kernels.TYPES:
    out, grad_x = psa_kernels.run_psa_mask(kernels, x, grad_out, shape, psa_type)
    assert (out.reshape(1, 70, 70) == psa_kernels.psa_mask(x, shape, psa_type)).all()
    assert (grad_x.reshape(1, 15, 70) == psa_kernels.psa_mask_gradient(grad_out, shape, psa_type)).all()
print("all equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_no_races_in_shared_memory(tmp_path):
    path = build(tmp_path, "-fsanitize=thread")
    runtime = subprocess.run(
        ["g++", "-print-file-name=libtsan.so"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    environment = {"LD_PRELOAD": os.path.realpath(runtime), "OPENBLAS_NUM_THREADS": "1"}
    result = run_python(["-c", RACES, path], env=environment)
    assert "data race" not in result.stderr, result.stderr[:5000]
    assert result.returncode == 0 and "all equal" in result.stdout, result.stderr[-5000:]
