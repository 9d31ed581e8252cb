"""Measure the cost that a shared store adds to a call: one ``take`` before it and one ``adjust`` after it, for four limits.

    python benchmarks/stores.py [--calls 20000] [--others 0]

It prints the median and the 99th percentile in microseconds, from one thread. ``--others`` sets the number of other processes that use
the same key at the same time, once per millisecond each. The goal for a whole acquire is 50 µs on the file, 300 µs on Redis. The script starts a
``redis-server`` on a free port; if none is installed, it skips the row. Then it stops the server (SIGSTOP) and prints the milliseconds
until a command fails: the goal is 150.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import partial

from groq_provider.ratelimit.store.file import FileStore
from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, Adjustment, BucketCharge, GcraState
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

# Buckets so large that nothing waits.
WANTS = tuple(BucketCharge(name, 10, 10**12, 0) for name in ("rpm", "rpd", "tpm", "tpd"))
ASK = AcquireRequest(WANTS, horizon=1_000_000, latest=NO_LIMIT, spacing=0, seen=0, claimant=1)
CHANGE = Adjustment(credits={"tpm": 5, "tpd": 5})


class MemoryStore:
    """The arithmetic alone, in memory: the floor."""

    def __init__(self):
        self.state = GcraState()

    def take(self, _key, ask):
        return self.state.take(time.monotonic_ns() // 1000, ask)

    def adjust(self, _key, change):
        self.state.adjust(time.monotonic_ns() // 1000, change)


class Server:
    """A ``redis-server`` on a free port of this machine, without persistence."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        words = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ]
        self.process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.listens(port):
            assert self.process.poll() is None, "redis-server does not start"
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.01)

    @staticmethod
    def listens(port):
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    def store(self, _folder=None, timeout=10):
        from groq_provider.ratelimit.store.redis import RedisStore

        return RedisStore(self.url, timeout=timeout)

    def decide(self, count=20):
        """Stop the server; return how long commands took to fail, sorted, in milliseconds. The first uses an open connection."""
        store = self.store(timeout=0.1)
        store.take("key", ASK)
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        found = []
        for _ in range(count):
            before = time.perf_counter()
            try:
                store.take("key", ASK)
            except StoreUnavailableError:
                found.append((time.perf_counter() - before) * 1000)
        self.process.send_signal(signal.SIGCONT)
        store.close()
        return sorted(found)


# One row per store: a function of a folder for its files. To add a store, add a line here.
STORES = {
    "model alone": lambda _folder: MemoryStore(),
    "file": lambda folder: FileStore(f"{folder}/limits", patience=10),
}


def measure(call, count):
    """Return the median and the 99th percentile in microseconds."""
    found = []
    for _ in range(count):
        before = time.perf_counter_ns()
        call()
        found.append(time.perf_counter_ns() - before)
    found.sort()
    return found[count // 2] / 1000, found[count * 99 // 100] / 1000


def keep_busy(make, folder):
    """Use a store until the process is killed."""
    store = make(folder)
    while True:
        store.take("key", ASK)
        store.adjust("key", CHANGE)
        time.sleep(0.001)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--others", type=int, default=0)
    options = parser.parse_args()
    server = Server() if shutil.which("redis-server") else None
    stores = STORES if server is None else {**STORES, "redis": server.store}
    try:
        show(stores, options)
        if server is None:
            print("redis         no redis-server here")
        else:
            found = server.decide()
            print(
                f"redis stopped: {len(found)} questions decided in {found[len(found) // 2]:.0f} ms, at most {found[-1]:.0f} ms"
            )
    finally:
        if server is not None:
            server.process.kill()
            server.process.wait()


def show(stores, options):
    print(f"{'µs':<14}{'take p50':>10}{'p99':>8}{'adjust p50':>14}{'p99':>8}")
    for name, make in stores.items():
        with tempfile.TemporaryDirectory() as folder:
            context = multiprocessing.get_context("fork")  # spawned processes could not import the functions above
            others = [context.Process(target=keep_busy, args=(make, folder)) for _ in range(options.others)]
            for other in others:
                other.start()
            store = make(folder)
            took = measure(partial(store.take, "key", ASK), options.calls)
            adjusted = measure(partial(store.adjust, "key", CHANGE), options.calls)
            for other in others:
                other.kill()
                other.join()
        print(f"{name:<14}{took[0]:>10.1f}{took[1]:>8.1f}{adjusted[0]:>14.1f}{adjusted[1]:>8.1f}")


if __name__ == "__main__":
    main()
