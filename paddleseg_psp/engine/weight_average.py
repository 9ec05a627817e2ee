"""An exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import paddle
from paddle import nn

from paddleseg_psp.errors import UserError


class WeightAverage:
    """Averages parameters and running statistics, in float32: average = decay · average + (1 - decay) · weight.

    Early on the decay is iteration / (iteration + 1), so that the random start does not weigh on the average.

    Args:
        model: the network.
        decay: None averages nothing, and every method does nothing.
    """

    def __init__(self, model: nn.Layer, decay: float | None) -> None:
        self._model, self._decay = model, decay
        self._average = {name: value.astype("float32").clone() for name, value in self._weights()}

    @property
    def enabled(self) -> bool:
        return self._decay is not None

    def _weights(self):
        state = self._model.state_dict() if self.enabled else {}
        return [(name, value.detach()) for name, value in state.items() if paddle.is_floating_point(value)]

    def update(self, iteration: int) -> None:
        """Updates the average with the weights after an iteration (counted from 1)."""
        if self._decay is None:
            return
        decay = min(self._decay, iteration / (iteration + 1))
        for name, value in self._weights():
            self._average[name].lerp_(value.astype("float32"), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the network has the averaged weights."""
        own = {name: value.clone() for name, value in self._weights()}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    def _set(self, values):
        for name, value in self._weights():
            value.copy_(values[name].astype(value.dtype), False)

    def state_dict(self) -> dict:
        return dict(self._average)

    def set_state_dict(self, state: dict[str, np.ndarray], path: str) -> None:
        """Sets the averages {name: array} that were read from `path`.

        Raises:
            UserError: one is missing or of another shape.
        """
        for name, own in self._average.items():
            if not isinstance(value := state.get(name), np.ndarray) or list(value.shape) != own.shape:
                raise UserError(f"{path}: {name}: expected the average of a parameter of the shape {own.shape}")
        self._average = {name: paddle.to_tensor(state[name], dtype="float32") for name in self._average}
