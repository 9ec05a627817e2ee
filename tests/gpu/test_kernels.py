"""The CUDA kernels on a GPU, without Paddle: NumPy, pytest, nvcc and PyTorch or CuPy are all it takes.

    python -m pytest --noconftest tests/gpu -s

Random inputs, results written over NaN, compared with float64 in NumPy; prints what bandwidth and speed the kernels achieve.
"""

import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from tests import psa_kernels
from tests.psa_kernels import COMPACT, SOURCES, TYPES, mask_channels

CITYSCAPES = (1, 512, 64, 128, (59, 59))  # PSANet's attention on a whole image
# N, C, H, W, mask size
SHAPES = [
    (2, 5, 5, 7, (3, 5)),
    (1, 3, 3, 4, (9, 11)),
    (3, 70, 14, 6, (3, 21)),
    (1, 4, 1, 1, (1, 1)),
    (2, 20, 12, 67, (3, 71)),
    (1, 3, 2, 300, (1, 597)),
    (16, 64, 30, 30, (59, 59)),
    (2, 9, 14, 15, COMPACT),
]
TOLERANCES = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}  # relative


def torch_device():
    """Returns a class like psa_kernels.Host for PyTorch's memory, or why there is none."""
    try:
        import torch
    except ImportError:
        return None, "PyTorch is not installed"
    if not torch.cuda.is_available():
        return None, "PyTorch sees no GPU"

    class Device:
        synchronize = torch.cuda.synchronize

        @staticmethod
        def put(array):
            return torch.from_numpy(array.view("uint8")).cuda(), array.dtype, array.shape

        @staticmethod
        def pointer(memory):
            return psa_kernels.ctypes.c_void_p(memory[0].data_ptr())

        @staticmethod
        def get(memory):
            return memory[0].cpu().numpy().view(memory[1]).reshape(memory[2])

    return Device, None


def cupy_device():
    """The same for CuPy's memory."""
    try:
        import cupy
    except ImportError:
        return None, "CuPy is not installed"
    if not cupy.cuda.is_available():
        return None, "CuPy sees no GPU"

    class Device:
        put, get, synchronize = cupy.asarray, cupy.asnumpy, cupy.cuda.runtime.deviceSynchronize

        @staticmethod
        def pointer(memory):
            return psa_kernels.ctypes.c_void_p(memory.data.ptr)

    return Device, None


@pytest.fixture(scope="module")
def device():
    reasons = []
    for find in (torch_device, cupy_device):
        found, reason = find()
        if found:
            return found
        reasons.append(reason)
    pytest.skip("; ".join(reasons))


@pytest.fixture(scope="module")
def kernels(device, tmp_path_factory):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is not installed")
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    sources = [os.path.join(SOURCES, name) for name in ("psamask_cuda.cu", "psa_attention_cuda.cu")]
    subprocess.run(
        ["nvcc", "-O3", "-std=c++17", "-arch=native", "-shared", "-Xcompiler", "-fPIC", *sources, "-o", path], check=True
    )
    return psa_kernels.load(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[4] is not COMPACT], ids=str)
def test_psa_mask(shape, psa_type, dtype, kernels, device):
    n, _, height, width, _ = shape
    x = np.random.standard_normal((n, mask_channels(shape), height, width)).astype(dtype)
    grad_out = np.random.standard_normal((n, height * width, height * width)).astype(dtype)
    out, grad_x = psa_kernels.run_psa_mask(kernels, x, grad_out, shape, psa_type, device)
    np.testing.assert_array_equal(out, psa_kernels.psa_mask(x, shape, psa_type))
    np.testing.assert_array_equal(
        grad_x.reshape(n, -1, height * width), psa_kernels.psa_mask_gradient(grad_out, shape, psa_type)
    )


@pytest.mark.parametrize("element", list(TOLERANCES))
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_psa_attention(shape, psa_type, softmax, element, kernels, device):
    psa_kernels.check_psa_attention(kernels, shape, psa_type, softmax, element, TOLERANCES[element], device)


@pytest.mark.parametrize("scale", [1, 1e4])
@pytest.mark.parametrize("psa_type", TYPES)
def test_psa_attention_on_a_whole_image(psa_type, scale, kernels, device):
    psa_kernels.check_psa_attention(
        kernels, CITYSCAPES, psa_type, True, "float64" if scale > 1 else "float32", 1e-5, device, scale
    )


def seconds(function, device, repeats=20):
    function()
    device.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    device.synchronize()
    return (time.perf_counter() - start) / repeats


@pytest.mark.parametrize("psa_type", TYPES)
def test_what_psa_mask_achieves(psa_type, kernels, device):
    """Prints the bytes that must be read and written, by the time they took."""
    n, _, height, width, mask_size = CITYSCAPES
    geometry = psa_kernels.PsaMaskGeometry(n, height, width, *mask_size, psa_type == "distribute")
    reached = len(psa_kernels.logit_places(CITYSCAPES, psa_type)[0])
    x, out = (
        device.put(np.zeros(n * count * height * width, "float32")) for count in (mask_channels(CITYSCAPES), height * width)
    )
    for name, kernel, source, target, written in (
        ("forward", kernels.psamask_forward_cuda, x, out, (height * width) ** 2),
        ("backward", kernels.psamask_backward_cuda, out, x, mask_channels(CITYSCAPES) * height * width),
    ):
        taken = seconds(lambda: kernel(device.pointer(source), device.pointer(target), 4, geometry, None), device)  # noqa: B023
        print(f"\npsa_mask {psa_type} {name}: {taken * 1e3:.3f} ms, {(reached + written) * 4e-9 / taken:.0f} GB/s", end="")


@pytest.mark.parametrize("element", ["float32", "float16"])
@pytest.mark.parametrize("psa_type", TYPES)
def test_what_psa_attention_achieves(psa_type, element, kernels, device):
    """Prints times and the speed of the products within the mask, which no implementation can avoid."""
    n, channels, height, width, _ = CITYSCAPES
    geometry, kind = psa_kernels.attention_geometry(CITYSCAPES, psa_type, True), psa_kernels.ELEMENTS.index(element)
    value, mask, grad_out = map(device.put, psa_kernels.inputs(CITYSCAPES, element))
    out, grad_value, grad_mask = (device.put(np.zeros(n * c * height * width, element)) for c in (channels, channels, 59 * 59))
    statistics = device.put(np.zeros(n * 2 * height * width, "float32"))
    size = kernels.psa_attention_workspace_cuda(kind, geometry)
    workspace = device.put(np.zeros(size, "uint8"))

    def call(function, *memories):
        assert function(*map(device.pointer, (*memories, workspace)), kind, geometry, None) == 0

    forward = seconds(lambda: call(kernels.psa_attention_forward_cuda, value, mask, out, statistics), device)
    arguments = value, mask, out, statistics, grad_out, grad_value, grad_mask
    backward = seconds(lambda: call(kernels.psa_attention_backward_cuda, *arguments), device)
    products = 2e-12 * channels * len(psa_kernels.logit_places(CITYSCAPES, psa_type)[0])
    print(
        f"\npsa_attention {psa_type} {element}: forward {forward * 1e3:.2f} ms, {products / forward:.1f} TFLOP/s, "
        f"backward {backward * 1e3:.2f} ms, {2 * products / backward:.1f} TFLOP/s, workspace {size / 2**20:.1f} MB",
        end="",
    )
