"""uvicorn's HTTP/1.1 with deadlines and limits for each client.

uvicorn has a deadline for idle connections only, and each byte that comes stretches that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS, BODY, WORK, ANSWER = "headers", "body", "work", "answer"  # what a connection waits for; WORK is the service's
_PIECE = 2**14  # bytes parsed before the limits are looked at again


@dataclass
class Guard:
    """The limits of connections.

    Attributes:
        connections (int): open at once; one more ends the one that has waited longest for its client.
        headers (float): seconds for all headers of a request, from the connection's begin or the last answer's end.
        body (float): seconds for a request's body, from the end of its headers.
        answer (float): seconds until an answer is taken by its client.
        unsent (int): bytes of all answers that their clients have not taken yet; more end the oldest one.
        dropped: called with what a connection waited for when it was ended.
    """

    connections: int
    headers: float = 10.0
    body: float = 30.0
    answer: float = 60.0
    unsent: int = 2**28
    dropped: Callable[[str | None], object] = lambda waited_for: None


class _Connection(h11.Connection):
    """Refuses bodies in tiny chunks: parsing a chunk takes longer than a kilobyte of body."""

    def next_event(self):
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._bytes = self._chunks = 0
        elif isinstance(event, h11.Data):
            self._bytes += len(event.data)
            self._chunks += event.chunk_start
            if self._chunks > 64 + self._bytes / 128:
                raise h11.RemoteProtocolError("the body's chunks are too small")
        return event


class GuardedProtocol(H11Protocol):
    """A connection that ends if its client does not send or receive in time."""

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(h11.SERVER)
        self._guard, self._waits_for, self._since, self._timer = guard, None, 0, None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that writing is paused as long as anything is unsent
        self._watch()
        if len(self._open()) > self._guard.connections:
            self._longest_waiting(HEADERS, BODY, ANSWER).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            if self._waits_for == WORK:
                return self._take_no_more()
            super().data_received(data[start : start + _PIECE])
            self._watch()
            if self._waits_for == WORK and self.conn.trailing_data[0]:
                self._take_no_more()

    def _take_no_more(self):
        """Ends the connection after this answer: a client whose next request waits unread could not be seen to leave."""
        self.cycle.keep_alive = False
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()
        unsent = sum(item.transport.get_write_buffer_size() for item in self.connections)
        if unsent > self._guard.unsent:
            self._longest_waiting(ANSWER).drop()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def drop(self) -> None:
        """Ends the connection at once."""
        self._guard.dropped(self._waits_for)
        self.transport.abort()

    def _should_upgrade(self):
        return False  # there is nothing but HTTP/1.1 here, and uvicorn would log two lines

    def _watch(self):
        """Starts the deadline anew if the connection waits for something else than before."""
        if self.flow.write_paused:
            waits_for = ANSWER
        elif self.conn.their_state is h11.SEND_BODY:
            waits_for = BODY
        else:
            waits_for = HEADERS if self.cycle is None or self.cycle.response_complete else WORK
        if waits_for == self._waits_for:
            return
        self._stop_timer()
        self._waits_for, self._since = waits_for, time.monotonic()
        if waits_for != WORK:
            self._timer = self.loop.call_later(getattr(self._guard, waits_for), self._expire)

    def _stop_timer(self):
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self):
        if self._waits_for == BODY and self.conn.our_state is h11.SEND_RESPONSE and not self.transport.is_closing():
            self._guard.dropped(BODY)
            self._refuse(408, f"the request's body did not come within {self._guard.body:g} s")
        else:
            self.drop()

    def _refuse(self, status, reason):
        """Answers without the application, where there is no answer yet, and ends the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            length = ("content-length", str(len(reason)))
            headers = [("content-type", "text/plain"), length, ("connection", "close")]
            answer = (h11.Response(status_code=status, headers=headers), h11.Data(data=reason.encode()), h11.EndOfMessage())
            self.transport.write(b"".join(map(self.conn.send, answer)))
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application's answer is not wanted any more
        self.transport.close()

    def _longest_waiting(self, *kinds):
        """Returns the connection that has waited longest for the first of some kinds that any waits for, or this one."""
        for kind in kinds:
            waiting = [item for item in self._open() if item._waits_for == kind and item is not self]
            if waiting:
                return min(waiting, key=lambda item: item._since)
        return self

    def _open(self):
        """Returns all connections that are not about to end."""
        return [item for item in self.connections if not item.transport.is_closing()]
