"""A call from the arguments of a public method to its answer.

- ``boundary``: the decorator of public methods; errors leave the package through it.
- ``endpoint``: an endpoint as a value: method, path, and how its answer is read. To add an endpoint, begin here.
- ``caller``: makes calls from the provider's methods; loads the modules of calls with the first one.
- ``runtime``: the parts and settings that all calls of a provider share.
- ``call``: one call: attempts until one succeeds, and exactly one end.
- ``stream``: the answer of a streamed call, chunk by chunk.
- ``chunk_decoder``: the events of a stream as chunks and errors.
- ``body_sniffer``: whether an answer is an event stream, by its first bytes.
- ``arrival``: when the parts of a streamed answer arrived, as far as a late reader can tell.
- ``raw``: answers of endpoints without a method of their own: JSON, bytes, a file, an iterator.
- ``retry``: whether and when a failed attempt is repeated, and the budget of all retries together.
- ``breaker``: the circuit breaker.
- ``registry``: the calls under way, for closing the provider, for finalizers and for the end of the interpreter.
- ``error_details``: completes an error with the cause and the limit that struck.

A call goes through ``boundary``, ``caller`` and ``call``; from there to the rate limiter, the transport, and the wire layer.
"""
