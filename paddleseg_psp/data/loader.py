"""Batches of samples, read ahead by a thread or by processes, whose errors reach the caller.

Paddle's loader waits for ever when reading fails in its thread, and buries the error in a traceback when it fails in a process.
Here a failed sample travels through the loader like any other, and is raised where the batch is asked for.
"""

import gc
import random
import traceback

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn

from paddleseg_psp.errors import UserError


def load_batches(dataset, batch_sampler, num_workers=0):
    """Yields the batches that a sampler asks for, dicts of tensors, in order.

    Args:
        dataset: a paddle.io.Dataset whose samples are dicts of arrays.
        batch_sampler: gives the indices of each batch.
        num_workers (int): processes that read; 0 reads in a thread.

    Raises:
        UserError: from the data set, as it was raised there.
        RuntimeError: any other error there, with its traceback.
    """
    guarded = _Guarded(dataset)
    loader = paddle.io.DataLoader(
        guarded, batch_sampler=batch_sampler, num_workers=num_workers, collate_fn=_collate, worker_init_fn=_seed_worker
    )
    if num_workers:
        # The processes are forks. Garbage that they inherit they would collect, and a queue of an earlier loader, whose threads
        # are not in the fork, waits for them in its destructor for ever.
        gc.collect()
    for batch in loader:
        if "failure" in batch:
            raise batch["failure"]
        yield batch


class _Guarded(paddle.io.Dataset):
    """A data set whose failed samples are the exceptions."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        try:
            return self.dataset[index]
        except UserError as error:
            return error
        except Exception:
            return RuntimeError(traceback.format_exc())


def _collate(samples):
    failure = next((sample for sample in samples if isinstance(sample, Exception)), None)
    if failure is None:
        return default_collate_fn(samples)
    return {"failure": failure, "tensor": np.zeros(1)}  # the loader cannot carry a batch without any tensor


def _seed_worker(worker):
    """Gives each reading process its own random numbers for the transforms, drawn from the main process's seed."""
    seed = random.getrandbits(31) + worker
    random.seed(seed)
    np.random.seed(seed)
