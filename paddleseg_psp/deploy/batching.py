"""Images that come at the same time, run together."""

from __future__ import annotations

import queue
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

_Request = namedtuple("_Request", "array future came")


class Batcher:
    """Runs prepared images in one thread, those of one size that came meanwhile as one batch.

    Args:
        run: takes a batch [N, C, H, W] and returns an output for each image; see `Predictor.run`.
        max_batch: images run together.
        max_wait: seconds that the first image waits for others while nothing else runs.
        observe: called with the size of each batch.
    """

    def __init__(
        self, run: Callable, max_batch: int = 8, max_wait: float = 0.005, observe: Callable = lambda size: None
    ) -> None:
        self._run, self._max_batch, self._max_wait, self._observe = run, max_batch, max_wait, observe
        self._queue: queue.Queue = queue.Queue()
        self._waiting: list[_Request] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, array: np.ndarray) -> Future:
        """Returns the Future of the output for a prepared image [C, H, W]."""
        future: Future = Future()
        self._queue.put(_Request(array, future, time.monotonic()))
        return future

    def is_alive(self) -> bool:
        """Returns whether images are run."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Runs what was submitted and ends."""
        self._queue.put(None)
        self._thread.join()

    def _work(self):
        open_ = True
        while open_ or self._waiting:
            open_ = self._collect() and open_
            if not self._waiting:
                continue
            shape = self._waiting[0].array.shape
            batch = [item for item in self._waiting if item.array.shape == shape][: self._max_batch]
            taken = set(map(id, batch))
            self._waiting = [item for item in self._waiting if id(item) not in taken]
            self._answer([item for item in batch if item.future.set_running_or_notify_cancel()])

    def _collect(self):
        """Takes requests in until a batch is full or has waited long enough; returns False after the last request."""
        while True:
            patience = None  # for ever
            if self._waiting:
                first = self._waiting[0]
                alike = sum(item.array.shape == first.array.shape for item in self._waiting)
                late = time.monotonic() - first.came
                patience = 0 if alike >= self._max_batch else max(self._max_wait - late, 0)
            try:
                item = self._queue.get(timeout=patience)
            except queue.Empty:
                return True
            if item is None:
                return False
            self._waiting.append(item)

    def _answer(self, batch):
        if not batch:
            return
        self._observe(len(batch))
        try:
            outputs = self._run(np.stack([item.array for item in batch]))
        except Exception as error:
            for item in batch:
                item.future.set_exception(error)
            return
        for item, output in zip(batch, outputs):
            item.future.set_result(output)
