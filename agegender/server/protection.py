"""ASGI middleware for every request: who may use the server, and the headers that keep a browser within this server."""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender.server.refusals import Refusal, RefusalResponse

_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Protection:
    """Refuses requests for other hosts and from pages of other sites, and sets security headers.

    A page of another site can point its own name at this machine (DNS rebinding); to a browser the two are then one
    site. It cannot do so with an IP address. So `Host` may be an IP address, localhost, this machine's name, or a
    name in `allowed_hosts`.

    Args:
        app: answers the other requests.
        allowed_hosts: further names of this server; "*.example.org" stands for all names below example.org, and "*"
            for every name.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = [name.lower() for name in allowed_hosts]
        self._local = ["localhost", socket.gethostname().lower()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
        except Refusal as refusal:
            await RefusalResponse(refusal)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check(self, method: str, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(f"//{hosts[0]}") if len(hosts) == 1 else ""
        if not (_is_address(name) or matches_host(name, self._local + self._allowed)):
            received = ", ".join(hosts)[:100] or "none"
            raise Refusal(421, f"Host not allowed; see --allowed-hosts. Received: Host: {received}", unread=True)
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if site is None and origin is not None:  # a browser says the first only to https and localhost
            same = urlsplit(origin).netloc.lower() == hosts[0].lower() if _host_name(origin) else False
            site = "same-origin" if same or matches_host(_host_name(origin), self._allowed) else "cross-site"
        if site not in (None, "none", "same-origin"):
            raise Refusal(403, "Pages of other sites may not use this server.", unread=True)


def matches_host(name: str, patterns: Iterable[str]) -> bool:
    """Whether a host name is one of some names and patterns.

    >>> matches_host("faces.example.org", ["*.example.org"]), matches_host("evil.example", ["localhost"])
    (True, False)
    """
    return any(name == each or each == "*" or (each[:2] == "*." and name.endswith(each[1:])) for each in patterns)


def _host_name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
