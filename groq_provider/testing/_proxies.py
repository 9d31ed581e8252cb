"""Makes clients in this process bypass the environment's proxies for the emulator's host."""

from __future__ import annotations

import os
import threading
import urllib.request

_NAMES = ("NO_PROXY", "no_proxy")
_LOCK = threading.Lock()  # guards reading and writing the two variables


def bypass(host: str) -> bool:
    """Add *host* to ``NO_PROXY`` if the environment names a proxy; return whether it did.

    Call :func:`restore` once for each call that returned true. Calls may overlap: each adds an entry of its own.
    """
    if not any(scheme != "no" for scheme in urllib.request.getproxies_environment()):
        return False
    with _LOCK:
        for name in _NAMES:
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
    return True


def restore(host: str) -> None:
    """Remove the entry that one :func:`bypass` added."""
    with _LOCK:
        for name in _NAMES:
            entries = os.environ.get(name, "").split(",")
            if host not in entries:  # other code has replaced the variable since
                continue
            entries.remove(host)
            if entries:
                os.environ[name] = ",".join(entries)
            else:
                del os.environ[name]
