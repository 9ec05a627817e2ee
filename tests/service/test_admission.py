"""Who waits for what in the service, in which order, and until when."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from paddleseg_psp.service.admission import Budget, unless_client_leaves


def test_a_budget_is_given_in_order():
    async def work():
        budget, order = Budget(10), []

        async def take(name, amount):
            async with budget.taken(amount):
                order.append(name)
                await asyncio.sleep(0.01)

        first = [asyncio.create_task(take("a", 6)), asyncio.create_task(take("b", 4))]
        await asyncio.sleep(0)
        later = [asyncio.create_task(take(name, amount)) for name, amount in (("large", 25), ("cancelled", 1), ("small", 1))]
        await asyncio.sleep(0.001)
        assert order == ["a", "b"]
        later[1].cancel()
        await asyncio.gather(*first, *later, return_exceptions=True)
        return order

    assert asyncio.run(work()) == ["a", "b", "large", "small"]


def test_who_gives_up_at_the_head_lets_others_in():
    async def work():
        budget = Budget(10)
        async with budget.taken(1):
            waiting = asyncio.ensure_future(budget.taken(10).__aenter__())
            await asyncio.sleep(0.01)
            waiting.cancel()
            async with budget.taken(9):
                return "in"

    assert asyncio.run(asyncio.wait_for(work(), 5)) == "in"


def request(leaves):
    async def receive():
        await leaves.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def test_work_ends_when_its_client_leaves():
    async def work():
        leaves, ended = asyncio.Event(), []

        async def answer():
            try:
                await asyncio.sleep(10)
            finally:
                await asyncio.sleep(0.01)  # what cannot be interrupted
                ended.append(True)

        asyncio.get_running_loop().call_later(0.01, leaves.set)
        with pytest.raises(ClientDisconnect):
            await unless_client_leaves(request(leaves), answer())
        assert ended == [True]

    asyncio.run(asyncio.wait_for(work(), 5))


def test_answers_and_errors_come_through():
    async def good():
        return 5

    async def bad():
        raise ValueError("no")

    async def work():
        leaves = asyncio.Event()
        assert await unless_client_leaves(request(leaves), good()) == 5
        with pytest.raises(ValueError, match="no"):
            await unless_client_leaves(request(leaves), bad())

    asyncio.run(asyncio.wait_for(work(), 5))
