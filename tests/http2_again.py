"""The second run: suites that were written for HTTP/1.1, over HTTP/2.

Wires by name:

- ``bridge``: each plain-HTTP base URL is reached through a :class:`http2_servers.Bridge` of its own.
- ``nginx``: the same through nginx.
- ``fallback``: ``http2=True`` towards the suite's own TLS servers, which know no ALPN, so that HTTP/1.1 is what is left.

What is not run again stands in ``LEFT_OUT``, by name and with its reason; ``test_http2_again.py`` sees to it that nothing else is.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

#: Which suites run again, over which wires.
SUITES: dict[str, tuple[str, ...]] = {
    "test_stream": ("bridge", "nginx"),
    "test_cancel": ("bridge",),
    "test_time_limits": ("bridge",),
    "test_faults_streams": ("bridge",),
    "test_faults_content": ("bridge",),
    "test_faults_wire": ("bridge",),
    "test_faults_process": ("bridge",),
    "test_transport": ("bridge",),
    "test_transport_faults": ("bridge",),
    "test_transport_tls": ("fallback",),
    "test_provider": ("bridge",),
    "test_bulk": ("nginx",),
    "test_threads": ("nginx",),
    "test_soak": ("nginx",),
}

FRAMING = "about the framing or the heads of HTTP/1.1; test_http2_frames.py has what corresponds to it"
POOL = "about kept connections of HTTP/1.1, one request at a time; test_http2_pool.py has what corresponds to it"

#: Suite, wire or ``*``, name of the test with its parameters as a pattern of fnmatch (``[`` and ``]`` stand for themselves), reason.
LEFT_OUT: list[tuple[str, str, str, str]] = []


def is_left_out(suite: str, wire: str, name: str) -> str | None:
    """Return the reason for which a test is not run over a wire."""
    for where, over, pattern, reason in LEFT_OUT:
        if where == suite and over in ("*", wire) and matches(name, pattern):
            return reason
    return None


def matches(name: str, pattern: str) -> bool:
    """Say whether a test's name matches; a pattern without parameters stands for all of them."""
    if "[" not in pattern:
        name = name.partition("[")[0]
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def split_name(name: str, wires: tuple[str, ...]) -> tuple[str, str]:
    """Return a test's wire and its name without it."""
    first, bracket, ids = name.partition("[")
    ids = ids[:-1]
    for wire in (*wires, "http1"):
        if ids == wire:
            return wire, first
        if ids.startswith(wire + "-"):
            return wire, f"{first}[{ids[len(wire) + 1 :]}]"
    return "http1", first + (f"[{ids}]" if bracket else "")


def is_left_out_item(item: pytest.Item) -> bool:
    """Say whether a collected test is not run over its wire."""
    wire = getattr(item, "callspec", None) and item.callspec.params.get("wire")
    if wire in (None, "http1"):
        return False
    _, name = split_name(item.name, (wire,))
    return is_left_out(item.path.stem, wire, name) is not None


class Wire:
    """Where providers of a test are led to.

    Attributes:
        kind: Its name; ``http1``: where they wanted to go.
        used: How many transports were made with HTTP/2.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.used = 0
        self._bridges: dict[str, Any] = {}

    def lead(self, base_url: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the base URL and settings of a transport that reaches the same server over HTTP/2."""
        from http2_servers import authority

        parts = urlsplit(base_url)
        settings = {**settings, "http2": True}
        if self.kind == "fallback":
            self.used += 1
            return base_url, settings
        if parts.scheme != "http":
            return base_url, settings
        self.used += 1
        settings["ca_bundle"] = authority().file
        origin = f"http://{parts.netloc}"
        if self.kind == "nginx":
            from http2_real import shared_nginx

            return f"{shared_nginx().url}/to/{parts.port}{parts.path}", settings
        from http2_servers import Bridge

        if origin not in self._bridges:
            self._bridges[origin] = Bridge(origin)
        return f"https://127.0.0.1:{self._bridges[origin].port}{parts.path}", settings

    @property
    def bridges(self) -> list[Any]:
        return list(self._bridges.values())

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lead every transport that is made from now."""
        from groq_provider.transport.session import SessionTransport

        made: Callable[..., None] = SessionTransport.__init__

        def lead(transport: Any, base_url: str, **settings: Any) -> None:
            base_url, settings = self.lead(base_url, settings)
            made(transport, base_url, **settings)

        monkeypatch.setattr(SessionTransport, "__init__", lead)

    def close(self) -> None:
        """End the bridges; raise what went wrong in them and what clients did wrong."""
        for bridge in self.bridges:
            bridge.close()
