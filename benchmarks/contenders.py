"""What is compared, and the child process each contender runs in.

A contender is told a port and makes a client; ``answer`` returns the text of a plain answer, ``pieces`` yields those of a stream.
All send the same request and take the text out of what they get; none is given more help than its documentation gives.

``python benchmarks/contenders.py NAME PORT`` reads one JSON command a line and answers with one line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def _body(model: str, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **FIELDS, "stream": stream}


class Ours:
    """This library as a user would set it up: limits per minute and day, latency figures, retries."""

    title = "groq_provider"
    needs = ("requests", "attrs", "cattrs")

    def __init__(self, port: int) -> None:
        from groq_provider import GroqProvider, RateLimits

        limits = RateLimits(rpm=100_000_000, rpd=500_000_000, tpm=2_000_000_000, tpd=2_000_000_000_000)
        self._provider = GroqProvider(
            api_key="gsk_benchmark", base_url=f"http://127.0.0.1:{port}/openai/v1", rate_limits=limits
        )

    def answer(self) -> str:
        return self._provider.generate(MESSAGES, model=MODEL, **FIELDS).content

    def pieces(self, model: str) -> Iterator[str]:
        with self._provider.generate_stream(MESSAGES, model=model, **FIELDS) as stream:
            for chunk in stream:
                if chunk.content:
                    yield chunk.content


class _SDK:
    """Both SDKs have one face."""

    _client: Any

    def answer(self) -> str:
        return self._client.chat.completions.create(model=MODEL, messages=MESSAGES, **FIELDS).choices[0].message.content

    def pieces(self, model: str) -> Iterator[str]:
        stream = self._client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **FIELDS)
        for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text


class GroqSDK(_SDK):
    title = "groq SDK"
    needs = ("groq",)

    def __init__(self, port: int) -> None:
        import groq

        self._client = groq.Groq(api_key="gsk_benchmark", base_url=f"http://127.0.0.1:{port}")


class OpenAISDK(_SDK):
    title = "openai SDK"
    needs = ("openai",)

    def __init__(self, port: int) -> None:
        import openai

        self._client = openai.OpenAI(api_key="gsk_benchmark", base_url=f"http://127.0.0.1:{port}/openai/v1")


class RequestsSession:
    """Plain requests at its best: one session a thread, so that connections are kept."""

    title = "requests Session.post"
    needs = ("requests",)

    def __init__(self, port: int) -> None:
        import requests

        self._requests = requests
        self._local = threading.local()
        self._url = f"http://127.0.0.1:{port}{PATH}"
        self._headers = {"Authorization": "Bearer gsk_benchmark"}

    def _post(self, **arguments: Any) -> Any:
        try:
            session = self._local.session
        except AttributeError:
            session = self._local.session = self._requests.Session()
        response = session.post(self._url, headers=self._headers, timeout=60, **arguments)
        response.raise_for_status()
        return response

    def answer(self) -> str:
        return self._post(json=_body(MODEL, stream=False)).json()["choices"][0]["message"]["content"]

    def pieces(self, model: str) -> Iterator[str]:
        with self._post(json=_body(model, stream=True), stream=True) as response:
            for line in response.iter_lines():
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                if text := json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    yield text


class RequestsPost(RequestsSession):
    """``requests.post`` as its tutorial shows it: a connection per call."""

    title = "requests.post"

    def _post(self, **arguments: Any) -> Any:
        response = self._requests.post(self._url, headers=self._headers, timeout=60, **arguments)
        response.raise_for_status()
        return response


class Floor:
    """``http.client`` and ``json``: no limits, no retries, no time limits per phase, no types."""

    title = "http.client + json"
    needs = ()

    def __init__(self, port: int) -> None:
        import http.client

        self._new = http.client.HTTPConnection
        self._local = threading.local()
        self._port = port
        self._headers = {"Authorization": "Bearer gsk_benchmark", "Content-Type": "application/json"}

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            connection = self._local.connection
        except AttributeError:
            connection = self._local.connection = self._new("127.0.0.1", self._port, timeout=60)
        connection.request("POST", PATH, json.dumps(body).encode(), self._headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}")
        return response

    def answer(self) -> str:
        return json.loads(self._post(_body(MODEL, stream=False)).read())["choices"][0]["message"]["content"]

    def pieces(self, model: str) -> Iterator[str]:
        response, rest = self._post(_body(model, stream=True)), b""
        while data := response.read1(65_536):
            *events, rest = (rest + data).split(_EVENT_END)
            for event in events:
                if event != b"data: [DONE]" and (text := json.loads(event[6:])["choices"][0]["delta"].get("content")):
                    yield text


CONTENDERS: dict[str, Any] = {
    "ours": Ours,
    "groq": GroqSDK,
    "openai": OpenAISDK,
    "session": RequestsSession,
    "requests": RequestsPost,
    "floor": Floor,
}


def missing(name: str) -> list[str]:
    """Return the packages a contender needs and that are not installed."""
    return [package for package in CONTENDERS[name].needs if importlib.util.find_spec(package) is None]


# --- measures ------------------------------------------------------------------------------------------------------------


def measure_json(client: Any, *, requests: int) -> dict[str, float]:
    """Plain answers from one thread on a kept connection: CPU and wall seconds per request."""
    answer = client.answer
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(requests):
        answer()
    return {"cpu": (time.process_time() - cpu) / requests, "wall": (time.perf_counter() - wall) / requests}


def _stream(client: Any, kind: str, count: int) -> float:
    seen, cpu = 0, time.process_time()
    for _ in client.pieces(f"bench/{kind}-{count}"):
        seen += 1
    cpu = time.process_time() - cpu
    if seen != count:
        raise RuntimeError(f"{seen} chunks came, not {count}")
    return cpu


def measure_chunks(client: Any, *, kind: str, chunks: int) -> dict[str, float]:
    """CPU seconds per chunk of a long stream, what a stream of one chunk costs taken off; and that of the short stream."""
    short = min(_stream(client, kind, 1) for _ in range(3))
    return {"cpu": (_stream(client, kind, chunks + 1) - short) / chunks, "short": short}


def measure_first(client: Any, *, requests: int) -> dict[str, list[float]]:
    """Wall seconds from the call to the first text, on a kept connection."""
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        pieces = client.pieces("bench/events-3")
        next(pieces)
        times.append(time.perf_counter() - began)
        for _ in pieces:  # to the end, so that the connection is kept
            pass
    return {"wall": times}


def measure_rate(client: Any, *, threads: int, seconds: float) -> dict[str, float]:
    """Plain answers per second from some threads that share the client, and the CPU seconds each cost."""
    gate, counts, problems = threading.Barrier(threads + 1), [0] * threads, []

    def work(index: int) -> None:
        try:
            client.answer()  # opens this thread's connection
        except Exception as problem:
            problems.append(problem)
        gate.wait()
        gate.wait()  # the clock has started
        done = 0
        try:
            while time.perf_counter() < end:
                client.answer()
                done += 1
        except Exception as problem:
            problems.append(problem)
        counts[index] = done

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began, cpu = time.perf_counter(), time.process_time()
    end = began + seconds
    gate.wait()
    for worker in workers:
        worker.join()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if problems:
        raise problems[0]
    return {"rate": sum(counts) / wall, "cpu": cpu / max(sum(counts), 1)}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "json": measure_json,
    "chunks": measure_chunks,
    "first": measure_first,
    "rate": measure_rate,
}


def serve_commands(name: str, port: int) -> None:
    """Measure what is asked for, one line each, until the input ends."""
    client = CONTENDERS[name](port)
    client.answer()
    for _ in client.pieces("bench/events-3"):  # loads whatever is loaded late
        pass
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            found = MEASURES[command.pop("measure")](client, **command)
        except Exception as problem:
            found = {"error": f"{type(problem).__name__}: {problem}"[:300]}
        print(json.dumps(found), flush=True)


# --- the server's own ceiling ------------------------------------------------------------------------------------------------


def ceiling(port: int, *, seconds: float = 0.5, chunks: int = 2000) -> dict[str, float]:
    """Measure the server with bare sockets: requests per second on 1 and on 32 connections, chunks per second."""
    body = json.dumps(_body(MODEL, stream=False)).encode()
    request = b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
    found = {f"rate_{count}": _raw_rate(port, request, count, seconds) for count in (1, 32)}
    for kind in ("events", "burst"):
        body = json.dumps(_body(f"bench/{kind}-{chunks}", stream=True)).encode()
        request = b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
        found[f"chunks_{kind}"] = max(_raw_chunks(port, request, chunks) for _ in range(3))
    return found


def _raw_rate(port: int, request: bytes, count: int, seconds: float) -> float:
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for sock in sockets:
            sock.sendall(request)
        for sock in sockets:
            sock.recv(65_536)
        done += count
    rate = done / (time.perf_counter() - began)
    for sock in sockets:
        sock.close()
    return rate


def _raw_chunks(port: int, request: bytes, chunks: int) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        began = time.perf_counter()
        sock.sendall(request)
        end = b""
        while not end.endswith(b"0\r\n\r\n"):
            end = end[-8:] + sock.recv(262_144)
        return chunks / (time.perf_counter() - began)


if __name__ == "__main__":
    serve_commands(sys.argv[1], int(sys.argv[2]))
