"""Which images run together, and that every request gets its own answer."""

import threading
import time
import weakref

import numpy as np
import pytest

from paddleseg_psp.service.batching import Batcher


class Network:
    """Returns the first value of each image, and notes the batches; waits for `go` first."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, batch):
        self.go.wait(10)
        self.batches.append(batch.shape)
        if (batch == -1).any():
            raise RuntimeError("this one is bad")
        return batch[:, 0, 0, 0]


def image(value, size=(2, 3)):
    return np.full((3, *size), value, np.float32)


@pytest.fixture
def network():
    return Network()


def test_images_of_one_size_that_wait_run_together(network):
    batcher = Batcher(network, max_batch=4, max_wait=0.01)
    futures = [batcher.submit(image(0))]
    while batcher._waiting:  # until the first one runs
        time.sleep(0.001)
    sizes = [(2, 3), (5, 5), (2, 3), (2, 3), (5, 5), (2, 3), (2, 3)]
    futures += [batcher.submit(image(index, size)) for index, size in enumerate(sizes, 1)]
    network.go.set()
    assert [future.result(10) for future in futures] == list(range(8))
    batcher.close()
    assert network.batches == [(1, 3, 2, 3), (4, 3, 2, 3), (2, 3, 5, 5), (1, 3, 2, 3)]  # the oldest decides which size is next


def test_a_lone_image_does_not_wait_long(network):
    network.go.set()
    batcher = Batcher(network, max_wait=0.01)
    assert batcher.submit(image(5)).result(5) == 5
    batcher.close()
    assert not batcher.is_alive()


def test_an_error_reaches_those_who_asked_and_no_others(network):
    network.go.set()
    batcher, observed = Batcher(network, max_wait=0, observe=lambda size: observed.append(size)), []
    with pytest.raises(RuntimeError, match="this one is bad"):
        batcher.submit(image(-1)).result(10)
    assert batcher.is_alive() and batcher.submit(image(3)).result(10) == 3
    batcher.close()
    assert observed == [1, 1]


def test_closing_answers_what_was_submitted(network):
    batcher = Batcher(network, max_batch=2)
    futures = [batcher.submit(image(value)) for value in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    network.go.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == list(range(5))


def test_what_nobody_waits_for_does_not_run(network):
    batcher = Batcher(network, max_batch=1, max_wait=0)
    first = batcher.submit(image(0))
    second, third = batcher.submit(image(1)), batcher.submit(image(2))
    assert second.cancel()
    network.go.set()
    assert (first.result(10), third.result(10)) == (0, 2)
    batcher.close()
    assert len(network.batches) == 2


def test_what_nobody_waits_for_is_not_kept(network):
    batcher = Batcher(network, max_batch=1, max_wait=0)
    first = batcher.submit(image(0))
    while batcher._waiting:  # until it runs
        time.sleep(0.001)
    array = image(1)
    kept = weakref.ref(array)
    batcher.submit(array).cancel()
    del array
    assert kept() is None
    network.go.set()
    assert first.result(10) == 0
    batcher.close()


def test_a_batch_is_bounded_by_its_pixels(network):
    batcher = Batcher(network, max_batch=8, max_wait=0.01, max_pixels=2 * 2 * 3 + 1)
    futures = [batcher.submit(image(value)) for value in range(5)] + [batcher.submit(image(5, (9, 9)))]
    network.go.set()
    assert [future.result(10) for future in futures] == list(range(6))
    batcher.close()
    assert max(count * height * width for count, _, height, width in network.batches[:-1]) == 12
    assert network.batches[-1] == (1, 3, 9, 9)  # larger than that: alone


def test_a_network_that_gives_too_few_outputs():
    batcher = Batcher(lambda batch: batch[:0], max_wait=0)
    with pytest.raises(ValueError, match="0 outputs for 1 images"):
        batcher.submit(image(0)).result(10)
    batcher.close()
