"""psa_mask: the native operator and the reference against golden vectors, loops in NumPy, and each other; both in graphs."""

import glob
import importlib.util
import os

import numpy as np
import paddle
import pytest

from paddleseg_psp.ops import library, psa_attention, psa_mask
from paddleseg_psp.ops.psamask.reference import psa_mask as reference_psa_mask
from tests.helpers import GOLDEN, ROOT, relative_error, run_python

TYPES = ["collect", "distribute"]
IMPLEMENTATIONS = ["native", "reference"]
# N, H, W, mask_h, mask_w
SHAPES = [
    (2, 5, 7, 3, 5),  # a mask smaller than the map
    (2, 3, 4, 9, 11),  # larger
    (1, 6, 5, 11, 9),  # that just covers it
    (1, 4, 6, 3, 21),  # smaller one way, larger the other
    (3, 1, 9, 5, 3),
    (2, 9, 1, 3, 5),
    (1, 1, 1, 3, 3),
    (1, 2, 67, 3, 71),  # more than two of the kernel's blocks
]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", request.param)
    return request.param


def pairs(shape, mask_size):
    """Yields (mask position, feature position, target) by the definition."""
    height, width = shape[2:]
    for h in range(height):
        for w in range(width):
            for i in range(mask_size[0]):
                for j in range(mask_size[1]):
                    target_h, target_w = h + i - mask_size[0] // 2, w + j - mask_size[1] // 2
                    if 0 <= target_h < height and 0 <= target_w < width:
                        yield i * mask_size[1] + j, h * width + w, target_h * width + target_w


def numpy_psa_mask(x, psa_type, mask_size):
    n, _, height, width = x.shape
    flat, out = x.reshape(n, -1, height * width), np.zeros((n, height * width, height * width), x.dtype)
    for mask, position, target in pairs(x.shape, mask_size):
        row, column = (target, position) if psa_type == "collect" else (position, target)
        out[:, row, column] = flat[:, mask, position]
    return out.reshape(n, -1, height, width)


def numpy_psa_mask_gradient(grad_out, psa_type, mask_size):
    n, positions, height, width = grad_out.shape
    flat = grad_out.reshape(n, positions, positions)
    grad_x = np.zeros((n, mask_size[0] * mask_size[1], positions), grad_out.dtype)
    for mask, position, target in pairs(grad_out.shape, mask_size):
        row, column = (target, position) if psa_type == "collect" else (position, target)
        grad_x[:, mask, position] = flat[:, row, column]
    return grad_x.reshape(n, -1, height, width)


def random(*shape, dtype="float32"):
    return np.random.standard_normal(shape).astype(dtype)


def forward_and_gradient(x, grad_out, psa_type, mask_size):
    x = paddle.to_tensor(x, stop_gradient=False)
    out = psa_mask(x, psa_type, mask_size)
    (grad_x,) = paddle.grad(out, x, paddle.to_tensor(grad_out))
    return out.numpy(), grad_x.numpy()


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(GOLDEN, "psamask_*.npz"))), ids=os.path.basename)
def test_golden_vectors(path, implementation):
    with np.load(path) as golden:
        arguments = golden["x"], golden["grad_out"], TYPES[int(golden["psa_type"])], golden["mask_size"].tolist()
        out, grad_x = forward_and_gradient(*arguments)
        np.testing.assert_array_equal(out, golden["out"])
        np.testing.assert_array_equal(grad_x, golden["grad_x"])


def test_golden_vectors_are_there():
    assert len(glob.glob(os.path.join(GOLDEN, "psamask_*.npz"))) == 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_loops(shape, psa_type, dtype, implementation):
    n, height, width, *mask_size = shape
    x = random(n, mask_size[0] * mask_size[1], height, width, dtype=dtype)
    grad_out = random(n, height * width, height, width, dtype=dtype)
    out, grad_x = forward_and_gradient(x, grad_out, psa_type, mask_size)
    assert out.dtype == grad_x.dtype == dtype
    np.testing.assert_array_equal(out, numpy_psa_mask(x, psa_type, mask_size))
    np.testing.assert_array_equal(grad_x, numpy_psa_mask_gradient(grad_out, psa_type, mask_size))


def one_position_at_a_time(height, width, mask_size, psa_type):
    """Returns x [M, M, H, W], M = mask_h * mask_w, whose sample k is zero but for channel k; psa_mask(x); and its gradient.

    The gradient is that of psa_mask(x) itself as gradient: x again, where the target is on the map.
    """
    count = mask_size[0] * mask_size[1]
    x, grad_x = np.zeros((2, count, count, height, width), "float32")
    out = np.zeros((count, height, width, height, width), "float32")
    for k in range(count):
        for h in range(height):
            for w in range(width):
                x[k, k, h, w] = 1 + h * width + w
                target_h, target_w = h + k // mask_size[1] - mask_size[0] // 2, w + k % mask_size[1] - mask_size[1] // 2
                if 0 <= target_h < height and 0 <= target_w < width:
                    place = (target_h, target_w, h, w) if psa_type == "collect" else (h, w, target_h, target_w)
                    out[(k, *place)] = grad_x[k, k, h, w] = x[k, k, h, w]
    return x, out.reshape(count, height * width, height, width), grad_x


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("height", range(1, 10))
def test_every_small_map_and_mask_one_mask_position_at_a_time(height, psa_type, monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", "native")
    sizes = range(1, 20, 2)
    for width in range(1, 10):
        for k, size in enumerate(sizes):
            for mask_size in {(size, size), (size, sizes[(k + 3 * width + height) % 10])}:
                x, expected, expected_grad = one_position_at_a_time(height, width, mask_size, psa_type)
                out, grad_x = forward_and_gradient(x, expected, psa_type, mask_size)
                np.testing.assert_array_equal(out, expected)
                np.testing.assert_array_equal(grad_x, expected_grad)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("psa_type", TYPES)
def test_low_precision_is_copied_too(psa_type, dtype, implementation):
    x, grad_out = (paddle.to_tensor(random(2, channels, 4, 7)).astype(dtype) for channels in (15, 28))
    x.stop_gradient = False
    out = psa_mask(x, psa_type, (3, 5))
    assert out.dtype == x.dtype
    expected = numpy_psa_mask(x.astype("float32").numpy(), psa_type, (3, 5))
    np.testing.assert_array_equal(out.astype("float32").numpy(), expected)

    if (implementation, dtype) == ("reference", "bfloat16"):
        return  # Paddle's concat has no bfloat16 gradient on a CPU
    (grad_x,) = paddle.grad(out, x, grad_out)
    assert grad_x.dtype == x.dtype
    expected = numpy_psa_mask_gradient(grad_out.astype("float32").numpy(), psa_type, (3, 5))
    np.testing.assert_array_equal(grad_x.astype("float32").numpy(), expected)


@pytest.mark.parametrize("psa_type", TYPES)
def test_infinity_and_nan_stay_where_they_are(psa_type, implementation):
    x = random(1, 15, 4, 5)
    x[0, 3, 2, 2], x[0, 7, 1, 1], x[0, 0, 0, 0] = np.inf, np.nan, np.inf  # the last lies outside the map
    grad_out = random(1, 20, 4, 5)
    grad_out[0, 9, 1, 2] = np.nan
    out, grad_x = forward_and_gradient(x, grad_out, psa_type, (5, 3))
    np.testing.assert_array_equal(out, numpy_psa_mask(x, psa_type, (5, 3)))
    np.testing.assert_array_equal(grad_x, numpy_psa_mask_gradient(grad_out, psa_type, (5, 3)))


@pytest.mark.parametrize("psa_type", TYPES)
def test_views_that_are_not_contiguous(psa_type, implementation):
    whole = paddle.to_tensor(random(2, 15, 9, 8))
    for view in (whole.transpose([0, 1, 3, 2]), whole[:, :, 2:7, 1:5]):
        assert not view.is_contiguous()
        np.testing.assert_array_equal(psa_mask(view, psa_type, (3, 5)).numpy(), numpy_psa_mask(view.numpy(), psa_type, (3, 5)))


def test_native_equals_reference_on_a_map_of_usual_size(monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", "native")
    x = paddle.to_tensor(random(1, 59 * 59, 30, 29))
    for psa_type in TYPES:
        out, expected = psa_mask(x, psa_type, (59, 59)), reference_psa_mask(x, psa_type, (59, 59))
        np.testing.assert_array_equal(out.numpy(), expected.numpy())


class Attention(paddle.nn.Layer):
    """A convolution in front of the operator, as in PSANet."""

    def __init__(self, psa_type):
        super().__init__()
        self.psa_type = psa_type
        self.reduce = paddle.nn.Conv2D(3, 8, 3, padding=1)
        self.mask = paddle.nn.Conv2D(8, 15, 3, padding=1)

    def forward(self, x):
        value = paddle.nn.functional.relu(self.reduce(x))
        mask = self.mask(value)
        return psa_mask(mask, self.psa_type, (5, 3)), psa_attention(value, mask, self.psa_type, (5, 3))


STATIC_SHAPES = [[2, 3, 6, 7], [-1, 3, 6, 7], [2, 3, -1, -1], [2, 3, -1, 7], [-1, 3, -1, -1]]


@pytest.mark.parametrize("shape", STATIC_SHAPES, ids=str)
@pytest.mark.parametrize("psa_type", TYPES)
def test_static_graph(psa_type, shape, implementation):
    model = Attention(psa_type)
    spec = [paddle.static.InputSpec(shape, "float32")]
    static = paddle.jit.to_static(Attention(psa_type), full_graph=True, input_spec=spec)
    static.set_state_dict(model.state_dict())

    n, _, height, width = shape
    positions = height * width if min(height, width) > 0 else -1
    if implementation == "native":  # Paddle cannot infer so much through the reference's reshapes
        assert [list(out.shape) for out in static.forward.outputs] == [[n, positions, height, width], [n, 8, height, width]]

    sizes = [(2, 3, 6, 7)] + [(3, 3, 4, 9)] * (shape == [-1, 3, -1, -1])
    for size in sizes:
        x = paddle.to_tensor(random(*size))
        outs, expected = static(x), model(x)
        for out, wanted in zip(outs, expected):
            assert relative_error(out, wanted) < 1e-6
        sum((out * out).sum() for out in outs).backward()
        sum((out * out).sum() for out in expected).backward()
        for parameter, wanted in zip(static.parameters(), model.parameters()):
            assert relative_error(parameter.grad, wanted.grad) < 1e-5
        static.clear_gradients()
        model.clear_gradients()


PREDICT = """
import sys
import numpy as np
import paddle
from paddleseg_psp.ops import library

folder, onednn = sys.argv[1:]
library.load_operator(required=True)
for name in ("fixed", "unknown"):
    config = paddle.inference.Config(f"{folder}/{name}.json", f"{folder}/{name}.pdiparams")
    config.disable_glog_info()
    config.disable_mkldnn() if onednn == "off" else config.enable_mkldnn()
    if onednn == "without the placement pass":
        config.delete_pass("onednn_placement_pass")
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(np.load(f"{folder}/x.npy"))
    predictor.run()
    outs = [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
    np.savez(f"{folder}/{name}.npz", *outs)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported models of both types, with fixed and unknown sizes, and what they must give for x.npy."""
    library.load_operator(required=True)
    paddle.seed(1)
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    x = np.random.RandomState(1).standard_normal((2, 3, 6, 7)).astype("float32")
    for psa_type in TYPES:
        model = Attention(psa_type)
        (folder / psa_type).mkdir()
        np.save(folder / psa_type / "x.npy", x)
        expected[psa_type] = [out.numpy() for out in model(paddle.to_tensor(x))]
        for name, shape in (("fixed", x.shape), ("unknown", (-1, 3, -1, -1))):
            spec = [paddle.static.InputSpec(shape, "float32", "x")]
            static = paddle.jit.to_static(model, full_graph=True, input_spec=spec)
            paddle.jit.save(static, str(folder / psa_type / name))
            model.forward = model.forward.rollback()
    return folder, expected


# With oneDNN a convolution leaves its result in a memory layout of its own, which the operator must not read as NCHW.
@pytest.mark.parametrize("onednn", ["off", "without the placement pass", "with it"])
@pytest.mark.parametrize("psa_type", TYPES)
def test_predictor(exported, psa_type, onednn):
    folder, expected = exported
    result = run_python(["-c", PREDICT, folder / psa_type, onednn])
    assert result.returncode == 0, result.stderr
    for name in ("fixed", "unknown"):
        with np.load(folder / psa_type / f"{name}.npz") as outs:
            for key, wanted in zip(outs.files, expected[psa_type]):
                assert relative_error(outs[key], wanted) < 1e-5, (name, key)


EXPORT = """
import sys
import numpy as np
import onnxruntime
import paddle
import paddle2onnx
from paddleseg_psp.ops import psa_mask

class Net(paddle.nn.Layer):
    def forward(self, x):
        return psa_mask(x, self.psa_type, (5, 3))

for psa_type in ("collect", "distribute"):
    net, path = Net(), f"{sys.argv[1]}/{psa_type}"
    net.psa_type = psa_type
    for shape, sizes in (([2, 15, 4, 6], [(2, 15, 4, 6)]), ([-1, 15, -1, -1], [(1, 15, 4, 6), (3, 15, 7, 5)])):
        spec = [paddle.static.InputSpec(shape, "float32", "x")]
        paddle.jit.save(paddle.jit.to_static(Net.forward.__get__(net), full_graph=True, input_spec=spec), path)
        paddle2onnx.export(f"{path}.json", "", f"{path}.onnx", opset_version=13, optimize_tool=None)
        session = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
        for size in sizes:
            x = np.random.standard_normal(size).astype("float32")
            np.testing.assert_array_equal(session.run(None, {"x": x})[0], net(paddle.to_tensor(x)).numpy())
print("all equal")
"""


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("paddle2onnx", "onnxruntime")),
    reason="paddle2onnx or onnxruntime is not installed",
)
def test_reference_exports_to_onnx_exactly(tmp_path):
    script = tmp_path / "export.py"  # to_static needs its source
    script.write_text(EXPORT)
    result = run_python([script, tmp_path], env={"PSA_MASK_IMPL": "reference", "PYTHONPATH": ROOT})
    assert result.returncode == 0 and "all equal" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"psa_type": "gather"}, ValueError, "collect, distribute, not 'gather'"),
        ({"psa_type": 0}, ValueError, "collect, distribute, not 0"),
        ({"mask_size": (3, 4)}, ValueError, "both odd"),
        ({"mask_size": (3, -5)}, ValueError, "both odd"),
        ({"mask_size": 3}, ValueError, "mask_h, mask_w"),
        ({"mask_size": (3, 5.0)}, ValueError, "mask_h, mask_w"),
        ({"mask_size": (5, 5)}, ValueError, r"mask_h \* mask_w = 25, H, W\], not of shape \[1, 15, 4, 6\]"),
        ({"x": paddle.zeros([15, 4, 6])}, ValueError, r"not of shape \[15, 4, 6\]"),
        ({"x": paddle.zeros([1, 15, 4, 6], "int32")}, TypeError, "float32 or float64, not .*int32"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    good = {"x": paddle.zeros([1, 15, 4, 6]), "psa_type": "collect", "mask_size": (3, 5)}
    with pytest.raises(error, match=message):
        psa_mask(**{**good, **arguments})


def test_unknown_implementation(monkeypatch):
    monkeypatch.setenv("PSA_MASK_IMPL", "fast")
    with pytest.raises(ValueError, match="auto, native, reference, not 'fast'"):
        psa_mask(paddle.zeros([1, 15, 4, 6]), "collect", (3, 5))


def test_native_operator_checks_what_a_predictor_is_fed():
    library.load_operator(required=True)
    with pytest.raises(Exception, match="mask_height"):
        paddle._C_ops._run_custom_op("paddleseg_psa_mask", paddle.zeros([1, 14, 4, 6]), "collect", 3, 5)
