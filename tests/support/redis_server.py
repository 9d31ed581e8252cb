"""Real Redis servers on this machine, for the tests: on a free port, without persistence, one process each."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support.certificates import new_authority
from support.fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

PROGRAM = shutil.which("redis-server")
#: Read once, at import: tests get an environment without such names.
REQUIRED = os.environ.get("GROQ_PROVIDER_REQUIRE_REDIS") == "1"


def need_redis() -> None:
    """Skip where there is no redis-server; fail if the environment says that there has to be one."""
    if PROGRAM is None:
        message = "needs redis-server (Debian package redis-server)"
        if REQUIRED:
            pytest.fail(f"GROQ_PROVIDER_REQUIRE_REDIS=1, but this {message}")
        pytest.skip(message)


class RedisServer:
    """A server, ready when it exists.

    Args:
        options: Of its configuration, with ``_`` for ``-``. ``requirepass`` is known to :attr:`url`.
        authority: With ``ca`` and ``file``: it speaks TLS only.
        folder: For the files of TLS.
    """

    def __init__(self, authority=None, folder=None, **options: object) -> None:
        need_redis()
        self.authority = authority
        self.password = options.get("requirepass", "")
        self.options = {"save": "", "appendonly": "no", "bind": "127.0.0.1", "dir": "/", "loglevel": "warning"}
        self.options |= {name.replace("_", "-"): str(value) for name, value in options.items()}
        if authority is not None:
            self.options |= {"tls-auth-clients": "no", **authority.issue(folder)}
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(20):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            if self._start():
                return
        raise AssertionError(f"redis-server does not start with {self.options}")

    @property
    def url(self) -> str:
        who = f":{self.password}@" if self.password else ""
        if self.authority is None:
            return f"redis://{who}127.0.0.1:{self.port}"
        return f"rediss://{who}localhost:{self.port}?ssl_ca_certs={self.authority.file}"

    def _start(self) -> bool:
        """Start it; whether it came up: somebody else may have taken the port meanwhile."""
        ports = {"port": self.port} if self.authority is None else {"port": 0, "tls-port": self.port}
        words = [word for name, value in {**self.options, **ports}.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if self._answers():
                return True
            time.sleep(0.005)
        self.kill()
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain:
                sock = plain
                if self.authority is not None:
                    sock = ssl.create_default_context(cafile=self.authority.file).wrap_socket(
                        plain, server_hostname="localhost"
                    )
                with sock:
                    sock.sendall(b"PING\r\n")
                    return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    @contextlib.contextmanager
    def client(self, **settings: object) -> Iterator[redis.Redis]:
        """A redis-py client with the password, for what the tests do behind the store's back."""
        import redis

        client = redis.Redis(
            port=self.port, password=self.password or None, decode_responses=True, socket_timeout=PATIENCE, **settings
        )
        try:
            yield client
        finally:
            client.close()
            client.connection_pool.disconnect()

    def do(self, *words: object) -> object:
        """Run one command."""
        with self.client() as client:
            return client.execute_command(*words)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)  # the signal is delivered, not only sent
        assert os.WIFSTOPPED(status)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; nothing it knew survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def restart(self) -> None:
        """End it and start it again on its port, empty."""
        self.kill()
        deadline = time.monotonic() + PATIENCE
        while not self._start():
            assert time.monotonic() < deadline, "the port was taken"


@contextlib.contextmanager
def running(authority=None, folder=None, **options: object) -> Iterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer(authority, folder, **options)
    try:
        yield server
    finally:
        server.kill()


class Authority:
    """A certificate authority with its file."""

    def __init__(self, folder) -> None:
        self.ca = new_authority()
        self.file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, folder) -> dict[str, str]:
        """Files of a server, by option."""
        issued = self.ca.issue_cert("localhost")
        key, certificate = str(folder / "server.key"), str(folder / "server.pem")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        return {"tls-key-file": key, "tls-cert-file": certificate, "tls-ca-cert-file": self.file}


@functools.cache
def shared() -> RedisServer:
    """One server for all tests of this process that do not harm it."""
    server = RedisServer()
    atexit.register(server.kill)
    return server


@pytest.fixture
def redis_server():
    """The shared server, empty; it knows no script."""
    server = shared()
    server.do("FLUSHALL")
    server.do("SCRIPT", "FLUSH")
    return server
