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
        usual: Returns the TLS context that offers HTTP/1.1 only; made when it is needed, which it seldom is, and costly.
        kwargs: As for any pool; the TLS context among them offers both protocols.
    """

    def __init__(self, *args: Any, usual: Callable[[], ssl.SSLContext], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.usual = usual

    def negotiating(self) -> Any:
        """Return a new connection that will ask for HTTP/2."""
        return super()._new_conn()

    def keep(self, conn: Any) -> None:
        """Take in a connection that asked for HTTP/2 and was given HTTP/1.1."""
        conn.contexts = self.usual
        conn.maker = current()
        self._put_conn(conn)

    def _new_conn(self) -> Any:
        conn = super()._new_conn()
        conn.contexts = self.usual
        return conn

    def _make_request(self, conn: Any, method: str, url: str, **kwargs: Any) -> Any:  # type: ignore[override]  # as in the class above
        if conn.maker is current():
            conn.idle_since = None  # straight from the handshake: if it breaks it was not stale
        conn.maker = None
        return super()._make_request(conn, method, url, **kwargs)
