"""Choosing the device and the seed of a command."""

import random

import numpy as np
import paddle
import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_psp import environment


def set_up(device, seed=None):
    """Selects the device, joins the other processes of a distributed run, seeds, and logs the environment."""
    if device == "gpu" and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
        logger.info("No GPU for this paddle: using the CPU (--device cpu says the same)")
        device = "cpu"
    paddle.set_device(device)
    if dist.ParallelEnv().world_size > 1:
        dist.init_parallel_env()
    if seed is not None:
        paddle.seed(seed)
        np.random.seed(seed)
        random.seed(seed)
    for line in environment.describe():
        logger.info(line)
