"""Connections to Redis whose every step draws on one time limit; imported only where the extra ``redis`` is used.

The protocol is redis-py's, over its public connection class. What is added: the limit covers connecting, TLS, signing in and the
command together, also against a server that sends one byte at a time; TLS is always verified, with a context read once.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from redis.connection import Connection, parse_url
from redis.exceptions import (
    AskError,
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from urllib3.util.wait import wait_for_read

from groq_provider._validate import Hidden
from groq_provider.errors import ConfigurationError, without_frames

if TYPE_CHECKING:
    import socket

__all__ = ["Address", "Link", "LinkError", "NoScriptError"]

#: What the query of a URL may say. Nothing else is passed on: redis-py would take an option that switches verification off.
_URL_OPTIONS = {
    "db",
    "socket_timeout",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
}


class LinkError(Exception):
    """A command got no usable answer, or could not be sent.

    Attributes:
        refused: Whether repeating is useless: the password is wrong, something is not permitted, nobody vouches for the server.
        occupied: Whether a key holds something of another type.
    """

    def __init__(self, message: str, *, refused: bool = False, occupied: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.occupied = occupied


class _UntrustedError(RedisError):
    """The certificate of the server is not one to trust."""


class Address:
    """Where a server is and how to sign in there: what a URL says.

    Args:
        url: ``redis://`` or ``rediss://``. Its query may have ``db``, ``socket_timeout`` in seconds and, for TLS,
            ``ssl_ca_certs``, ``ssl_ca_path``, ``ssl_certfile`` and ``ssl_keyfile``.

    Raises:
        ConfigurationError: It is not such a URL. The message does not repeat it: a password may be in it.
    """

    def __init__(self, url: str) -> None:
        self.where = "unfinished"  # for tools that show the variables of a construction that failed
        try:
            self._read_url(Hidden(url))
        except ConfigurationError as error:
            problem = error
        else:
            return
        del url
        raise without_frames(problem)  # the frames below show what the URL consists of

    def _read_url(self, url: str) -> None:
        expected_form = (
            "rate_limit_store: a Redis URL is redis://[user:password@]host[:port][/db], or rediss://… for TLS"
        )
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
            parsed = parse_url(url)
        except ValueError:
            parsed = None
        if parsed is None or parts.scheme not in {"redis", "rediss"} or not re.fullmatch(r"/?|/[0-9]{1,9}", parts.path):
            raise ConfigurationError(expected_form)
        if unknown := sorted(set(options) - _URL_OPTIONS):
            raise ConfigurationError(
                f"{expected_form}; there is no option {unknown[0][:40]!r}; known: {', '.join(sorted(_URL_OPTIONS))}"
            )
        if (
            options.get("ssl_cert_reqs", "required") != "required"
            or options.get("ssl_check_hostname", "true") != "true"
        ):
            raise ConfigurationError(
                "rate_limit_store: certificates are always verified; for your own authority give ssl_ca_certs=/path/to/ca.pem"
            )
        db = max(parsed.get("db", 0), 0)
        self.timeout: float | None = parsed.get("socket_timeout")
        self.host: str = parsed.get("host", "localhost")
        self.port: int = parsed.get("port", 6379)
        self.password: str | None = None if parsed.get("password") is None else Hidden(parsed["password"])
        self.where = f"{parts.scheme}://{self.host}:{self.port}/{db}"
        self.settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": db,
            "username": parsed.get("username"),
            "password": self.password,
        }
        self.context = _tls_context(options) if parts.scheme == "rediss" else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where}>"


def _tls_context(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"rate_limit_store: the certificates named in the URL cannot be read: {error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _DeadlineSocket:
    """A socket whose reads and writes end at the instant of its link, whatever the peer does."""

    def __init__(self, sock: socket.socket, link: Link) -> None:
        self._sock = sock
        self._owner = link

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._owner.remaining_time())
        return self._sock.recv(size)

    def recv_into(self, buffer: bytearray, size: int = 0) -> int:
        self._sock.settimeout(self._owner.remaining_time())
        return self._sock.recv_into(buffer, size)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._owner.remaining_time())
        self._sock.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        """Do nothing: the link's limit holds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Link(Connection):
    """One connection, for one command at a time.

    Attributes:
        until: Monotonic instant at which whatever it does ends.
        generation: For its owner.
    """

    def __init__(self, address: Address, generation: int) -> None:
        self.deadline = math.inf
        self.generation = generation
        self._address = address
        self._connected_socket: socket.socket | None = None
        super().__init__(
            protocol=2,  # no HELLO: one round trip less, and no pushed messages between answers
            retry=None,
            health_check_interval=0,
            socket_keepalive=True,
            **address.settings,
        )
        # Two round trips to tell the server which library this is; the arguments for that differ between versions of redis-py.
        self.lib_name = self.lib_version = self.driver_info = None

    def remaining_time(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: None.
        """
        remaining_time = self.deadline - time.monotonic()
        if remaining_time <= 0:
            raise TimeoutError("timed out")
        return remaining_time

    @property
    def socket_timeout(self) -> float:
        """What is left of the limit: redis-py asks when it has connected."""
        return self.remaining_time()

    @socket_timeout.setter
    def socket_timeout(self, seconds: float | None) -> None:
        pass

    @property
    def socket_connect_timeout(self) -> float:
        """What is left of the limit: redis-py asks for each address of the host."""
        return self.remaining_time()

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        pass

    def _connect(self) -> _DeadlineSocket:
        sock: socket.socket = super()._connect()
        context = self._address.context
        if context is not None:
            plain = sock
            try:
                plain.settimeout(self.remaining_time())  # for the handshake as a whole
                sock = context.wrap_socket(plain, server_hostname=self._address.host)
            except ssl.SSLCertVerificationError as error:
                plain.close()
                raise _UntrustedError(f"certificate refused: {error.verify_message}") from None
            except BaseException:
                plain.close()
                raise
        self._connected_socket = sock
        return _DeadlineSocket(sock, self)

    def is_usable(self) -> bool:
        """Return whether nothing happened since its last command: no end of the connection, no stray answer."""
        if self._connected_socket is None or self._connected_socket.fileno() < 0:
            return False
        return not wait_for_read(self._connected_socket, timeout=0)

    def run_command(self, *words: bytes | str | int) -> Any:
        """Send a command and return the answer, connecting first where needed.

        Raises:
            NoScriptError: To EVALSHA: the server does not know the script; the connection is fine.
            LinkError: No usable answer; the connection is closed.
        """
        signed_in = self._connected_socket is not None
        try:
            if not signed_in:
                self.connect()
                signed_in = True
            self.send_packed_command(self.pack_command(*words), check_health=False)
            return self.read_response()
        except (RedisError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            # The later ones are what the parser makes of an answer that is not Redis.
            if isinstance(error, NoScriptError) and words[0] == "EVALSHA":
                raise
            self.drop()
            link_error = self._translate_error(error, signed_in=signed_in)
        except BaseException:
            self.drop()
            raise
        raise link_error  # here, where no context with the words sent hangs on it

    def _translate_error(self, error: Exception, *, signed_in: bool) -> LinkError:
        if isinstance(error, _UntrustedError):
            return LinkError(str(error), refused=True)
        answer_text = str(error)
        if isinstance(error, AskError) or answer_text.startswith(("MOVED ", "ASK ")):  # the latter before redis-py 6
            return LinkError("a cluster that keeps this key on another node")
        refused = isinstance(error, (AuthenticationError, NoPermissionError))
        if not signed_in and isinstance(error, ResponseError):
            # A server that does not know AUTH quotes what it was sent.
            refused = refused or answer_text.startswith(("DB index", "SELECT is not"))
            answer_text = (
                answer_text if refused and not isinstance(error, AuthenticationError) else answer_text.partition(" ")[0]
            )
        password = self._address.password
        if password and password in answer_text:
            answer_text = answer_text.replace(password, "***")
        error_kind = type(error).__name__
        return LinkError(f"{error_kind}: {answer_text[:160]}", refused=refused, occupied="WRONGTYPE" in answer_text)

    def drop(self) -> None:
        """Close the connection; a late answer is never read. In a child process the parent's goes on."""
        self._connected_socket = None
        self.disconnect()
