"""A real server in a thread of its own, for clients with raw sockets."""

import contextlib
import functools
import socket
import threading
import time

import uvicorn

from paddleseg_psp.service.protocol import Guard, GuardedProtocol


@contextlib.contextmanager
def server(app, **options):
    """Yields a function that connects to a server, and what connections waited for that it ended."""
    dropped = []
    guard = Guard(dropped=dropped.append, **options)
    protocol = functools.partial(GuardedProtocol, guard=guard)
    running = uvicorn.Server(
        uvicorn.Config(app, port=0, http=protocol, ws="none", log_config=None, log_level="info", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    address = running.servers[0].sockets[0].getsockname()

    def connect(data=b""):
        client = socket.create_connection(address, 10)
        client.sendall(data)
        return client

    connect.protocols = running.server_state.connections
    try:
        yield connect, dropped
    finally:
        running.should_exit = True
        thread.join()


def answer(client):
    """Returns all that comes until the server ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(2**16):
            data += piece
    return data
