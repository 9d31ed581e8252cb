"""Secrets: the key, the credentials of a proxy and the prompt are searched wherever something is shown, kept or sent.

The table is section 1b of the design notes; redirects are case 70 of the fault matrix.
"""

from __future__ import annotations

import copy
import http.client
import json
import logging
import pickle
import ssl
import threading
import traceback

import pytest
import requests
from support.fakes import PATIENCE
from support.leaks import (
    HEADER,
    KEY,
    KEY_PARTS,
    PROMPT,
    PROMPT_PARTS,
    PROXY_PASSWORD,
    PROXY_USER,
    assert_hidden,
    frames_of,
    objects_of,
    texts_of,
    watched,
)
from support.servers import always, answer, chunk, hanging, once, proxy_handler, refusing_port, reset, serving

from groq_provider import (
    CancelToken,
    FallbackProvider,
    GroqProvider,
    LLMRequest,
    Message,
    ProviderConfig,
    RateLimits,
    RetryPolicy,
    Timeouts,
)
from groq_provider import errors as e

MODEL = "openai/gpt-oss-20b"
SHORT = Timeouts(connect=PATIENCE, first_token=0.3, idle=0.3)
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
SSE = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"


# --- what could go wrong -----------------------------------------------------------------------------------------------------

#: What is shown of it is shown as it was written, but for the key: these do not quote the prompt, so that all of it is ours.
ECHO = {"error": {"message": f"you sent {KEY} and asked", "type": KEY, "code": KEY, "param": KEY}}
LONG_ECHO = {"error": {"message": f"{'x' * 480} {KEY} {'x' * 480}", "type": "t"}}
QUOTE = {"error": {"message": f"you asked {PROMPT}", "type": PROMPT, "code": PROMPT, "param": PROMPT}}


def event(data, name=""):
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def status(code, body, *headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return always(answer(data, *(headers or (JSON,)), status=f"{code} Because"))


def stream_of(*events):
    return once(answer(b"".join(events), SSE))


WORD = event({"choices": [{"delta": {"content": "one"}}]})
PLAIN_TEXT = f"oh no: {KEY} said {PROMPT}".encode()
LIMIT = {
    "error": {
        "message": f"Rate limit reached for {KEY}. Please try again in 1h2m.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
}


def closing(sock, server):
    server.read(sock)


def resetting(sock, server):
    server.read(sock)
    reset(sock)


#: What the server does, and for which kinds of call it is an error.
FAULTS = {
    "400": status(400, ECHO),
    "400-long": status(400, LONG_ECHO),
    "401": status(401, ECHO),
    "403": status(403, ECHO),
    "404": status(404, ECHO),
    "413": status(413, ECHO),
    "429": status(429, LIMIT),
    "500": status(500, ECHO),
    "503-text": status(503, b"oh no: " + KEY.encode(), "Content-Type: text/plain"),
    "502-page": status(502, b"<html><title>" + KEY.encode() + b"</title>" + PLAIN_TEXT + b"</html>", "Content-Type: text/html"),
    "500-large": status(500, (b"oh no: " + KEY.encode()) * 9000, "Content-Type: text/plain"),
    "redirect": status(307, b"", f"Location: https://{PROXY_USER}:{PROXY_PASSWORD}@elsewhere.test/{KEY}?key={KEY}"),
    "empty": always(answer(b"")),
    "204": always(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "no-json": always(answer(PLAIN_TEXT, JSON)),
    "page": always(answer(b"<html>" + PLAIN_TEXT + b"</html>", "Content-Type: text/html")),
    "wrong-type": always(answer(json.dumps({"choices": KEY, "x": PROMPT}).encode(), JSON)),
    "half-json": always(answer(json.dumps(ECHO).encode()[:-20], JSON)),
    "false-gzip": always(answer(PLAIN_TEXT, JSON, "Content-Encoding: gzip")),
    "cut-body": once(answer(PLAIN_TEXT, JSON)[:-5]),
    "closed": closing,
    "reset": resetting,
    "no-http": once(PLAIN_TEXT + b"\r\n\r\n"),
    "bad-length": once(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n" + PLAIN_TEXT),
    "long-header": once(b"HTTP/1.1 200 OK\r\nX: " + KEY.encode() * 4000 + b"\r\n\r\n"),
    "many-headers": once(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: " % n + KEY.encode() + b"\r\n" for n in range(200)) + b"\r\n"),
    "bad-chunk": once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + JSON.encode() + b"\r\n\r\nzz" + KEY.encode() + b"\r\n"),
    "silence": hanging(),
    "half-head": hanging(b"HTTP/1.1 200 OK\r\nX-Echo: " + KEY.encode()),
}  # fmt: skip
STREAM_FAULTS = {
    "error-event": stream_of(WORD, event(ECHO, "error")),
    "error-event-first": stream_of(event({"error": {**ECHO["error"], "status_code": 400}}, "error")),
    "error-event-unnamed": stream_of(WORD, event(ECHO)),
    "x-groq-error": stream_of(WORD, event({"choices": [], "x_groq": {"error": f"{KEY} was it"}})),
    "event-no-json": stream_of(WORD, b"data: " + PLAIN_TEXT + b"\n\n"),
    "event-wrong-type": stream_of(WORD, event({"choices": PROMPT})),
    "cut-stream": stream_of(WORD),
    "stalled-stream": hanging(f"HTTP/1.1 200 OK\r\n{SSE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk(WORD)),
}


#: Of these the time limit is what ends the call.
SILENT = {"silence", "half-head", "stalled-stream"}


def provider_to(url, **settings):
    settings = {"timeout": PATIENT, "retry": RetryPolicy(max_retries=1, base_delay=0, throttle_delay=0), **settings}
    return GroqProvider(api_key=KEY, base_url=url, default_model=MODEL, headers={"X-Own": HEADER}, **settings)


def failure_of(provider, *, stream, prompt=PROMPT, **fields):
    """Make a call that fails; return its error."""

    def call():
        if stream:
            provider.generate_stream(prompt, **fields).collect()
        else:
            provider.generate(prompt, **fields)

    with pytest.raises(e.GroqProviderError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("name", "stream"),
    [*((name, False) for name in FAULTS), *((name, True) for name in [*FAULTS, *STREAM_FAULTS])],
    ids=lambda given: {True: "stream", False: "plain"}.get(given, given),
)
def test_failures_hide_key_and_prompt(name, stream, caplog, capsys):
    """No failure shows the key or the prompt, nor does the provider after it, nor a log, warning or print."""
    with watched(caplog, capsys), serving({**FAULTS, **STREAM_FAULTS}[name]) as server:
        with provider_to(server.url, timeout=SHORT if name in SILENT else PATIENT) as provider:
            error = failure_of(provider, stream=stream)
            shown = texts_of(error)
            objects = objects_of(provider)
        del error
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS, PROXY_PASSWORD, HEADER])
    assert_hidden(objects, [*KEY_PARTS, *PROMPT_PARTS, HEADER])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("code", [400, 429, 500])
def test_quoted_prompt_reaches_no_log(code, stream, caplog, capsys):
    """The error shows what the server wrote; nothing is logged or printed of it, nor is any of it in the summary."""
    with watched(caplog, capsys), serving(status(code, QUOTE)) as server, provider_to(server.url) as provider:
        error = failure_of(provider, stream=stream)
        assert PROMPT[:40] in str(error)
        assert_hidden([error.summary], [*KEY_PARTS, *PROMPT_PARTS])
        assert_hidden(objects_of(provider), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        del error


def local_failures():
    """Name calls that fail before anything is sent: settings, keyword arguments and the error."""

    class Odd:
        """Has no JSON form."""

    cancelled = CancelToken()
    cancelled.cancel()
    small = RateLimits(tpm=10, share=1.0)
    return {
        "too-large": ({"rate_limits": small}, {}, e.RequestTooLargeError),
        "rate-limit-timeout": ({"rate_limits": RateLimits(tpm=5000)}, {"max_tokens": 4000, "timeout": 0.1}, e.RateLimitTimeoutError),
        "cancelled": ({}, {"cancel": cancelled}, e.RequestCancelledError),
        "no-such-field": ({}, {"tempreature": 1}, e.InvalidRequestError),
        "bad-value": ({}, {"temperature": "hot"}, e.InvalidRequestError),
        "bad-header": ({}, {"extra_headers": {"X-Key": f"{KEY}\r\nX-More: 1"}}, e.InvalidRequestError),
        "bad-header-nul": ({}, {"extra_headers": {"X-Key": f"{KEY}\0"}}, e.InvalidRequestError),
        "bad-header-latin": ({}, {"extra_headers": {"X-Key": f"{KEY}\u0141"}}, e.InvalidRequestError),
        "own-authorization": ({}, {"extra_headers": {"Authorization": f"Bearer {KEY}"}}, e.InvalidRequestError),
        "no-json": ({}, {"extra_body": {"more": Odd(), "text": PROMPT}}, e.InvalidRequestError),
        "no-number": ({}, {"extra_body": {"more": float("nan"), "text": PROMPT}}, e.InvalidRequestError),
        "no-mapping": ({}, {"extra_body": [1]}, e.InvalidRequestError),
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", local_failures())
def test_refusals_hide_key_and_prompt(name, stream, caplog, capsys):
    """No refusal before sending shows the key or the prompt."""
    settings, fields, cls = local_failures()[name]
    with watched(caplog, capsys), serving(status(500, {})) as server, provider_to(server.url, **settings) as provider:
        if name == "rate-limit-timeout":
            provider._limiter.reserve(MODEL, prompt_tokens=10, max_output_tokens=4500).keep()
        error = failure_of(provider, stream=stream, **fields)
        shown = texts_of(error)
        objects = objects_of(provider)
        assert type(error) is cls
        assert server.requests == []
        del error
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS])
    assert_hidden(objects, [*KEY_PARTS, *PROMPT_PARTS])


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param([{"role": "user", "content": PROMPT, "colour": 1}], id="unknown field"),
        pytest.param([{"role": "user", "content": PROMPT}, {"content": 5, "role": "user"}], id="wrong type"),
        pytest.param([{"content": PROMPT}], id="missing field"),
        pytest.param({"role": "user", "content": PROMPT}, id="no sequence"),
        pytest.param(PROMPT.encode(), id="bytes"),
        pytest.param([PROMPT], id="a list of texts"),
        pytest.param([], id="nothing"),
    ],
)
def test_invalid_prompt_is_not_shown(prompt, caplog, capsys):
    """A prompt that is no prompt is not shown, neither by the message nor by the frames."""
    with watched(caplog, capsys), GroqProvider(api_key=KEY) as provider:
        for stream in (False, True):
            error = failure_of(provider, stream=stream, prompt=prompt)
            assert isinstance(error, e.InvalidRequestError)
            assert_hidden(texts_of(error), [*KEY_PARTS, *PROMPT_PARTS])
            del error


METHODS = [
    "generate",
    "generate_stream",
    "generate_many",
    "generate_many-message",
    "generate_many-wrong",
    "fallback.generate",
    "fallback.generate_stream",
    "fallback.generate_many",
]


def calls_of(provider):
    """Name every method that takes a prompt, and a way to call it that raises what a call ends with."""

    def first(results):
        with results:
            raise next(results).error

    both = FallbackProvider([(provider, MODEL)])
    fields = {"timeout": PATIENT}
    return {
        "generate": lambda **more: provider.generate(PROMPT, **{**fields, **more}),
        "generate_stream": lambda **more: provider.generate_stream(PROMPT, **{**fields, **more}).collect(),
        "generate_many": lambda **more: first(provider.generate_many([PROMPT], **{**fields, **more})),
        "generate_many-message": lambda **more: first(
            provider.generate_many([[{"role": "user", "content": PROMPT}]], **{**fields, **more})
        ),
        "generate_many-wrong": lambda **more: first(
            provider.generate_many([{"content": PROMPT}], **{**fields, **more})
        ),
        "fallback.generate": lambda **more: both.generate(PROMPT, **{**fields, **more}),
        "fallback.generate_stream": lambda **more: both.generate_stream(PROMPT, **{**fields, **more}).collect(),
        "fallback.generate_many": lambda **more: first(both.generate_many([PROMPT], **{**fields, **more})),
    }


@pytest.mark.parametrize(
    "more",
    [{}, {"temperature": "hot"}, {"tempreature": 1}, {"timeout": -1}, {"cancel": "now"}],
    ids=lambda more: next(iter(more), "refused"),
)
@pytest.mark.parametrize("name", METHODS)
def test_no_method_shows_its_prompt(name, more, caplog, capsys):
    """Whether the service refuses it or we do."""
    with watched(caplog, capsys), serving(FAULTS["400"]) as server, provider_to(server.url) as provider:
        with pytest.raises(e.InvalidRequestError) as caught:
            calls_of(provider)[name](**more)
        assert_hidden(texts_of(caught.value), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        del caught


@pytest.mark.parametrize(
    ("arguments", "cls"),
    [
        (("POST", "/responses"), e.InvalidRequestError),
        (("POST", "responses"), e.InvalidRequestError),
        (("P OST", "/responses"), e.InvalidRequestError),
    ],
    ids=["refused", "path", "method"],
)
@pytest.mark.parametrize("odd", [False, True], ids=["", "no-json"])
def test_endpoint_request_hides_body(arguments, cls, odd, caplog, capsys):
    """A request of another endpoint does not show its body, nor a body that cannot be sent."""
    body = {"input": PROMPT, "odd": object() if odd else 1}
    with watched(caplog, capsys), serving(FAULTS["400"]) as server, provider_to(server.url) as provider:
        with pytest.raises(cls) as caught:
            provider.request(*arguments, json=body, extra_headers={"X-Own": f"{KEY}"})
        assert_hidden(texts_of(caught.value), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        del caught


@pytest.mark.parametrize("arguments", [{"max_workers": 0}, {"timeout": "soon"}, {"cancel": 1}], ids=str)
@pytest.mark.parametrize("prompts", [[PROMPT], PROMPT], ids=["list", "text"])
def test_failed_bulk_start_hides_prompts(arguments, prompts):
    """A bulk run that cannot begin does not show its prompts, of a provider and of several as one."""
    with GroqProvider(api_key=KEY) as provider:
        for each in (provider, FallbackProvider([provider])):
            with pytest.raises(e.GroqProviderError) as caught:
                each.generate_many(prompts, **arguments)
            assert_hidden([frames_of(caught.value), str(caught.value)], [*KEY_PARTS, *PROMPT_PARTS])
            del caught


PLACES = ["limiter", "connect", "head", "body", "event"]


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_shows_nothing(place, monkeypatch, caplog, capsys):
    """A worker that is stopped (SystemExit, Ctrl-C) is reported with its frames like any other error."""

    class Stopped(BaseException):
        pass

    def strike(*_args, **_more):
        try:
            raise OSError("on the way")
        except OSError:
            raise Stopped  # noqa: B904 - with a context, as it has anywhere below

    targets = {
        "limiter": "groq_provider.ratelimit.limiter.TokenBucketRateLimiter.reserve",
        "connect": "socket.socket.connect",
        "head": "groq_provider.transport.http1.receive.ReceiveBuffer.receive",
        "body": "groq_provider.transport.requests_adapter.Response.read_body",
        "event": "groq_provider.wire.sse.EventDecoder.feed",
    }
    handler = stream_of(WORD) if place == "event" else always(answer(json.dumps(FINE).encode(), JSON))
    with watched(caplog, capsys), serving(handler) as server, provider_to(server.url) as provider:
        with monkeypatch.context() as patch:
            patch.setattr(targets[place], strike)
            with pytest.raises(Stopped) as caught:
                calls_of(provider)["generate_stream" if place == "event" else "generate"]()
        assert_hidden([frames_of(caught.value)], [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        if place != "event":  # whose frames hold what was read, and are ours
            assert caught.value.__context__ is None
            assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "boundary"
        assert provider._runtime.in_flight == 0
        del caught


def test_cancelled_closed_call_shows_nothing(caplog, capsys):
    """A cancelled or a closed call shows nothing, nor one that is out of time."""
    with watched(caplog, capsys), serving(hanging()) as server:
        for end in ("cancel", "close", "total"):
            provider, token = provider_to(server.url, timeout=PATIENT), CancelToken()
            count = len(server.requests) + 1
            pause = threading.Event()

            def act(end=end, provider=provider, token=token, count=count, pause=pause):
                while end != "total" and len(server.requests) < count:
                    pause.wait(0.001)
                {"cancel": token.cancel, "close": provider.close, "total": int}[end]()

            thread = threading.Thread(target=act)
            thread.start()
            with provider:
                timeout = 0.3 if end == "total" else None
                error = failure_of(provider, stream=False, cancel=token, timeout=timeout)
                thread.join(PATIENCE)
                assert_hidden(texts_of(error) + objects_of(provider), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
                del error


# --- connections that are not made -------------------------------------------------------------------------------------------


def test_a_refused_connection_shows_nothing(caplog, capsys):
    """Nobody listens."""
    with watched(caplog, capsys), refusing_port() as port, provider_to(f"http://127.0.0.1:{port}") as provider:
        error = failure_of(provider, stream=False)
        assert isinstance(error, e.APIConnectionError)
        assert_hidden(texts_of(error) + objects_of(provider), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        del error


def test_a_tls_failure_shows_nothing(caplog, capsys):
    """Plain HTTP on the port of TLS: never tried again, and nothing went out."""

    def handler(sock, server):
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        received.append(sock.recv(65_536))

    received: list[bytes] = []
    with (
        watched(caplog, capsys),
        serving(handler) as server,
        provider_to(server.url.replace("http:", "https:")) as provider,
    ):
        error = failure_of(provider, stream=False)
        assert isinstance(error, e.TLSError)
        assert len(error.attempts) == 1
        assert_hidden(texts_of(error) + objects_of(provider), [*KEY_PARTS, *PROMPT_PARTS, HEADER])
        del error
    assert not any(KEY.encode() in data for data in received)


@pytest.mark.parametrize("how", ["wants other credentials", "refuses", "is not there"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_proxy_credentials_show_nowhere(how, secure, caplog, capsys):
    """Neither in errors, nor in what the provider shows, nor in logs."""
    handler = proxy_handler("other:words") if "wants" in how else proxy_handler(refuse="502 Bad Gateway")
    scheme = "https" if secure else "http"
    with watched(caplog, capsys), serving(handler) as proxy, refusing_port() as nobody:
        port = nobody if "not there" in how else proxy.port
        settings = {"proxies": {scheme: f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{port}"}}
        if not secure:
            settings["allow_insecure"] = True
        with provider_to(f"{scheme}://api.groq.test", **settings) as provider:
            error = failure_of(provider, stream=False)
            shown, objects = texts_of(error), objects_of(provider)
            del error
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS, PROXY_PASSWORD, HEADER])
    reprs = [text for text in objects if "Proxy-Authorization" not in text]
    assert_hidden(reprs, [*KEY_PARTS, *PROMPT_PARTS, HEADER])
    assert_hidden([repr(provider), repr(provider._config), repr(provider._transport)], [PROXY_PASSWORD])


# --- what is shown when all is well ------------------------------------------------------------------------------------------

FINE = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # fmt: skip


@pytest.fixture
def fine():
    """A server that answers well."""
    with serving(always(answer(json.dumps(FINE).encode(), JSON))) as server:
        yield server


@pytest.mark.parametrize("noisy", [False, True], ids=["quiet", "http.client.debuglevel=1"])
def test_successful_call_shows_nothing(fine, caplog, capsys, monkeypatch, noisy):
    """A call that succeeds shows nothing, even where http.client is told to print all that it sends."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", int(noisy))
    with watched(caplog, capsys), provider_to(fine.url, rate_limits=RateLimits(rpm=100)) as provider:
        response = provider.generate(PROMPT)
        assert response.content == "fine"
        request = LLMRequest.of(PROMPT)
        shown = [*objects_of(provider), repr(response), repr(vars(provider._runtime)), repr(request), str(request)]
        shown += [repr(request.messages), repr(Message(role="user", content=PROMPT))]
        shown += [repr(provider.get_health()), repr(provider.is_available())]
    assert fine.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS, HEADER])


def test_open_stream_refuses_pickling(caplog, capsys):
    """An open stream shows nothing and does not pickle, and says why."""
    handler = hanging(f"HTTP/1.1 200 OK\r\n{SSE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk(WORD))
    with (
        watched(caplog, capsys),
        serving(handler) as server,
        provider_to(server.url, timeout=PATIENT) as provider,
        provider.generate_stream(PROMPT) as stream,
    ):
        assert next(stream).content == "one"
        shown = [repr(stream), str(stream), repr(vars(stream)), repr(vars(stream._call)), repr(vars(stream._wire))]
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                attempt(stream)
    # The body that was sent is held for a retry, and does not show itself.
    assert any("_body" in text for text in shown)
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS, HEADER])


def test_pickles_drop_the_key(monkeypatch):
    """A provider and a configuration come out without it, and take it from the environment when they need it."""
    with GroqProvider(api_key=KEY) as provider:
        for given in (provider, provider._config):
            assert_hidden([pickle.dumps(given).decode("latin-1")], KEY_PARTS)
        monkeypatch.setenv("GROQ_API_KEY", "gsk_other_0123456789")
        with pickle.loads(pickle.dumps(provider)) as again:
            assert again._config.key() == "gsk_other_0123456789"
        copied = copy.deepcopy(provider._config)
        assert copied.key() == KEY


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"api_key": KEY, "base_url": f"https://user:{KEY}@api.groq.test"}, id="credentials in the URL"),
        pytest.param({"api_key": KEY, "timeout": -1}, id="bad timeout"),
        pytest.param({"api_key": KEY, KEY: 1}, id="key as a name"),
        pytest.param({"api_key": f"{KEY}\n\x01"}, id="control character"),
        pytest.param({"api_key": f"{KEY}\u0141"}, id="not latin"),
        pytest.param({"api_key": [KEY]}, id="wrong type"),
        pytest.param({"api_key": KEY, "verify": False}, id="no verification"),
        pytest.param({"api_key": KEY, "headers": {"X": f"{KEY}\r\n"}}, id="bad header"),
        pytest.param({"api_key": KEY, "proxies": {"https": f"ftp://u:{KEY}@proxy.test"}}, id="bad proxy"),
        pytest.param({"api_key": KEY, "base_url": "http://api.groq.test"}, id="http"),
        pytest.param({"api_key": KEY, "http2": "yes"}, id="no flag"),
    ],
)
def test_configuration_errors_hide_key(settings, caplog, capsys):
    """No configuration error shows the key, wherever in the settings it stands."""
    with watched(caplog, capsys):
        with pytest.raises(e.ConfigurationError) as caught:
            GroqProvider(**settings)
        shown = texts_of(caught.value)
        del caught
    assert_hidden(shown, KEY_PARTS)


# --- what is sent, and where -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_session", [False, True], ids=["its own session", "the caller's session"])
def test_netrc_is_not_read(fine, tmp_path, monkeypatch, own_session):
    """requests would replace the key by what stands there."""
    file = tmp_path / ".netrc"
    file.write_text(f"machine 127.0.0.1 login u password {PROXY_PASSWORD}\ndefault login u password p\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(file))
    with requests.Session() as session:
        session.auth = ("someone", "else")
        with provider_to(fine.url, session=session if own_session else None) as provider:
            provider.generate(PROMPT)
    assert fine.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert PROXY_PASSWORD not in repr(fine.requests[0].lines)


def test_key_is_in_one_header(fine):
    """The key is in one header and nowhere else: not in the path, not in the body, not twice."""
    with provider_to(fine.url) as provider:
        provider.generate(PROMPT, extra_query={"a": "b"}, extra_headers={"X-Trace": "1"})
    request = fine.requests[0]
    assert [line for line in request.lines if KEY in line] == [f"Authorization: Bearer {KEY}"]
    assert KEY not in request.target
    assert KEY.encode() not in request.body


@pytest.mark.parametrize(
    ("url", "settings", "allowed"),
    [
        ("https://api.groq.test", {}, True),
        ("http://api.groq.test", {}, False),
        ("http://169.254.169.254", {}, False),
        ("http://10.0.0.1", {}, False),
        ("http://127.0.0.1.evil.test", {}, False),
        ("http://localhost.evil.test", {}, False),
        ("http://localhost:1234", {}, True),
        ("http://127.0.0.1:1234", {}, True),
        ("http://127.8.9.1", {}, True),
        ("http://[::1]:1234", {}, True),
        ("http://api.groq.test", {"allow_insecure": True}, True),
        ("https://user:password@api.groq.test", {"allow_insecure": True}, False),
        ("https://api.groq.test/#fragment", {}, False),
        ("https://api.groq.test/\r\nX: 1", {}, False),
        ("ftp://api.groq.test", {"allow_insecure": True}, False),
        ("file:///etc/passwd", {"allow_insecure": True}, False),
    ],
)
def test_key_needs_tls_or_loopback(url, settings, allowed):
    """The key goes over TLS or to this machine, unless the caller says otherwise."""
    if allowed:
        assert ProviderConfig(api_key=KEY, base_url=url, **settings).base_url
        return
    with pytest.raises(e.ConfigurationError) as caught:
        ProviderConfig(api_key=KEY, base_url=url, **settings)
    assert_hidden([str(caught.value)], [*KEY_PARTS, "password@"])


@pytest.mark.parametrize("given", [False, "", 0])
def test_verification_cannot_be_turned_off(given):
    """Neither by the setting nor by a session."""
    with requests.Session() as session:
        session.verify = False
        with pytest.raises(e.ConfigurationError, match="verify"):
            GroqProvider(api_key=KEY, session=session)
    with pytest.raises(e.ConfigurationError):
        GroqProvider(api_key=KEY, verify=given)


def test_verification_outlasts_session_changes():
    """Verification cannot be turned off later, not through the session passed in: the context was made once."""
    with requests.Session() as session, GroqProvider(api_key=KEY, session=session) as provider:
        session.verify = False
        pool = provider._transport.adapter.pool()
        context = pool.conn_kw["ssl_context"]
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_server_text_cannot_forge_logs(caplog):
    """Names and messages are escaped where they are logged."""
    caplog.set_level(logging.DEBUG)
    headers = ["x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 900", "x-ratelimit-reset-tokens: 6s"]
    handler = always(answer(json.dumps(FINE).encode(), JSON, *headers))
    with serving(handler) as server, provider_to(server.url) as provider:
        provider.generate("x", model="a\nFORGED: all is well")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("groq_provider")]
    assert lines
    assert not any("\n" in line for line in lines)
