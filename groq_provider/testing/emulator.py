"""A local Groq: :class:`Emulator`, and :func:`serve` for the command line."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from groq_provider.testing import _http, _proxies
from groq_provider.testing._http import BadRequestError, BrokenError, Writer
from groq_provider.testing._models import model_table
from groq_provider.testing._script import CallbackError, Script
from groq_provider.testing._server import Server
from groq_provider.testing._service import Service
from groq_provider.testing._state import Clock, ServiceState, Settings
from groq_provider.testing.fake_clock import FakeClock
from groq_provider.testing.replies import Fault, Gate, RecordedRequest, Reply, as_reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import datetime
    from types import FrameType

    from typing_extensions import Self

    from groq_provider.testing._models import Plan

_STOP_TIMEOUT = 10.0


class _SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        from datetime import datetime, timezone

        return datetime.now(timezone.utc)


class Emulator:
    """A local Groq for tests: real sockets, real event streams, real limits.

    >>> import urllib.request
    >>> with Emulator(speed=0) as emulator:
    ...     request = urllib.request.Request(emulator.base_url + "/openai/v1/models")
    ...     request.add_header("Authorization", "Bearer " + emulator.api_key)
    ...     with urllib.request.urlopen(request) as response:
    ...         response.status
    200

    You may call all methods from any thread. Where the environment names proxies, the emulator adds its host to ``NO_PROXY`` and
    ``no_proxy`` while it runs.

    The same request always gets the same answer: plain sentences, which quote the last user text if that is short, and begin with
    it if it is one word. A few questions, such as those of the demo, get a real answer. A prompt that asks for JSON gets JSON that
    fits the schema in the prompt, if there is one. If the emulator cannot make an answer, it responds with a 500 and keeps the
    reason in :attr:`errors`.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        plan: Enforce the limits of that plan; ``None`` enforces only *limits*.
        limits: Limits by dimension (``rpm``, ``rpd``, ``tpm``, ``tpd``, ``itpm``, ``otpm``) for every model, or such mappings by
            model id. They come on top of those of *plan*.
        api_keys: The keys to accept; ``None`` accepts all but ``invalid`` and ``gsk_invalid``.
        speed: Factor on the models' nominal speed; 0 or infinity is as fast as possible.
        latency: Seconds to the first token; ``None`` means the model's nominal one, scaled by *speed*.
        models: Ids to add to the live models or to bring back, or a mapping of ids to changed fields
            (``context_window``, ``max_completion_tokens``, ``tokens_per_second``, ``latency``, ``tools``, ``reasoning``, …).
        blocked: Models to refuse with a 403, each with the level of its block: ``org`` or ``project``.
        ssl_context: Server-side context; if you give one, the emulator speaks TLS.
        clock: Clock of the limits and time stamps, with ``monotonic()`` and ``now()``; streams keep to real time.
        on_event: Called with the request and the event's index before each streamed event; it may block.
        on_answer: Called with each request after its response was sent or broken; ``outcome`` says which.
        assumed_completion_tokens: Tokens charged on admission to a request without a maximum, at most the limit itself.
        validate: Refuse the requests that the service would refuse; False accepts any body with model and messages.

    .. versionadded:: 0.1.0
    """

    api_key = "gsk_emulator0000000000000000000000000000000000000000"

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        plan: Plan | None = None,
        limits: Mapping[str, Any] | None = None,
        api_keys: Collection[str] | None = None,
        speed: float = 1.0,
        latency: float | None = None,
        models: Mapping[str, Mapping[str, Any]] | Iterable[str] | None = None,
        blocked: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        on_event: Callable[[RecordedRequest, int], object] | None = None,
        on_answer: Callable[[RecordedRequest], object] | None = None,
        assumed_completion_tokens: int = 1024,
        validate: bool = True,
    ) -> None:
        self._address = (host, port)
        self._ssl_context = ssl_context
        self._clock: Clock = clock or _SystemClock()
        self._script = Script()
        settings = Settings(
            models=model_table(models),
            plan=plan,
            limits=limits,
            api_keys=api_keys,
            speed=speed,
            latency=latency,
            assumed_completion_tokens=assumed_completion_tokens,
            validate=validate,
            secure=ssl_context is not None,
            clock=self._clock,
        )
        self._state = ServiceState(settings, self._script)
        self._state.blocked.update(blocked or {})
        self._service = Service(self._state)
        self.on_event = on_event
        self.on_answer = on_answer
        self.errors: list[BaseException] = []
        """Errors raised by the test's callbacks (``match``, ``gate``, ``on_event``, ``on_answer``), each of which closed its connection; and
        errors that kept the emulator from making an answer, each of which the client saw as a 500."""
        self._changed = threading.Condition()  # guards everything below
        self._requests: list[RecordedRequest] = []
        self._connections = 0
        self._open_sockets: set[socket.socket] = set()
        self._gates: list[Gate] = []
        self._server: Server | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._bypasses_proxies = False

    def __repr__(self) -> str:
        where = self.base_url if self._server is not None else "stopped"
        return f"<Emulator {where}, {len(self.requests)} requests, {self.open_connections} connections open>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *args: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen in a background thread; return the emulator itself."""
        if self._server is not None:
            raise RuntimeError("the emulator runs already")
        self._stopping = threading.Event()
        self._server = Server(self._address, self._serve_connection, self._ssl_context)
        self._acceptor = threading.Thread(target=self._server.accept_loop, name="groq-emulator", daemon=True)
        self._acceptor.start()
        self._bypasses_proxies = _proxies.bypass(self._address[0])
        return self

    def stop(self) -> None:
        """Close every connection and end every thread; do nothing if the emulator is not running.

        Raises:
            RuntimeError: A callback of the test still blocks a thread after ten seconds.
        """
        server, acceptor = self._server, self._acceptor
        if server is None or acceptor is None:
            return
        self._server = self._acceptor = None
        self._stopping.set()
        if self._bypasses_proxies:
            self._bypasses_proxies = False
            _proxies.restore(self._address[0])
        server.wake()
        acceptor.join()
        server.server_close()
        with self._changed:
            gates, connections = list(self._gates), list(self._open_sockets)
        for gate in gates:
            gate.open()
        for sock in connections:
            with suppress(OSError):
                # SSLSocket.shutdown() would drop the TLS state while the connection's thread reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        running_threads = server.join_handlers(time.monotonic() + _STOP_TIMEOUT)
        if running_threads:
            raise RuntimeError(
                f"{running_threads} connection threads of the emulator did not end: does a gate still block?"
            )

    @property
    def base_url(self) -> str:
        """Scheme, host and port, for example ``http://127.0.0.1:49152``."""
        if self._server is None:
            raise RuntimeError("the emulator is not running: use it in a with statement or call start()")
        host, port = self._server.server_address[:2]
        name = str(host)
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, in order of arrival; a copy."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """Number of connections accepted since the construction."""
        with self._changed:
            return self._connections

    @property
    def open_connections(self) -> int:
        """Number of connections open now."""
        with self._changed:
            return len(self._open_sockets)

    @property
    def pending_replies(self) -> int:
        """Number of scripted replies not used up yet."""
        return len(self._script)

    def wait_until(self, condition: Callable[[Emulator], object], timeout: float = 5.0) -> bool:
        """Wait until *condition* of this emulator is true; it is checked at every change of a request or connection.

        Returns:
            False if it was still false after *timeout* seconds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: bool(condition(self)), timeout)

    def reply(self, content: str | None = None, **fields: Any) -> Reply:
        """Script the next answer, with the fields of :class:`Reply`; return the reply."""
        reply = Reply(content, **fields)
        self.enqueue(reply)
        return reply

    def enqueue(self, *items: Reply | Fault | str) -> None:
        """Script the next answers, first in first out; text is content, a :class:`Fault` is a reply of its own."""
        for item in items:
            reply = as_reply(item)
            if isinstance(reply.gate, Gate):
                with self._changed:
                    self._gates.append(reply.gate)
            self._script.add(reply)

    def block_model(self, model: str, level: str = "org") -> None:
        """Refuse *model* with a 403, as blocked at *level* ``org`` or ``project``."""
        self._state.blocked[model] = level

    def reset(self) -> None:
        """Drop scripts, records, errors and cached prompts, and refill all limits; connections stay open."""
        self._script.clear()
        self._state.reset()
        with self._changed:
            self._requests.clear()
            self.errors.clear()

    # --- called by the connections' threads --------------------------------------------------------------------------------

    def _serve_connection(self, sock: socket.socket) -> None:
        number = self._register_connection(sock)
        if number is None:
            sock.close()
            return
        try:
            if hasattr(sock, "do_handshake"):
                sock.do_handshake()
            with sock.makefile("rb") as stream:
                while self._serve_request(sock, stream, number):
                    pass
            _http.close_tls(sock)
        except (OSError, BrokenError):
            pass  # the client closed the connection, speaks no TLS, or got its scripted fault
        except BadRequestError:
            with suppress(OSError):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - a callback of the test failed; the test reads the error in ``errors``
            cause = error.__cause__ if isinstance(error, CallbackError) else None
            with self._changed:
                self.errors.append(cause or error)
        finally:
            self._close_connection(sock)

    def _register_connection(self, sock: socket.socket) -> int | None:
        """Register a connection and return its number; ``None`` if the emulator is stopping."""
        with self._changed:
            if self._stopping.is_set():
                return None
            self._connections += 1
            self._open_sockets.add(sock)
            self._changed.notify_all()
            return self._connections

    def _close_connection(self, sock: socket.socket) -> None:
        # Close under the lock, after stop() can no longer see the socket and before others see the new count.
        with self._changed:
            self._open_sockets.discard(sock)
            sock.close()
            self._changed.notify_all()

    def _serve_request(self, sock: socket.socket, stream: Any, number: int) -> bool:
        """Read one request and respond to it; return whether the connection may be used again."""
        request = _http.read_request(stream, sock.sendall)
        if request is None:
            return False
        started = time.monotonic()
        request.connection = number
        request.authorized = self._state.is_authorized(request.headers)
        with self._changed:
            request.number = len(self._requests)
            request.time = self._clock.monotonic()
            self._requests.append(request)
            self._changed.notify_all()
        response = self._service.respond(request)
        request.status = response.status
        if response.error is not None:
            with self._changed:
                self.errors.append(response.error)

        def before_event(index: int) -> None:
            if self.on_event is not None:
                self.on_event(request, index)
            if response.gate is not None:
                response.gate(index)

        writer = Writer(sock, self._stopping, before_event)
        settle, response.settle = response.settle, None
        try:
            if settle is not None:
                response.settle = _run_once(settle)
            can_be_reused = writer.write(response, request, started)
            request.outcome = "sent"
        except BrokenError as error:
            request.outcome = error.outcome
            raise
        finally:
            if response.settle is not None:
                response.settle()
            with self._changed:
                self._changed.notify_all()
            if self.on_answer is not None:
                self.on_answer(request)
        return can_be_reused


def _run_once(function: Callable[[], None]) -> Callable[[], None]:
    """Return *function* wrapped so that only its first call runs it; for one thread."""
    was_called = False

    def call_once() -> None:
        nonlocal was_called
        if not was_called:
            was_called = True
            function()

    return call_once


def serve(
    host: str,
    port: int,
    *,
    plan: Plan | None = None,
    speed: float = 1.0,
    on_answer: Callable[[RecordedRequest], object] | None = None,
) -> None:
    """Run an emulator until Ctrl-C or SIGTERM, for the command line; print its base URL first.

    You must call it from the main thread, since only that one can set signal handlers.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        plan: The plan to enforce the limits of; ``None`` enforces none.
        speed: Factor on the models' nominal speed; 0 is as fast as possible.
        on_answer: Called with each request after its response was sent or broken.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python prescribes the signature
        stop.set()

    previous = {name: signal.signal(name, on_signal) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Emulator(host=host, port=port, plan=plan, speed=speed, on_answer=on_answer) as emulator:
            sys.stdout.write(f"{emulator.base_url}\n")
            sys.stdout.flush()
            # Wait in slices: on Windows a wait without a timeout cannot be interrupted.
            while not stop.wait(0.5):
                pass
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


__all__ = ["Emulator", "FakeClock", "Fault", "Gate", "RecordedRequest", "Reply", "serve"]
