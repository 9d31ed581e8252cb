"""The transport over TLS: trust, number of handshakes, limits and cancels below the encryption."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests
from support.certificates import new_authority
from support.fakes import PATIENCE, wait_for
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
    reset,
    serving,
)
from support.transports import (
    KEY,
    LIMIT,
    LimitFromSending,
    cancelled_while,
    closes_second,
    drip,
    echo,
    fetch,
    fork,
    in_threads,
    join,
    needs_fork,
    new_scope,
    send,
    transport_to,
)

from groq_provider.errors import (
    APIConnectionError,
    ConnectTimeoutError,
    IncompleteResponseError,
    ProxyError,
    ReadTimeoutError,
    TLSError,
)
from groq_provider.transport.tls import tls_context


class Authority:
    """A certificate authority with its file, and server contexts that it has signed."""

    def __init__(self, folder):
        self.ca = new_authority()
        self.file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def context(self, name="localhost", **more):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name, **more).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def context(authority):
    return authority.context()


# --- trust -----------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("fallback")
def test_own_ca_is_trusted(authority, context):
    """With our own CA, twenty calls make one handshake."""
    with serving(echo, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        for number in range(20):
            assert fetch(transport, b"%d" % number) == b"%d" % number
        assert server.handshakes == 1


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_environment_ca_is_trusted(authority, context, monkeypatch, name):
    """The CA of the environment is trusted; it is read once, at construction."""
    monkeypatch.setenv(name, authority.file)
    with serving(echo, context) as server, transport_to(server.url) as transport:
        monkeypatch.delenv(name)
        assert fetch(transport) == b"{}"


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("where", ["file", "folder", "folders", "both"])
@pytest.mark.skipif(shutil.which("openssl") is None, reason="names the files of a folder of certificates")
def test_ca_of_openssl_is_trusted(authority, context, monkeypatch, tmp_path, where):
    """SSL_CERT_FILE and SSL_CERT_DIR, which may list several folders, are trusted together."""
    other, folder, empty = Authority(tmp_path), tmp_path / "folder", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    name = subprocess.check_output(["openssl", "x509", "-noout", "-hash", "-in", authority.file], text=True).strip()
    shutil.copy(authority.file, folder / f"{name}.0")
    if where in {"file", "both"}:
        monkeypatch.setenv("SSL_CERT_FILE", authority.file if where == "file" else other.file)
    if where != "file":
        monkeypatch.setenv("SSL_CERT_DIR", f"{empty}{os.pathsep}{folder}" if where == "folders" else str(folder))
    with serving(echo, context) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b"{}"


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_ca_of_requests_beats_openssl(authority, context, monkeypatch, tmp_path, name):
    """The variables that requests reads come first."""
    monkeypatch.setenv("SSL_CERT_FILE", Authority(tmp_path).file)
    monkeypatch.setenv(name, authority.file)
    with serving(echo, context) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b"{}"


@pytest.mark.over_http2("fallback")
def test_explicit_ca_beats_the_environment(authority, context, monkeypatch, tmp_path):
    """The explicit bundle wins: the environment's does not know the server."""
    other = Authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other.file)
    with serving(echo, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        assert fetch(transport) == b"{}"


@pytest.mark.over_http2("fallback")
def test_untrusting_session_ignores_environment_ca(authority, context, monkeypatch):
    """A session without trust_env ignores the environment's CA: certifi decides, and does not know the server."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.file)
    with serving(echo, context) as server, requests.Session() as session:
        session.trust_env = False
        with transport_to(server.url, session=session) as transport, pytest.raises(TLSError):
            send(transport)


@pytest.mark.over_http2("fallback")
def test_session_ca_and_certificate_used(authority, tmp_path):
    """CA and client certificate of a session are used: verify as a path, cert as a pair, mutual TLS."""
    context = authority.context()
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    mine = authority.ca.issue_cert("client@test")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    mine.private_key_pem.write_to_path(key)
    for part in mine.cert_chain_pems:
        part.write_to_path(chain, append=True)
    with serving(echo, context) as server:
        with requests.Session() as session:
            session.verify, session.cert = authority.file, (str(chain), str(key))
            with transport_to(server.url, session=session) as transport:
                assert fetch(transport) == b"{}"
        with transport_to(server.url, ca_bundle=authority.file, cert=(str(chain), str(key))) as transport:
            assert fetch(transport) == b"{}"
        with transport_to(server.url, ca_bundle=authority.file) as transport, pytest.raises(APIConnectionError):
            fetch(transport)


def refused(url, ca_bundle):
    with transport_to(url, ca_bundle=ca_bundle, api_key=KEY) as transport:
        with pytest.raises(TLSError) as caught:
            send(transport)
    assert (caught.value.sent, caught.value.retryable) == (False, False)
    return str(caught.value)


@pytest.mark.over_http2("fallback")
def test_unknown_ca_is_refused(context):
    """An unknown CA: not sent, not retried."""
    with serving(echo, context) as server:
        assert "certificate" in refused(server.url, None)
        assert not server.requests


@pytest.mark.over_http2("fallback")
def test_wrong_host_is_refused(authority):
    """A certificate for another name is refused."""
    with serving(echo, authority.context("example.org")) as server:
        assert "localhost" in refused(server.url, authority.file)


@pytest.mark.over_http2("fallback")
def test_expired_certificate_is_refused(authority):
    """A certificate that expired a day ago is refused."""
    gone = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    context = authority.context(not_before=gone - dt.timedelta(days=9), not_after=gone)
    with serving(echo, context) as server:
        assert "expired" in refused(server.url, authority.file)


@pytest.mark.over_http2("fallback")
def test_plain_http_on_tls_refused(authority):
    """Plain HTTP on the TLS port is refused: the answer to a handshake is text."""

    def handler(sock, server):
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with serving(handler) as server:
        refused(server.url.replace("http:", "https:").replace("127.0.0.1", "localhost"), authority.file)


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["fin", "rst"])
def test_broken_handshake_may_be_retried(authority, end):
    """A broken handshake says nothing about certificates: a connection error like others, not sent."""

    def handler(sock, server):
        sock.recv(65_536)
        end(sock)

    with serving(handler) as server:
        url = f"https://localhost:{server.port}"
        with transport_to(url, ca_bundle=authority.file) as transport, pytest.raises(APIConnectionError) as caught:
            send(transport)
    assert type(caught.value) is APIConnectionError
    assert caught.value.retryable


def test_ca_bundle_is_loaded_once(authority, context, monkeypatch, tmp_path):
    """Many connections, several transports with the same settings: one context."""
    copy = tmp_path / "copy.pem"  # no other test has loaded this one
    authority.ca.cert_pem.write_to_path(copy)
    loads = []
    make = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *a, **k: loads.append(k) or make(*a, **k))
    reloads = []
    monkeypatch.setattr(
        ssl.SSLContext,
        "load_verify_locations",
        lambda self, *a, _load=ssl.SSLContext.load_verify_locations, **k: (
            reloads.append(k),
            _load(self, *a, **k),
        ),
    )
    gate = threading.Barrier(8)

    def handler(sock, server):
        while server.read(sock) is not None:
            gate.wait(PATIENCE)
            sock.sendall(OK)

    with serving(handler, context) as server:
        for _ in range(2):
            with transport_to(server.url, ca_bundle=str(copy)) as transport:
                in_threads(8, lambda _, transport=transport: fetch(transport))
        assert server.handshakes == 16
    assert len(loads) == 1
    assert len(reloads) == 1


@pytest.mark.over_http2("fallback")
def test_certificate_folder_serves_as_bundle(tmp_path):
    """A folder of certificates works as a bundle, as in requests."""
    with transport_to("https://localhost:1", ca_bundle=str(tmp_path)) as transport:
        assert transport.adapter.pool()


# --- handshakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "tunnel"])
def test_warmed_connections_are_used(authority, context, proxied):
    """Six opened ahead and six calls at once: six handshakes in all, although TLS 1.3 tickets have arrived meanwhile."""
    gate = threading.Barrier(6)

    def handler(sock, server):
        while server.read(sock) is not None:
            gate.wait(PATIENCE)
            sock.sendall(OK)

    with serving(handler, context) as server, serving(proxy_handler("u:p")) as proxy:
        proxies = {"https": f"http://u:p@127.0.0.1:{proxy.port}"} if proxied else None
        with transport_to(server.url, ca_bundle=authority.file, proxies=proxies) as transport:
            assert transport.warm_up(6) == 6
            wait_for(lambda: server.handshakes == 6)
            assert not server.requests
            pool = transport.adapter.pool()
            for conn in [conn for conn in pool.pool.queue if conn is not None]:
                assert conn.sock.version() == "TLSv1.3"
                conn.sock.settimeout(PATIENCE)
                socket.socket.recv(conn.sock, 1, socket.MSG_PEEK)  # the tickets have arrived
                conn.sock.settimeout(0)
            for _ in range(2):
                in_threads(6, lambda _: fetch(transport))
            assert server.handshakes == 6
        assert proxy.connections == (6 if proxied else 0)


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["fin", "rst"])
def test_stale_connection_resends_once(authority, context, end):
    """A request on a stale connection is sent again once, as without TLS."""
    with serving(closes_second(end), context) as server:
        with transport_to(server.url, ca_bundle=authority.file) as transport:
            fetch(transport)
            scope = new_scope()
            assert fetch(transport, scope=scope) == b"{}"
            assert (scope.resends, server.handshakes) == (1, 2)


def test_idle_closed_connection_is_replaced(authority, context):
    """The peer's close_notify is noticed before the next request is sent."""
    with serving(once(OK), context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        fetch(transport)
        (conn,) = [conn for conn in transport.adapter.pool().pool.queue if conn is not None]
        conn.sock.settimeout(PATIENCE)
        assert conn.sock.recv(1) == b""
        scope = new_scope()
        fetch(transport, scope=scope)
        assert scope.resends == 0


def test_surplus_bytes_drop_connection(authority, context):
    """Unsolicited application data on an idle TLS connection closes it."""

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(OK)
            sock.sendall(b"HTTP/1.1 200 OK\r\n")

    with serving(handler, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        fetch(transport)
        conn = next(conn for conn in transport.adapter.pool().pool.queue if conn is not None)
        if conn.sock is not None:  # else both came at once and it is closed already
            conn.sock.settimeout(PATIENCE)
            wait_for(lambda: conn.sock.pending() or socket.socket.recv(conn.sock, 1, socket.MSG_PEEK))
        fetch(transport)
        assert server.handshakes == 2


@pytest.mark.over_http2("fallback")
@needs_fork
def test_fork_shares_no_connection(authority, context):
    """Parent and child share no connection: shared TLS state would garble both."""
    with serving(echo, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        transport.warm_up(2)
        wait_for(lambda: server.handshakes == 2)  # no thread is inside of TLS when the process forks

        def work():
            return all(fetch(transport, b"child %d" % n) == b"child %d" % n for n in range(30))

        child = fork(work)
        assert all(fetch(transport, b"parent %d" % n) == b"parent %d" % n for n in range(30))
        assert join(child) == 0
        assert fetch(transport, b"after") == b"after"
        assert server.handshakes == 3


# --- proxies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_environment_tunnels_are_used(authority, context, monkeypatch, name):
    """The proxy sees CONNECT with its credentials, and neither the key nor the request."""
    with serving(echo, context) as server, serving(proxy_handler("me:s3cret")) as proxy:
        monkeypatch.setenv(name, f"http://me:s3cret@127.0.0.1:{proxy.port}")
        with transport_to(server.url, ca_bundle=authority.file, api_key=KEY) as transport:
            assert [fetch(transport, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
        (request,) = proxy.requests
    assert (request.method, request.target) == ("CONNECT", f"localhost:{server.port}")
    assert "authorization" not in request.headers


@pytest.mark.over_http2("fallback")
def test_proxy_credentials_stay_at_proxy(authority, context):
    """The proxy's credentials, and its other headers, do not reach the server."""
    with serving(always(OK), context) as server, serving(proxy_handler("me:s3cret")) as proxy:
        proxies = {"https": f"http://me:s3cret@127.0.0.1:{proxy.port}"}
        with transport_to(server.url, ca_bundle=authority.file, proxies=proxies) as transport:
            fetch(transport)
        assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize(
    ("refuse", "retryable"),
    [("407 Proxy Authentication Required", False), ("502 Bad Gateway", True)],
    ids=["407", "502"],
)
def test_refused_tunnel_is_proxy_error(authority, refuse, retryable):
    """A refused tunnel: not sent; 407 is not retried."""
    with serving(proxy_handler(refuse=refuse)) as proxy:
        proxies = {"https": f"http://me:pw-canary@127.0.0.1:{proxy.port}"}
        with transport_to("https://localhost:9", ca_bundle=authority.file, proxies=proxies) as transport:
            with pytest.raises(ProxyError) as caught:
                send(transport)
    assert (caught.value.sent, caught.value.retryable) == (False, retryable)
    assert "pw-canary" not in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.over_http2("fallback")
def test_silent_proxy_ends_at_limit(authority):
    """A silent proxy ends at the limit for connecting, which includes the tunnel."""
    with serving(hanging()) as proxy:
        proxies = {"https": f"http://127.0.0.1:{proxy.port}"}
        with transport_to("https://localhost:9", ca_bundle=authority.file, proxies=proxies) as transport:
            started = time.monotonic()
            with pytest.raises(ConnectTimeoutError) as caught:
                send(transport, scope=new_scope(None, connect=0.1, after_send=PATIENCE))
            assert time.monotonic() - started < PATIENCE / 4
    assert caught.value.sent is False


@pytest.mark.over_http2("fallback")
def test_fresh_broken_tunnel_never_resends(authority, context):
    """A new tunnel that breaks at its first request is not resent: it was never idle."""
    with serving(once(), context) as server, serving(proxy_handler()) as proxy:
        proxies = {"https": f"http://127.0.0.1:{proxy.port}"}
        with transport_to(server.url, ca_bundle=authority.file, proxies=proxies) as transport:
            scope = new_scope()
            with pytest.raises(APIConnectionError):
                send(transport, scope=scope)
            assert (scope.resends, scope.sent, server.handshakes) == (0, True, 1)


@pytest.mark.over_http2("fallback")
def test_stale_tunnel_replaced_by_tunnel(authority, context):
    """A resend goes through the proxy, too."""
    with serving(closes_second(socket.socket.close), context) as server, serving(proxy_handler()) as proxy:
        proxies = {"https": f"http://127.0.0.1:{proxy.port}"}
        with transport_to(server.url, ca_bundle=authority.file, proxies=proxies) as transport:
            fetch(transport)
            scope = new_scope()
            assert fetch(transport, scope=scope) == b"{}"
            assert scope.resends == 1
        assert [request.method for request in proxy.requests] == ["CONNECT", "CONNECT"]


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("secure", [False, True], ids=["to-http", "to-https"])
def test_proxy_may_itself_speak_tls(authority, context, secure):
    """A proxy reached by TLS forwards plain requests, and tunnels TLS inside TLS."""
    with serving(echo, context if secure else None) as server, serving(proxy_handler("u:p"), context) as proxy:
        proxies = {"all": f"https://u:p@localhost:{proxy.port}"}
        with transport_to(server.url, ca_bundle=authority.file, proxies=proxies) as transport:
            assert transport.warm_up(1) == 1
            assert [fetch(transport, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]


# --- limits and cancels below the encryption -------------------------------------------------------------------------------


@pytest.mark.over_http2("fallback")
def test_stalled_handshake_ends_at_limit(authority):
    """A stalled handshake ends at the limit for connecting: the peer accepts and stays silent."""
    with serving(lambda sock, server: server.released.wait(PATIENCE)) as server:
        url = f"https://localhost:{server.port}"
        with transport_to(url, ca_bundle=authority.file) as transport:
            started = time.monotonic()
            with pytest.raises(ConnectTimeoutError) as caught:
                send(transport, scope=new_scope(None, connect=0.1))
            assert time.monotonic() - started < PATIENCE / 4
    assert (caught.value.sent, caught.value.retryable) == (False, True)


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize(
    "handler",
    [
        hanging(),
        hanging(b"HTTP/1.1 200 OK\r\nX-"),
        drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        drip(CHUNKED, b"1\r\na\r\n"),
    ],
    ids=["silence", "half-head", "head-dripped", "body-dripped"],
)
def test_slow_answers_end_at_limit(authority, context, handler):
    """A slow answer ends at the limit, however its bytes trickle in."""
    with serving(handler, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        started = time.monotonic()
        with pytest.raises(ReadTimeoutError) as caught:
            fetch(transport, scope=LimitFromSending(0.3))
        assert time.monotonic() - started < PATIENCE / 4
        assert caught.value.sent is True


@pytest.mark.over_http2("fallback")
def test_unread_send_ends_at_limit(authority, context):
    """A send of 50 MB to a peer that does not read ends at the limit."""
    with serving(lambda sock, server: server.released.wait(PATIENCE), context) as server:
        with transport_to(server.url, ca_bundle=authority.file) as transport:
            started = time.monotonic()
            with pytest.raises(ReadTimeoutError) as caught:
                send(transport, bytes(50_000_000), scope=LimitFromSending(0.3, first=True))
            assert time.monotonic() - started < PATIENCE / 4
            assert caught.value.sent is None


@pytest.mark.over_http2("fallback")
def test_cancel_wakes_a_handshake(authority):
    """A cancel wakes a handshake; not sent."""
    with serving(lambda sock, server: (server.read(sock), server.released.wait(PATIENCE))) as server:
        with transport_to(f"https://localhost:{server.port}", ca_bundle=authority.file) as transport:
            scope = new_scope(None)
            assert (
                cancelled_while(
                    transport,
                    scope,
                    lambda: isinstance(scope._bound, ssl.SSLSocket),
                    lambda: send(transport, scope=scope),
                )
                is False
            )


@pytest.mark.over_http2("fallback")
def test_cancel_wakes_a_blocked_send(authority, context):
    """A cancel wakes a blocked send; partly sent."""
    begun = threading.Event()

    def handler(sock, server):
        sock.recv(1000)
        begun.set()
        server.released.wait(PATIENCE)

    with serving(handler, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        scope = new_scope(None)
        assert (
            cancelled_while(transport, scope, begun.is_set, lambda: send(transport, bytes(50_000_000), scope)) is None
        )


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n",)], ids=["nothing", "half-head"])
def test_cancel_wakes_head_read(authority, context, parts):
    """A cancel wakes a read of the head; the request was sent."""
    with serving(hanging(*parts), context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        scope = new_scope(None)
        assert (
            cancelled_while(
                transport,
                scope,
                lambda: scope.sent_at is not None and server.requests,
                lambda: send(transport, scope=scope),
            )
            is True
        )


@pytest.mark.over_http2("fallback")
@pytest.mark.parametrize(
    "head",
    [CHUNKED + chunk(b"a"), answer(b"a" * 9)[:-8], b"HTTP/1.1 200 OK\r\n\r\na"],
    ids=["chunked", "content-length", "close-delimited"],
)
def test_cancel_wakes_body_read(authority, context, head):
    """No ciphertext is taken for the body, and its end not for the end of the answer."""
    with serving(hanging(head), context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        scope = new_scope(None)
        response = send(transport, scope=scope)
        assert response.read1() == b"a"
        blocked = threading.Event()

        def work():
            blocked.set()
            response.read_body(LIMIT)

        assert cancelled_while(transport, scope, blocked.is_set, work) is True


@pytest.mark.over_http2("fallback")
def test_cut_tls_body_is_incomplete(authority, context):
    """A connection that ends without close_notify leaves the body incomplete."""
    with serving(once(answer(b"a" * 9)[:-8], end=reset), context) as server:
        with transport_to(server.url, ca_bundle=authority.file) as transport:
            response = send(transport)
            with pytest.raises(IncompleteResponseError):
                response.read_body(LIMIT)


@pytest.mark.over_http2("fallback")
def test_ready_sees_decrypted_bytes(authority, context):
    """More than one record arrives at once: poll() does not see the bytes that TLS has decrypted already."""
    with serving(hanging(CHUNKED + chunk(b"a\n" * 20_000)), context) as server:
        with transport_to(server.url, ca_bundle=authority.file) as transport:
            scope = new_scope()
            response = send(transport, scope=scope)
            lines = 0
            while lines < 20_000:
                assert response.ready(PATIENCE)
                lines += len(response.read_lines())
            assert not response.ready(0.01)
            response.close()


@pytest.mark.over_http2("fallback")
def test_full_backlog_hits_connect_limit(authority):
    """A full backlog, in which TCP itself stalls, ends at the limit for connecting."""
    with full_backlog() as port:
        with transport_to(f"https://127.0.0.1:{port}", ca_bundle=authority.file) as transport:
            with pytest.raises(ConnectTimeoutError):
                send(transport, scope=new_scope(None, connect=0.1))


def test_context_pins_its_protocols(authority):
    """The protocols of a context are fixed: urllib3 would set them on the shared context before every handshake."""
    context = tls_context(authority.file, None)
    assert context.set_alpn_protocols(["h2"]) is None


@pytest.mark.over_http2("fallback")
def test_record_leftovers_are_no_answer(authority, context):
    """Bytes after the body in its record, decrypted where poll() does not see them, are never an answer."""

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            sock.sendall(b"mine" + answer(b"poison"))

    with serving(handler, context) as server, transport_to(server.url, ca_bundle=authority.file) as transport:
        assert [fetch(transport) for _ in range(3)] == [b"mine"] * 3
        assert server.connections == 3
