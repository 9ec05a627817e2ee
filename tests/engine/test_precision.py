import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_psp.config import Config
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.precision import LossScaler, autocast, cast_weights
from paddleseg_psp.engine.training_log import read_records
from paddleseg_psp.errors import UserError
from tests.helpers import TINY, relative_error, run_training


def rounded(values, precision):
    """Returns float32 values rounded to half precision and back, to nearest even, by NumPy alone."""
    if precision == "fp16":
        return values.astype(np.float16).astype(np.float32)
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_emulated_layers_round_what_goes_in_and_comes_out(precision):
    layer, x = nn.Linear(40, 30), paddle.randn([8, 40])
    x.stop_gradient = False
    with autocast(layer, precision):
        y = layer(x)
    weight, bias, inputs = (rounded(value.numpy(), precision) for value in (layer.weight, layer.bias, x))
    exact = inputs.astype(np.float64) @ weight + bias
    np.testing.assert_array_equal(y.numpy(), rounded(y.numpy(), precision))
    assert relative_error(y.numpy(), exact) < {"fp16": 5e-4, "bf16": 4e-3}[precision]
    assert np.mean(y.numpy() == rounded(exact.astype(np.float32), precision)) > 0.99
    (y * paddle.randn(y.shape)).sum().backward()
    for value in (layer.weight, layer.bias, x):
        np.testing.assert_array_equal(value.grad.numpy(), rounded(value.grad.numpy(), precision))
    assert relative_error(layer(x).numpy(), exact) > 1e-5  # after the block the layer is its own self again
    assert layer.weight.dtype == paddle.float32


def test_float32_is_left_alone():
    layer, x = nn.Conv2D(3, 4, 3), paddle.randn([1, 3, 8, 8])
    with autocast(layer, "fp32"):
        np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


def test_float16_overflows():
    layer = nn.Linear(1, 1, bias_attr=False)
    with autocast(layer, "fp16"):
        assert np.isinf(layer(paddle.full([1, 1], 1e5)).numpy()).all()


def scaled_step(scaler, gradient):
    """Returns a weight of 1 after a step of learning rate 1 with a gradient."""
    weight = paddle.create_parameter([1], "float32", default_initializer=nn.initializer.Constant(1.0))
    optimizer = paddle.optimizer.SGD(1.0, parameters=[weight])
    scaler.scale((weight * paddle.to_tensor(gradient)).sum()).backward()
    scaler.step(optimizer, [weight])
    return float(weight)


def test_loss_scaling():
    scaler = LossScaler(True)
    assert scaled_step(scaler, 0.25) == 0.75
    assert scaler.state_dict() == {"scale": 2.0**15, "good_steps": 1}
    for overflow in (np.inf, np.nan, 1e36):  # the last one when scaled
        scale = scaler.state_dict()["scale"]
        assert scaled_step(scaler, np.float32(overflow)) == 1.0
        assert scaler.state_dict() == {"scale": scale / 2, "good_steps": 0}
    scaler.set_state_dict({"scale": 4.0, "good_steps": LossScaler.GROWTH_INTERVAL - 1})
    assert scaled_step(scaler, 0.25) == 0.75
    assert scaler.state_dict() == {"scale": 8.0, "good_steps": 0}


def test_loss_scaling_off():
    scaler = LossScaler(False)
    assert scaled_step(scaler, 0.25) == 0.75
    assert np.isnan(scaled_step(scaler, np.float32(np.nan)))


def test_small_gradients_survive_by_scaling():
    """1e-8 is 0 in float16."""
    gradients = []
    for enabled in (False, True):
        layer, scaler = nn.Linear(1, 1, bias_attr=False), LossScaler(enabled)
        optimizer = paddle.optimizer.SGD(0.0, parameters=layer.parameters())
        with autocast(layer, "fp16"):
            loss = layer(paddle.ones([1, 1])).sum() * 1e-8
        scaler.scale(loss).backward()
        scaler.step(optimizer, layer.parameters())
        gradients.append(float(layer.weight.grad))
    assert gradients[0] == 0 and gradients[1] == pytest.approx(1e-8, rel=1e-3)


def test_clipping_sees_the_true_gradients():
    layer, scaler = nn.Linear(1, 1, bias_attr=False), LossScaler(True)
    clip = nn.ClipGradByGlobalNorm(0.5)
    optimizer = paddle.optimizer.SGD(1.0, parameters=layer.parameters(), grad_clip=clip)
    before = float(layer.weight)
    scaler.scale(layer(paddle.full([1, 1], 0.25)).sum()).backward()
    scaler.step(optimizer, layer.parameters())
    assert before - float(layer.weight) == pytest.approx(0.25)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_training_in_mixed_precision(write_config, tmp_path, precision):
    """Follows float32, but is not float32."""
    config = Config(write_config("PSANet", iters=6), [TINY])
    curves = {}
    for name in ("fp32", precision):
        _, model = run_training(config, tmp_path / name, with_evaluation=False, precision=name)
        records = read_records(str(tmp_path / name / "metrics.jsonl"))
        curves[name] = np.array([record["loss"] for record in records])
    assert np.abs(curves["fp32"] - curves[precision]).max() > 1e-6
    np.testing.assert_allclose(curves[precision], curves["fp32"], rtol=0.03)
    assert all(value.dtype == paddle.float32 for value in model.state_dict().values())
    dataset = config.build_dataset("val_dataset")
    counts = [evaluate(model, dataset, precision=name, print_detail=False).counts for name in ("fp32", precision)]
    assert counts[0].sum() == counts[1].sum() and (counts[0] != counts[1]).any()


def test_half_precision_weights_need_a_gpu():
    with pytest.raises(UserError, match="--amp_level O2 needs a GPU"):
        cast_weights(nn.Linear(1, 1), None, "bf16", "O2")
    cast_weights(nn.Linear(1, 1), None, "fp32", "O2")
