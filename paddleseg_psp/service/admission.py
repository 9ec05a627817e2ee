"""Admission of requests: waiting for memory, and cancelling when a client leaves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect


class Budget:
    """An amount of which callers take a part, in the order of their arrival, and return it.

    Args:
        total: the amount; who wants more takes it alone.
    """

    def __init__(self, total: int) -> None:
        self._total, self._free = total, total
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def taken(self, amount):
        """Waits until an amount is free, and holds it inside the block."""
        amount = min(amount, self._total)
        async with self._turn:
            while self._free < amount:
                self._freed.clear()
                await self._freed.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._freed.set()


async def unless_client_leaves(request, work):
    """Returns what a coroutine returns. It is cancelled when the client of a request, whose body has been read, leaves.

    Returns, or raises, only once the coroutine has ended.

    Raises:
        ClientDisconnect: it has left.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for item in (task, leaving):
            item.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await item


async def _leaving(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass
