"""Measure how far calls outlive their time limits, and how long they go on after a cancel.

    python benchmarks/deadlines.py [--calls 50] [--limit 0.3] [--cancels 200]

It first measures the overshoot of ``timeout=`` over many calls, for a drip, a flood of 1xx answers, a stall in the body and a silent peer, beside
plain ``requests`` with the same time limit (stopped after ten times as long). The goal is a 99th percentile of at most 50 ms, or 5 % of
the limit.

It then measures the time from ``cancel()`` in one thread to ``RequestCancelledError`` in another, for every place where a call can wait. The goal is
that none takes more than 100 ms. The rows over TLS are skipped without the package ``trustme``.
"""

from __future__ import annotations

import argparse
import importlib.util
import socket
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import requests

from groq_provider import (
    CancelToken,
    GroqProvider,
    GroqProviderError,
    RateLimits,
    RequestCancelledError,
    RetryPolicy,
    TokenBucketRateLimiter,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def silent(sock):
    sock.recv(65536)
    wait_for_end(sock)


def informational(sock):
    sock.recv(65536)
    while True:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def drip(sock):
    sock.recv(65536)
    sock.sendall(HEAD)
    for byte in EVENT * 1000:
        sock.sendall(chunk(bytes([byte])))
        time.sleep(0.01)


def stall(sock):
    sock.recv(65536)
    sock.sendall(HEAD + chunk(EVENT))
    wait_for_end(sock)


def events(sock):
    sock.recv(65536)
    sock.sendall(HEAD)
    while True:
        sock.sendall(chunk(EVENT))
        time.sleep(0.005)


def wait_for_end(sock):
    sock.settimeout(60)
    while sock.recv(65536):
        pass


@contextmanager
def server(behaviour, context=None, *, secure=False):
    """Serve each connection with *behaviour*, under TLS with *context*; *secure* alone leaves TLS to the behaviour."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=256)) as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16
        )  # small buffers, so that little data fills them

        def serve():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(sock,), daemon=True).start()

        def handle(sock):
            with suppress(OSError), sock if context is None else context.wrap_socket(sock, server_side=True) as wrapped:
                behaviour(wrapped)

        threading.Thread(target=serve, daemon=True).start()
        host = "https://localhost" if secure or context is not None else "http://127.0.0.1"
        yield f"{host}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def ours(provider, limit, *, stream):
    started = time.monotonic()
    try:
        if stream:
            with provider.generate_stream("x", timeout=limit) as answer:
                answer.collect()
        else:
            provider.generate("x", timeout=limit)
    except GroqProviderError:
        pass
    return time.monotonic() - started - limit


def plain(base, limit):
    """Measure the same with plain requests; stop after ten times the limit."""
    durations = []

    def call():
        started = time.monotonic()
        try:
            with requests.post(f"{base}/openai/v1/chat/completions", json={}, timeout=limit, stream=True) as answer:
                for _ in answer.iter_content(1024):
                    if time.monotonic() - started > 10 * limit:
                        return
        except requests.RequestException:
            pass
        durations.append(time.monotonic() - started - limit)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(11 * limit)
    return durations[0] if durations else float("inf")


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- cancelling --------------------------------------------------------------------------------------------------------------

AT_ONCE = 8
MODEL = "openai/gpt-oss-20b"
#: Bytes. More than the buffers of both ends hold, so that sending them blocks.
PAD = {"pad": "x" * 8_000_000}


def never_reads(_sock):
    time.sleep(5)  # bounded: the data sent stays in memory as long


def busy(sock):
    while sock.recv(65536):
        sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nRetry-After: 30\r\n\r\n{}")


@contextmanager
def full_backlog():
    """Yield an address where connecting never ends."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def certificates():
    """Return the TLS settings of client and server; nothing without trustme."""
    if importlib.util.find_spec("trustme") is None:
        yield None
        return
    import trustme

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "ca.pem")
        ca = trustme.CA()
        ca.cert_pem.write_to_path(file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(context)
        yield file, context


def places(tls):
    """Yield each place where a call can wait: a name, the URL to call, settings, and fields of the call."""
    yield "limiter wait", partial(server, silent), {"rate_limits": RateLimits(rpm=1)}, {}
    yield "wait for a connection", partial(server, silent), {"max_connections": 1}, {}
    yield "retry sleep", partial(server, busy), {"retry": RetryPolicy()}, {}
    yield "connect", full_backlog, {}, {}
    if tls is not None:
        yield "TLS handshake", partial(server, never_reads, secure=True), {"ca_bundle": tls[0]}, {}
    for name, context in [("", None)] + ([] if tls is None else [(", TLS", tls)]):
        settings, certificate = ({}, None) if context is None else ({"ca_bundle": context[0]}, context[1])
        yield f"blocked send{name}", partial(server, never_reads, certificate), settings, {"extra_body": PAD}
        yield f"blocked read, head{name}", partial(server, silent, certificate), settings, {}
        yield f"blocked read, stream{name}", partial(server, stall, certificate), settings, {"stream": True}


def cancel_some(base, settings, *, stream=False, **fields):
    """Let calls wait, cancel each, and return the seconds until each ended."""
    limiter = TokenBucketRateLimiter(settings.pop("rate_limits", None))
    settings = {"max_retries": 0, **settings} if "retry" not in settings else settings
    ended: dict[int, float] = {}
    with GroqProvider(api_key="k", base_url=base, rate_limiter=limiter, default_model=MODEL, **settings) as provider:
        limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1).keep()
        before = []
        if "max_connections" in settings:
            token = CancelToken()
            before.append((token, threading.Thread(target=call, args=(provider, token, ended, -1))))
            before[0][1].start()
            time.sleep(0.05)
        tokens = [CancelToken() for _ in range(AT_ONCE)]
        threads = [
            threading.Thread(target=call, args=(provider, token, ended, number), kwargs={"stream": stream, **fields})
            for number, token in enumerate(tokens)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1 if "extra_body" not in fields else 0.6)  # until all of them wait
        assert not ended, "a call ended before it was cancelled"
        began = []
        for token in tokens:
            began.append(time.perf_counter())
            token.cancel()
            time.sleep(0.002)
        for token, _ in before:
            token.cancel()
        for thread in [*threads, *(thread for _, thread in before)]:
            thread.join()
    return [ended[number] - at for number, at in enumerate(began)]


def call(provider, token, ended, number, *, stream=False, **fields):
    try:
        if stream:
            with provider.generate_stream("x", cancel=token) as answer:
                answer.collect()
        else:
            provider.generate("x", cancel=token, **fields)
    except RequestCancelledError:
        ended[number] = time.perf_counter()


def cancelling(cancels):
    print()
    print(
        f"from cancel() in another thread to RequestCancelledError, {cancels} calls each, {AT_ONCE} waiting at once, ms"
    )
    print(f"{'waiting in':<28}{'p50':>8}{'p99':>8}{'max':>8}")
    everything = []
    with certificates() as tls:
        if tls is None:
            print("over TLS: skipped, not installed: trustme")
        for name, place, settings, fields in places(tls):
            found = []
            with place() as base:
                while len(found) < cancels:
                    found += cancel_some(base, dict(settings), **fields)
            everything += found
            print(
                f"{name:<28}{quantile(found, 0.5) * 1000:>8.2f}{quantile(found, 0.99) * 1000:>8.2f}{max(found) * 1000:>8.2f}"
            )
    print(
        f"all: p99 {quantile(everything, 0.99) * 1000:.1f} ms, longest {max(everything) * 1000:.1f} ms (goal: 100 ms)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--limit", type=float, default=0.3)
    parser.add_argument("--cancels", type=int, default=200, help="calls cancelled at each place; 0: none")
    options = parser.parse_args()
    print(f"overshoot of a {options.limit:g} s limit over {options.calls} calls, 8 at a time, ms")
    print(f"{'fault':<16}{'p50':>8}{'p99':>8}{'max':>8}   plain requests")
    everything = []
    for behaviour in (silent, informational, drip, stall, events):
        with (
            server(behaviour) as base,
            GroqProvider(api_key="k", base_url=base, max_retries=0) as provider,
            ThreadPoolExecutor(8) as pool,
        ):
            found = list(
                pool.map(
                    lambda number, p=provider: ours(p, options.limit, stream=number % 2 == 0), range(options.calls)
                )
            )
            other = plain(base, options.limit)
            everything += found
        shown = "over 10 x the limit" if other == float("inf") else f"{other * 1000:.1f}"
        print(
            f"{behaviour.__name__:<16}{quantile(found, 0.5) * 1000:>8.1f}{quantile(found, 0.99) * 1000:>8.1f}{max(found) * 1000:>8.1f}   {shown}"
        )
    p99 = quantile(everything, 0.99)
    print(f"all: p99 {p99 * 1000:.1f} ms (goal: 50 ms or 5 %)")
    if options.cancels:
        cancelling(options.cancels)


if __name__ == "__main__":
    main()
