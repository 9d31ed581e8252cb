"""The setting ``http2``: negotiation, fallback, proxies, warm-up, closing, secrets, forks."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import responses
from support import http2_real
from support.certificates import new_authority
from support.fakes import PATIENCE
from support.http2_real import Hypercorn, Nginx, shared_nginx
from support.http2_scene import (
    KEY,
    MODEL,
    QUICK,
    SSE,
    alive,
    answer,
    attempt,
    begin,
    completion,
    held,
    idle,
    in_threads,
    provider_on,
    running,
    text_of,
)
from support.http2_servers import Http2Server, authority, until
from support.leaks import PROMPT, PROMPT_PARTS, assert_hidden, objects_of, texts_of
from support.servers import proxy_handler, serving
from support.transports import fork, join, needs_fork

from groq_provider import CancelToken, GroqProvider, Timeouts
from groq_provider import errors as e
from groq_provider.testing import Emulator
from groq_provider.transport.http2.stream import Stream

SECRETS = ["http2_canary", "0123456789ab"]

# --- what is negotiated --------------------------------------------------------------------------------------------------------


class Either(Http2Server):
    """Answers over HTTP/1.1 and HTTP/2 alike."""

    async def other_answer(self, lines, body):
        return completion("over 1.1")


def test_http2_chosen_where_offered():
    """ALPN chooses the protocol in the handshake: no request is spent on it."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        assert provider.generate("x").content == "x"
        assert provider.generate_stream("x").collect().content == "x"
        assert (server.connections, len(server.requests), server.others) == (1, 2, [])


def test_default_is_http1():
    """Without the setting HTTP/1.1 is used, although the server speaks HTTP/2."""
    with Either(answer) as server, provider_on(server, http2=False) as provider:
        assert provider.generate("x").content == "over 1.1"
        assert (server.connections, server.others) == (0, ["http/1.1"])


@pytest.mark.parametrize("protocols", [("http/1.1",), ()], ids=["http/1.1", "no ALPN"])
def test_server_without_http2_gets_http1(protocols):
    """The fallback works with any reply to ALPN, or none; the negotiated connection is used."""
    with Either(protocols=protocols) as server, provider_on(server) as provider:
        for _ in range(3):
            assert provider.generate("x").content == "over 1.1"
        assert server.others == [protocols[0] if protocols else None]
        assert server.requests == []


@pytest.mark.parametrize("protocols", [("http/1.1",), ()], ids=["http/1.1", "no ALPN"])
def test_fifty_first_calls_fall_back(protocols):
    """Fifty calls at once fall back: none fails, and none waits for the answer of another."""
    with Either(protocols=protocols) as server, provider_on(server) as provider:
        answers = in_threads(50, lambda number: provider.generate(f"x{number}").content)
        assert answers == ["over 1.1"] * 50
        assert len(server.others) <= 51
        assert idle(provider)


def test_plain_base_url_uses_http1():
    """A base URL without TLS uses HTTP/1.1: there is no handshake to negotiate in."""
    with Emulator(speed=0) as emulator:
        with GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url, http2=True) as provider:
            assert provider.generate("x").content
            assert provider.generate_stream("x").collect().content
        assert emulator.requests[-1].headers["host"].startswith("127.0.0.1")


def test_certificates_are_checked():
    """An unknown certificate authority is refused, as over HTTP/1.1."""
    stranger = str(authority().folder / "stranger.pem")
    new_authority().cert_pem.write_to_path(stranger)
    with Http2Server(answer) as server, provider_on(server, ca_bundle=stranger) as provider:
        errors = in_threads(8, lambda _: attempt(lambda: provider.generate("x")))
        assert {type(error) for error in errors} == {e.TLSError}
        assert {error.sent for error in errors} == {False}
        assert server.requests == []


def test_missing_library_names_its_extra():
    """A missing extra is reported at construction, not by the first call."""
    program = """
        import sys
        sys.modules["h2"] = None
        from groq_provider import ConfigurationError, GroqProvider
        GroqProvider(api_key="gsk_test").close()
        try:
            GroqProvider(api_key="gsk_test", http2=True)
        except ConfigurationError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "groq_provider[http2]" in done.stdout or "groq-provider[http2]" in done.stdout


def test_http1_never_loads_library():
    """Importing the package, and HTTP/1.1, do not load the h2 library: only those who use HTTP/2 pay its 60 ms."""
    program = """
        import sys
        from groq_provider import GroqProvider
        from groq_provider.testing import Emulator
        with Emulator(speed=0) as emulator, GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url) as provider:
            provider.generate("x")
        print(sorted(name for name in ("h2", "hpack", "hyperframe") if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


# --- real servers --------------------------------------------------------------------------------------------------------------


def test_required_nginx_is_there(monkeypatch):
    """With GROQ_PROVIDER_REQUIRE_NGINX=1 a missing nginx fails the tests that need it; otherwise they are skipped."""
    if http2_real.REQUIRED:
        assert shared_nginx().port
    monkeypatch.setattr(http2_real, "NGINX", None)
    for required, outcome in ((True, pytest.fail.Exception), (False, pytest.skip.Exception)):
        monkeypatch.setattr(http2_real, "REQUIRED", required)
        with pytest.raises(outcome, match="needs nginx"):
            http2_real.need_nginx()


def test_nginx_in_front_of_emulator():
    """Answers and streams through nginx, many at once, over one connection."""
    with Emulator(speed=0) as emulator, Nginx(int(emulator.base_url.rpartition(":")[2])) as server:
        with provider_on(server, default_model="openai/gpt-oss-20b") as provider:

            def ask(number):
                prompt = f"unique-{number}-prompt"
                plain = provider.generate(prompt).content
                with provider.generate_stream(prompt) as stream:
                    return plain.startswith(prompt) and text_of(stream).startswith(prompt)

            assert all(in_threads(40, ask))
            assert until(lambda: len(server.requests()) == 80)
            assert len(server.connections()) == 1
            assert {line.split()[2] for line in server.requests()} == {"HTTP/2.0"}
            assert idle(provider)


def test_hypercorn_serves_many_streams(unhurried):
    """Answers and streams through a server written in Python, which ends a stream in a frame of its own."""
    with Hypercorn() as server, provider_on(server) as provider:

        def ask(number):
            words = {"x-script": f'{{"words": ["{number}", " and", " more"], "pace": 0.01}}'}
            plain = provider.generate("x", extra_headers=words).content
            with provider.generate_stream("x", extra_headers=words) as stream:
                return plain == text_of(stream) == f"{number} and more"

        assert all(in_threads(40, ask))
        assert server.state()["left"] == 0


@pytest.mark.parametrize("kind", ["nginx", "hypercorn"])
def test_left_stream_ends_server_work(kind):
    """RST_STREAM reaches the application: closing one of three streams ends that one, and the others are complete."""
    with contextlib.ExitStack() as stack:
        if kind == "nginx":
            from groq_provider.testing import Reply

            emulator = stack.enter_context(Emulator(speed=0))
            pace = threading.Event()
            emulator.enqueue(Reply(chunks=["word "] * 5000, gate=lambda _: pace.wait(0.02), times=3))
            place = f"{shared_nginx().url}/to/{emulator.base_url.rpartition(':')[2]}"  # nginx keeps no connections to the server behind it
            provider = stack.enter_context(provider_on(place, default_model="openai/gpt-oss-20b"))
            streams = [provider.generate_stream("x") for _ in range(3)]
            for stream in streams:
                next(stream)
            assert emulator.open_connections == 3
            streams[0].close()
            assert emulator.wait_until(lambda emulator: emulator.open_connections == 2)
            pace.set()
            assert [stream.collect().content for stream in streams[1:]] == ["word " * 5000] * 2
            return
        server = stack.enter_context(Hypercorn())
        provider = stack.enter_context(provider_on(server))
        script = {"x-script": '{"words": ["one", " two"], "hold": "go", "after": 1}'}
        streams = [provider.generate_stream("x", extra_headers=script) for _ in range(3)]
        assert [next(stream).content for stream in streams] == ["one"] * 3
        streams[0].close()
        assert server.wait(left=1, ended=1)
        server.release("go")
        assert [stream.collect().content for stream in streams[1:]] == ["one two"] * 2


def test_hypercorn_limit_costs_no_call():
    """hypercorn ends a connection at its thousandth request, with an error and all calls under way: the retry policy repeats those."""
    with Hypercorn(keep_alive_max_requests=50) as server, provider_on(server, retry=QUICK) as provider:
        answers = in_threads(4, lambda number: [provider.generate(f"{number}.{n}").content for n in range(75)])
        assert answers == [[f"{number}.{n}" for n in range(75)] for number in range(4)]
        assert idle(provider)


def test_nginx_limit_costs_no_call():
    """nginx sends GOAWAY after so many requests of a connection: no call fails, and none is sent twice."""
    json = '{"choices": [{"index": 0, "message": {"role": "assistant", "content": "$http_x_tag"}, "finish_reason": "stop"}]}'
    lines = f"location /openai/ {{ default_type application/json; return 200 '{json}'; }}"
    with Nginx(server=lines + " keepalive_requests 100;") as server, provider_on(server) as provider:

        def ask(number):
            tags = [f"{number}.{call}" for call in range(100)]
            found = [provider.generate("x", extra_headers={"x-tag": tag}) for tag in tags]
            return [response.content for response in found] == tags

        assert all(in_threads(10, ask))
        assert len(server.connections()) >= 10
        assert idle(provider)


# --- connections: how many, and when -------------------------------------------------------------------------------------------


def test_warm_up_makes_only_handshake():
    """A warm-up opens the connection that later calls use: one handshake in all."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        assert provider.warm_up(1) == 1
        assert server.wait(lambda: server.connections == 1)
        assert server.requests == []
        assert in_threads(20, lambda number: provider.generate(f"x{number}").content) == [f"x{n}" for n in range(20)]
        assert server.connections == 1


@pytest.mark.parametrize("count", [5, 40])
def test_large_warm_up_opens_few(count):
    """A warm-up for many calls opens no more than they need: that many places are ready on few connections."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        assert provider.warm_up(count) == count
        opened = server.connections
        assert opened <= count
        in_threads(count, lambda number: provider.generate(f"x{number}"))
        assert server.connections == opened
        assert opened < 10


def test_prewarm_is_done_at_construction():
    """``prewarm`` opens the connection at construction, or right after it; the first call makes no handshake."""
    with Http2Server(answer) as server, provider_on(server, prewarm=2) as provider:
        assert server.wait(lambda: server.connections == 1)
        assert server.requests == []
        in_threads(2, lambda number: provider.generate(f"x{number}"))
        assert server.connections == 1


def test_warm_up_tolerates_absent_server():
    """A warm-up of an unreachable server counts nothing, raises nothing and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with provider_on(f"https://127.0.0.1:{port}") as provider:
        assert provider.warm_up(3) == 0


def test_connection_cap_counts_requests():
    """``max_connections`` counts requests, as over HTTP/1.1; its error says so."""
    with Http2Server(held()) as server, provider_on(server, max_connections=3) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(3)]
        with pytest.raises(e.PoolTimeoutError):
            provider.generate("more", timeout=Timeouts(first_token=0.3))
        streams[0].close()
        assert provider.generate("more").content == "more"
        server.release()
        assert [stream.collect().content for stream in streams[1:]] == ["one two"] * 2
        assert max(peer.most for peer in server.peers) == 3


def test_cold_start_needs_one_handshake():
    """A cold start of fifty calls needs one handshake where HTTP/1.1 needs fifty."""

    async def script(request):
        import asyncio

        await request.whole()
        await asyncio.sleep(0.1)
        await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        assert in_threads(50, lambda number: provider.generate(f"x{number}").content) == [f"x{n}" for n in range(50)]
        assert server.connections == 1


# --- proxies -------------------------------------------------------------------------------------------------------------------


def test_streams_share_one_tunnel():
    """CONNECT carries the proxy's credentials; the proxy sees neither the key nor the requests."""
    with Http2Server(held()) as server, serving(proxy_handler("me:s3cret")) as proxy:
        proxies = {"https": f"http://me:s3cret@127.0.0.1:{proxy.port}"}
        with provider_on(server, proxies=proxies) as provider:
            streams = in_threads(10, lambda number: provider.generate_stream(f"x{number}"))
            assert [next(stream).content for stream in streams] == ["one"] * 10
            server.release()
            assert [stream.collect().content for stream in streams] == ["one two"] * 10
        assert server.connections == 1
        assert not any("proxy-authorization" in request.headers for request in server.requests)
        (request,) = proxy.requests
        assert (request.method, request.target) == ("CONNECT", f"localhost:{server.port}")
        assert "authorization" not in request.headers


def test_environment_tunnels_are_used(monkeypatch):
    """A tunnel by the environment's proxy, as over HTTP/1.1."""
    with Http2Server(answer) as server, serving(proxy_handler()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with provider_on(server) as provider:
            assert alive(provider)
        assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    ("refuse", "retryable"),
    [("407 Proxy Authentication Required", False), ("502 Bad Gateway", True)],
    ids=["407", "502"],
)
def test_refused_tunnel_is_proxy_error(refuse, retryable):
    """A refused tunnel is a proxy error for each call that waits for the connection; not sent."""
    with serving(proxy_handler(refuse=refuse)) as proxy:
        proxies = {"https": f"http://me:pw-canary@127.0.0.1:{proxy.port}"}
        with provider_on("https://localhost:9", proxies=proxies) as provider:
            errors = in_threads(5, lambda _: attempt(lambda: provider.generate("x")))
    for error in errors:
        assert type(error) is e.ProxyError
        assert (error.sent, error.retryable) == (False, retryable)
        assert "pw-canary" not in repr(error) + repr(error.__cause__)


def test_tunnel_without_http2_falls_back():
    """A tunnel to a server without HTTP/2 falls back."""
    with Either(protocols=("http/1.1",)) as server, serving(proxy_handler()) as proxy:
        with provider_on(server, proxies={"https": f"http://127.0.0.1:{proxy.port}"}) as provider:
            for _ in range(3):
                assert provider.generate("x").content == "over 1.1"
        assert len(proxy.requests) == len(server.others) == 1


# --- closing -------------------------------------------------------------------------------------------------------------------


def test_closing_ends_streams_and_calls():
    """Closing ends each call under way at once with its own error; the connection is gone, and later calls are refused."""

    async def script(request):
        await request.whole()
        if request.headers["accept"] == "text/event-stream":
            await begin(request, "one")
        await request.left()

    with Http2Server(script) as server:
        with provider_on(server) as provider:
            streams = [provider.generate_stream("x") for _ in range(5)]
            for stream in streams:
                next(stream)
            works = [lambda stream=stream: attempt(stream.collect) for stream in streams]
            works += [lambda: attempt(lambda: provider.generate("x"))] * 5
            with running(*works) as results:
                assert server.wait(lambda: server.open_streams == 10)
                started = time.monotonic()
                provider.close()
            assert time.monotonic() - started < PATIENCE / 2
            assert {type(error) for error in results} == {e.ProviderClosedError}
            assert [error.partial.content for error in results[:5]] == ["one"] * 5
            assert server.wait(lambda: server.peers[0].gone)
            for use in (provider.generate, provider.generate_stream):
                with pytest.raises(e.ProviderClosedError):
                    use("x")
            assert idle(provider)


def test_closing_during_calls_leaves_nothing():
    """Calls that begin and end while the provider is closed get an answer or the error for it, and leave no connection."""
    with Http2Server(answer) as server:
        for _ in range(5):
            with provider_on(server) as provider:

                def ask(number, provider=provider):
                    found = []
                    while not found or not isinstance(found[-1], e.GroqProviderError):
                        found.append(attempt(lambda: provider.generate(f"x{number}").content))
                    return found

                with running(*[lambda number=number: ask(number) for number in range(8)]) as results:
                    assert server.wait(lambda: len(server.requests) > 50)
                    provider.close()
                for number, found in enumerate(results):
                    assert set(found[:-1]) <= {f"x{number}"}
                    assert type(found[-1]) is e.ProviderClosedError
            server.requests.clear()
        assert server.wait(lambda: not server.open_connections)


def test_lock_holder_closes_rest():
    """A thread that finds the lock held leaves closing to its holder, even to one that only waited in vain."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        assert alive(provider)
        (connection,) = provider._transport.adapter._pool._connections
        with connection._lock:
            connection._end_connection(ConnectionResetError, ("over",))
        assert server.open_connections == 1
        assert not connection.wait(Stream(connection), PATIENCE)
        assert server.wait(lambda: not server.open_connections)


def test_forgotten_provider_leaves_no_connection():
    """A provider that is garbage, unclosed, leaves no connection."""
    with Http2Server(answer) as server:
        provider = GroqProvider(
            api_key=KEY, base_url=server.url, http2=True, default_model=MODEL, ca_bundle=authority().file
        )
        alive(provider)
        del provider
        gc.collect()
        assert server.wait(lambda: not server.open_connections)


def test_a_provider_shows_its_connections():
    """The repr of the transport shows its state, without secrets."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x"):
            shown = repr(provider._transport) + repr(provider)
        assert KEY not in shown
        assert "localhost" in shown


def test_pickled_provider_speaks_http2_again(monkeypatch):
    """A provider is pickled without its key, which comes from the environment again."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)
        copied = pickle.dumps(provider)
        assert KEY.encode() not in copied
        monkeypatch.setenv("GROQ_API_KEY", KEY)
        with contextlib.closing(pickle.loads(copied)) as other:
            alive(other)
        assert server.connections == 2


# --- other ways in -------------------------------------------------------------------------------------------------------------


@responses.activate
def test_the_responses_library_still_works():
    """The mocks of the ``responses`` library answer, plain and as a stream, without a connection."""
    place = "https://mocked.test/openai/v1/chat/completions"
    responses.post(place, body=completion("mocked"), content_type="application/json")
    responses.post(
        place,
        body=b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
        content_type="text/event-stream",
    )
    with provider_on("https://mocked.test") as provider:
        assert provider.generate("x").content == "mocked"
        assert provider.generate_stream("x").collect().content == "a"
        assert len(responses.calls) == 2
        assert idle(provider)


def test_foreign_sends_pass_through_adapter():
    """``session.get()`` on the provider's own session works, as over HTTP/1.1."""

    class Both(Either):
        async def answer(self, request):
            await request.whole()
            await request.json(completion("over 2"))

    with Both() as server, provider_on(server) as provider:
        session = provider._transport.session
        found = session.get(server.url + "/openai/v1/models", timeout=PATIENCE)
        assert found.status_code == 200
        # As foreign code expects of an adapter.
        assert found.json()["choices"][0]["message"]["content"] == "over 1.1"
        assert provider.generate("x").content == "over 2"


def test_content_codings_are_refused():
    """A content coding that was not requested is refused by name, as over HTTP/1.1."""

    async def script(request):
        await request.whole()
        request.head(200, ("content-type", "application/json"), ("content-encoding", "gzip"))
        await request.data(b"whatever", end=True)

    with Http2Server(script) as server, provider_on(server) as provider:
        with pytest.raises(e.ResponseDecodeError, match="content coding 'gzip', which was not asked for"):
            provider.generate("x")


@pytest.mark.parametrize("status", [302, 307])
def test_redirects_are_refused(status):
    """Redirects are refused, naming the host they point to."""

    async def script(request):
        await request.whole()
        request.head(status, ("location", "https://elsewhere.test/x"), end=True)

    with Http2Server(script) as server, provider_on(server) as provider:
        with pytest.raises(e.RedirectRefusedError):
            provider.generate("x")
        assert len(server.requests) == 1


# --- secrets -------------------------------------------------------------------------------------------------------------------


async def fails_before(request):
    request.abort()


async def fails_inside(request):
    request.head(200, SSE)
    await request.data(b"data: ")
    request.abort()


async def fails_whole(request):
    request.peer.write(b"\xff" * 50)


async def fails_by_silence(request):
    await request.left()


async def fails_by_leaving(request):
    request.peer.goaway(0)
    request.peer.cut()


async def fails_by_echo(request):
    """All that was sent comes back where it is not expected."""
    request.peer.write(f"{request.headers} {bytes(request.body)}".encode())


FAILURES = [fails_before, fails_inside, fails_whole, fails_by_silence, fails_by_leaving, fails_by_echo]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("work", FAILURES, ids=lambda work: work.__name__)
def test_key_and_prompt_show_nowhere(work, stream, caplog):
    """Key and prompt are in no error or its causes, no log of ours or of the h2 library, and no repr."""
    caplog.set_level(logging.DEBUG)

    async def script(request):
        await request.whole()
        await work(request)

    hidden = [*SECRETS, *PROMPT_PARTS]
    with (
        Http2Server(script) as server,
        provider_on(server, timeout=Timeouts(connect=PATIENCE, first_token=0.3)) as provider,
    ):
        with pytest.raises(e.GroqProviderError) as caught:
            provider.generate_stream(PROMPT).collect() if stream else provider.generate(PROMPT)
        error = caught.value
        assert_hidden(texts_of(error), hidden)
        assert_hidden(objects_of(provider), hidden)
        pool = provider._transport.adapter._pool
        assert_hidden([repr(pool), repr(copy.copy(vars(pool))), repr(pool._connections)], hidden)
        assert_hidden([caplog.text], hidden)
        server.complaints.clear()


# --- forks ---------------------------------------------------------------------------------------------------------------------


@needs_fork
def test_fork_shares_no_connection():
    """Parent and child send at once after the fork: every answer is the sender's own, and the parent's connection goes on."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)

        def work():
            return all(provider.generate(f"child {n}").content == f"child {n}" for n in range(50))

        child = fork(work)
        assert all(provider.generate(f"parent {n}").content == f"parent {n}" for n in range(50))
        assert join(child) == 0
        assert alive(provider)
        assert server.connections == 2
        assert all(b"child" not in bytes(request.body) for request in server.peers[0].requests.values())


@needs_fork
@pytest.mark.parametrize("how", ["cancel", "token", "close", "provider", "garbage", "read", "exit"])
def test_child_cannot_touch_parents_streams(how):
    """Whatever the child does with its copies, no byte of it reaches the parent's connection: its streams are complete."""
    import groq_provider

    with Http2Server(held()) as server, provider_on(server) as provider:
        tokens = [CancelToken() for _ in range(5)]
        streams = [provider.generate_stream(f"x{number}", cancel=tokens[number]) for number in range(5)]
        assert [next(stream).content for stream in streams] == ["one"] * 5
        before = server.peers[0].received

        def work():
            for number, stream in enumerate(streams):
                if how == "cancel":
                    stream.cancel()
                    stream.close()
                elif how == "token":
                    tokens[number].cancel()
                elif how == "close":
                    stream.close()
                elif how == "read":
                    with pytest.raises(RuntimeError, match="belongs to the process"):
                        stream.poll(0.01)
            if how == "provider":
                provider.close()
            elif how == "garbage":
                streams.clear()
                gc.collect()
            elif how == "exit":
                groq_provider.call.registry._settle_all()
            return True

        assert join(fork(work)) == 0
        assert server.peers[0].received == before
        assert server.resets == []
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 5
        assert alive(provider)
        assert server.connections == 1


@needs_fork
def test_fork_while_threads_are_busy():
    """A fork while eight threads read and send: ten children are each answered on a connection of their own."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        stop = threading.Event()

        def busy(number):
            count = 0
            while not stop.is_set():
                count += 1
                assert provider.generate(f"p{number}.{count}").content == f"p{number}.{count}"
            return count

        with running(*[lambda number=number: busy(number) for number in range(8)]) as counts:
            assert server.wait(lambda: len(server.requests) > 20)
            for child in range(10):

                def work(child=child):
                    assert provider.generate(f"c{child}").content == f"c{child}"
                    with provider.generate_stream(f"c{child}") as stream:
                        return text_of(stream) == f"c{child}"

                assert join(fork(work)) == 0
            stop.set()
        assert all(isinstance(count, int) and count for count in counts), counts
        assert alive(provider)


@needs_fork
def test_child_starts_with_free_locks():
    """Threads of the parent hold every lock of the transport while it forks."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            next(stream)
            pool = provider._transport.adapter.pool()
            locks = list(_locks_of(pool))
            assert locks
            with contextlib.ExitStack() as stack:
                for lock in locks:
                    if lock.acquire(timeout=PATIENCE):
                        stack.callback(lock.release)
                child = fork(lambda: provider.generate("child").content == "child")
                assert join(child) == 0
            server.release()
            assert stream.collect().content == "one two"


def _locks_of(pool):
    """The locks of a pool and of its connections."""
    kind = type(threading.Lock())
    pending, seen = [pool], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        for value in [getattr(item, name, None) for name in ("__dict__",)]:
            for found in (value or {}).values():
                if isinstance(found, kind) and not found.locked():
                    yield found
                elif isinstance(found, list):
                    pending += found
                elif type(found).__module__.startswith("groq_provider.transport"):
                    pending.append(found)


def test_spawned_process_has_own_connections():
    """A spawned process has connections of its own."""
    with Http2Server(answer) as server:
        program = (
            "import sys; from groq_provider import GroqProvider\n"
            "with GroqProvider(api_key='gsk_test', base_url=sys.argv[1], ca_bundle=sys.argv[2], http2=True, default_model='m') as p:\n"
            "    print(p.generate('hello').content)"
        )
        words = [sys.executable, "-W", "error", "-c", program, server.url, authority().file]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
        assert done.stdout.strip() == "hello", done.stderr
        assert server.wait(lambda: server.peers and server.peers[0].gone)
        assert server.peers[0].goaways in ([], [0])
