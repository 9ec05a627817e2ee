"""The default of --max_pixels: what time and memory leave, found out with networks whose cost is known."""

import time

import numpy as np
import pytest

from paddleseg_psp.engine.views import WHOLE, Views
from paddleseg_psp.service import capacity, memory
from paddleseg_psp.service.capacity import CEILING, largest_image


class Clock:
    now = 0.0

    @classmethod
    def monotonic(cls):
        return cls.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(capacity, "time", Clock)


class Known:
    """A predictor whose images take known seconds and bytes, as functions of the pixels (in millions)."""

    def __init__(self, seconds=lambda p: 0.001, held=lambda p: 0, shape=(-1, 3, -1, -1), views=WHOLE, resized=None):
        self.input_shape, self.views, self.resized = shape, views, resized
        self.seconds, self.held, self.seen = seconds, held, []

    def prepare(self, image):
        array = np.zeros((self.input_shape[1], *(self.resized or image.shape[:2])), np.float32)
        return array, []

    def fits(self, shape):
        own = self.views.window or self.input_shape[2:]
        return self.resized is not None or all(a in (-1, b) or self.views.window and b >= a for a, b in zip(own, shape[1:]))

    def predict(self, images):
        height, width = images[0].shape[:2]
        self.seen.append((height, width))
        millions = height * width / 1e6
        block = np.ones(int(self.held(millions)), np.uint8)
        Clock.now += self.seconds(millions)
        time.sleep(0.02)  # so that the peak is seen
        del block


def pixels(*args, attends=False, memory=1e12, **options):
    return largest_image(Known(*args, **options), attends, 15, memory)


def test_time_that_grows_with_the_pixels():
    most, reason = pixels(lambda p: 3 * p)
    assert most == pytest.approx(5e6, rel=0.1) and "15 s" in reason


def test_time_that_grows_with_their_square():
    most, _ = pixels(lambda p: 0.2 * p + 1.5 * p * p, attends=True)
    assert most == pytest.approx(3.1e6, rel=0.15)


def test_memory_that_grows_with_their_square():
    def held(p):
        return 50e6 * p + 80e6 * p * p

    most, reason = pixels(lambda p: 0.02, held, attends=True, memory=1e9)
    assert held(most / 1e6) == pytest.approx(1e9, rel=0.25) and "1.0 GB" in reason
    bounded, _ = pixels(lambda p: 0.02, lambda p: 100e6 * p, memory=0.3e9)
    assert bounded == pytest.approx(3e6, rel=0.15)


def test_nothing_that_limits():
    assert pixels()[0] == CEILING


def test_a_network_of_one_size():
    predictor = Known(shape=(1, 3, 300, 400))
    largest_image(predictor, True)
    assert set(predictor.seen) == {(300, 400)}
    assert pixels(lambda p: 3, shape=(1, 3, 300, 400))[0] >= 300 * 400
    assert pixels(lambda p: 400 * p, shape=(1, 3, 300, 400))[0] == 300 * 400  # slow, but it takes no smaller ones


def test_windows_are_the_smallest_images():
    predictor = Known(shape=(1, 3, 713, 713), views=Views(window=(713, 713), step=(475, 475)))
    largest_image(predictor, True)
    assert predictor.seen[0] == (713, 713)


def test_images_that_are_resized_are_tried_thin():
    predictor = Known(resized=(500, 500))
    largest_image(predictor, False)
    assert all(width == 8 * height for height, width in predictor.seen)


def test_a_network_that_fails_on_all(capsys):
    def failing(_):
        raise RuntimeError("only\n64x64")

    most, reason = largest_image(Known(failing), False)
    assert most == CEILING and "failed" in reason and "only 64x64" in capsys.readouterr().out


def test_a_network_that_fails_on_large_ones():
    def failing(p):
        if p > 0.2:
            raise MemoryError
        return 10 * p

    assert largest_image(Known(failing), False, 15, 1e12)[0] == pytest.approx(1.5e6, rel=0.2)


def test_the_peak_is_found():
    before = memory.resident()
    with memory.peak() as most:
        block = np.ones(200 * 2**20, np.uint8)
        time.sleep(0.05)
        del block
    assert 190 * 2**20 < most[0] - before < 300 * 2**20


@pytest.mark.parametrize(
    "group, files",
    [
        ("0::/a/b", {"a/memory.max": "3000", "a/memory.current": "1000", "a/memory.stat": "file 9\ninactive_file 100\n"}),
        ("0::/a/b", {"a/b/memory.max": "max", "a/b/memory.current": "5", "memory.max": "2100", "memory.current": "0"}),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "4100", "memory/a/memory.usage_in_bytes": "2000"}),
        ("4:cpu,memory:/../a", {"memory/memory.limit_in_bytes": "2100", "memory/memory.usage_in_bytes": "0"}),
    ],
)
def test_what_control_groups_leave(tmp_path, group, files):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n{group}\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 90 kB\nMemAvailable:   80 kB\n")
    assert memory.free_memory(tmp_path) == 80 * 1024
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.free_memory(tmp_path) == 2100


def test_what_the_machine_leaves():
    left = memory.free_memory()
    assert 2**20 < left < float("inf") and capacity.SHARE * left > 0


def test_what_ulimit_leaves(monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (memory._pages(0) + 10**6, -1))
    assert memory.free_memory() < 2 * 10**6
