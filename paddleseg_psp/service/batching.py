"""Running images that arrive together as batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class _Request:
    array: np.ndarray
    future: Future = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs prepared images in one thread; images of one size that arrive together run as one batch.

    Args:
        run: takes a batch [N, C, H, W] and returns an output for each image; see `Predictor.run`.
        max_batch: images run together.
        max_wait: seconds that the first image waits for others while nothing else runs.
        observe: called with the size of each batch.
        max_pixels: of all images run together; a larger one runs alone.
    """

    def __init__(
        self,
        run: Callable,
        max_batch: int = 8,
        max_wait: float = 0.005,
        observe: Callable = lambda size: None,
        max_pixels: float = float("inf"),
    ) -> None:
        self._run, self._max_wait, self._observe = run, max_wait, observe
        self._max_batch, self._max_pixels = max_batch, max_pixels
        self._waiting: list[_Request] = []
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, array: np.ndarray) -> Future:
        """Returns the Future of the output for a prepared image [C, H, W]; cancelling it drops the image."""
        request = _Request(array)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
        request.future.add_done_callback(self._drop_cancelled)
        return request.future

    def is_alive(self) -> bool:
        """Returns whether images are run."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Runs what was submitted and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _drop_cancelled(self, future):
        if future.cancelled():
            with self._changed:
                self._waiting = [item for item in self._waiting if item.future is not future]

    def _work(self):
        while batch := self._next_batch():
            self._answer(batch)
            del batch  # an image, and its answer, is kept by nobody but who asked for it

    def _next_batch(self):
        """Returns requests once they are a full batch or have waited long enough; none after the last one."""
        with self._changed:
            while self._waiting or not self._closed:
                batch, patience = self._oldest_and_alike()
                if patience is None or patience > 0:
                    self._changed.wait(patience)
                    continue
                self._waiting = [item for item in self._waiting if item not in batch]
                if running := [item for item in batch if item.future.set_running_or_notify_cancel()]:
                    return running
        return []

    def _oldest_and_alike(self):
        """Returns the oldest request with those that run with it, and the seconds to wait for others; None is for ever."""
        if not self._waiting:
            return [], None
        oldest = self._waiting[0]
        _, height, width = oldest.array.shape
        most = max(min(self._max_batch, self._max_pixels // (height * width)), 1)
        batch = [item for item in self._waiting if item.array.shape == oldest.array.shape][: int(most)]
        full = len(batch) == most or self._closed
        return batch, 0 if full else self._max_wait - (time.monotonic() - oldest.came)

    def _answer(self, batch):
        self._observe(len(batch))
        try:
            outputs = self._run(np.stack([item.array for item in batch]))
            if len(outputs) != len(batch):
                raise ValueError(f"the network gave {len(outputs)} outputs for {len(batch)} images")
        except Exception as error:
            for item in batch:
                item.future.set_exception(error)
            return
        for item, output in zip(batch, outputs):
            item.future.set_result(output)
