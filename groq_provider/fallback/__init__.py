"""Several providers as one: when a member cannot answer, the next one is asked.

- ``fallback_provider``: :class:`FallbackProvider`, the public class; it holds the members, and decides which errors are worth another member
- ``fallback_call``: :class:`FallbackCall`, one call's way through the members: its deadline, its attempts, each member's circuit breaker
- ``fallback_stream``: :class:`FallbackStream`, the stream of the member that answers

A call asks one member after the other in the caller's thread. It moves on after an error that another member may avoid, and only before
the first chunk of a stream: from then on the answer is that member's. The attempts of all members, and the time they took, are
recorded on the answer or on the error of the last member.

A member is any :class:`~groq_provider.protocols.Provider`, another ``FallbackProvider`` included. The methods ``generate``,
``generate_stream`` and ``generate_many`` come from :class:`~groq_provider.completions.Completions`, which all providers share.
"""
