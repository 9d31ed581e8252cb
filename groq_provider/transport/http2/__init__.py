"""HTTP/2: few connections, many streams on each. Imported only if ``http2=True``; needs the extra ``http2``.

- ``pool``: ``Http2Pool``: which connection has a free stream for a call, who connects, resends of unprocessed requests.
- ``fallback``: ``FallbackPool``, the HTTP/1.1 pool that makes all connections, and serves if the server chooses
  HTTP/1.1.
- ``connection``: ``Http2Connection``: a TLS socket shared by threads, one of which reads for all; liveness by ping.
- ``frames``: ``Frames``: the protocol without I/O, on top of the ``h2`` library.
- ``stream``: ``Stream``: the state of one request and its response; the errors that end a stream or a connection.
- ``response``: ``HTTP2Response``: a stream with the methods of ``HTTP11Response``.
- ``headers``: makes the fields of requests and checks those of responses.
- ``hpack``: a faster decoder of header blocks.

A connection has no thread of its own: of the threads that wait on its streams, one reads the socket and wakes the
others (see ``connection``). The pool and each connection have a lock of their own; no thread waits for one while it
holds the other.
"""
