"""Sends one HTTP request and returns the response once its head has arrived.

It never retries, except once on a stale connection.

You find here:

- ``session``: ``SessionTransport``, the entry: builds requests, reads the caller's session, the proxies and the
  environment.
- ``scope``: ``CancelScope``, the deadlines and the cancellation of one call, on which every wait here depends.
- ``permits``: ``ConnectionLimiter``, the fair cap of ``max_connections``.
- ``requests_adapter``: all that requests, urllib3 and the ``responses`` library must see: adapter, request, response.
- ``error_mapping``: the one place that maps foreign exceptions to ours.
- ``tls``: TLS contexts, shared between connections.
- ``http1``: connections, pools and responses of HTTP/1.1; also the fallback for HTTP/2.
- ``http2``: the same for HTTP/2, imported only if it is switched on (extra ``http2``).

A call goes through ``session`` → ``requests_adapter`` → pool → connection. The pool is made on first use; HTTP/1.1 or
HTTP/2 is decided in the TLS handshake. Interrupts, signal handlers, finalizers and forks are explained in
``groq_provider._sync``.
"""
