"""The pool of HTTP/1.1 behind one of HTTP/2: it makes the connections of both, and serves where a server speaks no HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider.transport.http1.pool import TLSPool
from groq_provider.transport.scope import current

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["FallbackPool"]


class FallbackPool(TLSPool):
    """The pool of HTTP/1.1 behind one of HTTP/2.

    Args:
        http1_context: Returns the TLS context that offers HTTP/1.1 only; made when it is needed, which it seldom is, and costly.
        kwargs: As for any pool; the TLS context among them offers both protocols.
    """

    def __init__(self, *args: Any, http1_context: Callable[[], ssl.SSLContext], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http1_context = http1_context

    def negotiating(self) -> Any:
        """Return a new connection that will ask for HTTP/2."""
        return super()._new_conn()

    def keep(self, conn: Any) -> None:
        """Take in a connection that asked for HTTP/2 and was given HTTP/1.1."""
        conn.make_context = self.http1_context
        conn.made_for = current()
        self._put_conn(conn)

    def _new_conn(self) -> Any:
        conn = super()._new_conn()
        conn.make_context = self.http1_context
        return conn

    def _make_request(self, conn: Any, method: str, url: str, **kwargs: Any) -> Any:  # type: ignore[override]  # as in the class above
        if conn.made_for is current():
            conn.idle_since = None  # straight from the handshake: if it breaks it was not stale
        conn.made_for = None
        return super()._make_request(conn, method, url, **kwargs)
