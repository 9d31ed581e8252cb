"""A local Groq: `Emulator`, and `serve` for the command line."""

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
from groq_provider.testing._server import Server
from groq_provider.testing._service import CallbackError, Clock, Script, Service, Settings
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

    Where the environment names proxies, the emulator's host stands in `NO_PROXY` and `no_proxy` as long as it runs.

    All methods may be called from any thread. The same request gets the same answer: plain sentences, which quote
    the last user text if that is short, and begin with it if it is one word; a few questions, such as those of the demo, are answered instead. A prompt that asks
    for JSON gets JSON, which fits the schema in the prompt if there is one. What no answer can be made for gets a 500.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        plan: Enforce the limits of that plan; `None` enforces only *limits*.
        limits: Limits by dimension (`rpm`, `rpd`, `tpm`, `tpd`, `itpm`, `otpm`) for every model, or such mappings by
            model id. They come on top of those of *plan*.
        api_keys: The keys accepted; `None` accepts all but `invalid` and `gsk_invalid`.
        speed: Factor on the models' nominal speed; 0 or infinity is as fast as possible.
        latency: Seconds to the first token; `None` means the model's nominal one, scaled by *speed*.
        models: Ids to add to the live ones or to bring back, or a mapping of ids to changed fields
            (`context_window`, `max_completion_tokens`, `tokens_per_second`, `latency`, `tools`, `reasoning`, …).
        blocked: Models answered with 403, with `org` or `project` each.
        ssl_context: Speak TLS with this server-side context.
        clock: Clock of the limits and time stamps, with `monotonic()` and `now()`; streams keep to real time.
        on_event: Called with the request and the event's index before each streamed event; may block.
        on_answer: Called with each request once its answer is out, whole or broken, whatever its `outcome`.
        assumed_completion_tokens: Charged at admission where the request sets no maximum (cut to what the limit allows).
        validate: Refuse what the service would refuse; False lets any body with model and messages pass.

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
        self._service = Service(settings, self._script)
        self._service.blocked.update(blocked or {})
        self.on_event = on_event
        self.on_answer = on_answer
        self.errors: list[BaseException] = []
        """What callbacks of the test (`match`, `gate`, `on_event`, `on_answer`) have raised, which closed their connection; and why an
        answer could not be made, which gave a 500."""
        self._changed = threading.Condition()  # guards everything below
        self._requests: list[RecordedRequest] = []
        self._connections = 0
        self._open: set[socket.socket] = set()
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
        """Listen, in a background thread; returns the emulator itself."""
        if self._server is not None:
            raise RuntimeError("the emulator runs already")
        self._stopping = threading.Event()
        self._server = Server(self._address, self._serve_connection, self._ssl_context)
        self._acceptor = threading.Thread(target=self._server.accept_loop, name="groq-emulator", daemon=True)
        self._acceptor.start()
        self._bypasses_proxies = _proxies.bypass(self._address[0])
        return self

    def stop(self) -> None:
        """Close every connection and end every thread; without effect when not running.

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
            gates, connections = list(self._gates), list(self._open)
        for gate in gates:
            gate.open()
        for sock in connections:
            with suppress(OSError):
                # Not SSLSocket's, which drops its state under the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        left = server.join_handlers(time.monotonic() + _STOP_TIMEOUT)
        if left:
            raise RuntimeError(f"{left} connection threads of the emulator did not end: does a gate still block?")

    @property
    def base_url(self) -> str:
        """Scheme, host and port, for example `http://127.0.0.1:49152`."""
        if self._server is None:
            raise RuntimeError("the emulator is not running: use it in a with statement or call start()")
        host, port = self._server.server_address[:2]
        name = str(host)
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; a copy."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        with self._changed:
            return self._connections

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._open)

    @property
    def pending_replies(self) -> int:
        """How many scripted replies wait."""
        return len(self._script)

    def wait_until(self, condition: Callable[[Emulator], object], timeout: float = 5.0) -> bool:
        """Wait until *condition* of this emulator is true; looked at whenever a request or connection changes.

        Returns:
            False if it was still false after *timeout* seconds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: bool(condition(self)), timeout)

    def reply(self, content: str | None = None, **fields: Any) -> Reply:
        """Script the next answer, with the fields of `Reply`; returns it."""
        reply = Reply(content, **fields)
        self.enqueue(reply)
        return reply

    def enqueue(self, *items: Reply | Fault | str) -> None:
        """Script the next answers, first in first out; text is content, a `Fault` stands alone."""
        for item in items:
            reply = as_reply(item)
            if isinstance(reply.gate, Gate):
                with self._changed:
                    self._gates.append(reply.gate)
            self._script.add(reply)

    def block_model(self, model: str, level: str = "org") -> None:
        """Answer 403 for *model*, blocked at *level* `org` or `project`."""
        self._service.blocked[model] = level

    def reset(self) -> None:
        """Forget scripts, records, errors and cached prompts, and fill all limits; connections stay."""
        self._script.clear()
        self._service.reset()
        with self._changed:
            self._requests.clear()
            self.errors.clear()

    # What the connections' threads call.

    def _serve_connection(self, sock: socket.socket) -> None:
        number = self._opened(sock)
        if number is None:
            sock.close()
            return
        try:
            if hasattr(sock, "do_handshake"):
                sock.do_handshake()
            with sock.makefile("rb") as stream:
                while self._exchange(sock, stream, number):
                    pass
            _http.half_close(sock)
        except (OSError, BrokenError):
            pass  # the client has left, speaks no TLS, or got the fault it was meant to get
        except BadRequestError:
            with suppress(OSError):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        except Exception as error:  # noqa: BLE001  # a callback of the test failed: kept for it
            cause = error.__cause__ if isinstance(error, CallbackError) else None
            with self._changed:
                self.errors.append(cause or error)
        finally:
            self._closed(sock)

    def _opened(self, sock: socket.socket) -> int | None:
        """Register a connection: its number, or `None` when stopping."""
        with self._changed:
            if self._stopping.is_set():
                return None
            self._connections += 1
            self._open.add(sock)
            self._changed.notify_all()
            return self._connections

    def _closed(self, sock: socket.socket) -> None:
        # Closed before it is counted as closed, and here, where stop() can no longer see it.
        with self._changed:
            self._open.discard(sock)
            sock.close()
            self._changed.notify_all()

    def _exchange(self, sock: socket.socket, stream: Any, number: int) -> bool:
        """Read one request and answer it: whether there may be another one on this connection."""
        request = _http.read_request(stream, sock.sendall)
        if request is None:
            return False
        started = time.monotonic()
        request.connection = number
        request.authorized = self._service.is_authorized(request.headers)
        with self._changed:
            request.number = len(self._requests)
            request.time = self._clock.monotonic()
            self._requests.append(request)
            self._changed.notify_all()
        answer = self._service.answer(request)
        request.status = answer.status
        if answer.error is not None:
            with self._changed:
                self.errors.append(answer.error)

        def before_event(index: int) -> None:
            if self.on_event is not None:
                self.on_event(request, index)
            if answer.gate is not None:
                answer.gate(index)

        writer = Writer(sock, self._stopping, before_event)
        settle, answer.settle = answer.settle, None
        try:
            if settle is not None:
                answer.settle = _once(settle)
            again = writer.write(answer, request, started)
            request.outcome = "sent"
        except BrokenError as error:
            request.outcome = error.outcome
            raise
        finally:
            if answer.settle is not None:
                answer.settle()
            with self._changed:
                self._changed.notify_all()
            if self.on_answer is not None:
                self.on_answer(request)
        return again


def _once(function: Callable[[], None]) -> Callable[[], None]:
    """*function*, called the first time only; for one thread."""
    done = False

    def call() -> None:
        nonlocal done
        if not done:
            done = True
            function()

    return call


def serve(
    host: str,
    port: int,
    *,
    plan: Plan | None = None,
    speed: float = 1.0,
    on_answer: Callable[[RecordedRequest], object] | None = None,
) -> None:
    """Run an emulator until Ctrl-C or SIGTERM, for the command line. Prints the base URL first.

    Call it from the main thread, which alone can wait for signals.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        plan: Plan whose limits are enforced; `None` enforces none.
        speed: Factor on the models' nominal speed; 0 is as fast as possible.
        on_answer: Called with each request once its answer is out.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature is Python's
        stop.set()

    previous = {name: signal.signal(name, on_signal) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Emulator(host=host, port=port, plan=plan, speed=speed, on_answer=on_answer) as emulator:
            sys.stdout.write(f"{emulator.base_url}\n")
            sys.stdout.flush()
            # In slices: a wait without end cannot be interrupted on Windows.
            while not stop.wait(0.5):
                pass
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


__all__ = ["Emulator", "FakeClock", "Fault", "Gate", "RecordedRequest", "Reply", "serve"]
