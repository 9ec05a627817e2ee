"""What clients can hold of the service, who send slowly, too much, nothing, or do not read: raw sockets at a real server."""

import contextlib
import logging
import socket
import time

import pytest
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from tests.raw_http import answer, server

LARGE = b"x" * 2**25  # more than the buffers of any system


def application():
    app = FastAPI()

    @app.post("/")
    async def length(request: Request):
        try:
            return Response(str(len(await request.body())))
        except ClientDisconnect:
            return Response()

    @app.post("/refuse")
    async def refuse():
        return Response("no", 413)

    @app.get("/large")
    async def large():
        return Response(LARGE)

    return app


def running(**options):
    return server(application(), **{"connections": 100, "headers": 0.6, "body": 0.6, "answer": 0.6, **options})


@pytest.fixture
def records():
    """What uvicorn and asyncio log; tracebacks fail the test."""
    found = []
    handler = logging.Handler(logging.INFO)
    handler.emit = found.append
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).addHandler(handler)
    yield found
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).removeHandler(handler)
    assert not any(record.exc_info for record in found), [record.getMessage() for record in found]


@pytest.fixture
def served(records):
    with running() as both:
        yield both


def drip(client, data=b"a"):
    """Sends a little every now and then until the server ends the connection; returns the seconds that took."""
    begun = time.monotonic()
    client.settimeout(0.1)
    while time.monotonic() < begun + 10:
        try:
            client.sendall(data)
            if client.recv(2**16) == b"":
                break
        except socket.timeout:
            continue
        except OSError:
            break
    return time.monotonic() - begun


THOUSAND = b"3e8\r\n" + b"a" * 1000 + b"\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def good(connect):
    client = connect(HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
    return answer(client).endswith(b"3")


@pytest.mark.parametrize(
    "begin, piece, waited_for",
    [
        (b"", b"", "headers"),
        (b"POST / HT", b"", "headers"),
        (HEAD, b"X-a: b\r\n", "headers"),  # slowloris
        (HEAD + b"Content-Length: 5000\r\n\r\na", b"", "body"),
        (HEAD + b"Content-Length: 5000\r\n\r\n", b"a", "body"),  # R.U.D.Y.
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", "body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;a=b\r\na\r\n", "body"),
        (HEAD + b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n", b"", "body"),
        (HEAD.replace(b"/ ", b"/refuse ") + b"Content-Length: 5000\r\n\r\n", b"a", "body"),
    ],
)
def test_deadlines_that_a_client_cannot_stretch(served, begin, piece, waited_for):
    connect, dropped = served
    seconds = drip(connect(begin), piece)
    assert 0.4 < seconds < 5 and dropped == [waited_for]
    assert good(connect)


def test_a_late_body_is_told_why(served):
    connect, _ = served
    told = answer(connect(HEAD + b"Content-Length: 5000\r\n\r\na"))
    assert told.startswith(b"HTTP/1.1 408") and told.endswith(b"within 0.6 s")


def test_an_answer_that_is_not_read(served):
    connect, dropped = served
    client = connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    end = time.monotonic() + 5
    while not dropped and time.monotonic() < end:
        time.sleep(0.4)
        client.recv(1)
    assert dropped == ["answer"] and good(connect)


def test_unsent_answers_together_are_bounded():
    with running(answer=20, unsent=3 * len(LARGE)) as (connect, dropped):
        clients = [connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(6)]
        end = time.monotonic() + 5
        while len(dropped) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        assert set(dropped) == {"answer"} and len(dropped) >= 3
        assert len(answer(clients[-1])) > len(LARGE)  # the last one is served


def test_idle_connections_make_room():
    with running(connections=20, headers=20, body=20) as (connect, dropped):
        idle = [connect() for _ in range(10)] + [connect(HEAD + b"Content-Length: 9\r\n\r\na") for _ in range(30)]
        assert all(good(connect) for _ in range(30))
        assert len(connect.protocols) <= 21 and len(dropped) >= 40 - 20
        assert dropped[:5] == ["headers"] * 5  # those who have sent nothing first
    del idle


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50000 + b"\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 10**6 + b"\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50, b"400"),  # TLS
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", b"408"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 20000, b"400"),
        (HEAD + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", b"200"),
        (b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", b"200"),
        (HEAD + b"Content-Length: 3\r\nConnection: close\r\nExpect: 100-continue\r\n\r\nabc", b"200"),
        (HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + THOUSAND * 5000 + b"0\r\n\r\n", b"200"),
        (HEAD + b"Content-Length: 5000000\r\nConnection: close\r\n\r\n" + b"a" * 5000000, b"200"),
    ],
)  # fmt: skip
def test_unusual_requests(served, request_, status):
    connect, _ = served
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        told = answer(connect(request_))
        assert told == b"" or status in told.splitlines()[0] or status in told, told[:200]
    assert good(connect)


def test_a_body_that_goes_wrong_after_its_answer(served):
    connect, _ = served
    client = connect(HEAD.replace(b"/ ", b"/refuse ") + b"Transfer-Encoding: chunked\r\n\r\n")
    assert client.recv(2**16).startswith(b"HTTP/1.1 413")
    client.sendall(b"1\r\na\r\nxyz\r\n")
    assert answer(client) in (b"", b"no") and good(connect)


def test_half_a_request_on_a_kept_connection(served):
    connect, dropped = served
    client = connect(HEAD + b"Content-Length: 3\r\n\r\nabc")
    assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    assert 0.4 < drip(client, b"P") < 5 and dropped == ["headers"]


def test_a_pipelined_request_ends_the_connection_after_the_first_answer(served):
    connect, _ = served
    request = HEAD + b"Content-Length: 3\r\n\r\nabc"
    assert answer(connect(request * 50)).count(b"HTTP/1.1 200") == 1


def test_connections_are_kept_for_the_next_request(served):
    connect, dropped = served
    client = connect()
    for _ in range(3):
        client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
        time.sleep(0.1)
        assert client.recv(2**16).endswith(b"3")
    assert not dropped


def test_the_log_has_one_line_at_most_for_a_client_that_leaves(served, records):
    connect, _ = served
    before = len(records)
    for begin in (
        b"",
        b"POST /",
        HEAD,
        HEAD + b"Content-Length: 9\r\n\r\na",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\na",
    ):
        for _ in range(10):
            connect(begin).close()
    time.sleep(0.3)
    assert good(connect) and len(records) - before <= 51
