"""Mixed precision, so that the same loops serve float32, float16 and bfloat16.

Paddle's own mixed precision switches itself off on a CPU. There it is emulated: convolutions and linear layers round what goes
in and what comes out, and so do their gradients, which shows whether a training stands the precision. It saves no time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager

import paddle
from paddle import Tensor, nn
from paddle.optimizer import Optimizer

from paddleseg_psp.errors import UserError

DTYPES = {"fp32": None, "fp16": "float16", "bf16": "bfloat16"}
_ROUNDING_LAYERS = (nn.Conv2D, nn.Linear)


def autocast(model: nn.Layer, precision: str, level: str = "O1") -> AbstractContextManager:
    """Returns the context in which a network computes in a precision: does nothing for "fp32"."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if paddle.get_device() == "cpu":
        return _emulated(model, DTYPES[precision])
    return paddle.amp.auto_cast(level=level, dtype=DTYPES[precision])


def cast_weights(model: nn.Layer, optimizer: Optimizer, precision: str, level: str) -> None:
    """Casts a network's weights for level "O2"; the optimizer also keeps them in float32.

    Raises:
        UserError: O2 on a CPU.
    """
    if precision == "fp32" or level == "O1":
        return
    if paddle.get_device() == "cpu":
        raise UserError("--amp_level O2 needs a GPU: on a CPU mixed precision is emulated, as --amp_level O1")
    paddle.amp.decorate(model, optimizer, level=level, dtype=DTYPES[precision])


@contextlib.contextmanager
def _emulated(model, dtype):
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, _ROUNDING_LAYERS)]
    for layer in layers:
        layer.forward = functools.partial(_rounding_forward, layer, dtype)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _rounding_forward(layer, dtype, x):
    return _rounded(type(layer).forward(_Rounded(layer, dtype), _rounded(x, dtype)), dtype)


def _rounded(tensor, dtype):
    return tensor.astype(dtype).astype("float32")


class _Rounded:
    """A layer's attributes, its weight and bias rounded."""

    def __init__(self, layer, dtype):
        self._layer, self._dtype = layer, dtype

    def __getattr__(self, name):
        value = getattr(self._layer, name)
        return _rounded(value, self._dtype) if name in ("weight", "bias") and value is not None else value


class LossScaler:
    """Scales the loss so that small float16 gradients do not vanish, and skips steps whose gradients overflow.

    The scale is halved at each overflow and doubled after GROWTH_INTERVAL steps without one (Micikevicius et al., Mixed
    Precision Training, 2018, section 3.2). paddle.amp.GradScaler does the same, on GPUs only.

    Args:
        enabled: otherwise the loss is left alone and every step is taken.
    """

    INITIAL, GROWTH_INTERVAL = 2.0**15, 1000

    def __init__(self, enabled: bool) -> None:
        self._enabled, self._scale, self._good_steps = enabled, self.INITIAL, 0

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self._scale if self._enabled else loss

    @paddle.no_grad()
    def step(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        """Takes the optimizer's step with unscaled gradients, unless one of them is not finite."""
        if self._enabled:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            for gradient in gradients:
                gradient.scale_(1 / self._scale)
            finite = bool(paddle.stack([paddle.isfinite(gradient).all() for gradient in gradients]).all())
            self._good_steps = self._good_steps + 1 if finite else 0
            if not finite:
                self._scale = max(self._scale / 2, 1.0)
                return
            if self._good_steps == self.GROWTH_INTERVAL:
                self._scale, self._good_steps = self._scale * 2, 0
        optimizer.step()

    def state_dict(self) -> dict:
        return {"scale": self._scale, "good_steps": self._good_steps}

    def set_state_dict(self, state: dict) -> None:
        self._scale, self._good_steps = state["scale"], state["good_steps"]
