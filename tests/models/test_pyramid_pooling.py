import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_psp.models.layers import PyramidPooling
from paddleseg_psp.models.layers.pyramid_pooling import AdaptiveAveragePooling
from tests.helpers import golden_sizes, load_golden, parameters, relative_error

TOLERANCE = 1e-5  # relative, float32


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 6), (16, 32), (13, 17), (59, 59)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_products_equal_adaptive_average_pooling(size, bins):
    x = paddle.randn([2, 3, *size], dtype="float64")
    expected = np.empty((2, 3, bins, bins))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * size[0] // bins, -(-(i + 1) * size[0] // bins))
            columns = slice(j * size[1] // bins, -(-(j + 1) * size[1] // bins))
            expected[:, :, i, j] = x.numpy()[:, :, rows, columns].mean((2, 3))
    np.testing.assert_allclose(AdaptiveAveragePooling(bins)(x).numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(F.adaptive_avg_pool2d(x, bins).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_gradient_spreads_each_cell_over_its_positions():
    """Against a loop: the gradient of paddle's own adaptive_avg_pool2d is right to float32 only, in float64 too."""
    x = paddle.randn([2, 3, 13, 17], dtype="float64")
    x.stop_gradient = False
    weight = paddle.randn([2, 3, 6, 6], dtype="float64")
    grad = paddle.grad((AdaptiveAveragePooling(6)(x) * weight).sum(), x)[0]
    expected = np.zeros(x.shape)
    for i, j in np.ndindex(6, 6):
        rows = slice(i * 13 // 6, -(-(i + 1) * 13 // 6))
        columns = slice(j * 17 // 6, -(-(j + 1) * 17 // 6))
        cell = expected[:, :, rows, columns]
        cell += weight.numpy()[:, :, i : i + 1, j : j + 1] / (cell.shape[2] * cell.shape[3])
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-12, atol=1e-14)


def input_first_then_bins_ascending(channels, branch, bins=4):
    """Our channel order (input, then bins 6, 3, 2, 1) as indices into that of semseg and mmsegmentation (1, 2, 3, 6)."""
    branches = [range(channels + i * branch, channels + (i + 1) * branch) for i in range(bins)]
    return np.concatenate([range(channels), *branches[::-1]])


@pytest.mark.parametrize("size", ["12x16", "13x17"])
def test_pyramid_equals_semseg(size):
    golden = load_golden("ppm_semseg")
    module = PyramidPooling(32, 8, golden["meta"]["bins"], align_corners=True)
    rename = []
    for level in range(4):
        rename += [
            (f"features.{level}.1.", f"stages.{level}.1._conv."),
            (f"features.{level}.2.", f"stages.{level}.1._batch_norm."),
        ]
    load(module, parameters(golden, rename))
    module.eval()
    order = input_first_then_bins_ascending(32, 8)
    x = paddle.to_tensor(golden[f"{size}/x"], stop_gradient=False)
    out = module.pyramid(x)
    assert relative_error(out.numpy(), golden[f"{size}/out"][:, order]) < TOLERANCE
    (grad,) = paddle.grad(out, x, paddle.to_tensor(golden[f"{size}/grad_out"][:, order]))
    assert relative_error(grad.numpy(), golden[f"{size}/grad_x"]) < TOLERANCE


MMSEGMENTATION = [("bottleneck.conv.", "conv_bn_relu2._conv."), ("bottleneck.bn.", "conv_bn_relu2._batch_norm.")]
for number in range(4):
    for old, new in (("conv", "_conv"), ("bn", "_batch_norm")):
        MMSEGMENTATION.append((f"psp_modules.{number}.1.{old}.", f"stages.{number}.1.{new}."))


def mmsegmentation_parameters(golden, group="sd"):
    """Returns the parameters of the module, and the weight and bias of the classifier behind it."""
    values = parameters(golden, MMSEGMENTATION, group)
    order = input_first_then_bins_ascending(32, 8)
    values["conv_bn_relu2._conv.weight"] = values["conv_bn_relu2._conv.weight"][:, order]
    return values, values.pop("conv_seg.weight"), values.pop("conv_seg.bias")


def mmsegmentation_head(golden, align_corners):
    """Returns the module with the parameters of a golden file, and a function that adds the classifier."""
    module = PyramidPooling(32, 8, golden["meta"]["pool_scales"], align_corners=bool(align_corners))
    values, weight, bias = mmsegmentation_parameters(golden)
    load(module, values)
    return module, lambda x: F.conv2d(module(x), paddle.to_tensor(weight), paddle.to_tensor(bias))


@pytest.mark.parametrize("align_corners", [0, 1])
def test_fused_result_equals_mmsegmentation(align_corners):
    golden = load_golden(f"psphead_mmseg_ac{align_corners}_eval")
    module, head = mmsegmentation_head(golden, align_corners)
    module.eval()
    assert golden_sizes(golden) == ["12x16", "13x17"]
    for size in golden_sizes(golden):
        x = paddle.to_tensor(golden[f"{size}/x"], stop_gradient=False)
        out = head(x)
        assert relative_error(out.numpy(), golden[f"{size}/out"]) < TOLERANCE
        (grad,) = paddle.grad(out, x, paddle.to_tensor(golden[f"{size}/grad_out"]))
        assert relative_error(grad.numpy(), golden[f"{size}/grad_x"]) < TOLERANCE


def test_training_equals_mmsegmentation():
    golden = load_golden("psphead_mmseg_ac0_train")
    module, head = mmsegmentation_head(golden, 0)
    x = paddle.to_tensor(golden["13x17/x"], stop_gradient=False)
    out = head(x)
    assert relative_error(out.numpy(), golden["13x17/out"]) < TOLERANCE
    paddle.autograd.backward([out], [paddle.to_tensor(golden["13x17/grad_out"])])
    assert relative_error(x.grad.numpy(), golden["13x17/grad_x"]) < TOLERANCE
    gradients, _, _ = mmsegmentation_parameters(golden, "13x17/grad")
    own = dict(module.named_parameters())
    assert len(gradients) == 15  # five convolutions and their normalizations
    for name, expected in gradients.items():
        assert relative_error(own[name].grad.numpy(), expected) < TOLERANCE, name


def load(module, values):
    """Loads golden parameters; the references' convolutions have no bias, PaddleSeg's have one."""
    state = module.state_dict()
    for name in state:
        if name not in values:  # a bias, or the fusing convolution of a test that has none
            assert name.endswith("._conv.bias") or name.startswith("conv_bn_relu2"), name
            values[name] = np.zeros(state[name].shape, "float32")
    assert not set(values) - set(state)
    module.set_state_dict({**state, **values})


def test_no_bins_leave_the_fusing_convolution():
    module = PyramidPooling(8, 4, [])
    assert module(paddle.randn([1, 8, 5, 7])).shape == [1, 4, 5, 7]
    assert module.conv_bn_relu2._conv.weight.shape == [4, 8, 3, 3]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (13, 17), (1, 9)])
def test_fusing_the_cells_equals_fusing_the_resized_branches(size, align_corners):
    """In float64, with the gradients of the kernel and of the input; Paddle's resizing has its factors in float32."""
    paddle.set_default_dtype("float64")
    try:
        module = PyramidPooling(8, 6, align_corners=align_corners)
    finally:
        paddle.set_default_dtype("float32")
    module.eval()
    x = paddle.randn([2, 8, *size], dtype="float64")
    x.stop_gradient = False
    results = [module(x), module.plain_forward(x)]
    weight = paddle.randn(results[0].shape, dtype="float64")
    gradients = [paddle.grad((out * weight).sum(), [x, module.conv_bn_relu2._conv.weight]) for out in results]
    for own, expected in zip([results[0], *gradients[0]], [results[1], *gradients[1]]):
        assert relative_error(own.numpy(), expected.numpy()) < 1e-6


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_level_may_be_left_unpooled(align_corners):
    module = PyramidPooling(8, 6, (1, None, 3), branch_channels=4, conv_bias=False, align_corners=align_corners)
    module.eval()
    x = paddle.randn([2, 8, 13, 17])
    pyramid = module.pyramid(x)
    assert pyramid.shape[1] == 8 + 3 * 4
    np.testing.assert_array_equal(pyramid[:, 12:16].numpy(), module.stages[1][1](x).numpy())  # in front of it, the level 3
    fuse = module.conv_bn_relu2
    assert relative_error(module(x).numpy(), fuse(pyramid).numpy()) < TOLERANCE
    assert module.own_multiply_adds([2, 8, 13, 17]) > 2 * 6 * 9 * (8 + 4) * 13 * 17
