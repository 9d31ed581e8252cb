"""HTTP/2: few connections, many streams on each. Imported only if ``http2=True``; needs the extra ``http2``.

- ``pool``: ``Http2Pool``: finds a free stream for each call, or makes a connection; resends unprocessed requests.
- ``fallback``: ``FallbackPool``, the HTTP/1.1 pool that makes all connections, and serves if the server chooses
  HTTP/1.1.
- ``connection``: ``Http2Connection``: a TLS socket shared by threads, one of which reads for all; liveness by ping.
- ``frames``: ``Frames``: the protocol without I/O, on top of the ``h2`` library.
- ``stream``: ``Stream``: the state of one request and its response; the errors that end a stream or a connection.
- ``response``: ``HTTP2Response``: a stream with the methods of ``HTTP11Response``.
- ``headers``: makes the fields of requests and checks those of responses.
- ``hpack``: a faster decoder of header blocks.

A connection has no thread of its own: of the threads that wait on its streams, one reads the socket and wakes the
others (see ``connection``). Each connection has a lock of its own. The pool has none: calls that find no free stream
queue, and only the first of them acts (see ``pool``).
"""
