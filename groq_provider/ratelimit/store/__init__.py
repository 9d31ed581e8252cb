"""Keep limits where several processes can share them.

``protocol``      ``RateLimitStore``: the methods of a store, and how its URL finds it.
``gcra_state``    ``GcraState``: the state of one model and its rules; the commands and answers of a store. Pure.
``file``          ``FileStore``: the processes of one host, by a file and a lock on it.
``redis``         ``RedisStore``: any hosts, by one script on a Redis server.
``redis_link``    Connections to Redis with one time limit over connecting, TLS, signing in and the command.
``gcra_state.lua``  The script: ``GcraState`` for Redis, step by step in the same order.

To add a store, implement the three methods of ``RateLimitStore``: apply ``GcraState`` to one record at a time, decide within about
0.1 s, and raise ``StoreUnavailableError`` if you cannot. Then add it to ``open_store()`` and to ``tests/support/store_kinds.py``, which
runs every test of stores with it.
"""
