"""Choosing the device and the seed of a command."""

from __future__ import annotations

import ctypes
import random
import signal
import sys

import paddle
import paddle.distributed as dist

from paddleseg_psp import environment
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.trainer import seed_everything
from paddleseg_psp.log import logger

_PR_SET_PDEATHSIG = 1  # prctl(2): a signal when the parent process has died


def set_up(device: str, seed: int | None = None, deterministic: bool = False) -> int:
    """Selects the device, joins the other processes of a distributed run, seeds, and logs the environment.

    Returns:
        The seed, the same in all processes; a new one if none is given.
    """
    if device == "gpu" and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
        logger.info("No GPU for this paddle: using the CPU (--device cpu says the same)")
        device = "cpu"
    paddle.set_device(device)
    if deterministic and device == "gpu":
        paddle.set_flags({"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1})
    if dist.ParallelEnv().world_size > 1:
        if sys.platform == "linux":  # paddle's launcher, when it is terminated, forgets the processes it started
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        dist.init_parallel_env()
    seed = distributed.share_first(random.SystemRandom().getrandbits(31) if seed is None else seed)
    seed_everything(seed)
    for line in environment.describe():
        logger.info(line)
    return seed
