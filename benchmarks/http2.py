"""Compare HTTP/2 with HTTP/1.1, over TLS, with the same client and the same server.

    python benchmarks/http2.py [--quick] [--rounds N] [--json FILE]

You need nginx, ``trustme`` and the extra ``http2``. nginx speaks both protocols; it gives plain answers itself and fetches streams from
the server that the other benchmarks use. Every figure comes from a process of its own. The protocols take turns, and a ratio is the
median over the rounds of the ratio within a round. Above 1 HTTP/2 takes more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import answers  # noqa: E402 - found by the path above
from processes import _end, environment, running_server  # noqa: E402
from report import table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROTOCOLS = ("HTTP/1.1", "HTTP/2")
#: Round-trip time through the relay, in seconds.
ROUND_TRIP = 0.03
_MESSAGES = [{"role": "user", "content": "Explain LPUs in one line."}]


# --- servers -------------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[tuple[int, str]]:
    """Run nginx in front of *upstream*; yield its port and the file of its certificate authority."""
    import trustme

    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("needs nginx: apt-get install nginx-light")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        # Add the usual certificates, so that making a context costs as much as for any user.
        import certifi

        bundle = folder / "bundle.pem"
        bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        _, _, body = answers.plain().partition(b"\r\n\r\n")
        headers = "\n".join(
            f'add_header {key} "{text.strip()}";'
            for key, _, text in (line.partition(":") for line in answers.COMMON_HEADERS)
            if key not in ("date", "server")
        )
        port = _free_port()
        (folder / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 4096; }}
            http {{
                access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
                keepalive_requests 10000000; keepalive_timeout 300s; default_type application/json;
                upstream behind {{ server 127.0.0.1:{upstream}; keepalive 256; }}
                server {{
                    listen 127.0.0.1:{port} ssl http2 backlog=4096;
                    http2_max_concurrent_streams 128;
                    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;
                    {headers}
                    location /plain/ {{ return 200 '{body.decode()}'; }}
                    location / {{
                        proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";
                        proxy_buffering off; proxy_read_timeout 300s;
                    }}
                }}
            }}
        """)
        command = [program, "-p", name, "-c", f"{name}/nginx.conf", "-e", f"{name}/error.log"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await_port(port)
            yield port, str(bundle)
        finally:
            process.terminate()
            process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    sys.exit("a server does not start")


async def _relay(target: int, delay: float) -> None:
    """Pass bytes on, *delay* seconds later each way; a connection is there after one there and back."""
    loop = asyncio.get_running_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, extra: float) -> None:
        first = loop.time() + extra
        while data := await reader.read(65_536):
            loop.call_at(max(first, loop.time()) + delay, writer.write, data)
        loop.call_later(delay + extra, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, up_writer, 2 * delay), pump(up_reader, writer, 0.0), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


@contextlib.contextmanager
def relay(target: int) -> Iterator[int]:
    """Run a relay in a process of its own; yield its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--relay", str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(process.stdout.readline())
    finally:
        _end(process)


# --- in the process of a client ------------------------------------------------------------------------------------------


class Client:
    """Make a provider as a user would."""

    def __init__(self, protocol: str, port: int, ca: str, place: str = "") -> None:
        from groq_provider import GroqProvider

        self.provider = GroqProvider(
            api_key="gsk_benchmark_0123456789",
            base_url=f"https://localhost:{port}{place}/openai/v1",
            ca_bundle=ca,
            http2=protocol == "HTTP/2",
        )

    def answer(self, model: str = "bench/plain") -> None:
        self.provider.generate(_MESSAGES, model=model, max_tokens=64)

    def stream(self, model: str) -> Any:
        return self.provider.generate_stream(_MESSAGES, model=model, max_tokens=64)

    def connections(self) -> int:
        count = 0
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(link.readlink()).startswith("socket:")
        return count


def _together(count: int, work: Callable[[int], Any]) -> float:
    """Run *work* in threads; return the seconds from their start until the last one ends."""
    barrier = threading.Barrier(count + 1)
    problems: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return time.perf_counter() - started


def measure_cold(client: Client, calls: int, warm: int) -> dict[str, float]:
    """Measure the first calls of a process, all at once, after the imports."""
    import groq_provider.call.call  # noqa: F401 - for its effect

    if warm:
        client.provider.warm_up(warm)
    cpu = time.process_time()
    seconds = _together(calls, lambda _: client.answer("bench/slow-20"))
    return {"ms": seconds * 1e3, "cpu_ms": (time.process_time() - cpu) * 1e3, "connections": client.connections()}


def measure_requests(client: Client, count: int, threads: int) -> dict[str, float]:
    """Measure plain answers, one after the other in each thread."""
    client.provider.warm_up(threads)
    for _ in range(100):
        client.answer()
    each = count // threads
    cpu = time.process_time()
    seconds = _together(threads, lambda _: [client.answer() for _ in range(each)])
    completed = each * threads
    return {"cpu_us": (time.process_time() - cpu) / completed * 1e6, "per_second": completed / seconds}


def measure_chunks(client: Client, count: int) -> dict[str, float]:
    """Measure one stream at full speed."""
    for _ in client.stream("bench/events-50"):
        pass
    cpu = time.process_time()
    for _ in client.stream(f"bench/events-{count}"):
        pass
    return {"cpu_us": (time.process_time() - cpu) / count * 1e6}


def measure_paced(client: Client, streams: int, count: int) -> dict[str, float]:
    """Measure many streams with an event every 20 ms each: how late the client gets each event."""
    delays: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def read(_number: int) -> None:
        own_delays = []
        with client.stream(f"bench/paced-{count}") as stream:
            for chunk in stream:
                now = time.monotonic()
                with contextlib.suppress(ValueError):
                    own_delays.append(now - float(chunk.content))
        delays.extend(own_delays)

    cpu = time.process_time()
    _together(streams, read)
    used = time.process_time() - cpu
    delays.sort()
    return {
        "p50_ms": delays[len(delays) // 2] * 1e3,
        "p99_ms": delays[len(delays) * 99 // 100] * 1e3,
        "max_ms": delays[-1] * 1e3,
        "events": len(delays),
        "cpu_us": used / len(delays) * 1e6,
        "connections": client.connections(),
        "memory_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
    }


MEASURES = {
    "cold": measure_cold,
    "requests": measure_requests,
    "chunks": measure_chunks,
    "paced": measure_paced,
}


# --- the run -------------------------------------------------------------------------------------------------------------


def run_child(protocol: str, measure: str, port: int, ca: str, place: str, **arguments: Any) -> dict[str, float]:
    words = json.dumps(
        {"protocol": protocol, "measure": measure, "port": port, "ca": ca, "place": place, "arguments": arguments}
    )
    completed = subprocess.run(
        [sys.executable, __file__, "--child", words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
        env=environment(),
    )
    return json.loads(completed.stdout)


def child(words: str) -> None:
    """Run one measure and return its figures."""
    command = json.loads(words)
    client = Client(command["protocol"], command["port"], command["ca"], command["place"])
    print(json.dumps(MEASURES[command["measure"]](client, **command["arguments"])), flush=True)
    os._exit(0)  # the process ends here; open connections need no close


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--rounds", type=int, help="how often each is measured (5; 3 with --quick)")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--relay", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
    if args.relay:
        asyncio.run(_relay(args.relay, ROUND_TRIP / 2))
    rounds = args.rounds or (3 if args.quick else 5)
    scale = 4 if args.quick else 1
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with running_server() as server, nginx(server.plain.port) as (port, ca), relay(port) as far:
        plan: list[tuple[str, str, int, str, dict[str, Any]]] = [
            ("50 first calls at once", "cold", port, "", {"calls": 50, "warm": 0}),
            ("the same, 30 ms away", "cold", far, "", {"calls": 50, "warm": 0}),
            ("the same after warm_up(50)", "cold", far, "", {"calls": 50, "warm": 50}),
            ("a single first call, 30 ms away", "cold", far, "", {"calls": 1, "warm": 0}),
            ("plain answers, 1 thread", "requests", port, "/plain", {"count": 4000 // scale, "threads": 1}),
            ("plain answers, 32 threads", "requests", port, "/plain", {"count": 8000 // scale, "threads": 32}),
            ("chunks of one stream", "chunks", port, "", {"count": 20_000 // scale}),
            ("50 streams, an event every 20 ms", "paced", port, "", {"streams": 50, "count": 200 // scale}),
        ]
        for turn in range(rounds):
            for name, measure, where, place, arguments in plan:
                order = PROTOCOLS if turn % 2 == 0 else PROTOCOLS[::-1]
                for protocol in order:
                    figures = run_child(protocol, measure, where, ca, place, **arguments)
                    results.setdefault(name, {}).setdefault(protocol, []).append(figures)
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    print(report(results))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))


_UNITS = {
    "ms": "ms",
    "cpu_ms": "CPU, ms",
    "connections": "connections",
    "cpu_us": "CPU, us each",
    "per_second": "per second",
    "p50_ms": "delay p50, ms",
    "p99_ms": "delay p99, ms",
    "max_ms": "delay max, ms",
    "memory_kb": "memory more, KB",
}


def report(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Write the table."""
    rows = []
    for name, by_protocol in results.items():
        first, second = (by_protocol[protocol] for protocol in PROTOCOLS)
        for key, unit in _UNITS.items():
            if key not in first[0]:
                continue
            ratios = [two[key] / one[key] for one, two in zip(first, second, strict=True) if one[key]]
            rows.append(
                [
                    name,
                    unit,
                    *(f"{statistics.median(each[key] for each in side):,.2f}" for side in (first, second)),
                    f"{statistics.median(ratios):.2f}" if ratios else "-",
                    f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-",
                ]
            )
    return table("HTTP/2 beside HTTP/1.1", ["", "figure", *PROTOCOLS, "ratio", "spread"], rows)


if __name__ == "__main__":
    main()
