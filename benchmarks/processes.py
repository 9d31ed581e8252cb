"""The processes of a run: the server, one for each contender, fresh interpreters."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contenders import Where

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    """Return this process's environment without the variables that would redirect or configure a client."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("GROQ_", "OPENAI_")) and not key.lower().endswith("_proxy")
    }


class Child:
    """A process that answers each line of JSON with another."""

    def __init__(self, name: str, where: Where) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), name, str(where.port), *([where.ca] if where.ca else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def ready(self) -> bool:
        """Wait until the process is ready to measure."""
        return bool(self._read())

    def ask(self, measure: str, **arguments: Any) -> dict[str, Any]:
        """Measure one slice.

        Raises:
            RuntimeError: The measure failed in the process.
        """
        self._process.stdin.write(json.dumps({"measure": measure, **arguments}) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        if not reply or "error" in reply:
            raise RuntimeError(f"{self.name}, {measure}: {reply.get('error', 'the process ended')}")
        return reply

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}

    def close(self) -> None:
        """End the process."""
        _end(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class ServerProcess:
    """The server: its place, plain and over TLS (``None`` without trustme), and its counters."""

    def __init__(self, plain: Where, secure: Where | None) -> None:
        self.plain = plain
        self.secure = secure

    def stats(self) -> dict[str, float]:
        """Return CPU seconds, connections and handshakes so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.plain.port, timeout=10)
        try:
            connection.request("GET", "/stats")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextlib.contextmanager
def running_server() -> Iterator[ServerProcess]:
    """Run the server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ca = f"{folder}/ca.pem"
        process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), "--ca", ca],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            _, port, _, secure = process.stdout.readline().split()
            yield ServerProcess(Where(int(port)), Where(int(secure), ca) if int(secure) else None)
        finally:
            _end(process)


@contextlib.contextmanager
def fresh_interpreters() -> Iterator[Any]:
    """Yield a function that runs fresh.py, with a folder of its own for compiled files: a checkout may not be writable."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {**environment(), "PYTHONPYCACHEPREFIX": cache}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)

        def run(*arguments: object) -> Any:
            completed = subprocess.run(
                [sys.executable, str(HERE / "fresh.py"), *map(str, arguments)],
                stdout=subprocess.PIPE,
                text=True,
                env=variables,
                check=True,
                timeout=120,
                cwd=HERE,
            )
            return json.loads(completed.stdout)

        yield run
