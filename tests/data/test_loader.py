import collections
import contextlib
import os
import signal
import threading
import time

import numpy as np
import paddle
import pytest

from paddleseg_psp import log
from paddleseg_psp.data.reading import load_batches, loader
from paddleseg_psp.errors import UserError
from tests.helpers import run_python

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BATCHES = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


class Numbers(paddle.io.Dataset):
    """Ten samples; at the sixth an action comes first."""

    def __init__(self, action=lambda: None):
        self.action = action

    def __len__(self):
        return 10

    def files(self, index):
        return f"file_{index}.png"

    def __getitem__(self, index):
        if index == 5:
            self.action()
        return {"img": np.full((2, 3), index, "float32"), "trans_info": [("resize", (4, 5))]}


def raises(error):
    def action():
        raise error

    return Numbers(action)


def numbers(batches):
    return [batch["img"].numpy()[:, 0, 0].tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_come_in_order(num_workers):
    batches = list(load_batches(Numbers(), BATCHES, num_workers))
    assert numbers(batches) == BATCHES
    (step,), (other,) = batches[0]["trans_info"]  # of each image, as its transforms noted them
    assert (step[0], list(step[1])) == (other[0], list(other[1])) == ("resize", [4, 5])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_reading_reaches_the_caller(num_workers):
    """In paddle's own loader a thread that fails leaves the caller waiting for ever."""
    batches, seen = load_batches(raises(UserError("the label is wrong")), BATCHES, num_workers), []
    with pytest.raises(UserError, match="^the label is wrong$"):
        for batch in batches:
            seen.append(batch["img"].numpy()[:, 0, 0].tolist())
    assert seen == BATCHES[:2]
    with pytest.raises(RuntimeError if num_workers else ZeroDivisionError, match="by a test"):
        list(load_batches(raises(ZeroDivisionError("by a test")), BATCHES, num_workers))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_dead_reading_process_is_told_with_its_file(num_workers):
    dataset = Numbers(lambda: os.kill(os.getpid(), signal.SIGKILL))
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"1 of {num_workers} processes that read data died, reading file_5.png.*lower --num_w"):
        list(load_batches(dataset, BATCHES, num_workers))
    assert time.monotonic() - begun < 30


def test_names_need_not_be_utf8():
    dataset = Numbers(lambda: os.kill(os.getpid(), signal.SIGKILL))
    dataset.files = lambda index: os.fsdecode(b"caf\xe9.png") * (200 if index == 5 else 1)  # longer than what is kept of it
    with pytest.raises(UserError, match="died, reading caf\udce9.pngcaf"):
        list(load_batches(dataset, BATCHES, 1))


def test_other_threads_may_read():
    """Python's handlers of signals are the main thread's."""
    handler, result = signal.getsignal(signal.SIGCHLD), []
    thread = threading.Thread(target=lambda: result.extend(numbers(load_batches(Numbers(), BATCHES, 2))))
    thread.start()
    thread.join()
    assert result == BATCHES and signal.getsignal(signal.SIGCHLD) is handler


def test_a_signal_to_all_processes_leaves_the_readers_alone():
    """Whether to end is for the main process to decide, which may want to save."""
    dataset = Numbers(lambda: [os.kill(os.getpid(), signum) for signum in SIGNALS])
    assert numbers(load_batches(dataset, BATCHES, 1)) == BATCHES


def test_closing_ends_the_processes():
    with contextlib.closing(load_batches(Numbers(), BATCHES * 100, 2)) as batches:
        next(batches)
        readers = _children()
        assert len(readers) >= 2
    assert not readers & _children()


def _children():
    return set(open(f"/proc/self/task/{os.getpid()}/children").read().split())


def test_little_shared_memory_is_noticed(monkeypatch, capsys):
    """Processes that find it full would die."""
    usage = collections.namedtuple("usage", "free")
    log.warn_once.cache_clear()
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: usage(free=100))
    assert numbers(load_batches(Numbers(), BATCHES, 2)) == BATCHES
    said = capsys.readouterr().out
    assert said.count("/dev/shm has too little room for what 2 processes read ahead") == 1
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: usage(free=24 * 2 * 3 * 2))  # bytes x batch x ahead x processes
    assert numbers(load_batches(Numbers(), BATCHES, 2)) == BATCHES
    assert "too little" not in capsys.readouterr().out


ABANDONED = """
import gc
import numpy as np
import paddleseg_psp
import paddle
from paddleseg_psp import log
from paddleseg_psp.data import load_batches
from paddleseg_psp.errors import UserError

class Data(paddle.io.Dataset):
    def __init__(self, fails):
        self.fails = fails

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if self.fails and index == 5:
            raise UserError("by a test")
        if not self.fails:
            gc.collect()  # as any reading may
        return {"img": np.full((2, 3), index, "float32")}

    def files(self, index):
        return str(index)

def batches(fails, **options):
    return load_batches(Data(fails), [[i, i + 1] for i in range(0, 10, 2)], **options)

gc.disable()
for _ in range(3):
    try:
        list(batches(fails=True, num_workers=1))
    except UserError as error:
        cycle = [error]  # its traceback has the loader
        cycle.append(cycle)
        del cycle
print([int(batch["img"].sum()) for batch in batches(fails=False, num_workers=2)])
"""


def test_an_abandoned_loader_does_not_stop_later_reading_processes():
    """As garbage, a forked process would collect it, and its queue's destructor waits for ever."""
    assert run_python(["-c", ABANDONED], timeout=60).stdout.strip() == "[6, 30, 54, 78, 102]"
