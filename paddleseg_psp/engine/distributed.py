"""Communication between the processes of one training. With one process nothing is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def wrapped(model: nn.Layer) -> nn.Layer:
    """Returns the network to train: with several processes one that averages their gradients."""
    return paddle.DataParallel(model) if world_size() > 1 else model


def exchanging_gradients(network: nn.Layer, now: bool) -> AbstractContextManager:
    """Returns the context of a forward and backward pass; if `now` is false, gradients accumulate in this process."""
    return contextlib.nullcontext() if now or not isinstance(network, paddle.DataParallel) else network.no_sync()


def gather(values: Sequence | np.ndarray) -> np.ndarray:
    """Returns every process's values, an array (of one shape everywhere), as float64 [processes, …]."""
    values = np.asarray(values, np.float64)
    if world_size() == 1:
        return values[np.newaxis]
    tensors: list = []
    dist.all_gather(tensors, paddle.to_tensor(values))
    return np.stack([tensor.numpy() for tensor in tensors])


def total(counts: np.ndarray) -> np.ndarray:
    """Returns the sum of every process's counts, an int64 array."""
    if world_size() == 1:
        return counts
    tensor = paddle.to_tensor(counts)
    dist.all_reduce(tensor)
    return tensor.numpy()


def share_first(number: int) -> int:
    """Returns the first process's number (int), in all of them."""
    return int(gather([number])[0, 0])


def share_buffers(model: nn.Layer) -> None:
    """Copies the running statistics of the first process to all others, whose batches differ."""
    for value in model.state_dict().values() if world_size() > 1 else ():
        if value.stop_gradient:
            dist.broadcast(value, src=0)


def wait_for_all() -> None:
    gather([0])
