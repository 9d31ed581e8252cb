"""Decide when a request may be sent, so that the service refuses as few requests as possible.

- ``limiter``: ``TokenBucketRateLimiter``: the public class; finds or adds the limiter of a model.
- ``model``: ``ModelLimiter``: the queue, the calls in flight and the lock of one model; grants reservations.
- ``shared_model``: the same with the buckets in a store that processes share; goes on alone while the store is offline.
- ``queue``: the order of turns: first come, first served, in an interactive and a batch class.
- ``reservation``: one attempt's place in the limits: settle it, refund it or keep it.
- ``bucket``: the arithmetic of limits: buckets that refill continuously (GCRA), in nanoseconds.
- ``gate``: holds callers back after a 429, and learns a pace if the refusal names no limit.
- ``learning``: adopts limits and levels from headers and refusals.
- ``cost``: estimates a call's cost, and corrects that by the usage reported.
- ``estimate``: counts the tokens of a prompt before the service does.
- ``refusal``: why a call gets no reservation: too large, too late, too long a wait.
- ``store``: where processes keep shared limits: a file or Redis.

The state of a model changes only under its lock, which is held for arithmetic and never while waiting, logging or asking a store.
It guards the objects of ``queue``, ``bucket``, ``gate``, ``learning`` and ``cost``, which take no lock themselves.
"""
