"""psa_attention: the fused operator and plain Paddle operators against a float64 computation of the formula."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_psp.ops import library, psa_attention, psa_mask
from tests.helpers import ROOT, relative_error, run_python
from tests.psa_kernels import COMPACT, ELEMENTS, TYPES, attention_geometry, inputs
from tests.psa_kernels import psa_attention as numpy_psa_attention

# N, C, H, W, mask size
SHAPES = [
    (2, 6, 4, 5, (5, 7)),
    (2, 3, 5, 7, (3, 5)),
    (1, 70, 6, 9, (11, 17)),  # more channels than a register tile's; the mask covers
    (2, 5, 3, 4, (9, 11)),
    (1, 4, 1, 1, (1, 1)),
    (1, 4, 1, 40, (1, 5)),
    (1, 5, 9, 1, (3, 3)),
    (1, 3, 3, 97, (3, 7)),  # wider than a strip
    (1, 130, 6, 19, (5, 9)),
    (1, 3, 1, 200, (1, 397)),  # all but one position
    (2, 9, 4, 13, COMPACT),
    (1, 7, 2, 90, COMPACT),
]
TOLERANCES = {"float32": 1e-5, "float64": 1e-13}  # relative


@pytest.fixture(params=["native", "reference"])
def implementation(request, monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", request.param)
    return request.param


def random(*shape, dtype="float32"):
    return np.random.standard_normal(shape).astype(dtype)


def run(value, mask, grad_out, psa_type, mask_size, softmax=True, function=psa_attention):
    tensors = [paddle.to_tensor(array, stop_gradient=False) for array in (value, mask)]
    out = function(*tensors, psa_type, mask_size, softmax)
    return [out, *paddle.grad(out, tensors, paddle.to_tensor(grad_out))]


def unfused(value, mask, psa_type, mask_size, softmax=True):
    attention = psa_mask(mask, psa_type, mask_size).flatten(2)
    return paddle.bmm(value.flatten(2), F.softmax(attention, axis=1) if softmax else attention).reshape(value.shape)


def compare(results, expected, tolerance):
    for name, result, wanted in zip(("out", "grad_value", "grad_mask"), results, expected):
        result = result.astype("float64").numpy() if isinstance(result, paddle.Tensor) else result
        assert relative_error(result.reshape(wanted.shape), wanted) < tolerance, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_formula(shape, psa_type, softmax, dtype, implementation):
    arrays = inputs(shape, dtype)
    results = run(*arrays, psa_type, shape[4], softmax)
    assert all(result.dtype == getattr(paddle, dtype) for result in results)
    compare(results, numpy_psa_attention(*arrays, shape, psa_type, softmax), TOLERANCES[dtype])


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("height", range(1, 10))
def test_every_small_map_and_mask(height, psa_type, monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", "native")
    for width in range(1, 10):
        for size in range(1, 20, 2):
            shape = (1, 2, height, width, (size, (size + 2 * width) % 20))
            arrays = inputs(shape, "float64")
            results = run(*arrays, psa_type, shape[4])
            for result, wanted in zip(results, numpy_psa_attention(*arrays, shape, psa_type, True)):
                np.testing.assert_allclose(result.numpy().ravel(), wanted.ravel(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-3), ("bfloat16", 1.6e-2)])  # some roundings to 11 or 8 bits
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[8], SHAPES[10]], ids=str)
def test_low_precision(shape, psa_type, softmax, dtype, tolerance, monkeypatch):
    """Only its inputs and outputs are rounded: sums are float32."""
    monkeypatch.setenv("PSA_MASK_IMPL", "native")
    arrays = [paddle.to_tensor(array).astype(dtype) for array in inputs(shape)]
    results = run(*arrays, psa_type, shape[4], softmax)
    assert all(result.dtype == arrays[0].dtype for result in results)
    rounded = [array.astype("float32").numpy() for array in arrays]
    compare(results, numpy_psa_attention(*rounded, shape, psa_type, softmax), tolerance)


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_equals_finite_difference(shape, psa_type, implementation):
    arrays, directions = inputs(shape, "float64"), inputs(shape, "float64")

    def loss(step):
        moved = (array + step * direction for array, direction in zip(arrays[:2], directions))
        return (numpy_psa_attention(*moved, arrays[2], shape, psa_type, True)[0].ravel() * arrays[2].ravel()).sum()

    gradients = run(*arrays, psa_type, shape[4])[1:]
    slope = sum((gradient.numpy() * direction).sum() for gradient, direction in zip(gradients, directions))
    size = sum(
        np.linalg.norm(gradient.numpy()) * np.linalg.norm(direction) for gradient, direction in zip(gradients, directions)
    )
    assert abs(slope - (loss(1e-5) - loss(-1e-5)) / 2e-5) < 1e-8 * size


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
def test_equals_the_unfused_graph(psa_type, softmax, monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", "native")
    for shape in ((1, 64, 30, 29, (59, 59)), (2, 32, 25, 31, (17, 21))):
        arrays = inputs(shape)
        expected = run(*arrays, psa_type, shape[4], softmax, unfused)
        compare(run(*arrays, psa_type, shape[4], softmax), [array.numpy() for array in expected], 1e-5)


@pytest.mark.parametrize("logits", ["random", "small", "large", "of two sizes"])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_huge_logits(shape, psa_type, logits, implementation):
    """exp(1e4) overflows, and where the mask covers all, exp(0) must not even enter."""
    value, mask, grad_out = inputs(shape)
    mask = {
        "random": np.float32(1e4) * mask,
        "small": mask - np.float32(1e4),
        "large": mask + np.float32(1e4),
        "of two sizes": mask + np.float32(1e4) * np.sign(random(*mask.shape)),
    }[logits]
    results = run(value, mask, grad_out, psa_type, shape[4])
    expected = numpy_psa_attention(value, mask, grad_out, shape, psa_type, True)
    compare(results[:2], expected, 1e-5)
    # Where one weight is all but 1, what is left of the mask's gradient is rounding of the products it is the difference of.
    products = np.abs(value).max() * np.abs(grad_out).max() * value.shape[1]
    np.testing.assert_allclose(results[2].numpy().ravel(), expected[2].ravel(), rtol=1e-5, atol=1e-6 * products)


def test_nothing_is_left_of_the_gradient_of_a_weight_of_one(implementation):
    value, mask, grad_out = inputs((1, 70, 3, 4, COMPACT))
    mask[:, 5] = 1e4
    results = run(value, mask, grad_out, "collect", COMPACT)
    np.testing.assert_array_equal(results[0].numpy(), np.broadcast_to(value[:, :, 1:2, 1:2], value.shape))
    assert np.abs(results[2].numpy()).max() < 1e-20


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad, implementation):
    value, mask, grad_out = inputs((1, 3, 4, 5, (3, 3)))
    mask[0, 4, 2, 2] = bad
    out = run(value, mask, grad_out, "collect", (3, 3))[0].numpy()
    assert np.isnan(out[:, :, 2, 2]).all() and np.isfinite(np.delete(out.reshape(3, 20), 12, axis=1)).all()


@pytest.mark.parametrize("psa_type", TYPES)
def test_normalization_divides(psa_type, implementation):
    value, mask, _ = map(paddle.to_tensor, inputs(SHAPES[0], "float64"))
    out, divided = (psa_attention(value, mask, psa_type, (5, 7), False, factor) for factor in (1.0, 0.3))
    assert relative_error(divided * 0.3, out) < 1e-15


@pytest.mark.parametrize("psa_type", TYPES)
def test_views_that_are_not_contiguous(psa_type, implementation):
    value, mask, _ = map(paddle.to_tensor, inputs((2, 6, 5, 4, (5, 7))))
    views = [x.transpose([0, 1, 3, 2]) for x in (value, mask)]
    expected = psa_attention(*[paddle.to_tensor(view.numpy()) for view in views], psa_type, (5, 7))
    assert relative_error(psa_attention(*views, psa_type, (5, 7)), expected) < 1e-7


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"value": paddle.zeros([1, 8, 4, 5])}, ValueError, "value"),
        ({"value": paddle.zeros([2, 8, 4, 6])}, ValueError, "value"),
        ({"value": paddle.zeros([8, 4, 6])}, ValueError, r"value must be \[N, C, H, W\]"),
        ({"value": paddle.zeros([1, 8, 4, 6], "float64")}, TypeError, "of one type, not .*float64 and .*float32"),
        ({"mask_size": None}, ValueError, r"H \* W = 24, H, W\], not of shape \[1, 15, 4, 6\]"),
        ({"mask_size": (5, 5)}, ValueError, r"mask_h \* mask_w = 25, H, W\], not of shape \[1, 15, 4, 6\]"),
        ({"mask_size": (3, 4)}, ValueError, "both odd"),
        ({"psa_type": "gather"}, ValueError, "collect, distribute, not 'gather'"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message, implementation):
    good = {
        "value": paddle.zeros([1, 8, 4, 6]),
        "mask": paddle.zeros([1, 15, 4, 6]),
        "psa_type": "collect",
        "mask_size": (3, 5),
    }
    with pytest.raises(error, match=message):
        psa_attention(**{**good, **arguments})


@pytest.mark.parametrize("value, mask", [([1, 8, 4, 5], [1, 15, 4, 6]), ([1, 8, 4, 6], [1, 14, 4, 6])])
def test_native_operator_checks_what_a_predictor_is_fed(value, mask):
    library.load_operator(required=True)
    with pytest.raises(Exception, match="psa_attention expects"):
        arguments = paddle.zeros(value), paddle.zeros(mask), "collect", 3, 5, True
        paddle._C_ops._run_custom_op("paddleseg_psa_attention", *arguments)


MEMORY = """
import sys
import numpy as np
import paddle
from paddleseg_psp.ops import psa_attention

def megabytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))

def run(height, width, backward):
    value, mask = paddle.randn([1, 512, height, width]), paddle.randn([1, 59 * 59, height, width])
    value.stop_gradient = mask.stop_gradient = not backward
    grad_out = paddle.randn(value.shape)
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = megabytes("VmRSS")
    out = psa_attention(value, mask, sys.argv[1], (59, 59))
    results = [out, *(paddle.grad(out, [value, mask], grad_out) if backward else ())]
    return megabytes("VmHWM") - before - sum(result.numel().item() * 4 for result in results) / 2**20

run(4, 4, True)  # loads and starts everything
print(run(64, 128, False), run(64, 128, True))
"""


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux alone tells a process its peak memory")
def test_no_matrix_of_weights_is_stored(psa_type):
    """At 64x128 it would take 256 MB."""
    result = run_python(["-c", MEMORY, psa_type], env={"PSA_MASK_IMPL": "native"})
    assert result.returncode == 0, result.stderr
    forward, both = map(float, result.stdout.split())
    assert forward < 64 and both < 128


EXPORT = """
import sys
import numpy as np
import onnxruntime
import paddle
import paddle2onnx
from paddleseg_psp.ops import psa_attention

class Net(paddle.nn.Layer):
    def forward(self, value, mask):
        return psa_attention(value, mask, self.psa_type, self.mask_size)

for psa_type in ("collect", "distribute"):
    for mask_size, channels, size in (((5, 3), 15, (7, 5)), (None, 24, (4, 6))):
        net, path = Net(), f"{sys.argv[1]}/{psa_type}{channels}"
        net.psa_type, net.mask_size = psa_type, mask_size
        spec = [paddle.static.InputSpec([-1, c, -1, -1], "float32", name) for c, name in ((8, "value"), (channels, "mask"))]
        paddle.jit.save(paddle.jit.to_static(Net.forward.__get__(net), full_graph=True, input_spec=spec), path)
        paddle2onnx.export(f"{path}.json", "", f"{path}.onnx", opset_version=13, optimize_tool=None)
        session = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
        for n in (1, 3):
            value, mask = (np.random.standard_normal((n, c, *size)).astype("float32") for c in (8, channels))
            expected = net(paddle.to_tensor(value), paddle.to_tensor(mask)).numpy()
            error = session.run(None, {"value": value, "mask": mask})[0] - expected
            assert np.linalg.norm(error) < 1e-6 * np.linalg.norm(expected), (psa_type, channels)
print("all equal")
"""


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("paddle2onnx", "onnxruntime")),
    reason="paddle2onnx or onnxruntime is not installed",
)
def test_reference_exports_to_onnx(tmp_path):
    script = tmp_path / "export.py"  # to_static needs its source
    script.write_text(EXPORT)
    result = run_python([script, tmp_path], env={"PSA_MASK_IMPL": "reference", "PYTHONPATH": ROOT})
    assert result.returncode == 0 and "all equal" in result.stdout, result.stderr


@pytest.fixture(scope="module", params=[0, 1, 2])
def kernels(request, tmp_path_factory):
    """The kernels with no better instructions than those of a level, as processors without have to use them."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = ["g++", "-O3", "-std=c++17", "-w", "-shared", "-fPIC", "-pthread", f"-DPSA_INSTRUCTIONS={request.param}"]
    subprocess.run([*command, library.SOURCES / "psa_attention_cpu.cc", "-o", path], check=True)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("psa_type", TYPES)
def test_every_instruction_set(psa_type, softmax, dtype, kernels):
    def call(function, shape, *arrays):
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
        function(*pointers, ELEMENTS.index(dtype), attention_geometry(shape, psa_type, softmax))

    for shape in SHAPES:
        value, mask, grad_out = inputs(shape, dtype)
        out, grad_value, grad_mask = (np.full_like(like, np.nan) for like in (value, value, mask))
        statistics = np.full((shape[0], 2, *shape[2:4]), np.nan, dtype)
        call(kernels.psa_attention_forward_cpu, shape, value, mask, out, statistics)
        call(kernels.psa_attention_backward_cpu, shape, value, mask, out, statistics, grad_out, grad_value, grad_mask)
        expected = numpy_psa_attention(value, mask, grad_out, shape, psa_type, softmax)
        compare([out, grad_value, grad_mask], expected, TOLERANCES[dtype])


@pytest.mark.skipif(not shutil.which("nm") or sys.platform != "linux", reason="nm of Linux is needed")
def test_library_asks_openmp_for_no_more_than_paddle_has():
    """What Paddle's OpenMP lacks would be taken from any other in the process, whose threads know nothing of the loop."""
    library.load_operator(required=True)

    def symbols(library, *options):
        lines = subprocess.run(
            ["nm", "-D", *options, library], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()
        return {
            name for name in (line.split()[-1].split("@")[0] for line in lines) if name.lower().startswith(("gomp", "omp_"))
        }

    needed = symbols(library.find_library(), "--undefined-only")
    openmp = os.path.join(os.path.dirname(paddle.__file__), "libs", "libiomp5.so")
    assert needed and needed <= symbols(openmp, "--defined-only")
