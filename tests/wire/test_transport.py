"""The transport over plain sockets: kept connections, requests as sent, proxies, the cap, threads, forks."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import collections
import gc
import queue
import socket
import ssl
import threading
import time
from types import MappingProxyType

import pytest
import requests
import responses
from responses.matchers import header_matcher, json_params_matcher
from support.fakes import PATIENCE, ShiftedClock, StoppedClock, wait_for
from support.servers import (
    CHUNKED,
    OK,
    always,
    answer,
    chunk,
    full_backlog,
    hanging,
    once,
    proxy_handler,
    refusing_port,
    reset,
    serving,
)
from support.transports import (
    KEY,
    LIMIT,
    attempt,
    closes_second,
    connection_of,
    echo,
    fetch,
    fork,
    in_threads,
    join,
    needs_fork,
    new_scope,
    send,
    transport_to,
    wait_until_readable,
)

from groq_provider.clock import SystemClock
from groq_provider.errors import (
    APIConnectionError,
    ConfigurationError,
    ConnectTimeoutError,
    GroqProviderError,
    PoolTimeoutError,
    ProviderClosedError,
    ProxyError,
    ReadTimeoutError,
    RequestCancelledError,
)
from groq_provider.transport import session as session_module
from groq_provider.transport.permits import ConnectionLimiter
from groq_provider.transport.scope import CancelScope
from groq_provider.transport.session import SessionTransport

# --- kept connections ------------------------------------------------------------------------------------------------------


def test_sequential_calls_share_one_connection():
    """Twenty sequential calls use one connection."""
    with serving(echo) as server, transport_to(server.url) as transport:
        for number in range(20):
            assert fetch(transport, b"%d" % number) == b"%d" % number
        assert server.connections == 1


def test_parallel_calls_need_few_connections():
    """Eight threads with twenty calls each use at most eight connections; no answer is crossed."""
    with serving(echo) as server, transport_to(server.url) as transport:

        def work(number):
            return [fetch(transport, b"%d-%d" % (number, turn)) for turn in range(20)]

        for number, found in enumerate(in_threads(8, work)):
            assert found == [b"%d-%d" % (number, turn) for turn in range(20)]
        assert server.connections <= 8


def test_sixty_four_threads_stay_apart():
    """64 threads with 50 requests each: no answer is crossed, at most 64 connections."""
    with serving(echo) as server, transport_to(server.url) as transport:

        def work(number):
            return sum(fetch(transport, b"%d-%d" % (number, turn)) == b"%d-%d" % (number, turn) for turn in range(50))

        assert in_threads(64, work) == [50] * 64
        assert server.connections <= 64


def test_a_hundred_connections_are_kept():
    """A burst of 110: 100 stay open, the rest are closed without a warning."""
    gate = threading.Barrier(111)

    def handler(sock, server):
        while server.read(sock) is not None:
            gate.wait(PATIENCE)
            sock.sendall(OK)

    with serving(handler) as server, transport_to(server.url) as transport:
        opened = in_threads(111, lambda number: gate.wait(PATIENCE) if number == 110 else send(transport))
        for response in opened[:110]:
            response.read_body(LIMIT)
        assert transport.adapter.pool().idle() == 100
        assert "100 idle connections" in repr(transport)


def test_idle_connection_dropped_after_ninety():
    """An idle connection is dropped after ninety seconds: at 89 s it is used again, at 91 s replaced."""
    clock = StoppedClock()
    with serving(echo) as server, transport_to(server.url, clock=clock) as transport:
        fetch(transport)
        clock.at += 89
        fetch(transport)
        assert server.connections == 1
        clock.at += 91
        fetch(transport)
        assert server.connections == 2


def test_sockets_use_nodelay_and_keepalive():
    """Sockets send at once and probe dead peers: TCP_NODELAY and SO_KEEPALIVE are set."""
    with serving(echo) as server, transport_to(server.url) as transport:
        response = send(transport)
        sock = connection_of(response).sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        response.read_body(LIMIT)


def test_idle_closed_connection_is_replaced():
    """If the server closes between two calls, the second uses a new connection, without a resend."""
    closed = threading.Event()

    def handler(sock, server):
        server.read(sock)
        sock.sendall(OK)
        sock.close()
        closed.set()

    with serving(handler) as server, transport_to(server.url) as transport:
        fetch(transport)
        assert closed.wait(PATIENCE)
        wait_until_readable(transport)
        scope = new_scope()
        fetch(transport, scope=scope)
        assert (scope.resends, server.connections) == (0, 2)


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["fin", "rst"])
def test_stale_connection_resends_once(end):
    """If the server closes as the second request arrives, it is sent again once, and counted."""
    with serving(closes_second(end)) as server, transport_to(server.url) as transport:
        fetch(transport)
        scope = new_scope()
        assert fetch(transport, b'{"n":2}', scope) == b"{}"
        assert (scope.resends, scope.sent, server.connections) == (1, True, 2)
        assert [request.body for request in server.requests] == [b"{}", b'{"n":2}', b'{"n":2}']


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["fin", "rst"])
def test_fresh_connection_never_resends(end):
    """A new connection that breaks at its first request is left to the retry policy."""
    with serving(once(end=end)) as server, transport_to(server.url) as transport:
        scope = new_scope()
        with pytest.raises(APIConnectionError) as caught:
            send(transport, scope=scope)
        assert (caught.value.sent, scope.resends, server.connections) == (True, 0, 1)


def test_begun_answer_is_not_resent():
    """A request is not sent again after a byte of the answer: a break then is an error."""

    def handler(sock, server):
        server.read(sock)
        sock.sendall(OK)
        server.read(sock)
        sock.sendall(b"H")
        reset(sock)

    with serving(handler) as server, transport_to(server.url) as transport:
        fetch(transport)
        scope = new_scope()
        with pytest.raises(APIConnectionError) as caught:
            send(transport, scope=scope)
        assert (caught.value.sent, scope.resends, server.connections) == (True, 0, 1)


def test_request_resends_only_once():
    """If the second connection breaks too, the error says that sending is uncertain."""

    def handler(sock, server):
        server.read(sock)
        if server.connections == 1:
            sock.sendall(OK)
            server.read(sock)

    with serving(handler) as server, transport_to(server.url) as transport:
        fetch(transport)
        scope = new_scope()
        with pytest.raises(APIConnectionError) as caught:
            send(transport, scope=scope)
        assert (scope.resends, server.connections, caught.value.sent) == (1, 2, True)


def test_failed_resend_has_unknown_fate(monkeypatch):
    """The first copy may have been read, so ``sent`` is unknown, not False."""
    with serving(closes_second(socket.socket.close)) as server, transport_to(server.url) as transport:
        fetch(transport)

        def refuse(*_):
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        with pytest.raises(APIConnectionError) as caught:
            send(transport)
        assert caught.value.sent is None


def test_resend_has_own_connect_limit():
    """A stale connection is noticed after the limit for connecting: the resend has its own limit."""
    clock = ShiftedClock()

    def handler(sock, server):
        first = server.connections == 1
        server.read(sock)
        sock.sendall(OK)
        server.read(sock)
        if first:
            clock.ahead = 20
        else:
            sock.sendall(OK)

    with serving(handler) as server, transport_to(server.url, clock=clock) as transport:
        fetch(transport)
        scope = CancelScope(clock, connect=10, after_send=60)
        assert fetch(transport, scope=scope) == b"{}"
        assert scope.resends == 1


def test_foreign_process_connection_stays_unused(monkeypatch):
    """A connection of another process is dropped without sending anything to the peer."""
    with serving(echo) as server, transport_to(server.url) as transport:
        fetch(transport)
        (conn,) = [conn for conn in transport.adapter.pool().pool.queue if conn is not None]
        conn.pid += 1
        fetch(transport)
        assert server.connections == 2


def test_close_header_drops_connection():
    """A connection is dropped when the server says Connection: close."""
    with serving(always(answer(b"{}", "Connection: close"))) as server, transport_to(server.url) as transport:
        fetch(transport)
        assert transport.adapter.pool().idle() == 0
        fetch(transport)
        assert server.connections == 2


# --- warming up ------------------------------------------------------------------------------------------------------------


def test_warm_up_only_opens_connections():
    """Five connections opened ahead, five calls at once: five connections in all."""
    gate = threading.Barrier(5)

    def handler(sock, server):
        while server.read(sock) is not None:
            gate.wait(PATIENCE)
            sock.sendall(OK)

    with serving(handler) as server, transport_to(server.url) as transport:
        assert transport.warm_up(5) == 5
        assert transport.warm_up(3) == 3
        assert transport.adapter.pool().idle() == 5
        assert not server.requests
        wait_for(lambda: server.connections == 5)
        in_threads(5, lambda _: fetch(transport))
        assert server.connections == 5


def test_warm_up_counts_failed_openings():
    """With no listener, no connection is ready, and no error is raised."""
    with refusing_port() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        assert transport.warm_up(3) == 0


def test_warm_up_ends_on_time():
    """A warm-up ends at its time limit whatever the number: one limit for all, not one for each batch."""
    with full_backlog() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        started = time.monotonic()
        assert transport.warm_up(100, timeout=0.5) == 0  # with the limit per batch there would be 13 of them
        assert time.monotonic() - started < PATIENCE / 4


@pytest.mark.parametrize("count", [0, 101])
def test_warm_up_refuses_excessive_counts(count):
    """A warm-up refuses counts that the pool cannot hold: 1 to 100 are allowed."""
    with transport_to("http://127.0.0.1:9") as transport, pytest.raises(ConfigurationError, match=str(count)):
        transport.warm_up(count)


# --- what goes out ---------------------------------------------------------------------------------------------------------


def sent_headers(headers=None, *, usual=None, **settings):
    with serving(always(OK)) as server, transport_to(server.url, headers=usual, **settings) as transport:
        fetch(transport, headers=headers)
        return server.requests[0]


def test_own_headers_are_sent():
    """The request names us in User-Agent, asks for no compression, and has a JSON body."""
    request = sent_headers(api_key=KEY)
    assert request.headers["user-agent"].startswith("groq_provider/")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["accept"] == "application/json"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["host"].startswith("127.0.0.1:")


@pytest.mark.parametrize("entry", ["machine 127.0.0.1 login a password b", "default login a password b"])
def test_netrc_never_replaces_the_key(tmp_path, monkeypatch, entry):
    """requests would replace the bearer key by a netrc entry."""
    netrc = tmp_path / "netrc"
    netrc.write_text(entry + "\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sent_headers(api_key=KEY).headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in sent_headers().headers


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("where", ["construction", "request"])
def test_user_headers_cannot_replace_key(name, where):
    """One Authorization header is sent, ours, whatever the spelling."""
    given = {name: "Bearer other"}
    request = sent_headers(given, api_key=KEY) if where == "request" else sent_headers(api_key=KEY, usual=given)
    assert [value for value in request.lines if value.lower().startswith("authorization")] == [
        f"Authorization: Bearer {KEY}"
    ]


def test_user_headers_replace_defaults():
    """Headers of the call beat those of the constructor, which beat ours; each is sent once."""
    with (
        serving(always(OK)) as server,
        transport_to(server.url, headers={"user-agent": "mine", "X-One": "a"}) as transport,
    ):
        fetch(transport, headers={"x-one": "b", "ACCEPT": "text/event-stream"})
        request = server.requests[0]
    assert request.headers["user-agent"] == "mine"
    assert request.headers["x-one"] == "b"
    assert request.headers["accept"] == "text/event-stream"
    assert len({name.lower() for name in request.names}) == len(request.names)


def test_keyless_user_may_authorize():
    """Without a key (api_key=None) the user's own Authorization header is sent."""
    assert sent_headers({"Authorization": "Basic x"}).headers["authorization"] == "Basic x"


def test_bodyless_request_lacks_content_headers():
    """A request without a body, such as GET, has no content headers."""
    with serving(always(OK)) as server, transport_to(server.url) as transport:
        fetch(transport, None, query="?a=1")
        request = server.requests[0]
    assert (request.method, request.target) == ("GET", "/x?a=1")
    assert not {"content-type", "content-length", "transfer-encoding"} & set(request.headers)


def test_paths_stand_under_base_prefix():
    """Paths are appended to the prefix of the base URL: https://host/openai/v1 + /models."""
    with serving(always(OK)) as server, transport_to(server.url + "/openai/v1/") as transport:
        fetch(transport, path="/models")
        assert server.requests[0].target == "/openai/v1/models"


def test_cookies_are_never_sent_back():
    """The service's edge sets __cf_bm on each answer; we send no cookie back."""
    given = answer(b"{}", "Set-Cookie: __cf_bm=abc; path=/")
    with serving(always(given)) as server, transport_to(server.url) as transport:
        response = send(transport)
        response.read_body(LIMIT)
        assert not response.cookies
        fetch(transport)
        assert all("cookie" not in request.headers for request in server.requests)
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(status):
    """A redirect is returned unchanged; no other host gets the key."""
    with serving(always(OK)) as other:
        moved = answer(b"", f"Location: {other.url}/stolen", status=status)
        with serving(always(moved)) as server, transport_to(server.url, api_key=KEY) as transport:
            response = send(transport)
            assert response.status_code == int(status[:3])
            response.close()
            assert len(server.requests) == 1
        assert not other.requests


@pytest.mark.parametrize("value", ["a\nb", "a\r\nX: y", "\u20ac"], ids=["lf", "crlf", "not-latin-1"])
def test_bad_header_values_stay_unsent(value):
    """A bad value is refused before a byte is sent, and is not in the message."""
    with serving(always(OK)) as server, transport_to(server.url) as transport:
        with pytest.raises(ConfigurationError) as caught:
            send(transport, headers={"X-Bad": value})
        assert caught.value.sent is False
        assert value not in str(caught.value)
        assert not server.requests


# --- proxies and the environment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_environment_proxies_are_used(monkeypatch, name):
    """A plain request goes to the environment's proxy, with its whole URL."""
    with serving(echo) as server, serving(proxy_handler("me:secret")) as proxy:
        monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{proxy.port}")
        with transport_to(server.url, api_key=KEY) as transport:
            monkeypatch.delenv(name)  # read once, at construction
            assert [fetch(transport, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
        assert proxy.requests[0].target == f"{server.url}/x"
        assert proxy.connections == 1


@pytest.mark.parametrize("value", ["127.0.0.1", "*", "127.0.0.0/8"])
def test_no_proxy_is_respected(monkeypatch, value):
    """With NO_PROXY the request goes straight to its host."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", value)
    with serving(echo) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b"{}"


def test_explicit_proxies_beat_the_environment(monkeypatch):
    """Proxies of the constructor beat those of the environment."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(echo) as server, serving(proxy_handler()) as proxy:
        with transport_to(server.url, proxies={"http": f"http://127.0.0.1:{proxy.port}"}) as transport:
            assert fetch(transport) == b"{}"
        assert len(proxy.requests) == 1


def test_untrusting_session_ignores_environment(monkeypatch):
    """A session with ``trust_env = False`` ignores the environment."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(echo) as server, requests.Session() as session:
        session.trust_env = False
        with transport_to(server.url, session=session) as transport:
            assert fetch(transport) == b"{}"


@pytest.mark.parametrize(
    ("url", "says"),
    [("socks5://127.0.0.1:1", "socks5"), ("ftp://h:1", "ftp"), ("http://", "http")],
    ids=["socks", "ftp", "no-host"],
)
def test_unusable_proxies_refused_at_construction(url, says):
    """A proxy that cannot be used is refused; nothing is sent past it."""
    with pytest.raises(ConfigurationError, match=says):
        SessionTransport("http://127.0.0.1:1", clock=SystemClock(), proxies={"http": url})


def test_unreachable_proxy_is_proxy_error():
    """An unreachable proxy: not sent; retryable."""
    with refusing_port() as port:
        proxies = {"http": f"http://u:pw-canary@127.0.0.1:{port}"}
        with transport_to("http://127.0.0.1:9", proxies=proxies) as transport:
            with pytest.raises(ProxyError) as caught:
                send(transport)
        assert (caught.value.sent, caught.value.retryable) == (False, True)
        assert "pw-canary" not in repr(caught.value)


# --- a session of the caller's ---------------------------------------------------------------------------------------------


def test_session_settings_are_read_once():
    """Headers and proxies of the session are taken at construction; later changes have no effect."""
    with serving(echo) as server, serving(proxy_handler()) as proxy, requests.Session() as session:
        session.headers.update({"X-Mine": "1", "Authorization": "Bearer other"})
        session.proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
        session.auth = ("a", "b")
        session.cookies.set("c", "d")
        session.params = {"p": "q"}
        with transport_to(server.url, session=session, api_key=KEY) as transport:
            session.headers["X-Mine"] = "2"
            session.proxies = {}
            fetch(transport)
        (request,) = proxy.requests
        assert request.headers["x-mine"] == "1"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert "cookie" not in request.headers
        assert "python-requests" in request.headers["user-agent"]
        assert request.headers["user-agent"].startswith("groq_provider/")
        assert request.target.endswith("/x")


def test_callers_session_gets_no_adapter():
    """The caller's session stays unchanged; its own requests are sent by its own adapters."""
    with serving(echo) as server, requests.Session() as session:
        before = dict(session.adapters)
        with transport_to(server.url, session=session) as transport:
            assert dict(session.adapters) == before
            assert session.get_adapter(server.url + "/x") is not transport.adapter
            fetch(transport)
        assert dict(session.adapters) == before
        assert session.post(server.url, data=b"still works").content == b"still works"


@pytest.mark.parametrize("base", ["http://host.test:1888", "http://host.test", "https://host.test:1888"])
def test_longer_port_is_not_ours(base):
    """A URL with a port, or a host, that only begins like ours belongs to another server: our adapter must not get its requests."""
    with requests.Session() as session, transport_to(base, session=session) as transport:
        for each in (session, transport.session):
            for other in (f"{base}8/x", f"{base}.other.test/x"):
                assert each.get_adapter(other) is not transport.adapter


def test_requests_of_others_pass_adapter():
    """Requests on our own session work, time limits included."""
    with serving(once()) as server, transport_to(server.url) as transport:
        with pytest.raises(requests.ConnectionError):
            transport.session.post(server.url + "/own", data=b"abc", timeout=PATIENCE)
    with serving(echo) as server, transport_to(server.url) as transport:
        sent = transport.session.post(server.url + "/own", data=b'{"a": 1}', timeout=(PATIENCE, PATIENCE))
        assert sent.json() == {"a": 1}
    with serving(lambda sock, server: server.released.wait(PATIENCE)) as server, transport_to(server.url) as transport:
        with pytest.raises(requests.ReadTimeout):
            transport.session.get(server.url, timeout=(PATIENCE, 0.1))


@pytest.mark.parametrize("verify", [False, 0, ""])
def test_unverified_session_is_refused(verify):
    """``verify = False`` is refused."""
    with requests.Session() as session:
        session.verify = verify
        with pytest.raises(ConfigurationError, match="verify"):
            SessionTransport("http://127.0.0.1:9", clock=SystemClock(), session=session)


def test_non_session_is_refused():
    """An object that is not a session raises a clear error instead of an AttributeError later."""
    with pytest.raises(ConfigurationError, match=r"requests\.Session, not dict"):
        SessionTransport("http://127.0.0.1:9", clock=SystemClock(), session={})


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        (("a.pem", "b.pem", "c.pem"), "a.pem"),
        ((None, "b.pem", "c.pem"), "b.pem"),
        ((None, True, "c.pem"), "c.pem"),
        ((None, None, "c.pem"), "c.pem"),
        ((None, True, None), None),
    ],
    ids=["explicit", "session", "environment", "verify-none", "default"],
)
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_most_specific_ca_bundle_wins(monkeypatch, places, wanted, name):
    """The CA bundle comes from the most specific place: argument, session, environment, certifi."""
    explicit, session_verify, environment = places
    if environment:
        monkeypatch.setenv(name, environment)
    with requests.Session() as session:
        session.verify = session_verify
        with transport_to("https://127.0.0.1:9", session=session, ca_bundle=explicit) as transport:
            assert transport.adapter._ca_bundle == wanted


def test_unreadable_ca_bundle_is_named():
    """An unreadable CA bundle is a configuration error that names the file."""
    with transport_to("https://127.0.0.1:9", ca_bundle="/nowhere/ca.pem") as transport:
        with pytest.raises(ConfigurationError, match=r"/nowhere/ca\.pem"):
            send(transport)


# --- the responses library -------------------------------------------------------------------------------------------------

BASE = "http://mocked.test/openai/v1"


@responses.activate
def test_mocked_json_is_returned():
    """``adapter.send`` is not overridden, so the ``responses`` library works, with matchers and recorded calls."""
    responses.post(
        BASE + "/x",
        json={"a": 1},
        headers={"x-request-id": "r"},
        match=[json_params_matcher({"m": 1}), header_matcher({"Authorization": f"Bearer {KEY}"})],
    )
    with transport_to(BASE, api_key=KEY) as transport:
        response = send(transport, b'{"m": 1}')
        assert response.headers["X-Request-ID"] == "r"
        assert response.read_body(LIMIT) == b'{"a": 1}'
        headers = responses.calls[0].request.headers
        assert headers["authorization"] == headers["AUTHORIZATION"] == headers.get("Authorization") == f"Bearer {KEY}"
        assert "content-type" in headers
        assert "x-none" not in headers
        assert headers.get("x-none", "d") == "d"
        with pytest.raises(KeyError):
            headers["x-none"]
        assert KEY not in repr(headers)


@responses.activate
def test_mocked_answer_looks_like_requests():
    """A mocked answer works like one of requests, with .json(), .content and .ok."""
    responses.post(BASE + "/x", json={"a": 1}, status=201)
    with transport_to(BASE) as transport:
        response = send(transport)
        assert response.ok
        assert response.json() == {"a": 1}
        assert response.content == response.content == b'{"a": 1}'


@responses.activate
def test_mocked_stream_reads_by_lines():
    """A mocked stream is read by lines, including a last line without its end."""
    responses.post(BASE + "/x", body=b"data: 1\n\ndata: 2\r\n\r\ndata: [DONE]", content_type="text/event-stream")
    with transport_to(BASE) as transport:
        response = send(transport)
        assert response.ready(0)
        assert list(response.iter_lines()) == [b"data: 1", b"", b"data: 2", b"", b"data: [DONE]"]
        assert response.read_lines() is None


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (requests.ConnectionError("x"), APIConnectionError),
        (requests.ReadTimeout("x"), ReadTimeoutError),
        (requests.ConnectTimeout("x"), ConnectTimeoutError),
        (requests.exceptions.ProxyError("x"), ProxyError),
        (requests.exceptions.ChunkedEncodingError("x"), APIConnectionError),
        (OSError("x"), APIConnectionError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@responses.activate
def test_mocked_exceptions_are_ours(raised, wanted):
    """Each mocked exception becomes one of ours."""
    responses.post(BASE + "/x", body=raised)
    with transport_to(BASE) as transport, pytest.raises(wanted) as caught:
        send(transport)
    assert type(caught.value) is wanted


@responses.activate
def test_cap_and_mocks_go_together():
    """The permit is returned after a mocked answer, read or dropped."""
    responses.post(BASE + "/x", body=b"{}")
    with transport_to(BASE, max_connections=1) as transport:
        fetch(transport)
        send(transport).close()
        send(transport).abandon()
        send(transport).drain(new_scope())
        assert transport._permits._free_permits == 1


# --- failures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handled",
    [TimeoutError, PoolTimeoutError, ssl.SSLCertVerificationError],
    ids=lambda kind: kind.__name__,
)
def test_handled_exception_stays_apart(handled):
    """A call made in an ``except`` block fails for its own reason, and does not touch the handled exception."""
    other = handled("before")
    with serving(once()) as server, transport_to(server.url) as transport:
        try:
            raise other
        except handled:
            with pytest.raises(APIConnectionError, match="broke: the server closed") as caught:
                send(transport)
    assert type(caught.value) is APIConnectionError
    assert other.__traceback__ is not None


# --- the cap on connections ------------------------------------------------------------------------------------------------


def test_cap_is_held():
    """Twelve threads, a cap of three: never more than three requests at the server."""
    lock, now, most = threading.Lock(), 0, 0

    def handler(sock, server):
        nonlocal now, most
        while server.read(sock) is not None:
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.002)
            with lock:
                now -= 1
            sock.sendall(OK)

    with serving(handler) as server, transport_to(server.url, max_connections=3) as transport:
        in_threads(12, lambda _: [fetch(transport) for _ in range(5)])
        assert most <= 3
        assert server.connections <= 3
        assert transport._permits._free_permits == 3


def test_connection_wait_ends_at_limit():
    """A wait that is too long: not sent, retryable."""
    with serving(always(OK)) as server, transport_to(server.url, max_connections=1) as transport:
        held = send(transport)
        with pytest.raises(PoolTimeoutError, match="max_connections") as caught:
            send(transport, scope=new_scope(after_send=0.05))
        assert (caught.value.sent, caught.value.retryable) == (False, True)
        held.read_body(LIMIT)
        fetch(transport)
        assert transport._permits._free_permits == 1


def test_connection_wait_spares_connect_limit():
    """The limit for connecting starts when the permit is granted."""
    clock = ShiftedClock()
    with serving(always(OK)) as server, transport_to(server.url, max_connections=1, clock=clock) as transport:
        held = send(transport)
        scope = CancelScope(clock, connect=5, after_send=500)
        found = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: found.put(fetch(transport, scope=scope)))
        thread.start()
        wait_for(lambda: transport._permits._waiters)
        clock.ahead = 100  # past the idle age, too, so that a new connection is needed
        held.read_body(LIMIT)
        thread.join(PATIENCE)
        assert found.get(timeout=PATIENCE) == b"{}"


def test_waiters_are_served_in_order():
    """Permits are granted in the order of arrival."""
    permits, order = ConnectionLimiter(1), []
    first = permits.acquire(new_scope(), None)

    def wait(number):
        permit = permits.acquire(new_scope(), None)
        order.append(number)
        permit.release()

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        wait_for(lambda wanted=number + 1: len(permits._waiters) == wanted)
    first.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(8))
    assert permits._free_permits == 1


def test_collected_permit_disturbs_no_grant():
    """A permit that the collector frees between two steps of a grant is granted afterwards: each waiter gets one."""
    permits = ConnectionLimiter(2)
    held = [permits.acquire(new_scope(), None) for _ in range(2)]

    class Queue(collections.deque):
        def __delitem__(self, index):
            if len(held) == 1:
                held.pop().release()  # as its finalizer would
            super().__delitem__(index)

    permits._waiters = Queue()
    threads = [threading.Thread(target=lambda: permits.acquire(new_scope(), None).release()) for _ in range(2)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_for(lambda wanted=number: len(permits._waiters) == wanted)
    held.pop().release()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert permits._free_permits == 2


def test_newcomer_waits_behind_queue():
    """A permit that an interrupt left free in the middle of a grant goes to the first waiter, not to a later caller."""
    permits, order = ConnectionLimiter(1), []
    held = permits.acquire(new_scope(), None)

    class Queue(collections.deque):
        def __delitem__(self, index):
            if not struck:
                struck.append(index)
                raise KeyboardInterrupt
            super().__delitem__(index)

    def take(name):
        permit = permits.acquire(new_scope(), SystemClock().monotonic() + PATIENCE)
        order.append(name)
        permit.release()

    struck, permits._waiters = [], Queue()
    thread = threading.Thread(target=take, args=("waiter",))
    thread.start()
    wait_for(lambda: permits._waiters)
    with pytest.raises(KeyboardInterrupt):
        held.release()
    assert (permits._free_permits, len(permits._waiters)) == (1, 1)
    take("newcomer")
    thread.join(PATIENCE)
    assert order == ["waiter", "newcomer"]
    assert permits._free_permits == 1


def test_cancel_ends_connection_wait():
    """A cancel ends the wait and leaves the queue."""
    permits = ConnectionLimiter(1)
    held = permits.acquire(new_scope(), None)
    scope = new_scope()
    failed = queue.SimpleQueue()

    def wait():
        with pytest.raises(RequestCancelledError) as caught:
            permits.acquire(scope, None)
        failed.put(caught.value.sent)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: permits._waiters)
    scope.cancel()
    thread.join(PATIENCE)
    assert failed.get(timeout=PATIENCE) is False
    held.release()
    assert (permits._free_permits, len(permits._waiters)) == (1, 0)


class GrantingClock(SystemClock):
    """A clock that runs an action as the last moment of a wait, then ends it."""

    def __init__(self, then, result):
        self.then, self.result = then, result

    def wait(self, lock, timeout):
        self.then()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def test_last_moment_permit_counts():
    """Timed out and granted at once: the permit belongs to this call alone."""
    permits = ConnectionLimiter(1)
    held = permits.acquire(new_scope(), None)
    scope = new_scope()
    scope.clock = GrantingClock(held.release, result=False)
    mine = permits.acquire(scope, None)
    assert permits._free_permits == 0
    mine.release()
    assert permits._free_permits == 1


def test_cancelled_waiters_permit_goes_on():
    """Cancelled and granted at once: the next in the queue gets the permit."""
    permits = ConnectionLimiter(1)
    held = permits.acquire(new_scope(), None)
    scope = new_scope()
    scope.clock = GrantingClock(lambda: (held.release(), scope.cancel()), result=True)
    with pytest.raises(RequestCancelledError):
        permits.acquire(scope, None)
    assert permits._free_permits == 1


@pytest.mark.parametrize("granted", [True, False])
def test_interrupt_loses_no_permit(granted):
    """Ctrl-C during the wait loses no permit."""
    permits = ConnectionLimiter(1)
    held = permits.acquire(new_scope(), None)
    scope = new_scope()
    scope.clock = GrantingClock(held.release if granted else lambda: None, result=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        permits.acquire(scope, None)
    held.release()
    assert (permits._free_permits, len(permits._waiters)) == (1, 0)


def test_permit_returned_inside_lock_survives():
    """A finalizer runs while its own thread holds the lock: no deadlock, and the permit is free."""
    permits = ConnectionLimiter(1)
    held = permits.acquire(new_scope(), None)
    with permits._lock:
        held.release()
    mine = permits.acquire(new_scope(), None)
    with pytest.raises(PoolTimeoutError):
        permits.acquire(new_scope(), 0)
    mine.release()
    assert permits._free_permits == 1


@pytest.mark.parametrize("ending", ["read", "close", "abandon", "drop", "drain", "cancel", "too-large"])
def test_every_path_returns_permit_once(ending):
    """However an answer ends, its permit is returned once."""
    whole = answer(b"x" * 100_000)
    handler = hanging(whole[:-1]) if ending == "cancel" else always(whole)
    with serving(handler) as server, transport_to(server.url, max_connections=2) as transport:
        scope = new_scope()
        response = send(transport, scope=scope)
        assert transport._permits._free_permits == 1
        if ending == "read":
            response.read_body(LIMIT)
            response.close()
        elif ending == "close":
            response.close()
            response.close()
            response.abandon()
        elif ending == "abandon":
            response.abandon()
            response.close()
        elif ending == "drain":
            response.drain(scope)
        elif ending == "cancel":
            scope.cancel()
            with pytest.raises(RequestCancelledError):
                response.read_body(LIMIT)
        elif ending == "too-large":
            with pytest.raises(Exception, match="larger"):
                response.read_body(10)
        del response
        gc.collect()
        assert transport._permits._free_permits == 2


def test_failed_sending_returns_permit():
    """A permit is returned if sending fails: refused, or cancelled before."""
    with transport_to("http://127.0.0.1:9", max_connections=1) as transport:
        with pytest.raises(APIConnectionError):
            send(transport)
        scope = new_scope()
        scope.cancel()
        with pytest.raises(RequestCancelledError):
            send(transport, scope=scope)
        assert transport._permits._free_permits == 1


# --- leaving and closing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "abandon", "close"])
def test_unread_answer_leaves_no_socket(how):
    """An unread answer closes its connection: the server sees its end."""

    def handler(sock, server):
        server.read(sock)
        sock.sendall(CHUNKED + chunk(b"data: 1\n"))
        server.wait_for_end(sock)

    with serving(handler) as server, transport_to(server.url) as transport:
        response = send(transport)
        assert response.read_lines() == [b"data: 1"]
        if how == "abandon":
            response.abandon()
        elif how == "close":
            response.close()
        del response
        assert server.closed_by_peer.acquire(timeout=PATIENCE)


def test_use_after_close_is_refused():
    """send() and warm_up() raise after close(); close() may be repeated."""
    with serving(always(OK)) as server, transport_to(server.url) as transport:
        fetch(transport)
        transport.close()
        transport.close()
        with pytest.raises(ProviderClosedError) as caught:
            send(transport)
        assert caught.value.sent is False
        with pytest.raises(ProviderClosedError):
            transport.warm_up(1)
        assert "closed" in repr(transport)


def test_early_close_makes_no_pool():
    """A call that passed the check before close() finds the adapter closed."""
    transport = SessionTransport("http://127.0.0.1:9", clock=SystemClock())
    transport.close()
    transport._closed = False  # as the other thread saw it
    with pytest.raises(ProviderClosedError):
        send(transport)


def test_close_during_calls_leaves_nothing():
    """Threads send while the transport closes: each gets its answer or ProviderClosedError."""
    for _ in range(5):
        with serving(echo) as server:
            transport = SessionTransport(server.url, clock=SystemClock())
            outcomes = queue.SimpleQueue()
            barrier = threading.Barrier(9)

            def work(transport=transport, barrier=barrier, outcomes=outcomes):
                barrier.wait(PATIENCE)
                while not isinstance(outcome := attempt(lambda: fetch(transport, b"abc")), GroqProviderError):
                    outcomes.put(outcome)
                outcomes.put(type(outcome))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            barrier.wait(PATIENCE)
            assert outcomes.get(timeout=PATIENCE) == b"abc"
            transport.close()
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()
            assert transport.adapter._pool.idle() == 0
            seen = [outcomes.get() for _ in range(outcomes.qsize())]
            assert seen.count(ProviderClosedError) == 8
            assert set(seen) <= {b"abc", ProviderClosedError}


def test_late_returning_connection_is_closed():
    """An answer read to its end after close() leaves no open connection."""
    with serving(always(OK)) as server, transport_to(server.url) as transport:
        response = send(transport)
        conn = connection_of(response)
        transport.close()
        assert response.read_body(LIMIT) == b"{}"
        assert conn.sock is None


def test_racing_put_back_is_closed():
    """A connection returned while the pool closes is closed, even after the pool was emptied."""
    with serving(always(OK)) as server, transport_to(server.url) as transport:
        response = send(transport)
        conn, pool = connection_of(response), transport.adapter.pool()

        class Racing(queue.LifoQueue):
            def put(self, item, block=True, timeout=None):
                pool.pool = None  # as close() does after it has emptied the queue
                super().put(item, block, timeout)

        pool.pool = Racing()
        response.read_body(LIMIT)
        assert conn.sock is None


def test_warm_up_during_close_refused():
    """A warm-up during a close is refused; ClosedPoolError does not leak."""
    with transport_to("http://127.0.0.1:9") as transport:
        transport.adapter.pool().close()
        with pytest.raises(ProviderClosedError):
            transport.warm_up(1)


# --- forks -----------------------------------------------------------------------------------------------------------------


@needs_fork
def test_fork_shares_no_connection():
    """With kept connections, parent and child both send after a fork: every answer is the sender's own, and the parent's connection goes on."""
    with serving(echo) as server, transport_to(server.url) as transport:
        transport.warm_up(2)
        wait_for(lambda: server.connections == 2)

        def work():
            return all(fetch(transport, b"child %d" % n) == b"child %d" % n for n in range(100))

        child = fork(work)
        assert all(fetch(transport, b"parent %d" % n) == b"parent %d" % n for n in range(100))
        assert join(child) == 0
        assert fetch(transport, b"after") == b"after"
        assert server.connections == 3


@needs_fork
def test_child_starts_with_free_cap():
    """Permits and locks of the parent's threads do not bind the child."""
    with serving(echo) as server, transport_to(server.url, max_connections=1) as transport:
        held = send(transport, b"held")
        with transport._permits._lock, transport.adapter._pool_lock:

            def work():
                held.abandon()
                transport.adapter._pool = None
                return fetch(transport, b"child") == b"child" and transport._permits._free_permits == 1

            child = fork(work)
            assert join(child) == 0
        assert held.read_body(LIMIT) == b"held"
        assert transport._permits._free_permits == 1


@needs_fork
def test_child_avoids_connection_in_use():
    """The child returns it to its pool; the process id shows that it is the parent's."""
    with serving(echo) as server, transport_to(server.url) as transport:
        held = send(transport, b"held")

        def work():
            held.read_body(LIMIT)
            return fetch(transport, b"child") == b"child"

        child = fork(work)
        assert join(child) == 0
        assert server.connections == 2
        held.close()


def test_secrets_do_not_show():
    """Secrets are hidden in the repr of headers."""
    header = session_module.SecretHeader("x")
    assert repr(header) == "'****'"
    assert header == "x"


def test_call_headers_stay_its_own():
    """Constant headers are merged once, a caller's own each time; no header leaks into the next call."""
    constant, own = MappingProxyType({"Accept": "text/event-stream", "X-Kind": "constant"}), {"X-Kind": "first"}
    with serving(always(OK)) as server, transport_to(server.url, headers={"X-Base": "b"}) as transport:
        for headers in (constant, own, constant, None):
            assert fetch(transport, headers=headers) == b"{}"
        own["X-Kind"] = "second"
        assert fetch(transport, headers=own) == b"{}"
        assert fetch(transport, headers={"content-type": "text/plain"}) == b"{}"
    found = [(request.headers["accept"], request.headers.get("x-kind")) for request in server.requests]
    assert found == [
        ("text/event-stream", "constant"),
        ("application/json", "first"),
        ("text/event-stream", "constant"),
        ("application/json", None),
        ("application/json", "second"),
        ("application/json", None),
    ]
    assert {request.headers["x-base"] for request in server.requests} == {"b"}
    assert [request.headers["content-type"] for request in server.requests][-2:] == ["application/json", "text/plain"]
    assert all(len(set(map(str.lower, request.names))) == len(request.names) for request in server.requests)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(answer(b"mine") + answer(b"poison"), id="more after the body"),
        pytest.param(answer(b"mine", "Connection: close"), id="says that it closes"),
        pytest.param(answer(b"mine", status="408 Request Timeout"), id="408"),
        pytest.param(CHUNKED[:-2] + b"Content-Length: 9\r\n\r\n4\r\nmine\r\n0\r\n\r\n", id="both framings"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nmine", id="HTTP/1.0"),
    ],
)
def test_foreign_leftovers_reach_no_call(first):
    """A session's own request may end on a connection that must not be reused; urllib3 returns it unchecked."""
    answers = iter([first, answer(b"ours"), answer(b"ours")])

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(next(answers))

    with serving(handler) as server, transport_to(server.url) as transport:
        assert transport.session.get(server.url + "/own").content == b"mine"
        assert fetch(transport) == b"ours"
        assert server.connections == 2


def test_foreign_headers_may_be_bytes():
    """Headers of foreign requests may be bytes: requests allows it."""
    with (
        serving(lambda sock, server: (server.read(sock), sock.sendall(OK))) as other,
        transport_to(other.url) as transport,
    ):
        transport.session.get(other.url, headers={"Host": "h", "X-A": b"abc"})
        assert other.requests[0].headers["x-a"] == "abc"
