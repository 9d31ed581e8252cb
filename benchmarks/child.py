"""Runs one contender in a process of its own: ``python benchmarks/child.py NAME PORT [CA]``.

It reads one JSON command a line and answers with one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys

from contenders import EVERY, Where
from measures import MEASURES


def main() -> None:
    """Run the commands from standard input until it ends."""
    name, port, *ca = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    client = EVERY[name](Where(int(port), *ca))
    client.answer()
    if hasattr(client, "pieces"):
        for _ in client.pieces("bench/events-3"):  # loads the modules that load on first use
            pass
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = MEASURES[command.pop("measure")](client, **command)
        except Exception as problem:
            reply = {"error": f"{type(problem).__name__}: {problem}"[:300]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
