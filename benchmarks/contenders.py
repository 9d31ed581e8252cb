"""The contenders: each makes a client for the server at a given place.

``answer`` returns the text of a plain answer, ``pieces`` yields the texts of a stream, ``another`` returns a client for one more stream
beside those that are open. All send the same request and extract the text from the answer; each is used as its documentation says. ``raw``
is not a contender: it shows the server's own ceiling.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout, installed or not

MODEL = "openai/gpt-oss-20b"
MESSAGES = [
    {"role": "system", "content": "You answer in one sentence, in plain words, and name no source."},
    {
        "role": "user",
        "content": "Why is inference on a processor with a fixed schedule quicker than on one with caches?",
    },
]
FIELDS = {"temperature": 0.5, "max_completion_tokens": 256}
PATH = "/openai/v1/chat/completions"
_EVENT_END = b"\n\n"


@dataclass(frozen=True)  # not attrs, whose import would count as memory of contenders that do not need it
class Where:
    """The server: its port, and for TLS the bundle that holds its certificate."""

    port: int
    ca: str | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://127.0.0.1:{self.port}"

    def context(self) -> ssl.SSLContext | None:
        return None if self.ca is None else ssl.create_default_context(cafile=self.ca)


def _body(model: str, messages: Any, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": messages, **FIELDS, "stream": stream}


class Ours:
    """This library as a user would set it up: limits per minute and day, latency figures, retries."""

    title = "groq_provider"
    needs = ("requests", "attrs", "cattrs")

    def __init__(self, where: Where) -> None:
        from groq_provider import GroqProvider, RateLimits

        limits = RateLimits(rpm=100_000_000, rpd=500_000_000, tpm=2_000_000_000, tpd=2_000_000_000_000)
        self._provider = GroqProvider(
            api_key="gsk_benchmark", base_url=f"{where.url}/openai/v1", ca_bundle=where.ca, rate_limits=limits
        )
        self.warm_up = self._provider.warm_up

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        return self._provider.generate(messages, model=model, **FIELDS).content

    def pieces(self, model: str) -> Iterator[str]:
        with self._provider.generate_stream(MESSAGES, model=model, **FIELDS) as stream:
            for chunk in stream:
                if chunk.content:
                    yield chunk.content

    def another(self) -> Ours:
        return self


class _SDK:
    """Both SDKs, which have the same interface."""

    _client: Any

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        return self._client.chat.completions.create(model=model, messages=messages, **FIELDS).choices[0].message.content

    def pieces(self, model: str) -> Iterator[str]:
        with self._client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **FIELDS) as stream:
            for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text

    def another(self) -> _SDK:
        return self


class GroqSDK(_SDK):
    title = "groq SDK"
    needs = ("groq",)

    def __init__(self, where: Where) -> None:
        import groq

        self._where, self._opened, self._next = where, 0, None
        more = {"http_client": groq.DefaultHttpxClient(verify=where.context())} if where.ca else {}
        self._client = groq.Groq(api_key="gsk_benchmark", base_url=where.url, **more)

    def another(self) -> GroqSDK:
        # A client of this SDK has 100 connections at most.
        if self._opened % 90 == 0:
            self._next = GroqSDK(self._where)
        self._opened += 1
        return self._next


class OpenAISDK(_SDK):
    title = "openai SDK"
    needs = ("openai",)

    def __init__(self, where: Where) -> None:
        import openai

        more = {"http_client": openai.DefaultHttpxClient(verify=where.context())} if where.ca else {}
        self._client = openai.OpenAI(api_key="gsk_benchmark", base_url=f"{where.url}/openai/v1", **more)


class RequestsSession:
    """Plain requests at its best: one session a thread, so that connections are kept."""

    title = "requests Session.post"
    needs = ("requests",)

    def __init__(self, where: Where) -> None:
        import requests

        self._requests = requests
        self._local = threading.local()
        self._url = where.url + PATH
        self._headers = {"Authorization": "Bearer gsk_benchmark"}
        self._verify = where.ca or True

    def _post(self, **arguments: Any) -> Any:
        try:
            session = self._local.session
        except AttributeError:
            session = self._local.session = self._requests.Session()
        response = session.post(self._url, headers=self._headers, timeout=60, verify=self._verify, **arguments)
        response.raise_for_status()
        return response

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        return self._post(json=_body(model, messages, stream=False)).json()["choices"][0]["message"]["content"]

    def pieces(self, model: str) -> Iterator[str]:
        with self._post(json=_body(model, MESSAGES, stream=True), stream=True) as response:
            for line in response.iter_lines():
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                if text := json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    yield text

    def another(self) -> RequestsSession:
        return self


class RequestsPost(RequestsSession):
    """``requests.post`` as in its tutorial: a connection per call."""

    title = "requests.post"

    def _post(self, **arguments: Any) -> Any:
        response = self._requests.post(self._url, headers=self._headers, timeout=60, verify=self._verify, **arguments)
        response.raise_for_status()
        return response


class Floor:
    """``http.client`` and ``json``: no limits, no retries, no time limits per phase, no types."""

    title = "http.client + json"
    needs = ()

    def __init__(self, where: Where) -> None:
        import http.client

        self._where = where
        if where.ca is None:
            self._new, self._more = http.client.HTTPConnection, {}
        else:
            self._new, self._more = http.client.HTTPSConnection, {"context": where.context()}
        self._local = threading.local()
        self._headers = {"Authorization": "Bearer gsk_benchmark", "Content-Type": "application/json"}

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            connection = self._local.connection
        except AttributeError:
            connection = self._local.connection = self._new("127.0.0.1", self._where.port, timeout=60, **self._more)
        connection.request("POST", PATH, json.dumps(body).encode(), self._headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}")
        return response

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        return json.loads(self._post(_body(model, messages, stream=False)).read())["choices"][0]["message"]["content"]

    def pieces(self, model: str) -> Iterator[str]:
        response, rest = self._post(_body(model, MESSAGES, stream=True)), b""
        while data := response.read1(65_536):
            *events, rest = (rest + data).split(_EVENT_END)
            for event in events:
                if event != b"data: [DONE]" and (text := json.loads(event[6:])["choices"][0]["delta"].get("content")):
                    yield text

    def another(self) -> Floor:
        return Floor(self._where)


class Raw:
    """A socket that sends canned requests and reads up to the end of the answer."""

    title = "bare socket"
    needs = ()
    _text = re.compile(rb'"content":"([^"]+)"')

    def __init__(self, where: Where) -> None:
        self._where = where
        self._local = threading.local()
        self._requests: dict[str, bytes] = {}

    def _send(self, model: str, *, stream: bool) -> socket.socket:
        try:
            sock = self._local.sock
        except AttributeError:
            sock = socket.create_connection(("127.0.0.1", self._where.port), timeout=60)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self._where.context()
            sock = self._local.sock = context.wrap_socket(sock, server_hostname="127.0.0.1") if context else sock
        request = self._requests.get(model)
        if request is None:
            body = json.dumps(_body(model, MESSAGES, stream=stream)).encode()
            head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
            request = self._requests[model] = head.encode() + body
        sock.sendall(request)
        return sock

    def answer(self, model: str = MODEL) -> str:
        return str(self._send(model, stream=False).recv(65_536)[-2:])

    def pieces(self, model: str) -> Iterator[bytes]:
        sock, data = self._send(model, stream=True), b""
        while True:
            data += sock.recv(262_144)
            done = 0
            for found in self._text.finditer(data):
                done = found.end()
                yield found[1]
            if data.endswith(b"\r\n0\r\n\r\n"):
                return
            data = data[max(done, len(data) - 300) :]


class Curl:
    """``pycurl`` and ``json``: a handle a thread, so that connections are kept. It reads no streams."""

    title = "pycurl + json"
    needs = ("pycurl",)

    def __init__(self, where: Where) -> None:
        import pycurl

        self._pycurl, self._where = pycurl, where
        self._local = threading.local()

    def _handle(self) -> Any:
        try:
            return self._local.handle
        except AttributeError:
            handle = self._local.handle = self._pycurl.Curl()
        handle.setopt(self._pycurl.URL, self._where.url + PATH)
        handle.setopt(
            self._pycurl.HTTPHEADER, ["Authorization: Bearer gsk_benchmark", "Content-Type: application/json"]
        )
        handle.setopt(self._pycurl.TIMEOUT, 60)
        handle.setopt(self._pycurl.NOSIGNAL, 1)  # threads
        if self._where.ca is not None:
            handle.setopt(self._pycurl.CAINFO, self._where.ca)
        return handle

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        handle = self._handle()
        handle.setopt(self._pycurl.POSTFIELDS, json.dumps(_body(model, messages, stream=False)))
        body = handle.perform_rb()
        if handle.getinfo(self._pycurl.RESPONSE_CODE) != 200:
            raise RuntimeError("not status 200")
        return json.loads(body)["choices"][0]["message"]["content"]


class BareSocket:
    """A socket and ``json``: one send, reads up to the announced length, and no check of anything. It reads no streams.

    Less is impossible in Python; it shows how much of each client's figure is the kernel's and the JSON's.
    """

    title = "bare socket + json"
    needs = ()

    def __init__(self, where: Where) -> None:
        self._where = where
        self._local = threading.local()

    def _socket(self) -> socket.socket:
        try:
            return self._local.sock
        except AttributeError:
            sock = socket.create_connection(("127.0.0.1", self._where.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self._where.context()
        self._local.sock = context.wrap_socket(sock, server_hostname="127.0.0.1") if context else sock
        return self._local.sock

    def answer(self, model: str = MODEL, messages: Any = MESSAGES) -> str:
        sock, body = self._socket(), json.dumps(_body(model, messages, stream=False)).encode()
        sock.sendall(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer gsk_benchmark\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
        )
        head, _, found = sock.recv(65_536).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        while len(found) < length:
            found += sock.recv(65_536)
        return json.loads(found)["choices"][0]["message"]["content"]


CONTENDERS: dict[str, Any] = {
    "ours": Ours,
    "groq": GroqSDK,
    "openai": OpenAISDK,
    "session": RequestsSession,
    "requests": RequestsPost,
    "floor": Floor,
    "curl": Curl,
    "socket": BareSocket,
}
EVERY: dict[str, Any] = {**CONTENDERS, "raw": Raw}


def missing(name: str) -> list[str]:
    """Return the packages that a contender needs and that are not installed."""
    return [package for package in EVERY[name].needs if importlib.util.find_spec(package) is None]
