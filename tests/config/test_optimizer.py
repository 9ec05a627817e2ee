"""Learning-rate factors, weight decay and clipping, by one step of gradient descent."""

import inspect

import numpy as np
import paddle
import pytest
from paddle.optimizer import lr

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
        ({"name": 5}, "the name at least"),
        (5, "custom_cfg.0: expected name, lr_mult, weight_decay_mult .*, found 5"),
    ],
)
def test_groups_that_make_no_sense(write_config, group, words):
    with pytest.raises(UserError, match=words):
        first_step(Config(write_config(optimizer=sgd(custom_cfg=[group]))))


def test_a_whole_number_or_none_as_weight_decay(write_config):
    for decay, momentum in ((0, None), (None, 0.9), (1, None)):
        config = Config(write_config(optimizer=sgd(weight_decay=decay, momentum=momentum)))
        for name, (before, after) in first_step(config).items():
            np.testing.assert_allclose(after, before - 0.01 * (1 + (decay or 0) * before), rtol=1e-5, atol=1e-6, err_msg=name)


SCHEDULES = {  # arguments, and the first four rates
    "NoamDecay": ({"d_model": 4, "warmup_steps": 2}, [0, 0.5 / 2**1.5, 0.5 / 2**0.5, 0.5 / 3**0.5]),
    "PiecewiseDecay": ({"boundaries": [1, 3], "values": [0.3, 0.2, 0.1]}, [0.3, 0.2, 0.2, 0.1]),
    "NaturalExpDecay": ({"learning_rate": 1, "gamma": 0.1}, np.exp([0, -0.1, -0.2, -0.3])),
    "InverseTimeDecay": ({"learning_rate": 1, "gamma": 1}, [1, 1 / 2, 1 / 3, 1 / 4]),
    "PolynomialDecay": ({"learning_rate": 1, "power": 1, "end_lr": 0}, [1, 3 / 4, 2 / 4, 1 / 4]),
    "LinearWarmup": ({"learning_rate": 1.0, "warmup_steps": 2, "start_lr": 0, "end_lr": 1.0}, [0, 0.5, 1, 1]),
    "ExponentialDecay": ({"learning_rate": 1, "gamma": 0.5}, [1, 1 / 2, 1 / 4, 1 / 8]),
    "MultiStepDecay": ({"learning_rate": 1, "milestones": [1, 3]}, [1, 0.1, 0.1, 0.01]),
    "StepDecay": ({"learning_rate": 1, "step_size": 2}, [1, 1, 0.1, 0.1]),
    "CosineAnnealingDecay": ({"learning_rate": 1, "T_max": 2}, [1, 0.5, 0, 0.5]),
    "OneCycleLR": ({"max_learning_rate": 1, "total_steps": 4, "phase_pct": 0.5, "anneal_strategy": "linear",
                    "end_learning_rate": 0}, [0.04, 1, 0.5, 0]),
    "CyclicLR": ({"base_learning_rate": 0, "max_learning_rate": 1, "step_size_up": 2}, [0, 0.5, 1, 0.5]),
    "LinearLR": ({"learning_rate": 1, "total_steps": 2, "start_factor": 0.5}, [0.5, 0.75, 1, 1]),
    "CosineAnnealingWarmRestarts": ({"learning_rate": 1, "T_0": 2, "verbose": True}, [1, 0.5, 1, 0.5]),
}  # fmt: skip
REFUSED = {"LRScheduler", "LambdaDecay", "MultiplicativeDecay", "ReduceOnPlateau"}


def rates(config, count):
    """Returns the rates that an optimizer takes its steps with."""
    model = paddle.nn.Linear(1, 1)
    optimizer, seen = config.build_optimizer(model, config.build_scheduler()), []
    for _ in range(count):
        before = model.bias.item()
        model(paddle.zeros([1, 1])).sum().backward()  # the bias has the gradient 1
        optimizer.step()
        optimizer.clear_grad()
        optimizer._learning_rate.step()
        seen.append(before - model.bias.item())
    return seen


def test_every_schedule_of_paddle_is_known_here():
    found = {name for name, value in vars(lr).items() if inspect.isclass(value) and issubclass(value, lr.LRScheduler)}
    assert found == SCHEDULES.keys() | REFUSED


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(write_config, name):
    arguments, expected = SCHEDULES[name]
    config = Config(write_config(iters=4, optimizer={"type": "SGD"}, lr_scheduler={"type": name, **arguments}))
    np.testing.assert_allclose(rates(config, 4), expected, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_leads_to_the_first_rate_of_any_schedule(write_config, name):
    arguments, expected = SCHEDULES[name]
    spec = {"type": name, **arguments, "warmup_iters": 2, "warmup_start_lr": 0.01}
    config = Config(write_config(iters=6, optimizer={"type": "SGD"}, lr_scheduler=spec))
    if expected[0] == 0:
        with pytest.raises(UserError, match=f"lr_scheduler: {name} could not be built: it begins at 0.0, not above"):
            config.build_scheduler()
        return
    up = [0.01, (0.01 + expected[0]) / 2]
    np.testing.assert_allclose(rates(config, 6), [*up, *expected], atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_from_a_checkpoint(write_config, name):
    config = Config(write_config(iters=4, lr_scheduler={"type": name, **SCHEDULES[name][0]}))
    whole, first, second = (config.build_scheduler() for _ in range(3))
    for _ in range(3):
        whole.step()
    first.step()
    second.set_state_dict(first.state_dict())
    second.step()
    second.step()
    assert second() == pytest.approx(whole(), abs=1e-9)


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"type": "ReduceOnPlateau", "learning_rate": 0.1}, "lr_scheduler.type: ReduceOnPlateau follows a metric"),
        ({"type": "LambdaDecay", "learning_rate": 0.1}, "lr_scheduler.type: LambdaDecay takes a function"),
        ({"type": "MultiplicativeDecay", "learning_rate": 0.1}, "lr_scheduler.type: MultiplicativeDecay takes a function"),
        ({"type": "LRScheduler", "learning_rate": 0.1}, "lr_scheduler.type: there is no schedule 'LRScheduler'"),
        ({"type": ["StepDecay"]}, r"lr_scheduler.type: there is no schedule \['StepDecay'\]; did you mean StepDecay"),
        ({"type": "StepDecay", "learning_rate": 0.1}, "lr_scheduler: StepDecay could not be built: .*step_size"),
        (
            {"type": "OneCycleLR", "max_learning_rate": 1, "total_steps": 3},
            "OneCycleLR ends after 4 of 9 iterations",
        ),
        ({"type": "NoamDecay", "d_model": 0, "warmup_steps": 2}, "lr_scheduler: NoamDecay"),
        (
            {"type": "StepDecay", "learning_rate": 1, "step_size": 3, "warmup_iters": 9},
            "warmup_iters: 9, but the training",
        ),
    ],
)
def test_schedules_that_do_not_last(write_config, spec, words):
    with pytest.raises(UserError, match=words):
        Config(write_config(iters=9, lr_scheduler=spec)).build_scheduler()


def test_a_short_trial_ends_within_the_warm_up(write_config, capsys):
    spec = {"type": "PolynomialDecay", "learning_rate": 0.1, "warmup_iters": 10}
    schedule = Config(write_config(iters=20, lr_scheduler=spec), iters=4).build_scheduler()
    schedule.step()
    assert schedule() == pytest.approx(0.01)
    assert "lr_scheduler.warmup_iters: 10, but the training ends after 4 iterations" in capsys.readouterr().out


def test_the_flag_of_the_learning_rate_needs_its_argument(write_config):
    with pytest.raises(UserError, match="--learning_rate: .*OneCycleLR has no such argument; did you mean max_learning_rate"):
        Config(write_config(lr_scheduler={"type": "OneCycleLR", "max_learning_rate": 1, "total_steps": 3}), learning_rate=0.5)
