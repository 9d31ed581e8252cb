"""The emulator's connections: requests it cannot answer, its addresses, the calls of ``on_answer``."""

import http.client
import json
import os
import socket
import threading

import pytest

from groq_provider import GroqProvider, ProviderUnavailableError
from groq_provider.testing import Emulator, Fault, Reply

CHAT = "/openai/v1/chat/completions"
PROXIES = ["HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"]


@pytest.fixture
def connection(emulator):
    found = http.client.HTTPConnection(*emulator.base_url[7:].split(":"), timeout=10)
    yield found
    found.close()


def post(connection, body, target=CHAT):
    """Status and parsed body of one request."""
    connection.request("POST", target, body, {"authorization": "Bearer gsk_x"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_odd_requests_keep_their_connection(emulator, connection):
    """Deep JSON, half a surrogate, NaN, a script without a JSON form, a whole URL as target: each is answered on one connection."""
    body = b'{"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "%b"}], "temperature": %b}'
    assert post(connection, b'{"model": ' + b"[" * 200_000)[0] == 400
    assert post(connection, body % (rb"\ud83d", b"1"))[1]["choices"][0]["message"]["content"].count("\ud83d") == 1
    assert post(connection, body % (b"hi", b"NaN"))[0] == 400
    emulator.enqueue(Reply(tool_calls=[{"name": {1}}]))
    assert post(connection, body % (b"hi", b"1"))[0] == 500
    assert [type(error) for error in emulator.errors] == [TypeError]
    assert post(connection, body % (b"hi", b"1"), emulator.base_url + CHAT)[0] == 200
    assert emulator.connections == 1


def test_server_defect_is_not_repeated(emulator):
    """The client is told that another try is the same again."""
    emulator.enqueue(Reply(chunks=[{"content": object()}], times=None))
    with (
        GroqProvider(base_url=emulator.base_url, api_key=emulator.api_key) as provider,
        pytest.raises(ProviderUnavailableError, match="cannot make an answer: TypeError"),
    ):
        provider.generate("hi")
    assert len(emulator.requests) == 1


def test_failed_match_closes_the_connection(emulator, connection):
    """The error is the test's own, and kept for it."""
    error = AssertionError("from the match")

    def match(request):
        raise error

    emulator.enqueue(Reply("x", match=match))
    with pytest.raises(http.client.RemoteDisconnected):
        post(connection, b"{}")
    assert emulator.errors == [error]


@pytest.mark.parametrize("name", PROXIES)
def test_a_bare_emulator_is_reached(monkeypatch, name):
    """Past the proxies of the environment, by a provider that knows nothing of it."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Emulator(speed=0) as emulator, GroqProvider(base_url=emulator.base_url, api_key="gsk_x") as provider:
        assert provider.generate("hi").content


@pytest.mark.parametrize("before", [None, "", "a.test,.b.test", "127.0.0.1"])
def test_the_environment_is_put_back(monkeypatch, before):
    """Emulators may overlap: the last to stop leaves what was there before the first."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        if before is not None:
            monkeypatch.setenv(name, before)
    first, second = Emulator().start(), Emulator().start()
    first.stop()
    assert "127.0.0.1" in os.environ["NO_PROXY"].split(",")
    assert "127.0.0.1" in os.environ["no_proxy"].split(",")
    second.stop()
    assert [os.environ.get(name) or None for name in ("NO_PROXY", "no_proxy")] == [before or None] * 2


def test_without_proxies_nothing_changes():
    """The environment of those who have none stays as it is."""
    with Emulator():
        assert "NO_PROXY" not in os.environ
        assert "no_proxy" not in os.environ


def test_on_answer_sees_every_request(connection):
    """Once, with status and outcome, whether the answer went out whole or not."""
    seen = []
    done = threading.Event()

    def on_answer(request):
        seen.append((request.method, request.path, request.status, request.outcome))
        if len(seen) == 3:
            done.set()

    with Emulator(speed=0, on_answer=on_answer) as emulator:
        host, port = emulator.base_url[7:].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        assert post(connection, b"{}")[0] == 400
        emulator.enqueue(Fault(cut_before_headers=True))
        with pytest.raises(http.client.RemoteDisconnected):
            post(connection, b"{}")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"GET /x HTTP/1.0\r\n\r\n")
            while sock.recv(4096):
                pass
        connection.close()
        assert done.wait(10)
    assert seen == [("POST", CHAT, 400, "sent"), ("POST", CHAT, 400, "broken"), ("GET", "/x", 404, "sent")]
