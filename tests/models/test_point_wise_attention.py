import glob
import os

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_psp.models.layers import PointWiseSpatialAttention, covering_mask_size
from tests.helpers import GOLDEN, golden_sizes, load_golden, parameters, relative_error

TOLERANCE = 1e-5  # relative, float32


def names(pattern):
    return sorted(os.path.basename(path)[:-4] for path in glob.glob(os.path.join(GOLDEN, pattern)))


SEMSEG = []
for part in ("reduce_p", "reduce"):
    new = {"reduce": "reduce_layer", "reduce_p": "reduce_p"}[part]
    SEMSEG += [(f"{part}.0.", f"{new}._conv."), (f"{part}.1.", f"{new}._batch_norm.")]
for part in ("attention_p", "attention"):
    SEMSEG += [(f"{part}.0.", f"{part}.0._conv."), (f"{part}.1.", f"{part}.0._batch_norm."), (f"{part}.3.", f"{part}.1.")]
SEMSEG += [("proj.0.", "proj._conv."), ("proj.1.", "proj._batch_norm.")]

MMSEGMENTATION = []
for old, new in [("reduce_p", "reduce_p"), ("reduce", "reduce_layer"), ("proj", "proj")]:
    MMSEGMENTATION += [(f"{old}.conv.", f"{new}._conv."), (f"{old}.bn.", f"{new}._batch_norm.")]
for part in ("attention_p", "attention"):
    MMSEGMENTATION += [(f"{part}.0.conv.", f"{part}.0._conv."), (f"{part}.0.bn.", f"{part}.0._batch_norm.")]


def distribute_first(values, prefix=""):
    """Swaps the projection's inputs: the references concatenate [collect, distribute], this package the other way round."""
    weight = values[prefix + "proj._conv.weight"]
    half = weight.shape[1] // 2
    values[prefix + "proj._conv.weight"] = np.concatenate([weight[:, half:], weight[:, :half]], axis=1)


def module_and_parameters(golden, rename, **options):
    meta = golden["meta"]
    module = PointWiseSpatialAttention(16, 8, meta["psa_type"], meta["compact"], meta["shrink_factor"], **options)
    values = parameters(golden, rename)
    if meta["psa_type"] in (2, "bi-direction"):
        distribute_first(values)
    return module, values


def semseg_module(golden):
    keys = ("mask_h", "mask_w", "normalization_factor", "psa_softmax")
    module, values = module_and_parameters(golden, SEMSEG, **{key: golden["meta"][key] for key in keys})
    assert set(values) == set(module.state_dict())
    module.set_state_dict(values)
    return module


@pytest.mark.parametrize("name", names("psa_semseg_t?_*.npz"))
def test_equals_semseg(name):
    golden = load_golden(name)
    module = semseg_module(golden)
    module.eval()
    x = paddle.to_tensor(golden["9x13/x"], stop_gradient=False)
    out = module(x)
    assert relative_error(out.numpy(), golden["9x13/out"]) < TOLERANCE
    (grad,) = paddle.grad(out, x, paddle.to_tensor(golden["9x13/grad_out"]))
    assert relative_error(grad.numpy(), golden["9x13/grad_x"]) < TOLERANCE


def test_equals_semseg_in_training():
    golden = load_golden("psa_semseg_train_t2")
    module = semseg_module(golden)
    x = paddle.to_tensor(golden["9x13/x"], stop_gradient=False)
    out = module(x)
    assert relative_error(out.numpy(), golden["9x13/out"]) < TOLERANCE
    paddle.autograd.backward([out], [paddle.to_tensor(golden["9x13/grad_out"])])
    assert relative_error(x.grad.numpy(), golden["9x13/grad_x"]) < TOLERANCE
    gradients = parameters(golden, SEMSEG, group="9x13/grad")
    distribute_first(gradients)
    own = {name: value for name, value in module.named_parameters() if not value.stop_gradient}
    assert set(gradients) == set(own)
    for name, expected in gradients.items():
        assert relative_error(own[name].grad.numpy(), expected) < TOLERANCE, name


@pytest.mark.parametrize("name", names("psahead_mmseg_*.npz"))
def test_equals_mmsegmentation(name):
    golden = load_golden(name)
    mask_h, mask_w = golden["meta"]["mask_size"]
    module, values = module_and_parameters(
        golden,
        MMSEGMENTATION,
        mask_h=mask_h,
        mask_w=mask_w,
        normalization_factor=golden["meta"]["normalization_factor"],
        psa_softmax=golden["meta"]["psa_softmax"],
        convention="mmsegmentation",
        align_corners=golden["meta"]["align_corners"],
    )
    rest = {key: paddle.to_tensor(values.pop(key)) for key in list(values) if key.startswith(("bottleneck", "conv_seg"))}
    assert set(values) == set(module.state_dict())
    module.set_state_dict(values)
    module.eval()
    for size in golden_sizes(golden):
        x = paddle.to_tensor(golden[f"{size}/x"], stop_gradient=False)
        out = F.conv2d(module(x), rest["bottleneck.conv.weight"], padding=1)
        norm = [rest[f"bottleneck.bn.{key}"] for key in ("_mean", "_variance", "weight", "bias")]
        out = F.relu(F.batch_norm(out, *norm))
        out = F.conv2d(out, rest["conv_seg.weight"], rest["conv_seg.bias"])
        assert relative_error(out.numpy(), golden[f"{size}/out"]) < TOLERANCE, size
        (grad,) = paddle.grad(out, x, paddle.to_tensor(golden[f"{size}/grad_out"]))
        assert relative_error(grad.numpy(), golden[f"{size}/grad_x"]) < TOLERANCE, size


def test_paddleseg_numbers_mean_the_named_types():
    types = [PointWiseSpatialAttention(4, 2, number, mask_h=3, mask_w=3).psa_type for number in (0, 1, 2)]
    assert types == ["collect", "distribute", "bi-direction"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_h": 4}, "must be odd"),
        ({"psa_type": "both"}, "collect, distribute, bi-direction"),
        ({"psa_type": 3}, "collect, distribute, bi-direction"),
        ({"shrink_factor": 0}, "at least 1"),
        ({"convention": "mmcv"}, "semseg, mmsegmentation"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PointWiseSpatialAttention(4, 2, **{"mask_h": 3, "mask_w": 3, **options})


def test_compact_attention_refuses_another_size():
    module = PointWiseSpatialAttention(4, 2, compact=True, mask_h=3, mask_w=4)
    assert module(paddle.randn([1, 4, 6, 8])).shape == [1, 8, 6, 8]
    with pytest.raises(ValueError, match="built for a shrunk map of 3x4, but the input gives 5x4"):
        module(paddle.randn([1, 4, 10, 8]))


@pytest.mark.parametrize(
    "size, shrink, stride, expected",
    [((465, 465), 2, 8, (59, 59)), ((512, 1024), 2, 8, (63, 127)), ((97, 97), 1, 16, (13, 13))],
)
def test_smallest_covering_mask(size, shrink, stride, expected):
    """Figures of semseg (crop 465) and of the design; and by definition: from corner to corner, and no more."""
    mask = covering_mask_size(size, shrink, stride)
    assert mask == expected
    for side, mask_side in zip(size, mask):
        feature = (side - 1) // stride + 1
        shrunk = (feature - 1) // shrink + 1
        assert mask_side // 2 == shrunk - 1


@pytest.mark.parametrize("mask", [(4, 6), (5, 4), (12, 14)])
@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_even_masks_of_mmsegmentation(mask, direction):
    """By the definition of mmcv's operator, whose half mask is (mask - 1) // 2, in loops."""
    module = PointWiseSpatialAttention(
        6, 4, direction, shrink_factor=1, mask_h=mask[0], mask_w=mask[1], convention="mmsegmentation", align_corners=False
    )
    module.eval()
    x = paddle.randn([1, 6, 5, 7])
    value = module.reduce_layer(x)
    scores = module.attention(value).numpy()[0]
    matrix = np.zeros((35, 35))
    for h, w, i, j in np.ndindex(5, 7, *mask):
        row, column = h + i - (mask[0] - 1) // 2, w + j - (mask[1] - 1) // 2
        if 0 <= row < 5 and 0 <= column < 7:
            pair = (row * 7 + column, h * 7 + w)
            matrix[pair if direction == "collect" else pair[::-1]] = scores[i * mask[1] + j, h, w]
    weights = np.exp(matrix) / np.exp(matrix).sum(0)
    expected = value.numpy().reshape(4, 35) @ weights
    attended = module._attend(x, module.reduce_layer, module.attention, direction, [5, 7], False)
    assert relative_error(attended.numpy().reshape(4, 35), expected) < TOLERANCE


def test_mixed_precision():
    """Paddle's automatic mixed precision does nothing on a CPU; here the mask alone is made of another type."""
    module = PointWiseSpatialAttention(8, 4, "collect", mask_h=5, mask_w=5)
    x = paddle.randn([1, 8, 9, 13])
    arguments = module.reduce_layer, module.attention, "collect", [5, 7], True
    expected = module._attend(x, *arguments)
    mixed = module._attend(x, module.reduce_layer, lambda value: module.attention(value).astype("float64"), *arguments[2:])
    assert mixed.dtype == paddle.float64 and relative_error(mixed, expected) < TOLERANCE
