import random

import numpy as np
import pytest

from paddleseg_psp.data import SeededDataset, TrainingSampler


def batches(iterations=range(1, 11), batch_size=2, **options):
    return list(TrainingSampler(11, batch_size, iterations, 5, **options))


def test_an_epoch_has_each_image_once_in_an_order_of_its_own():
    indices = [[index for index, _ in keys] for keys in batches()]
    epochs = [sum(indices[:5], []), sum(indices[5:], [])]
    assert all(len(set(epoch)) == 10 for epoch in epochs)  # the eleventh image waits for another epoch
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    assert TrainingSampler(11, 2, range(1, 11), 5).iters_per_epoch == 5


def test_seeds_differ_by_image_and_epoch():
    seeds = [seed for keys in batches() for _, seed in keys]
    assert len(set(seeds)) == 20
    assert seeds != [seed for keys in TrainingSampler(11, 2, range(1, 11), 6) for _, seed in keys]


@pytest.mark.parametrize("done", [1, 4, 5, 7])
def test_a_resumed_run_goes_on_where_it_was(done):
    assert batches(range(done + 1, 11)) == batches()[done:]


@pytest.mark.parametrize("world_size, accumulate", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_accumulation_share_an_iteration(world_size, accumulate):
    """Together they have what one process has that takes it all at once."""
    size = 8 // world_size // accumulate
    parts = [batches(range(1, 4), size, accumulate=accumulate, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [
        [key for turn in range(accumulate) for rank in range(world_size) for key in parts[rank][step * accumulate + turn]]
        for step in range(3)
    ]
    assert together == batches(range(1, 4), 8)
    sampler = TrainingSampler(11, size, range(1, 4), 5, accumulate, 0, world_size)
    assert len(sampler) == len(parts[0]) == 3 * accumulate
    for rank in range(world_size):
        own = parts[rank][accumulate : 2 * accumulate]
        assert sampler.indices(2, rank) == [index for keys in own for index, _ in keys]


def test_random_numbers_of_a_sample_follow_its_seed():
    class Data:
        def __getitem__(self, index):
            return index, random.random(), np.random.rand()

    dataset = SeededDataset(Data())
    first = dataset[3, 17]
    assert dataset[3, 18] != first != dataset[3, 19]
    assert dataset[3, 17] == first
