"""Learning-rate factors, weight decay and clipping, by one step of gradient descent."""

import numpy as np
import paddle
import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.errors import UserError


def first_step(config, gradient=1.0):
    """Returns each parameter of a small network before and after a step with the same gradient everywhere."""
    backbone, head = paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 2)
    model = paddle.nn.LayerDict({"backbone": backbone, "head": head})
    optimizer = config.build_optimizer(model, config.build_scheduler())
    before = {name: value.numpy().copy() for name, value in model.named_parameters()}
    sum((value * gradient).sum() for value in model.parameters()).backward()
    optimizer.step()
    return {name: (before[name], value.numpy()) for name, value in model.named_parameters()}


def sgd(**changes):
    return {"type": "SGD", "weight_decay": 0.1, **changes}


def test_factors_of_learning_rate_and_weight_decay(write_config, capsys):
    groups = [
        {"name": "head.bias", "lr_mult": 2, "weight_decay_mult": 0.0},
        {"name": "head", "lr_mult": 10},
        {"name": "bias", "weight_decay_mult": 0.5},
    ]
    for name, (before, after) in first_step(Config(write_config(optimizer=sgd(custom_cfg=groups)))).items():
        rate = {"head.bias": 0.02, "head.weight": 0.1}.get(name, 0.01)
        decay = {"head.bias": 0.0, "backbone.bias": 0.05}.get(name, 0.1)
        np.testing.assert_allclose(after, before - rate * (1 + decay * before), rtol=1e-5, atol=1e-6, err_msg=name)
    told = capsys.readouterr().out
    assert "1 parameters with 'head.bias' in their names: lr_mult 2, weight_decay_mult 0.0" in told
    assert "1 parameters with 'head' in their names: lr_mult 10" in told and "params_name" not in told


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9}])
def test_clipping(write_config, momentum):
    clip = {"name": "ClipGradByGlobalNorm", "clip_norm": 0.5}
    config = Config(write_config(optimizer={**sgd(grad_clip_cfg=clip, **momentum), "weight_decay": 0.0}))
    steps = first_step(config, gradient=100.0)
    norm = np.sqrt(sum(((after - before) ** 2).sum() for before, after in steps.values()))
    assert norm == pytest.approx(0.01 * 0.5, rel=1e-3)


def test_warm_up(write_config):
    rates = {"type": "PolynomialDecay", "learning_rate": 0.1, "power": 1.0, "end_lr": 0.0}
    config = Config(write_config(iters=10, lr_scheduler={**rates, "warmup_iters": 4, "warmup_start_lr": 0.02}))
    schedule, seen = config.build_scheduler(), []
    for _ in range(10):
        seen.append(schedule())
        schedule.step()
    np.testing.assert_allclose(seen, [0.02, 0.04, 0.06, 0.08, *(0.1 * (1 - step / 6) for step in range(6))], rtol=1e-6)


@pytest.mark.parametrize(
    "group, words",
    [
        ({"name": "heads", "lr_mult": 2}, r"custom_cfg.0.name: no parameter has 'heads' in its name; some are backbone.weight"),
        ({"name": "head", "lr": 2}, r"custom_cfg.0: expected name, lr_mult, weight_decay_mult .*, found name, lr"),
        ({"lr_mult": 2}, "the name at least"),
    ],
)
def test_groups_that_make_no_sense(write_config, group, words):
    with pytest.raises(UserError, match=words):
        first_step(Config(write_config(optimizer=sgd(custom_cfg=[group]))))
