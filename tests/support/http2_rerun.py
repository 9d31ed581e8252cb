"""The rerun over HTTP/2: a test marked ``over_http2("bridge")`` runs a second time with its providers redirected over HTTP/2.

Mark a test if its outcome can differ there. You choose among these wires:

- ``bridge``: each plain-HTTP base URL is reached through a :class:`http2_bridge.Bridge` of its own.
- ``nginx``: the same through nginx.
- ``fallback``: ``http2=True`` towards the test's own TLS servers. They know no ALPN, so HTTP/1.1 is used.

``but=`` names the parameters that make no sense over HTTP/2, as patterns of :mod:`fnmatch` (``nginx:…`` for one wire).
By default a test is rerun with its first parameters only, and not at all if the mark says ``full=True``; ``--full`` and
``--all`` rerun every case.
"""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support.fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

WIRES = ("bridge", "nginx", "fallback")


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrize a marked test with its wires; the first run keeps its ids where pytest allows it."""
    mark = metafunc.definition.get_closest_marker("over_http2")
    if mark is None:
        return
    assert mark.args
    assert set(mark.args) <= set(WIRES), mark.args
    first = pytest.param("http1", id=getattr(pytest, "HIDDEN_PARAM", "http1"))
    metafunc.parametrize("wire", [first, *mark.args], indirect=True)


def select(items: list[pytest.Item], *, everything: bool) -> list[pytest.Item]:
    """Drop the reruns named in ``but=`` and, unless *everything* is set, all but one rerun per test and wire."""
    kept, begun = [], set()
    for item in items:
        wire, ids = _wire_and_ids(item)
        if wire is not None:
            mark = item.get_closest_marker("over_http2")
            patterns = (pattern.removeprefix(wire + ":") for pattern in mark.kwargs.get("but", ()))
            place = (item.path, item.originalname, wire)
            if any(fnmatch.fnmatchcase(ids, pattern) for pattern in patterns) or (
                not everything and (place in begun or mark.kwargs.get("full"))
            ):
                continue
            begun.add(place)
        kept.append(item)
    return kept


def _wire_and_ids(item: pytest.Item) -> tuple[str | None, str]:
    """Return the wire of a rerun (``None`` for a first run) and the ids of its other parameters."""
    if item.get_closest_marker("over_http2") is None or item.callspec.params["wire"] == "http1":
        return None, ""
    wire = item.callspec.params["wire"]
    ids = item.callspec.id.split(wire, 1)
    return wire, ids[1].removeprefix("-") if ids[0] == "" else ids[0].removesuffix("-")


class Wire:
    """The route by which the providers of a test reach its servers.

    Attributes:
        kind: The name of the wire; ``http1`` means no redirection.
        used: Number of transports made with HTTP/2.
    """

    def __init__(self, kind: str, *, warm: bool = False) -> None:
        self.kind = kind
        self.used = 0
        self._warm = warm
        self._bridges: dict[str, Any] = {}

    def lead(self, base_url: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the base URL and settings of a transport that reaches the same server over HTTP/2."""
        from support.http2_servers import authority

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
            from support.http2_real import shared_nginx

            return f"{shared_nginx().url}/to/{parts.port}{parts.path}", settings
        from support.http2_bridge import Bridge

        if origin not in self._bridges:
            self._bridges[origin] = Bridge(origin)
        return f"https://127.0.0.1:{self._bridges[origin].port}{parts.path}", settings

    @property
    def bridges(self) -> list[Any]:
        return list(self._bridges.values())

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Redirect every transport that is made from now on."""
        from groq_provider.transport.session import SessionTransport

        made: Callable[..., None] = SessionTransport.__init__

        def lead(transport: Any, base_url: str, **settings: Any) -> None:
            place, settings = self.lead(base_url, settings)
            made(transport, place, **settings)
            if self._warm and place != base_url:
                transport.warm_up(1, timeout=PATIENCE)

        monkeypatch.setattr(SessionTransport, "__init__", lead)
        if self.kind == "bridge":
            from groq_provider.transport.http2.pool import Http2Pool

            monkeypatch.setattr(Http2Pool, "idle", lambda pool: self.idle(pool))  # noqa: PLW0108 - becomes a method

    def idle(self, pool: Any) -> int:
        """Count the connections behind the bridges that can be used again; a suite for HTTP/1.1 counts connections.

        A bridge learns of a cancelled stream a moment later, so wait until it has as many streams as the client.
        """
        deadline = time.monotonic() + PATIENCE
        while sum(bridge.unfinished for bridge in self.bridges) != sum(
            len(connection._frames.streams) for connection in list(pool._connections)
        ):
            assert time.monotonic() < deadline, "the bridges do not hear of what a client has given up"
            time.sleep(0.001)
        return sum(len(peer.kept) for bridge in self.bridges for peer in bridge.peers)

    def close(self) -> None:
        """Stop the bridges; raise their errors and the protocol violations of clients."""
        for bridge in self.bridges:
            bridge.close()
