"""How much memory this process holds, and how much it may still take."""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paddleseg_psp.files import read_if_there

_PAGE = resource.getpagesize()


def resident() -> int:
    """Returns the bytes of memory that this process holds; 0 where the system does not tell."""
    return _pages(1)


def free_memory(root: str = "/") -> float:
    """Returns the bytes that this process may still take: what the machine, its control groups and ulimit leave it.

    Args:
        root: the folder that has proc and sys.
    """
    left = [float("inf")]
    if found := re.search(r"MemAvailable:\s+(\d+) kB", read_if_there(os.path.join(root, "proc/meminfo"))):
        left.append(int(found[1]) * 1024)
    for line in read_if_there(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        left += _left_in_groups(root, group, "memory" in controllers.split(","))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left.append(limit - _pages(0))
    return max(min(left), 0)


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yields a list whose one number is, after the block, the most bytes that this process held inside it."""
    most, done = [resident()], threading.Event()

    def watch():
        while not done.wait(0.002):
            most[0] = max(most[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], resident())


def _pages(field):
    fields = read_if_there("/proc/self/statm").split()
    return int(fields[field]) * _PAGE if fields else 0


def _left_in_groups(root, group, old):
    """Returns what a control group and those above it leave, of those that have a limit; old is version 1.

    What a group's processes have read from files can be taken from them.
    """
    folder = os.path.join(root, "sys/fs/cgroup", "memory" if old else "")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    parts = [part for part in group.split("/") if part not in ("", "..")]
    left = []
    for depth in range(len(parts) + 1):
        place = os.path.join(folder, *parts[:depth])
        limit, used = (read_if_there(os.path.join(place, name)).strip() for name in names)
        if limit.isdigit() and used.isdigit():
            cached = re.search(r"^inactive_file (\d+)$", read_if_there(os.path.join(place, "memory.stat")), re.MULTILINE)
            left.append(int(limit) - int(used) + int(cached[1] if cached else 0))
    return left
