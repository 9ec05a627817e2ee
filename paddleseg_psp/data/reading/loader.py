"""Loading batches, in this process or ahead of time in others; errors reach the caller.

Paddle's loader buries an error in a process in a traceback, and waits for ever when reading fails in its thread. Here a failed
sample travels through the loader like any other, and is raised where the batch is asked for; without processes there is no
thread either.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Generator, Iterable, Sequence

import numpy as np
import paddle
from paddle.io import Dataset
from paddle.io.dataloader.collate import default_collate_fn

from paddleseg_psp import paddle_internals
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import warn_once

_SHARED_MEMORY = "/dev/shm"
_BATCHES_AHEAD = 2  # of each process
_SPARE = 8  # semaphores, each a page of shared memory, where a loader has more than its queues
_SECONDS_AFTER_SIGTERM = 30
_SECONDS_TO_STOP = 10  # which a process needs only where it hangs in reading


def load_batches(dataset: Dataset, batches: Iterable[Sequence], num_workers: int = 0) -> Generator[dict, None, None]:
    """Yields the batches asked for, dicts of tensors, in order. Close it (`contextlib.closing`) to end its processes early.

    Args:
        dataset: has `dataset[key]`, a dict of arrays, and `dataset.files(key)`, what to call it in messages. trans_info
            in it comes as it is, in a list of each sample's.
        batches: the list of keys of each batch; iterating it again gives the same.
        num_workers: processes that read; 0, and a system without semaphores, reads each batch when it is asked for.

    Raises:
        UserError: from the data set, as it was raised there; or a reading process died.
        RuntimeError: any other error in a reading process, with its traceback.
    """
    if num_workers == 0 or not _has_semaphores(num_workers):
        for keys in batches:
            batch = _batch([dataset[key] for key in keys])
            yield {key: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}
        return
    guarded = _Guarded(dataset, num_workers)
    loader = paddle.io.DataLoader(
        guarded,
        batch_sampler=batches,
        num_workers=num_workers,
        prefetch_factor=_BATCHES_AHEAD,
        use_shared_memory=_fits_shared_memory(dataset, batches, num_workers),
        collate_fn=_collate,
        worker_init_fn=guarded.start,
    )
    # The processes are forks. Garbage that they inherit they would collect, and a queue of an earlier loader, whose threads
    # are not in the fork, waits for them in its destructor for ever.
    gc.collect()
    with paddle_internals.without_child_handler():
        iterator = iter(loader)
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, SystemError) as error:
                raise guarded.explained(error)
            if "failure" in batch:
                raise batch["failure"]
            if "label" in batch:
                batch["label"] = batch["label"].astype("int64")
            yield batch
    finally:
        paddle_internals.end_workers(iterator, _SECONDS_TO_STOP)


class _Guarded(paddle.io.Dataset):
    """A data set that returns exceptions as samples, and knows which files each process is reading."""

    def __init__(self, dataset, num_workers):
        self.dataset = dataset
        self._pids = multiprocessing.RawArray("q", num_workers)
        self._reading = [multiprocessing.RawArray("c", 2048) for _ in range(num_workers)]

    def __len__(self):
        return len(self.dataset)

    def start(self, worker):
        """Prepares a reading process. It ignores signals, because the main process decides when to end and may still save."""
        self._pids[worker] = multiprocessing.current_process().pid
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))

    def __getitem__(self, key):
        reading = self._reading[paddle.io.get_worker_info().id]
        try:
            reading.value = os.fsencode(self.dataset.files(key))[:2047]  # names need not be UTF-8
            return _narrowed(self.dataset[key])
        except UserError as error:
            return error
        except Exception:
            return RuntimeError(traceback.format_exc())

    def explained(self, error):
        """Returns the error to raise instead of the loader's: it names the process that died and its files."""
        alive = {process.pid for process in multiprocessing.active_children()}
        dead = [worker for worker, pid in enumerate(self._pids) if pid and pid not in alive]
        if not dead:
            return error
        files = "; ".join(os.fsdecode(self._reading[worker].value) for worker in dead)
        return UserError(
            f"{len(dead)} of {len(self._pids)} processes that read data died, reading {files}. If the files open elsewhere, "
            f"memory ran out: lower --num_workers or --batch_size, or give {_SHARED_MEMORY} more room (docker --shm-size=8g)"
        )


def _has_semaphores(num_workers):
    """Returns whether reading processes can have queues; their semaphores are files in shared memory."""
    try:
        needed = 3 * num_workers + 8  # of a queue each, one for all, and an event
        return bool([multiprocessing.Semaphore() for _ in range(needed + _SPARE)])
    except (OSError, ImportError) as error:
        warn_once(
            f"{_SHARED_MEMORY} is missing or full, where reading processes have their semaphores ({error}): the main process "
            "reads, more slowly. Mount it or give it more room (docker run --shm-size=8g), or say --num_workers 0"
        )
        return False


def _fits_shared_memory(dataset, batches, num_workers):
    """Returns whether the batches read ahead fit into shared memory; a process that finds it full dies."""
    keys = next(iter(batches), None)
    if keys is None:
        return True
    sample = sum(value.nbytes for value in _narrowed(dataset[keys[0]]).values() if isinstance(value, np.ndarray))
    needed = sample * len(keys) * (_BATCHES_AHEAD + 1) * num_workers
    if needed <= shutil.disk_usage(_SHARED_MEMORY).free:
        return True
    warn_once(
        f"{_SHARED_MEMORY} has too little room for what {num_workers} processes read ahead: batches go through pipes, more "
        "slowly. Give it more room (docker run --shm-size=8g)"
    )
    return False


def _narrowed(sample):
    """Returns a sample with a label of few bytes to send to another process; Paddle has no 16-bit type for it."""
    label = sample.get("label")
    if label is None or label.dtype != np.int64:
        return sample
    bytes_do = label.size and label.min() >= 0 and label.max() < 256
    return {**sample, "label": label.astype(np.uint8 if bytes_do else np.int32)}


def _collate(samples):
    failure = next((sample for sample in samples if isinstance(sample, Exception)), None)
    if failure is None:
        return _batch(samples)
    return {"failure": failure, "tensor": np.zeros(1)}  # the loader cannot carry a batch without any tensor


def _batch(samples):
    """Returns the samples' arrays stacked, and their trans_info, if they have it, in a list."""
    steps = {"trans_info": [sample["trans_info"] for sample in samples]} if "trans_info" in samples[0] else {}
    arrays = [{key: value for key, value in sample.items() if key != "trans_info"} for sample in samples]
    return {**default_collate_fn(arrays), **steps}
