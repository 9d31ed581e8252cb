"""How far calls outlive their time limits: a drip, a flood of 1xx answers, a stall in the body, a silent peer.

    python benchmarks/deadlines.py [--calls 50] [--limit 0.3]

Prints the overshoot of ``timeout=`` over many calls, beside plain ``requests`` with the same figure (stopped after ten times the
limit). The goal is a 99th percentile of at most 50 ms, or 5 % of the limit.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import requests

from groq_provider import GroqProvider, GroqProviderError

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
def server(behaviour):
    with closing(socket.create_server(("127.0.0.1", 0), backlog=256)) as listener:

        def serve():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(sock,), daemon=True).start()

        def handle(sock):
            with sock:
                try:
                    behaviour(sock)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
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
    """The same with plain requests; given up on after ten times the limit."""
    took = []

    def call():
        started = time.monotonic()
        try:
            with requests.post(f"{base}/openai/v1/chat/completions", json={}, timeout=limit, stream=True) as answer:
                for _ in answer.iter_content(1024):
                    if time.monotonic() - started > 10 * limit:
                        return
        except requests.RequestException:
            pass
        took.append(time.monotonic() - started - limit)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(11 * limit)
    return took[0] if took else float("inf")


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--limit", type=float, default=0.3)
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


if __name__ == "__main__":
    main()
