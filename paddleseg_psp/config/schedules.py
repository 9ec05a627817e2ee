"""Learning-rate schedules: those of paddle.optimizer.lr that a file can describe, after PaddleSeg's linear warm-up."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math

from paddle.optimizer import lr
from paddle.optimizer.lr import LRScheduler

from paddleseg_psp import registry
from paddleseg_psp.config.yaml import require_number
from paddleseg_psp.errors import UserError, suggestion
from paddleseg_psp.log import logger

_LOOKED_AT = 10**6  # iterations of a schedule, within a second
_NO_NUMBERS = ("type", "mode", "anneal_strategy", "scale_mode", "cycle", "three_phase", "verbose")
_FUNCTION = "takes a function, which no configuration holds; PiecewiseDecay takes the rates and the iterations between them"
_REFUSED = {
    "ReduceOnPlateau": "follows a metric, which this training does not give it; PolynomialDecay, CosineAnnealingDecay and "
    "MultiStepDecay need none",
    "LambdaDecay": _FUNCTION,
    "MultiplicativeDecay": _FUNCTION,
}


class CosineAnnealingWarmRestarts(lr.CosineAnnealingWarmRestarts):
    """Paddle's, but its position in the cycle is part of a checkpoint."""

    def state_keys(self) -> None:
        self.keys = ["last_epoch", "last_lr", "T_cur", "T_i"]


_TYPES: dict[str, type[LRScheduler]] = {
    name: value
    for name, value in vars(lr).items()
    if inspect.isclass(value) and issubclass(value, LRScheduler) and value is not LRScheduler and name not in _REFUSED
} | {"CosineAnnealingWarmRestarts": CosineAnnealingWarmRestarts}


def require_numbers(spec: dict, where: str) -> None:
    """Raises UserError for an argument of a schedule that is not a number, infinite, or negative."""
    for key, value in spec.items():
        if key not in _NO_NUMBERS and value is not None:
            for item in value if isinstance(value, list) else [value]:
                least = -1 if key == "last_epoch" else 0
                require_number(item, f"{where}.{key}", least=least, whole=key == "warmup_iters")


def require_learning_rate(spec: dict, where: str) -> None:
    """Raises UserError for a schedule that has no argument learning_rate."""
    if str(spec.get("type")) in _TYPES:
        registry.check_arguments(_TYPES[spec["type"]], ["learning_rate"], where)


def build_schedule(spec: dict, iters: int, where: str, trial: bool = False) -> LRScheduler:
    """Returns a schedule, with a linear warm-up to its first rate if `warmup_iters` is given.

    Args:
        spec: `type` of paddle.optimizer.lr and its arguments, `warmup_iters` and `warmup_start_lr`; null means not given.
        iters: iterations of the training, which PolynomialDecay takes for its decay_steps, less the warm-up.
        where: the key in the configuration, for messages.
        trial: iters is for this run alone, so that it may end within the warm-up.

    Raises:
        UserError: no such schedule, one that needs what no file holds, wrong arguments, or an iteration without a rate.
    """
    spec = {key: value for key, value in spec.items() if value is not None}
    name, warmup, start = spec.pop("type", None), spec.pop("warmup_iters", 0), spec.pop("warmup_start_lr", 0.0)
    if not isinstance(name, str) or name not in (*_TYPES, *_REFUSED):
        raise UserError(f"{where}.type: there is no schedule {name!r}{suggestion(name, _TYPES)}")
    if name in _REFUSED:
        raise UserError(f"{where}.type: {name} {_REFUSED[name]}")
    if 0 < iters <= warmup:
        message = f"{where}.warmup_iters: {warmup}, but the training ends after {iters} iterations: make it shorter"
        if not trial:
            raise UserError(message)
        logger.warning(message)
    if name == "PolynomialDecay":
        spec.setdefault("decay_steps", max(iters - warmup, 1))
    registry.check_arguments(_TYPES[name], spec, where)
    try:
        schedule = _TYPES[name](**spec)
        if warmup and start >= schedule.last_lr:
            raise ValueError(f"it begins at {schedule.last_lr}, not above warmup_start_lr, {start}: leave warmup_iters out")
        if warmup:
            schedule = lr.LinearWarmup(schedule, warmup, start, schedule.last_lr)
    except Exception as error:
        raise UserError(f"{where}: {name} could not be built: {' '.join(str(error).split())}") from error
    _go_through(schedule, iters, f"{where}: {name}")
    return schedule


def _go_through(schedule, iters, where):
    """Raises UserError if a schedule fails or has no valid rate at some iteration, before a training would fail there."""
    trial = copy.deepcopy(schedule)
    with contextlib.redirect_stdout(None):  # verbose
        for iteration in range(1, min(iters, _LOOKED_AT) + 1):
            rate = trial.last_lr
            if not 0 <= rate < math.inf:
                raise UserError(f"{where} gives the learning rate {rate} at iteration {iteration}")
            try:
                trial.step()
            except Exception as error:
                message = " ".join(str(error).split())
                raise UserError(f"{where} ends after {iteration} of {iters} iterations: {message}") from error
