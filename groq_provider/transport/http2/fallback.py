"""The HTTP/1.1 pool behind an HTTP/2 pool: it makes the connections of both, and serves if the server chooses HTTP/1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider.transport.http1.pool import TLSPool
from groq_provider.transport.scope import current

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from groq_provider.transport.scope import CancelScope

__all__ = ["FallbackPool"]


class FallbackPool(TLSPool):
    """The HTTP/1.1 pool behind an HTTP/2 pool.

    Args:
        http1_context: Returns the TLS context that offers only HTTP/1.1. It is costly and seldom needed, so it is made
            when it is.
        kwargs: As for any pool. The TLS context among them offers both protocols.
    """

    def __init__(self, *args: Any, http1_context: Callable[[], ssl.SSLContext], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http1_context = http1_context

    def new_negotiating_connection(self) -> Any:
        """Return a new connection that will offer both protocols."""
        return super()._new_conn()

    def keep_connection(self, conn: Any) -> None:
        """Keep a connection that offered HTTP/2, for which the server chose HTTP/1.1."""
        conn.make_context = self.http1_context
        conn.made_for = current()
        self._put_conn(conn)

    def _new_conn(self) -> Any:
        conn = super()._new_conn()
        conn.make_context = self.http1_context
        return conn

    def _send_on(self, conn: Any, scope: CancelScope, method: str, url: str, **kwargs: Any) -> Any:
        if conn.made_for is scope:
            conn.idle_since = None  # fresh from its handshake, so not stale if it breaks
        conn.made_for = None
        return super()._send_on(conn, scope, method, url, **kwargs)
