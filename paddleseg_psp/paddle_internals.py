"""The undocumented parts of Paddle that this package uses; tests/test_paddle_internals.py names the version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import paddle
from paddle import Tensor
from paddle.base import core, framework
from paddle.io import multiprocess_utils
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler


def schedule_of(optimizer: Optimizer) -> LRScheduler | None:
    """Returns the learning-rate schedule of an optimizer, or None where the rate is a number."""
    schedule = optimizer._learning_rate
    return schedule if isinstance(schedule, LRScheduler) else None


def end_workers(iterator: Iterator, seconds: float) -> None:
    """Ends the processes and the thread of an iterator over a paddle.io.DataLoader, which keep it from being collected."""
    iterator._try_shutdown_all(seconds)  # type: ignore[attr-defined]


@contextmanager
def without_child_handler() -> Iterator[None]:
    """Inside the block Paddle's loader installs no handler of SIGCHLD, which only the main thread may do.

    The handler would raise a process's death wherever the program is; without it the loader finds that within seconds.
    """
    before = multiprocess_utils._SIGCHLD_handler_set
    multiprocess_utils._SIGCHLD_handler_set = True
    try:
        yield
    finally:
        multiprocess_utils._SIGCHLD_handler_set = before


def run_operator(name: str, *arguments: object) -> Sequence[Tensor]:
    """Runs a registered custom operator, in a dynamic or a static graph."""
    return paddle._C_ops._run_custom_op(name, *arguments)


def is_registered(operator: str) -> bool:
    """Returns whether a custom operator is registered; registering it again would abort the process."""
    return operator in framework.OpProtoHolder.instance().op_proto_map


def register_operators(library: str) -> None:
    """Registers the operators in a library; raises what Paddle raises."""
    framework.OpProtoHolder.instance().update_op_proto(core.load_op_meta_info_and_register_op(library))


def set_threads(count: int) -> None:
    """Sets how many threads Paddle computes with on the CPU."""
    core.set_num_threads(count)
