"""HTTP/1.1: one request at a time per connection, up to a hundred idle connections kept.

- ``pool``: ``PlainPool`` and ``TLSPool``: which connection serves a request, whether it is still usable, one resend
  after a stale one.
- ``connection``: ``PlainConnection``, ``TLSConnection``: connect, handshake and send within the deadlines of the call.
- ``receive``: ``ReceiveBuffer`` (bytes received and not consumed), ``HTTP11Response`` (head, framing, body),
  ``Headers``.

The classes derive from urllib3's, because requests and the ``responses`` library expect those. Our own requests bypass
most of urllib3: its retries, redirects and header copies, and the parser of http.client. Requests through a proxy, and
requests that foreign code sends through the adapter, take urllib3's path; comments in these modules name each such
case.

A connection must go back to its pool closed unless its response was read to the end, allows another request, and no
further byte has arrived. That check is in ``HTTP11Response.can_reuse``.
"""
