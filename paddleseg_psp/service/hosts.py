"""Which names a service answers to, and which web pages may use it.

A page of a stranger can send requests to the services of its visitor's own machine. It shows itself by its Origin, or, where it
has made its own name point to this machine (DNS rebinding), by that name as the Host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::\d*)?")


class AllowedHosts:
    """An ASGI application in front of another one; it answers 421, 400 or 403 to requests under a wrong name.

    Addresses are always right: nobody can make them point elsewhere.

    Args:
        app: the other application.
        own: the name that the service listens on, right beside localhost.
        others: names that are right too, and whose pages may use the service; "*" allows everything.
    """

    def __init__(self, app: ASGIApp, own: str, others: Sequence[str] = ()) -> None:
        self.app, self.others = app, {_plain(name) for name in others}
        self.names = {"localhost", _plain(own), *self.others}

    async def __call__(self, scope, receive, send):
        refusal = self._refusal(scope["headers"]) if scope["type"] == "http" and "*" not in self.others else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, headers):
        """Returns the answer to a request with a wrong Host or Origin, or None."""
        hosts, origins = (
            [value.decode("latin1").lower() for key, value in headers if key == name] for name in (b"host", b"origin")
        )
        name = _name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return PlainTextResponse("the request must have one Host header, a name or an address", 400)
        if not (name in self.names or _is_address(name)):
            return PlainTextResponse(f"this service does not answer to the name {name}; --allow {name} lets it", 421)
        if origins and not self._allows_page(origins, hosts[0]):
            return PlainTextResponse("this service does not answer to pages of other sites; --allow NAME lets them", 403)
        return None

    def _allows_page(self, origins, host):
        """Returns whether an Origin is this service itself, or a site that the user has named."""
        scheme, _, authority = origins[0].partition("://")
        return len(origins) == 1 and scheme in ("http", "https") and (authority == host or _name(authority) in self.others)


def _plain(name):
    return name.lower().rstrip(".")


def _name(authority):
    """Returns the name or address in an authority (name:port), without a dot at its end, or None where it is none."""
    match = _AUTHORITY.fullmatch(authority)
    return match and match[1]


def _is_address(name):
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
