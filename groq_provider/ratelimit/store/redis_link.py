"""Connect to Redis under one time limit for all steps of a command; imported only if the extra ``redis`` is used.

redis-py speaks the protocol, through its public connection class. This module adds two things: one time limit over connecting, TLS,
signing in and the command, even if the server sends one byte at a time; and TLS that is always verified, with a context read once.
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

#: The options allowed in the query of a URL. No other option is passed on, because redis-py has some that switch verification off.
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
        refused: Whether repeating is useless: wrong password, missing permission, or an untrusted certificate.
        occupied: Whether the key holds a value of another type.
    """

    def __init__(self, message: str, *, refused: bool = False, occupied: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.occupied = occupied


class _UntrustedError(RedisError):
    """The server's certificate is not trusted."""


class Address:
    """The server of a URL, and how to sign in there.

    Args:
        url: ``redis://`` or ``rediss://``. Its query may have ``db``, ``socket_timeout`` in seconds and, for TLS,
            ``ssl_ca_certs``, ``ssl_ca_path``, ``ssl_certfile`` and ``ssl_keyfile``.

    Raises:
        ConfigurationError: The URL has another form. The message does not repeat it, because it may contain a password.
    """

    def __init__(self, url: str) -> None:
        self.where = "unfinished"  # a debugger may show the variables of a failed construction
        try:
            self._read_url(Hidden(url))
        except ConfigurationError as error:
            problem = error
        else:
            return
        del url
        raise without_frames(problem)  # the frames below would show the parts of the URL

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
    """A socket that ends each read and write at the deadline of its link, even if the peer sends one byte at a time."""

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
        """Do nothing: the link's deadline holds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Link(Connection):
    """One connection, for one command at a time.

    Attributes:
        deadline: Monotonic instant at which the running command gives up.
        generation: For the owner's use.
    """

    def __init__(self, address: Address, generation: int) -> None:
        self.deadline = math.inf
        self.generation = generation
        self._address = address
        self._connected_socket: socket.socket | None = None
        super().__init__(
            protocol=2,  # without HELLO: one round trip less, and no pushed messages between answers
            retry=None,
            health_check_interval=0,
            socket_keepalive=True,
            **address.settings,
        )
        # Do not tell the server which library this is: two round trips, and the arguments differ between versions of redis-py.
        self.lib_name = self.lib_version = self.driver_info = None

    def remaining_time(self) -> float:
        """Return the seconds until the deadline.

        Raises:
            TimeoutError: The deadline has passed.
        """
        remaining_time = self.deadline - time.monotonic()
        if remaining_time <= 0:
            raise TimeoutError("timed out")
        return remaining_time

    @property
    def socket_timeout(self) -> float:
        """The remaining time; redis-py reads it after connecting."""
        return self.remaining_time()

    @socket_timeout.setter
    def socket_timeout(self, seconds: float | None) -> None:
        pass

    @property
    def socket_connect_timeout(self) -> float:
        """The remaining time; redis-py reads it for each address of the host."""
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
                plain.settimeout(self.remaining_time())  # bounds the handshake as a whole
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
        """Return whether the connection is idle and open: the server has neither closed it nor sent anything unasked."""
        if self._connected_socket is None or self._connected_socket.fileno() < 0:
            return False
        return not wait_for_read(self._connected_socket, timeout=0)

    def run_command(self, *words: bytes | str | int) -> Any:
        """Send a command and return the answer; connect first if needed.

        Raises:
            NoScriptError: To EVALSHA: the server does not know the script; the connection stays usable.
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
            # The built-in ones: redis-py's parser raises them for an answer that is not Redis.
            if isinstance(error, NoScriptError) and words[0] == "EVALSHA":
                raise
            self.drop()
            link_error = self._translate_error(error, signed_in=signed_in)
        except BaseException:
            self.drop()
            raise
        raise link_error  # outside the handler, so that no context refers to the words sent

    def _translate_error(self, error: Exception, *, signed_in: bool) -> LinkError:
        if isinstance(error, _UntrustedError):
            return LinkError(str(error), refused=True)
        answer_text = str(error)
        if isinstance(error, AskError) or answer_text.startswith(("MOVED ", "ASK ")):  # the latter before redis-py 6
            return LinkError("the server is part of a cluster that keeps this key on another node")
        refused = isinstance(error, (AuthenticationError, NoPermissionError))
        if not signed_in and isinstance(error, ResponseError):
            # A server that does not know AUTH quotes its arguments: keep the first word only.
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
        """Close the connection; a late answer is never read. In a child process, the parent's connection stays open."""
        self._connected_socket = None
        self.disconnect()
