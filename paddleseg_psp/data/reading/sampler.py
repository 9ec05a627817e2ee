"""The images and random numbers of an iteration, which depend only on the seed and the iteration.

So a resumed run sees what an uninterrupted one would have seen, however many processes read or train.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import paddle
from paddle.io import Dataset


class TrainingSampler:
    """Batches of shuffled images, each image at most once in an epoch; an incomplete last iteration of an epoch is dropped.

    An iteration's images are one run of the epoch's order: first the batch of each process, then, with accumulation, their
    next batches.

    Args:
        size: images in the data set.
        batch_size: images that a process takes at once.
        iterations: the iterations to give batches for, counted from 1 over the whole training.
        seed: of the order and of the transforms.
        accumulate: batches a process and iteration.
        rank, world_size: this process, and how many there are.

    Iterating gives `accumulate` lists of (index, seed) keys for each iteration, for a `SeededDataset`.
    """

    def __init__(
        self, size: int, batch_size: int, iterations: range, seed: int, accumulate: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self._size, self._batch_size, self._iterations, self._seed = size, batch_size, iterations, seed
        self._accumulate, self._rank, self._world_size = accumulate, rank, world_size
        self.images = batch_size * accumulate * world_size
        self.iters_per_epoch = size // self.images
        self._epoch, self._order = -1, np.empty(0, int)

    def __len__(self) -> int:
        return len(self._iterations) * self._accumulate

    def __iter__(self) -> Iterator[list]:
        for iteration in self._iterations:
            for turn in range(self._accumulate):
                yield self.batch(iteration, turn, self._rank)

    def batch(self, iteration: int, turn: int, rank: int) -> list[tuple[int, int]]:
        """Returns the keys of one batch of one process."""
        epoch, place = divmod(iteration - 1, self.iters_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._size)
        start = place * self.images + (turn * self._world_size + rank) * self._batch_size
        return [
            (int(self._order[slot]), derived_seed(self._seed, epoch, slot)) for slot in range(start, start + self._batch_size)
        ]

    def indices(self, iteration: int, rank: int) -> list[int]:
        """Returns the indices of all images of a process in an iteration."""
        return [index for turn in range(self._accumulate) for index, _ in self.batch(iteration, turn, rank)]


class SeededDataset(paddle.io.Dataset):
    """The samples of a data set, `dataset[index, seed]`, where the seed is for the random numbers of its transforms."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, seed = key
        random.seed(seed)
        np.random.seed(seed)
        return self.dataset[index]

    def files(self, key: tuple[int, int]) -> str:
        return self.dataset.files(key[0])


def derived_seed(*numbers: int) -> int:
    """Returns a seed of 32 bits that depends on all the numbers (not negative)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
