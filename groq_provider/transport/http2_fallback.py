"""The pool of HTTP/1.1 behind one of HTTP/2: it makes the connections of both, and serves where a server speaks no HTTP/2."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .pool import TLSPool

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
        #: Connections that were made for HTTP/2; not stale, unlike those that were put back.
        self.fresh: deque[Any] = deque()

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)  # also where there are fresh ones: its place in the pool is theirs
        if conn.sock is None and self.fresh:
            try:
                return self.fresh.popleft()
            except IndexError:
                pass  # somebody else was quicker
        return conn

    def _new_conn(self) -> Any:
        conn = super()._new_conn()
        conn.ssl_context = self.usual()
        return conn

    def negotiating(self) -> Any:
        """Return a new connection that will ask for HTTP/2."""
        return super()._new_conn()

    def close(self) -> None:
        """Close every kept connection."""
        super().close()
        while self.fresh:
            self.fresh.popleft().close()
