"""Real HTTP/2 servers on this machine, one process each: nginx as a proxy, and hypercorn with ``http2_app.py``."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import PATIENCE
from support.http2_servers import authority

if TYPE_CHECKING:
    from collections.abc import Iterator

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
#: Read once, at import: tests get an environment without these names.
REQUIRED = os.environ.get("GROQ_PROVIDER_REQUIRE_NGINX") == "1"


def need_nginx() -> None:
    """Skip where nginx is missing; fail if the environment requires it."""
    if NGINX is None:
        message = "needs nginx (Debian package nginx-light)"
        if REQUIRED:
            pytest.fail(f"GROQ_PROVIDER_REQUIRE_NGINX=1, but this {message}")
        pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    """Send one request over HTTP/1.1 and TLS, past the provider under test."""
    context = authority().client_context("http/1.1")
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Nginx:
    """nginx with one worker; ready after construction.

    It forwards ``/to/PORT/…`` to that local port and the rest to *upstream*, over kept connections.

    Args:
        upstream: A port.
        server: Lines for the ``server`` block of the configuration.
    """

    def __init__(self, upstream: int | None = None, *, server: str = "") -> None:
        need_nginx()
        self.folder = Path(tempfile.mkdtemp(prefix="groq-provider-nginx-"))
        self._upstream, self._server = upstream, server
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(20):
            self.port = free_port()
            if self._start():
                return
        raise AssertionError((self.folder / "error.log").read_text())

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def _configuration(self) -> str:
        found = re.search(
            r"(\d+)\.(\d+)\.(\d+)", subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
        )
        modern = tuple(map(int, found.groups())) >= (1, 25, 1)
        kept = (
            "" if self._upstream is None else f"upstream kept {{ server 127.0.0.1:{self._upstream}; keepalive 128; }}"
        )
        default = "return 404;" if self._upstream is None else 'proxy_pass http://kept; proxy_set_header Connection "";'
        places = "\n".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            daemon off; worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log warn;
            {"user root;" if os.geteuid() == 0 else ""}
            worker_rlimit_nofile 4096;
            events {{ worker_connections 2048; }}
            http {{
                log_format plain '$connection $status $server_protocol $request_method $uri';
                access_log {self.folder}/access.log plain;
                {places}
                client_max_body_size 0; client_body_buffer_size 1m;
                proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; proxy_next_upstream off;
                proxy_read_timeout 300s; proxy_set_header Host $http_host;
                keepalive_requests 1000000; keepalive_timeout 300s;
                {kept}
                server {{
                    listen 127.0.0.1:{self.port} ssl {"" if modern else "http2"} backlog=511;
                    {"http2 on;" if modern else ""}
                    server_name localhost;
                    ssl_certificate {authority().certificate}; ssl_certificate_key {authority().key};
                    {self._server}
                    location = /ready {{ return 204; }}
                    location ~ ^/to/(?<port>[0-9]+)(?<rest>/.*)$ {{ proxy_pass http://127.0.0.1:$port$rest$is_args$args; }}
                    location / {{ {default} }}
                }}
            }}
        """

    def _start(self) -> bool:
        """Start nginx; say whether it came up. Another process may have taken the port meanwhile."""
        file = self.folder / "nginx.conf"
        file.write_text(self._configuration())
        command = [NGINX, "-p", str(self.folder), "-c", str(file), "-e", str(self.folder / "error.log")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                ask(self.port, "GET", "/ready")
            except OSError:
                time.sleep(0.005)
            else:
                return True
        self._process.kill()
        self._process.wait(PATIENCE)
        return False

    def connections(self) -> set[str]:
        """The HTTP/2 connections that have served requests, once those have ended."""
        lines = self._lines()
        return {line.split()[0] for line in lines if line.split()[2] == "HTTP/2.0"}

    def requests(self) -> list[str]:
        """A line per ended request: connection, status, protocol, method, path. The lines come after the answers."""
        return [line for line in self._lines() if not line.endswith("/ready")]

    def _lines(self) -> list[str]:
        return (self.folder / "access.log").read_text().rpartition("\n")[0].splitlines()

    def close(self) -> None:
        """Stop nginx and its worker."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()  # a fast shutdown
            self._process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@functools.cache
def shared_nginx() -> Nginx:
    """The nginx that all harmless tests of this process share: it forwards to the port in the path."""
    server = Nginx()
    atexit.register(server.close)
    return server


class Hypercorn:
    """hypercorn with the application in ``http2_app.py``; ready after construction, since its socket listens already.

    Args:
        options: Its configuration, such as ``keep_alive_max_requests`` and ``h2_max_concurrent_streams``.
    """

    def __init__(self, **options: Any) -> None:
        pytest.importorskip("hypercorn", reason="is the server")
        options = {"keep_alive_max_requests": 1 << 40, **options}
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self.port = listener.getsockname()[1]
            listener.set_inheritable(True)
            program = Path(__file__).with_name("http2_app.py")
            ca = authority()
            words = [str(listener.fileno()), ca.certificate, ca.key, json.dumps(options)]
            self._process = subprocess.Popen(
                [sys.executable, str(program), *words], stdin=subprocess.PIPE, pass_fds=[listener.fileno()]
            )
        self.url = f"https://localhost:{self.port}"

    def release(self, name: str) -> None:
        """Release the streams that hold at *name*."""
        assert ask(self.port, "POST", f"/release/{name}")[0] == 200

    def state(self) -> dict[str, Any]:
        """The counters of the application: ``begun``, ``ended``, ``left`` by their client, ``open``, ``most``, ``connections``."""
        status, body = ask(self.port, "GET", "/state")
        assert status == 200, body
        return json.loads(body)

    def wait(self, **wanted: int) -> bool:
        """Wait for the counters to reach these values; say whether they do."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = self.state()
            if all(state[name] == count for name, count in wanted.items()):
                return True
            time.sleep(0.005)
        return False

    def close(self) -> None:
        """Stop hypercorn."""
        self._process.stdin.close()  # tells it to stop
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)

    def __enter__(self) -> Hypercorn:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@contextlib.contextmanager
def real_server(kind: str, upstream: int | None = None, **options: Any) -> Iterator[Any]:
    """Run ``nginx`` in front of a port, or ``hypercorn``, for the length of a block."""
    with Nginx(upstream, **options) if kind == "nginx" else Hypercorn(**options) as server:
        yield server
