"""The proxies of the environment, and how clients in this process are led past them."""

from __future__ import annotations

import os
import threading
import urllib.request

_NAMES = ("NO_PROXY", "no_proxy")
_LOCK = threading.Lock()  # guards reading and writing the two variables


def bypass(host: str) -> bool:
    """Add *host* to the hosts that no proxy stands before, if there is a proxy at all; returns whether it did.

    Each `bypass` that is true needs a `restore`; they may overlap, since every one adds an entry of its own.
    """
    if not any(scheme != "no" for scheme in urllib.request.getproxies_environment()):
        return False
    with _LOCK:
        for name in _NAMES:
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
    return True


def restore(host: str) -> None:
    """Take away what one `bypass` has added."""
    with _LOCK:
        for name in _NAMES:
            entries = os.environ.get(name, "").split(",")
            if host not in entries:  # somebody else has set it since
                continue
            entries.remove(host)
            if entries:
                os.environ[name] = ",".join(entries)
            else:
                del os.environ[name]
