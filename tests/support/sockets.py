"""What this process has open."""

from __future__ import annotations

from pathlib import Path


def open_sockets() -> int:
    """Count this process's open sockets."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith("socket:")
        except OSError:
            continue
    return count
