"""What every test gets: no other host than this machine, nothing left behind."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from support import http2_rerun
from support.fakes import PATIENCE
from support.leaks import assert_hidden
from support.sockets import open_sockets

# How long an example takes is no matter of a test here: the machine may stop for half a second in the middle of one.
_UNHURRIED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("default run", max_examples=30, **_UNHURRIED)
hypothesis.settings.register_profile("every test", max_examples=150, **_UNHURRIED)

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run every test; soaks, fuzzing and kill tests shortened")
    parser.addoption("--full", action="store_true", help="run every test; soaks, fuzzing and kill tests whole")
    parser.addoption("--live", action="store_true", help="run tests against the real service; needs GROQ_API_KEY")


def pytest_configure(config):
    gc.disable()  # until the tests are collected: nearly all of those objects stay, and the collector takes a third of the time
    everything = config.getoption("--full") or config.getoption("--all")
    hypothesis.settings.load_profile("every test" if everything else "default run")
    # A shell starts its background jobs with Ctrl-C ignored, which children inherit; tests send it to theirs.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") and config.args == config.getini("testpaths"):
        _begin_elsewhere(config)


def _begin_elsewhere(config):
    """Let each process of xdist begin with other modules: each compiles a part of them, and reads from its cache what others compiled."""
    modules = [str(module) for module in sorted(Path(__file__).parent.glob("*/test_*.py"))]
    number, count = int(config.workerinput["workerid"].removeprefix("gw")), config.workerinput["workercount"]
    begin = number * len(modules) // count
    config.args[:] = modules[begin:] + modules[:begin]


def pytest_generate_tests(metafunc):
    http2_rerun.parametrize(metafunc)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path)
    everything = config.getoption("--full") or config.getoption("--all")
    kept = list(http2_rerun.select(items, everything=everything))
    if not everything:
        kept = list(_representatives(kept))
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept
    if config.getoption("--live"):
        return
    skip = pytest.mark.skip(reason="talks to the real service: needs --live and GROQ_API_KEY")
    for item in items:
        if "live" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def _representatives(items):
    """Yield what runs by default: no test marked ``full``, and of one marked ``sample(count)`` its first cases."""
    seen = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is not None:
            seen[item.path, item.originalname] += 1
        if "full" not in item.keywords and (sample is None or seen[item.path, item.originalname] <= sample.args[0]):
            yield item


@pytest.fixture
def full(request):
    """Whether the long tests run whole."""
    return request.config.getoption("--full")


@pytest.fixture(autouse=True, scope="module")
def _quick_collections():
    """The collector looks at what a module of tests makes, and not at half a million objects of pytest each time.

    Some tests call it often, and where it comes by itself it would stop every thread for a third of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """No key, no proxy, no host of the developer's reaches a test."""
    for name in list(os.environ):
        if (
            name.startswith("GROQ_")
            or name.lower().endswith("_proxy")
            or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC")
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def unhurried(monkeypatch):
    """What ends a body may come late after the last event, as on a loaded machine: it is waited for, and the connection kept."""
    from groq_provider.transport import requests_adapter as response

    monkeypatch.setattr(response, "_DRAIN_SECONDS", PATIENCE)


@pytest.fixture
def small_caps(monkeypatch):
    """Lines of a stream have a mebibyte at most and events four, which takes no time to send."""
    from groq_provider.call import stream
    from groq_provider.transport import requests_adapter as response
    from groq_provider.wire.sse import EventDecoder, LineSplitter

    monkeypatch.setattr(response, "LineSplitter", functools.partial(LineSplitter, 1 << 20))
    monkeypatch.setattr(stream, "EventDecoder", functools.partial(EventDecoder, 4 << 20))


@pytest.fixture(autouse=True)
def wire(request, monkeypatch, _nothing_left_behind, _no_other_host):
    """Where providers are led to: a marked test runs over HTTP/2, too."""
    warm = request.node.get_closest_marker("warm_http2") is not None
    wire = http2_rerun.Wire(getattr(request, "param", "http1"), warm=warm)
    if wire.kind == "http1":
        yield wire
        return
    pytest.importorskip("h2", reason="speaks HTTP/2")
    if wire.kind == "nginx":
        from support import http2_real

        http2_real.need_nginx()
    wire.install(monkeypatch)
    yield wire
    wire.close()
    assert wire.used, "no transport was made: this test makes no connection: it should not be marked"


@pytest.fixture
def nothing_secret_is_said(caplog, capsys, request):
    """Fail a test that leaves one of its ``secrets`` (a mark) in a log, DEBUG included, or on a standard stream."""
    caplog.set_level(logging.DEBUG)
    yield
    said = [logging.Formatter().format(record) + repr(record.args) for record in caplog.records]
    assert_hidden([*said, *capsys.readouterr()], request.node.get_closest_marker("secrets").args)


@pytest.fixture(autouse=True)
def _no_other_host(monkeypatch, request):
    """Fail a test that talks to anything but this machine."""
    if "live" in request.keywords:
        return
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test tries to reach {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail a test that leaves a thread or a socket behind. Those on their way out get a few seconds."""
    if not Path("/proc/self/fd").is_dir():
        yield
        return
    threads, sockets = set(threading.enumerate()), open_sockets()
    yield
    deadline = time.monotonic() + PATIENCE / 2
    while True:
        left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
        extra = open_sockets() - sockets
        if not left and extra <= 0:
            return
        gc.collect()  # costly, so only when something is there
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: threads {left}, {extra} sockets")
        time.sleep(0.01)


@pytest.fixture
def emulator():
    """An emulator of the test's own that answers at once."""
    from groq_provider.testing import Emulator

    with Emulator(speed=0) as running:
        yield running


@pytest.fixture
def make(emulator, request):
    """Build providers on the emulator that use the module's ``MODEL``. At the end they are closed, and nothing of them is left there."""
    from groq_provider import GroqProvider, RetryPolicy, Timeouts

    made = []
    common = {
        "retry": RetryPolicy(max_retries=0),
        "timeout": Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE),
        "default_model": request.module.MODEL,
    }

    def build(**settings):
        settings = {**common, **settings}
        made.append(GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url, **settings))
        return made[-1]

    yield build
    for provider in made:
        provider.close()
    assert emulator.wait_until(lambda emulator: not emulator.open_connections, PATIENCE)
    assert emulator.errors == []
