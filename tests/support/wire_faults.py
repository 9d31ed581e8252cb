"""The cases 1 to 40 of the fault matrix: connections, heads, framing, with a bench that serves a case."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import gzip
import json
import math
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from support.certificates import new_authority
from support.fakes import PATIENCE, StoppedClock
from support.leaks import assert_hidden, texts_of
from support.servers import FaultServer, answer, chunk, full_backlog, proxy_handler, reset, serving

from groq_provider import GroqProvider, LLMResponse, RateLimits, RetryPolicy, Timeouts, TokenBucketRateLimiter
from groq_provider import errors as e
from groq_provider.ratelimit.estimate import estimate_text_tokens

Fault = Callable[[socket.socket, FaultServer], bool | None]
KEY = "gsk_wire_canary_of_letters_only"
#: What shows nowhere: parts of the key and of the prompt, however they are cut.
SECRETS = ["wire_canary", "of_letters", "PROMPTcanary", "how the wire"]
MODEL = "faulty-model"
PROMPT = "PROMPTcanary asks how the wire goes"
LARGE = PROMPT * 300_000  # more than the buffers of two connections hold, a bridge's among them
MOST = 100
LIMITS = RateLimits(rpm=1_000, tpm=10_000_000, share=1.0)
POLICY = RetryPolicy(max_retries=2, base_delay=0.001, throttle_delay=0.001, max_delay=0.001)
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
#: Seconds by which a limit may be missed on a busy machine; far from PATIENCE, which limits everything else.
SLACK = 5.0
#: What answers may weigh in these tests.
CAP = 1 << 20
USAGE = {"prompt_tokens": 14, "completion_tokens": 3, "total_tokens": 17}
USED = 17
RID = "x-request-id: req_1"
JSON = "Content-Type: application/json"
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", RID, *headers]).encode() + b"\r\n\r\n"


def delta(content: str = "", finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": MODEL, "choices": [choice], **more}).encode() + b"\n\n"


ROLE, HELLO, LAST, DONE = delta(), delta("Hello"), delta(finish="stop", usage=USAGE), b"data: [DONE]\n\n"
SSE = "Content-Type: text/event-stream"
STREAM = head(SSE, "Transfer-Encoding: chunked")
UNTIL_CLOSE = head(SSE, "Connection: close")
LAST_CHUNK = b"0\r\n\r\n"
GOOD = answer(COMPLETION, RID, JSON)
GOOD_STREAM = STREAM + chunk(ROLE) + chunk(HELLO + LAST + DONE) + LAST_CHUNK
PACKED = gzip.compress(COMPLETION)
BOMB = gzip.compress(bytes(64 * CAP))


def ends(*parts: bytes, end: Callable[[socket.socket], None] = socket.socket.close) -> Fault:
    def fault(sock: socket.socket, server: FaultServer) -> None:
        sock.sendall(b"".join(parts))
        end(sock)

    return fault


def resets(*parts: bytes) -> Fault:
    return ends(*parts, end=reset)


def keeps(*parts: bytes) -> Fault:
    """Answer, and serve the connection on."""

    def fault(sock: socket.socket, server: FaultServer) -> bool:
        sock.sendall(b"".join(parts))
        return True

    return fault


def waits(*parts: bytes, after: Callable[[socket.socket], None] = lambda _sock: None) -> Fault:
    """Answer and stay silent until the peer has closed."""

    def fault(sock: socket.socket, server: FaultServer) -> None:
        sock.sendall(b"".join(parts))
        after(sock)
        server.wait_for_end(sock)

    return fault


def deafens(*parts: bytes) -> Fault:
    """Answer, stop reading, stay silent."""

    def fault(sock: socket.socket, server: FaultServer) -> None:
        sock.sendall(b"".join(parts))
        sock.shutdown(socket.SHUT_RD)
        server.released.wait(PATIENCE)

    return fault


def repeats(first: bytes, piece: bytes, *, every: float = 0.0) -> Fault:
    """Send one piece after the other until the peer has closed."""

    def fault(sock: socket.socket, server: FaultServer) -> None:
        sock.sendall(first)
        while not (server.released.wait(every) if every else server.released.is_set()):
            sock.sendall(piece)

    return fault


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def refuses_early(end: Callable[[socket.socket], None], status: str | None = "413 Payload Too Large") -> Fault:
    """Read the begin of a large request, answer, end."""

    def fault(sock: socket.socket, server: FaultServer) -> None:
        sock.recv(1_000)
        if status is not None:
            sock.sendall(answer(b"too large", RID, "Connection: close", status=status))
        end(sock)

    return fault


def drain(sock: socket.socket) -> None:
    half_close(sock)
    while sock.recv(65_536):
        pass


def speaks_plain(sock: socket.socket, server: FaultServer) -> None:
    sock.recv(65_536)
    sock.sendall(answer(b"", status="400 Bad Request"))


def breaks_handshake(sock: socket.socket, server: FaultServer) -> None:
    sock.recv(65_536)
    reset(sock)


def hangs_up(sock: socket.socket, server: FaultServer) -> None:
    reset(sock)


class Script:
    """Misbehaves until told to recover.

    Args:
        fault: What it does.
        raw: Whether it does so as soon as somebody connects, before it has read anything.
        once: Whether the first time was the last.
    """

    def __init__(self, fault: Fault | None, *, raw: bool = False, once: bool = False) -> None:
        self.fault, self.raw, self.once = fault, raw, once
        self.recovered = threading.Event()
        if fault is None:
            self.recovered.set()

    def __call__(self, sock: socket.socket, server: FaultServer) -> None:
        if self.raw and not self.recovered.is_set():
            self.fault(sock, server)
            return
        while (request := server.read(sock)) is not None:
            if self.recovered.is_set():
                sock.sendall(GOOD_STREAM if json.loads(request.body).get("stream") else GOOD)
                continue
            if self.once:
                self.recovered.set()
            if not self.fault(sock, server):
                return


class Stale(Script):
    """Serves one request of its first connection well, then ends it: while idle, or as the next request arrives."""

    def __init__(self, end: Callable[[socket.socket], None], *, idle: bool = False, again: bool = False) -> None:
        super().__init__(ends(end=end))
        self.end, self.idle = end, idle
        self._first = True
        self._again = again

    def __call__(self, sock: socket.socket, server: FaultServer) -> None:
        if not self._first:
            super().__call__(sock, server)
            return
        self._first = False
        server.read(sock)
        sock.sendall(GOOD)
        if not self._again:
            self.recovered.set()
        if self.idle or server.read(sock) is not None:
            self.end(sock)


@attrs.define
class Place:
    """A server, how to reach it, and how to make it well."""

    server: FaultServer
    script: Script
    url: str
    settings: dict[str, Any] = attrs.field(factory=dict)
    heal: Callable[[], None] = lambda: None

    def recover(self) -> None:
        self.script.recovered.set()
        self.heal()


class Grounds:
    """What stages need: certificates and a place to patch."""

    def __init__(self, folder: Any) -> None:
        self.file = str(folder / "ca.pem")
        self.patch: pytest.MonkeyPatch = pytest.MonkeyPatch()

    @staticmethod
    def new_ca() -> Any:
        return new_authority()

    @functools.cached_property
    def ca(self) -> Any:
        made = self.new_ca()
        made.cert_pem.write_to_path(self.file)
        return made

    def context(self, name: str = "localhost", *, ca: Any = None, **more: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trusted = self.ca  # made now, so that its file is there
        (ca or trusted).issue_cert(name, **more).configure_cert(context)
        return context

    def resolve(self, ports: dict[str, int], *found: str | BaseException) -> list[Any]:
        """Have the names under ``.test`` lead to these ports of this machine; the list that is returned may be changed."""
        now, usual = list(found), socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
            if not str(host).endswith(".test"):
                return usual(host, *args, **more)
            if isinstance(now[0], BaseException):
                raise now[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", ports[name])) for name in now]

        self.patch.setattr(socket, "getaddrinfo", getaddrinfo)
        return now


@contextlib.contextmanager
def plain(script: Script, grounds: Grounds) -> Iterator[Place]:
    with serving(script) as server:
        yield Place(server, script, server.url)


def resolving(*found: str | BaseException) -> Callable[[Script, Grounds], Any]:
    """A name that leads to these places: dead, refused, alive, or an error of the resolver; later to the server."""

    @contextlib.contextmanager
    def stage(script: Script, grounds: Grounds) -> Iterator[Place]:
        with serving(script) as server, full_backlog() as dead, socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and nobody listens
            ports = {"dead": dead, "refused": bound.getsockname()[1], "alive": server.port}
            now = grounds.resolve(ports, *found)
            place = Place(server, script, "http://service.test", {"allow_insecure": True})
            place.heal = lambda: now.__setitem__(slice(None), ["alive"])
            yield place

    return stage


def over_tls(
    make: Callable[[Grounds], Any] = lambda grounds: grounds.context(),
) -> Callable[[Script, Grounds], Any]:
    """TLS with this server context, later with a good one."""

    @contextlib.contextmanager
    def stage(script: Script, grounds: Grounds) -> Iterator[Place]:
        with serving(script, make(grounds)) as server:
            place = Place(server, script, f"https://localhost:{server.port}", {"ca_bundle": grounds.file})
            place.heal = lambda: setattr(server, "context", grounds.context())
            yield place

    return stage


def without_tls(grounds: Grounds) -> None:
    """What should speak TLS does not, for now."""
    grounds.context()


def expired(grounds: Grounds) -> Any:
    gone = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    return grounds.context(not_before=gone - dt.timedelta(days=9), not_after=gone)


def through_proxy(broken: Any, *, secure: bool = True) -> Callable[[Script, Grounds], Any]:
    """A proxy in between that does not do its work, later does."""

    @contextlib.contextmanager
    def stage(script: Script, grounds: Grounds) -> Iterator[Place]:
        works = proxy_handler()
        script.recovered.clear()

        def proxy(sock: socket.socket, server: FaultServer) -> None:
            (works if script.recovered.is_set() else broken)(sock, server)

        target = Script(None)
        with serving(target, grounds.context() if secure else None) as behind, serving(proxy) as server:
            url = f"https://localhost:{behind.port}" if secure else behind.url
            settings = {"proxies": {"https": server.url, "http": server.url}}
            if secure:
                settings["ca_bundle"] = grounds.file
            yield Place(server, script, url, settings)

    return stage


@contextlib.contextmanager
def behind_dead_proxy(script: Script, grounds: Grounds) -> Iterator[Place]:
    """Nobody listens where the proxy should be; later it is there."""
    with through_proxy(None)(script, grounds) as place, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        now = grounds.resolve({"refused": bound.getsockname()[1], "alive": place.server.port}, "refused")
        place.settings["proxies"] = {"https": "http://proxy.test:3128"}
        place.heal = lambda: now.__setitem__(slice(None), ["alive"])
        yield place


@attrs.frozen(kw_only=True)
class Case:
    """One row of the matrix.

    Attributes:
        id: Its number, perhaps with a variant.
        error: What is raised, exactly; ``None``: the call succeeds.
        fault: What the server does with each request.
        raw: Whether the server does it at once, before it has read a request.
        stage: Where.
        script: The whole server, for those with a history.
        stream: Which of the two methods is called.
        attempts: How often it is tried; one without retry.
        sent: What the error may say of it.
        spent: What becomes of each reservation, as a letter of the matrix; "?": as each attempt says.
        places: Reservations taken, where a resend of the transport shared one.
        head: Whether the head of the answer arrived, so that the request has an id.
        text: What was given out before it failed; ``None``: whatever it was, the partial holds the same.
        connections: Made in all, the good call after it included; by default each attempt makes and loses one.
        seen: What of the server's counts each attempt: ``requests``, ``connections`` or nothing.
        limits: Time limits of the call.
        within: Seconds it may take, and a few more on a busy machine; what else it might wait for takes longer.
        prompt: What is asked.
        settings: Of the provider.
    """

    id: str
    error: type[e.GroqProviderError] | None = None
    fault: Fault | None = None
    raw: bool = False
    stage: Callable[[Script, Grounds], Any] = plain
    script: Callable[[], Script] | None = None
    stream: bool = False
    attempts: int = 3
    sent: tuple[bool | None, ...] = (True,)
    spent: str = "E"
    places: int | None = None
    head: bool = False
    text: str | None = ""
    connections: int | None = None
    seen: str | None = "requests"
    limits: Timeouts | None = None
    within: float | None = None
    prompt: str = PROMPT
    settings: dict[str, Any] = attrs.field(factory=dict)

    def cost(self, letter: str, text: str = "") -> tuple[int, int]:
        """Return the requests and tokens that a reservation leaves spent."""
        prompt = 4 + int(len(self.prompt) / 3.5)
        return {
            "F": (0, 0),
            "T": (1, 0),
            "A": (1, USED),
            "E": (1, math.ceil(prompt * 1.05) + MOST),
            "P": (1, prompt + (estimate_text_tokens(len(text)) if text else 0)),
        }[letter]


def before_and_after(number: str, tail: bytes, how: Callable[..., Fault], **more: Any) -> list[Case]:
    """A fault of a stream, before the first chunk (as 27: tried again) and after it (as 28: raised with what there was)."""
    names = {"error", "begin"}
    error, begin = more["error"], more.get("begin", STREAM)
    frame = chunk if b"chunked" in begin else bytes
    rest = {key: found for key, found in more.items() if key not in names}
    common = {"stream": True, "head": True, "spent": "P", **rest}
    return [
        Case(id=f"{number}-before", error=error, fault=how(begin, frame(ROLE), tail), **common),
        Case(
            id=f"{number}-after",
            error=error,
            fault=how(begin, frame(ROLE), frame(HELLO), tail),
            **{**common, "attempts": 1, "text": "Hello"},
        ),
    ]


UNSENT = {"sent": (False,), "spent": "F"}
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
TRY_AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
BROKEN_TLS = {**UNSENT, "error": e.TLSError, "attempts": 1, "seen": "connections"}
# Long enough for a server's thread to say what it has to say before they are over, though it may have to wait for its turn.
SHORT = Timeouts(connect=PATIENCE, first_token=1.2, idle=PATIENCE)
IDLE = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=0.2)
TOTAL = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE, total=1.2)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LENGTH = f"Content-Length: {len(COMPLETION)}"
GZIP = "Content-Encoding: gzip"
CONNECT = [
    Case(id="1", error=e.APIConnectionError, stage=resolving("refused"), connections=1, seen=None, **UNSENT),
    Case(
        id="2-no-such-name",
        error=e.APIConnectionError,
        stage=resolving(NO_SUCH_NAME),
        attempts=2,
        connections=1,
        seen=None,
        **UNSENT,
    ),
    Case(id="2-try-again", error=e.APIConnectionError, stage=resolving(TRY_AGAIN), connections=1, seen=None, **UNSENT),
    Case(
        id="3",
        error=e.ConnectTimeoutError,
        stage=resolving("dead"),
        connections=1,
        seen=None,
        limits=Timeouts(connect=0.1),
        within=0.3,
        **UNSENT,
    ),
    Case(
        id="3-deadline",
        error=e.DeadlineExceededError,
        stage=resolving("dead"),
        attempts=1,
        connections=1,
        seen=None,
        limits=Timeouts(connect=PATIENCE, total=1.0),
        within=1.0,
        **UNSENT,
    ),
    Case(
        id="4-one-dead",
        stage=resolving("dead", "refused", "alive"),
        attempts=1,
        spent="A",
        connections=1,
        seen="requests",
        limits=Timeouts(connect=6.0),
        within=6.0,
    ),
    Case(
        id="4-all-dead",
        error=e.ConnectTimeoutError,
        stage=resolving("dead", "dead", "dead", "dead"),
        connections=1,
        seen=None,
        limits=Timeouts(connect=0.2),
        within=0.6,
        **UNSENT,
    ),
    Case(
        id="4-deadline",
        error=e.DeadlineExceededError,
        stage=resolving("dead", "dead", "dead", "dead"),
        attempts=1,
        connections=1,
        seen=None,
        limits=Timeouts(connect=PATIENCE, total=1.0),
        within=1.0,
        **UNSENT,
    ),
    Case(
        id="5",
        error=e.APIConnectionError,
        fault=hangs_up,
        raw=True,
        sent=(False, True, None),
        spent="?",
        seen="connections",
    ),
    Case(
        id="5-handshake",
        error=e.APIConnectionError,
        fault=breaks_handshake,
        raw=True,
        stage=over_tls(without_tls),
        seen="connections",
        **UNSENT,
    ),
    Case(id="6-plain-http", fault=speaks_plain, raw=True, stage=over_tls(without_tls), **BROKEN_TLS),
    Case(id="6-bad-cert", stage=over_tls(lambda grounds: grounds.context(ca=grounds.new_ca())), **BROKEN_TLS),
    Case(id="6-expired", stage=over_tls(expired), **BROKEN_TLS),
    Case(id="6-wrong-host", stage=over_tls(lambda grounds: grounds.context("example.org")), **BROKEN_TLS),
    Case(
        id="7",
        error=e.ConnectTimeoutError,
        fault=waits(),
        raw=True,
        stage=over_tls(without_tls),
        seen="connections",
        limits=Timeouts(connect=0.8),
        within=2.4,
        **UNSENT,
    ),
    Case(
        id="7-deadline",
        error=e.DeadlineExceededError,
        fault=waits(),
        raw=True,
        stage=over_tls(without_tls),
        attempts=1,
        seen="connections",
        limits=Timeouts(connect=PATIENCE, total=1.0),
        within=1.0,
        **UNSENT,
    ),
    Case(id="8-refused", error=e.ProxyError, stage=through_proxy(proxy_handler(refuse="502 Bad Gateway")), **UNSENT),
    Case(id="8-dead", error=e.ProxyError, stage=behind_dead_proxy, connections=1, seen=None, **UNSENT),
    Case(id="8-407", error=e.ProxyError, stage=through_proxy(proxy_handler("a:b")), attempts=1, **UNSENT),
    Case(
        id="8-407-plain",
        error=e.ProxyError,
        stage=through_proxy(proxy_handler("a:b"), secure=False),
        attempts=1,
        spent="F",
        sent=(False,),
    ),
]
HEADS = [
    Case(id="11", script=lambda: Stale(socket.socket.close, idle=True), attempts=1, spent="A", connections=2),
    Case(id="12", script=lambda: Stale(socket.socket.close), attempts=2, places=1, spent="A", connections=2),
    Case(id="12-reset", script=lambda: Stale(reset), attempts=2, places=1, spent="A", connections=2),
    Case(
        id="12-again",
        script=lambda: Stale(reset, again=True),
        error=e.APIConnectionError,
        attempts=4,
        places=3,
        connections=5,
    ),
    Case(id="13-fin", error=e.APIConnectionError, fault=ends()),
    Case(id="13-rst", error=e.APIConnectionError, fault=resets()),
    Case(id="13-stream", error=e.APIConnectionError, fault=resets(), stream=True),
    *(
        Case(
            id=f"14-{name}",
            error=e.RequestTooLargeError,
            fault=refuses_early(end),
            raw=True,
            stage=stage,
            attempts=1,
            spent="T",
            head=True,
            seen="connections",
            prompt=LARGE,
        )
        for name, end, stage in [
            ("reset", socket.socket.close, plain),  # with unread bytes a close is a reset
            ("drained", drain, plain),
            ("tls", drain, over_tls()),
        ]
    ),
    Case(
        id="14-no-answer",
        error=e.APIConnectionError,
        fault=refuses_early(reset, None),
        raw=True,
        sent=(None,),
        seen="connections",
        prompt=LARGE,
    ),
    *(
        Case(id=f"15-{name}", error=e.ProtocolError, fault=ends(data))
        for name, data in [
            ("cut", b"HTTP/1.1 20"),
            ("garbage", b"\x00\xff\x01garbage\r\n\r\n"),
            ("other", b"SSH-2.0-OpenSSH_9.2\r\n"),
            ("http09", COMPLETION),
        ]
    ),
    *(
        Case(id=f"16-{name}", error=e.ProtocolError, fault=ends(data), stream=stream)
        for name, data, stream in [
            ("after-status", b"HTTP/1.1 200 OK\r\n", False),
            ("in-field", b"HTTP/1.1 200 OK\r\nContent-Ty", False),
            ("after-field", head(JSON)[:-2], False),
            ("stream", head(SSE)[:-2], True),
        ]
    ),
    Case(id="17-plain", error=e.ReadTimeoutError, fault=waits(), attempts=1, limits=SHORT, within=1.2),
    Case(id="17-stream", error=e.ReadTimeoutError, fault=waits(), stream=True, attempts=1, limits=SHORT, within=1.2),
    *(
        Case(
            id=f"{number}-deadline{'-stream' * stream}",
            error=e.DeadlineExceededError,
            fault=fault,
            stream=stream,
            attempts=1,
            limits=TOTAL,
            within=1.2,
        )
        for number, fault in [("17", waits()), ("18", repeats(CONTINUE, CONTINUE, every=0.01))]
        for stream in (False, True)
    ),
    Case(
        id="18-plain",
        error=e.ReadTimeoutError,
        fault=repeats(CONTINUE, CONTINUE, every=0.01),
        attempts=1,
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="18-stream",
        error=e.ReadTimeoutError,
        fault=repeats(CONTINUE, CONTINUE, every=0.01),
        stream=True,
        attempts=1,
        limits=SHORT,
        within=1.2,
    ),
    *(
        Case(id=name, error=e.ProtocolError, fault=waits(data, COMPLETION), attempts=2)
        for name, data in [
            ("19", head(*(f"X-{n}: y" for n in range(101)), LENGTH)),
            ("20", head("X-Long: " + "y" * 70_000, LENGTH)),
            ("21", head(LENGTH, "Content-Length: 7")),
            ("21-one-line", head(f"{LENGTH}, 7")),
        ]
    ),
    *(
        Case(id=f"22-{name}", fault=fault, attempts=1, spent="A")
        for name, fault in [
            (
                "both",
                waits(head(JSON, "Content-Length: 9", "Transfer-Encoding: chunked"), chunk(COMPLETION), LAST_CHUNK),
            ),
            ("garbage", ends(head(JSON, "Content-Length: many"), COMPLETION)),
        ]
    ),
    Case(id="23", fault=waits(GOOD, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), attempts=1, spent="A"),
    Case(id="23-stream", fault=waits(GOOD_STREAM, GOOD), attempts=1, spent="A", stream=True),
    *(
        Case(
            id=f"24-{name}{'-stream' * stream}",
            error=e.StreamProtocolError if stream else e.ResponseDecodeError,
            fault=keeps(data),
            stream=stream,
            attempts=2,
            spent="T",
            head=True,
            connections=1,
        )
        for name, data in [("204", head(status="204 No Content")), ("empty", answer(b"", RID, JSON))]
        for stream in (False, True)
    ),
    Case(
        id="24-empty-event-stream",
        error=e.StreamProtocolError,
        fault=keeps(answer(b"", RID, SSE)),
        stream=True,
        attempts=2,
        spent="T",
        head=True,
        connections=1,
    ),
]
BODIES = [
    Case(id="25", error=e.IncompleteResponseError, fault=ends(GOOD[:-7]), head=True),
    Case(
        id="26",
        error=e.ResponseDecodeError,
        fault=waits(head(JSON, "Content-Length: 20"), COMPLETION),
        attempts=2,
        head=True,
    ),
    *(
        Case(id=f"{number}-plain", error=error, fault=fault, head=True)
        for number, error, fault in [
            ("27", e.IncompleteResponseError, resets(GOOD[:-7])),
            (
                "29-in-chunk",
                e.IncompleteResponseError,
                ends(head("Transfer-Encoding: chunked"), chunk(COMPLETION)[:-9]),
            ),
            ("29-between", e.IncompleteResponseError, ends(head("Transfer-Encoding: chunked"), chunk(COMPLETION))),
            ("35-bad-size", e.ProtocolError, waits(head("Transfer-Encoding: chunked"), b"zz\r\n", COMPLETION)),
            ("35-no-crlf", e.ProtocolError, waits(head("Transfer-Encoding: chunked"), b"3\r\n{  3\r\n", COMPLETION)),
            ("36", e.ProtocolError, waits(head("Transfer-Encoding: chunked"), b"-5\r\n", COMPLETION)),
        ]
    ),
    Case(
        id="27-stream",
        error=e.StreamInterruptedError,
        fault=resets(STREAM, chunk(ROLE)),
        stream=True,
        head=True,
        spent="P",
    ),
    Case(
        id="28",
        error=e.StreamInterruptedError,
        fault=resets(STREAM, chunk(ROLE), chunk(HELLO)),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        text="Hello",
    ),
    *before_and_after("29-in-chunk", chunk(HELLO)[:-20], ends, error=e.StreamInterruptedError),
    *before_and_after("29-between", b"", ends, error=e.StreamInterruptedError),
    *before_and_after("30", LAST_CHUNK, keeps, connections=1, error=e.StreamInterruptedError),
    *before_and_after("31", b"", ends, begin=UNTIL_CLOSE, error=e.StreamInterruptedError),
    *before_and_after(
        "30-unfinished-event", chunk(HELLO[:-30]) + LAST_CHUNK, keeps, connections=1, error=e.StreamInterruptedError
    ),
    *before_and_after("31-unfinished-event", HELLO[:-30], ends, begin=UNTIL_CLOSE, error=e.StreamInterruptedError),
    *(
        Case(
            id=f"{number}-without-finish-reason{'-after' * bool(said)}",
            error=e.StreamInterruptedError,
            fault=fault,
            stream=True,
            attempts=1 if said else 3,
            head=True,
            spent="P",
            text=said,
            settings={"require_finish_reason": False},
            connections=connections,
        )
        for said, body in [("", ROLE), ("Hello", ROLE + HELLO)]
        for number, fault, connections in [
            ("30", keeps(STREAM, chunk(body), LAST_CHUNK), 1),
            ("31", ends(UNTIL_CLOSE, body), None),
        ]
    ),
    *(
        Case(id=f"{number}-but-finish-reason", fault=fault, stream=True, attempts=1, spent="A", connections=connections)
        for number, fault, connections in [
            ("30", keeps(STREAM, chunk(HELLO + LAST), LAST_CHUNK), 1),
            ("31", ends(UNTIL_CLOSE, HELLO, LAST), 2),
            ("35", waits(STREAM, chunk(HELLO + LAST), b"zz\r\n"), 2),
        ]
    ),
    *before_and_after("32-half", b"", lambda *parts: waits(*parts, after=half_close), error=e.StreamInterruptedError),
    Case(
        id="32-deaf-before",
        error=e.ReadTimeoutError,
        fault=deafens(STREAM, chunk(ROLE)),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="32-deaf-after",
        error=e.StreamIdleTimeoutError,
        fault=deafens(STREAM, chunk(HELLO)),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        text="Hello",
        limits=IDLE,
        within=0.2,
    ),
    Case(
        id="33-plain",
        error=e.ReadTimeoutError,
        fault=waits(GOOD[:-7]),
        attempts=1,
        head=True,
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="33-before",
        error=e.ReadTimeoutError,
        fault=waits(STREAM, chunk(ROLE)),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="33-after",
        error=e.StreamIdleTimeoutError,
        fault=waits(STREAM, chunk(HELLO)),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        text="Hello",
        limits=IDLE,
        within=0.2,
    ),
    Case(
        id="34-plain",
        error=e.ReadTimeoutError,
        fault=repeats(head(JSON, LENGTH), b" ", every=0.05),
        attempts=1,
        head=True,
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="34-plain-deadline",
        error=e.DeadlineExceededError,
        fault=repeats(head(JSON, LENGTH), b" ", every=0.05),
        attempts=1,
        head=True,
        limits=TOTAL,
        within=1.2,
    ),
    Case(
        id="34-before",
        error=e.ReadTimeoutError,
        fault=repeats(STREAM, chunk(b":"), every=0.05),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        limits=SHORT,
        within=1.2,
    ),
    Case(
        id="34-before-deadline",
        error=e.DeadlineExceededError,
        fault=repeats(STREAM, chunk(b":"), every=0.05),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        limits=TOTAL,
        within=1.2,
    ),
    Case(
        id="34-bytes-after",
        error=e.StreamIdleTimeoutError,
        fault=repeats(STREAM + chunk(HELLO), chunk(b"x"), every=0.05),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        text="Hello",
        limits=IDLE,
        within=0.2,
    ),
    Case(
        id="34-events-after",
        error=e.DeadlineExceededError,
        fault=repeats(STREAM, chunk(HELLO), every=0.05),
        stream=True,
        attempts=1,
        head=True,
        spent="P",
        text=None,
        limits=TOTAL,
        within=1.2,
    ),
    *before_and_after("35-bad-size", b"zz\r\n", waits, error=e.StreamProtocolError),
    *before_and_after("35-no-crlf", b"1\r\n::1\r\n:", waits, error=e.StreamProtocolError),
    *before_and_after("36", b"-5\r\nabcde\r\n", waits, error=e.StreamProtocolError),
    *(
        Case(id=f"37-{name}", error=e.ResponseDecodeError, fault=waits(data), attempts=2, head=True)
        for name, data in [
            ("not-gzip", answer(COMPLETION, RID, JSON, GZIP)),
            ("nine-encodings", answer(PACKED, RID, JSON, GZIP + ", gzip" * 8)),
        ]
    ),
    Case(id="39", error=e.ResponseDecodeError, fault=waits(answer(BOMB, RID, JSON, GZIP)), attempts=2, head=True),
    Case(
        id="37-stream",
        error=e.StreamProtocolError,
        fault=waits(head(SSE, GZIP, "Transfer-Encoding: chunked"), chunk(HELLO)),
        stream=True,
        attempts=2,
        head=True,
        spent="P",
    ),
    *(
        Case(id=f"38-{name}", error=e.ResponseDecodeError, fault=waits(data), attempts=2, head=True)
        for name, data in [
            ("whole", answer(PACKED, RID, JSON, GZIP)),
            ("deflate", answer(zlib.compress(COMPLETION), RID, JSON, "Content-Encoding: deflate")),
            ("chunked", head(JSON, GZIP, "Transfer-Encoding: chunked") + chunk(PACKED) + LAST_CHUNK),
        ]
    ),
    Case(
        id="38-stream",
        error=e.StreamProtocolError,
        fault=waits(head(SSE, GZIP, "Transfer-Encoding: chunked") + chunk(gzip.compress(ROLE + HELLO)) + LAST_CHUNK),
        stream=True,
        attempts=2,
        head=True,
        spent="P",
    ),
    *(
        Case(
            id=f"{number}-{name}",
            error=e.ResponseTooLargeError,
            fault=fault,
            stream=stream,
            attempts=1,
            head=True,
            spent="P" if stream else "E",
            text=None,
        )
        for number, name, stream, fault in [
            ("40", "plain", False, repeats(head(JSON, "Transfer-Encoding: chunked"), chunk(b" " * 8192))),
            ("40", "until-close", False, repeats(head(JSON, "Connection: close"), b" " * 8192)),
            ("40", "announced", False, repeats(head(JSON, "Content-Length: 99999999999"), b" " * 8192)),
            ("40", "stream-line", True, repeats(STREAM, chunk(b"x" * 8192))),
            ("40", "stream-comments", True, repeats(STREAM, chunk(b":\n" * 4096))),
            ("40", "stream-events", True, repeats(STREAM, chunk(HELLO * 40))),
        ]
    ),
]
CASES = [*CONNECT, *HEADS, *BODIES]
#: What ends well although something went wrong; every other case raises.
FINE = {"4-one-dead", "11", "12", "12-reset", "22-both", "22-garbage", "23", "23-stream"} | {
    f"{number}-but-finish-reason" for number in (30, 31, 35)
}
POOL = {
    "9": (Timeouts(connect=PATIENCE, first_token=0.1), e.PoolTimeoutError, 3, 0.3),
    "9-deadline": (Timeouts(connect=PATIENCE, first_token=PATIENCE, total=1.0), e.DeadlineExceededError, 1, 1.0),
}
BAD_URLS = {
    "10-port": "https://api.groq.com:99999/v1",
    "10-port-text": "https://api.groq.com:abc/v1",
    "10-space": "https://api groq.com/v1",
    "10-ftp": "ftp://api.groq.com/v1",
    "10-userinfo": f"https://user:{KEY}@api.groq.com/v1",
    "10-no-host": "https:///v1",
}


class Bench:
    """A provider at a place, and what it has spent."""

    def __init__(self, place: Place, case: Case, *, retry: RetryPolicy = POLICY) -> None:
        self.place, self.case = place, case
        self.provider = GroqProvider(
            api_key=KEY,
            base_url=place.url,
            default_model=MODEL,
            retry=retry,
            timeout=PATIENT,
            rate_limiter=TokenBucketRateLimiter(LIMITS, clock=StoppedClock()),
            **{**place.settings, **case.settings},
        )
        self.heard: list[str] = []

    def call(self) -> LLMResponse:
        """Do what the case is about."""
        case = self.case
        more: dict[str, Any] = {"timeout": case.limits, "max_completion_tokens": MOST}
        if not case.stream:
            return self.provider.generate(case.prompt, **more)
        with self.provider.generate_stream(case.prompt, **more) as stream:
            for piece in stream:
                self.heard.append(piece.content)
            return stream.response

    def good_call(self) -> None:
        assert self.provider.generate(PROMPT, max_completion_tokens=MOST).content == "Hello"

    def spent(self) -> tuple[int, int]:
        """Return the requests and tokens that the limiter has counted; nothing is under way any more."""
        status = self.provider.get_rate_limits()[MODEL]
        assert (status.in_flight, status.waiting) == (0, 0)
        return tuple(status.windows[name].limit - status.windows[name].remaining for name in ("rpm", "tpm"))

    def recorded(self) -> tuple[int, int]:
        """Return the calls that succeeded and that failed, by the latency record, whether the service saw them or not."""
        metrics = self.provider.get_latency_metrics(MODEL)
        return metrics.success_count, metrics.error_count + metrics.local_count

    def seen(self) -> int:
        """Return how many attempts the server has noticed."""
        server = self.place.server
        return server.connections if self.case.seen == "connections" else len(server.requests)


@contextlib.contextmanager
def bench(case: Case, grounds: Grounds, *, once: bool = False, retry: RetryPolicy = POLICY) -> Iterator[Bench]:
    script = case.script() if case.script else Script(case.fault, raw=case.raw, once=once)
    with case.stage(script, grounds) as place:
        made = Bench(place, case, retry=retry)
        with made.provider:
            yield made


def plus(*costs: tuple[int, int]) -> tuple[int, int]:
    return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)


def check_error(error: e.GroqProviderError, found: Bench) -> None:
    """Hold an error against its row."""
    case = found.case
    assert type(error) is case.error
    assert error.sent in case.sent
    assert (error.model, error.provider) == (MODEL, "groq")
    assert error.request_id == ("req_1" if case.head else None)
    assert error.attempts[-1].request_id == error.request_id
    assert [attempt.number for attempt in error.attempts] == list(range(1, case.attempts + 1))
    assert all(attempt.error for attempt in error.attempts)
    assert_hidden(texts_of(error), SECRETS)
    heard = "".join(found.heard)
    if case.text is not None:
        assert heard == case.text
    if error.partial is None:
        assert not heard
    else:
        assert (error.partial.content, error.partial.finish_reason) == (heard, None)
    assert (error.partial is not None) == (case.stream and case.head)


def expected_cost(found: Bench, attempts: tuple[Any, ...]) -> tuple[int, int]:
    case = found.case
    if case.spent == "?":
        return plus(*(case.cost("F" if attempt.sent is False else "E") for attempt in attempts))
    each = case.cost(case.spent, "".join(found.heard))
    return plus(*[each] * (case.places or case.attempts))


PASSING = [
    case
    for case in CASES
    if case.error and case.attempts > 1 and case.stage is plain and not (case.raw or case.script or case.limits)
]

#: Ids of the cases (patterns of fnmatch) that are not run again over HTTP/2; ``tests/http2`` has what corresponds to them.
HTTP1_ONLY = (
    # before there is a connection
    *("1", "2-*", "3", "3-deadline", "4-*", "5"),
    # servers that speak TLS themselves: the case without TLS goes through the bridge, which speaks it
    *("5-handshake", "6-*", "7", "7-deadline", "14-tls"),
    # a proxy to a plain server
    "8-*",
    # the pool of HTTP/1.1
    *("11", "12", "12-*"),
    # the framing and the heads of HTTP/1.1
    *("15-*", "16-*", "35-*", "19", "20", "21", "21-*", "22-both", "22-garbage", "36-*"),
    # the connection of a whole answer is dropped; over HTTP/2 a stream that is over costs no connection
    *("37-not-gzip", "37-nine-encodings", "38-*", "39"),
)
