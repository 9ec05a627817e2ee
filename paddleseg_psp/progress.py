"""Progress of long work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from paddleseg.utils import calculate_eta
from tqdm import tqdm

from paddleseg_psp.log import logger, output

_LOG_SECONDS = 10.0


def track(items: Iterable, total: int, label: str) -> Iterator:
    """Yields the items; shows a progress bar on a terminal, and log lines elsewhere, both with the time left."""
    out = output()
    if out.isatty():
        yield from tqdm(items, desc=label, total=total, file=out, leave=False)
        return
    start = logged = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - logged >= _LOG_SECONDS and done < total:
            logged = now
            logger.info(f"{label} {done}/{total} | ETA {calculate_eta(total - done, (now - start) / done)}")
