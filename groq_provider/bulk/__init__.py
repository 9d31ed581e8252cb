"""Many requests over threads, for ``generate_many``.

- ``run``: :class:`BulkRun`, which reads the caller's input, gives items to threads and hands out their results; the result classes
  :class:`BulkSuccess` and :class:`BulkFailure`; the threads themselves
- ``concurrency``: :class:`Controller`, which finds out how many calls to have in flight at once with ``max_workers="auto"``

An item passes through these steps: the iterating thread takes it from the input and submits it; a worker thread turns it into a request
and calls the provider; the outcome, an error included, becomes a result; the iterating thread hands the result out, in the order of
the input or as items finish. The input is read at most two items per worker ahead of the results.

The rate limits need no care here: every item's call waits in the provider's limiter, in the class ``batch``. A run decides only how many
calls wait or run at once.
"""
