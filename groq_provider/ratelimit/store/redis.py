"""Share limits among all hosts that reach one Redis server: one script, one round trip, the server's clock."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from groq_provider._sync import forkable
from groq_provider._validate import Hidden
from groq_provider.clock import SystemClock
from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.store.gcra_state import AcquireResult
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

if TYPE_CHECKING:
    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, Adjustment
    from groq_provider.ratelimit.store.redis_link import Link

__all__ = ["RedisStore"]

_log = logging.getLogger(__name__)

#: The most keys to remember that something else occupies.
_MOST_MOVED_KEYS = 256
#: The most unused connections to keep open.
_MOST_IDLE_LINKS = 32

#: Numbers that come before the buckets in an answer to "take".
_HEAD_LENGTH = 6

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=timezone.utc), timedelta(microseconds=1)


class RedisStore:
    """Keeps limits in Redis, version 5 or later, for the threads and processes of any hosts.

    You need the extra ``redis``. Each command is one run of one script, which is atomic and uses the server's clock, so the clocks of
    the hosts do not matter. A model needs less than 512 bytes, and 40 more for each further process, under two keys
    ``<prefix>:{<key>}:v1`` and ``…:hosts``, which expire when they have no effect any more. In a cluster both are in one slot; this
    client talks to the one node that you name.

    The server must permit the commands ``evalsha eval time hgetall hset pexpire zscore zadd zremrangebyscore zcount`` on keys
    ``<prefix>:*``.

    Thread safety: any thread; a forked child opens its own connections.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, or ``rediss://`` for TLS, which is always verified: by the system's
            authorities, or by ``?ssl_ca_certs=/path/to/ca.pem``. ``?socket_timeout=0.3`` sets *timeout*.
        timeout: Seconds for each command, connecting included. It does not bound looking up the host's name.
        time_source: ``"client"`` if the server forbids scripts to read the time: then the wall clocks of the hosts must agree, and each
            command moves the time forward by 5 s at most. ``"clock"``, for tests: the monotonic time of *clock*.
        clock: The source of time for these two; ``None``: the system's clock.
        prefix: The first part of all keys.

    Raises:
        ConfigurationError: The URL is wrong, the extra is not installed, or the server was reached and refused: wrong password,
            missing permission, untrusted certificate. An unreachable server is no error, because it may come up later.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 0.1,
        time_source: Literal["server", "client", "clock"] = "server",
        clock: Clock | None = None,
        prefix: str = "grl",
    ) -> None:
        try:
            from groq_provider.ratelimit.store import redis_link
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            raise ConfigurationError(
                'rate_limit_store: Redis needs an extra package: pip install "groq-provider[redis]"'
            ) from None
        if time_source not in {"server", "client", "clock"}:
            raise ConfigurationError(f"time_source = {time_source!r}: must be 'server', 'client' or 'clock'")
        self._link_module = redis_link
        url = Hidden(url)  # tracebacks with variables show it as asterisks from here on
        self._address = redis_link.Address(url)
        self._timeout = timeout if self._address.timeout is None else self._address.timeout
        if not 0 < self._timeout <= 60:
            raise ConfigurationError(f"timeout = {self._timeout!r}: must be above 0 and at most 60 seconds")
        self._time_source = time_source
        self._clock = SystemClock() if clock is None else clock
        self._prefix = prefix
        self._script = files("groq_provider.ratelimit.store").joinpath("gcra_state.lua").read_bytes()
        self._digest = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()  # the name Redis gives a script
        self._lock = threading.RLock()  # guards the next two; reentrant: see _sync
        self._idle_links: list[Link] = []
        self._generation = 0  # rises with close() and with every failure; links of an older one are dropped
        self._member_name = secrets.token_urlsafe(6)
        self._moved_keys: set[str] = set()  # keys that something else occupies in their first place
        self._check_server()
        forkable(self)

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """Return the store that a URL names, with defaults for all other arguments."""
        return cls(Hidden(url))

    def __repr__(self) -> str:
        if not hasattr(self, "_idle_links"):  # a debugger may show the variables of a failed construction
            return f"<{type(self).__name__} unfinished>"
        return f"<{type(self).__name__} {self._address.where}, {len(self._idle_links)} idle connections>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a RedisStore cannot be pickled because it knows a password; make one from its URL where you need it"
        )

    def take(self, key: str, request: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` once, at the server's present time.

        Raises:
            StoreUnavailableError: No answer within the time limit, or an unusable one. The command may have taken effect.
        """
        words: list[str | int] = [
            self._member_name,
            request.horizon,
            request.latest,
            request.spacing,
            request.seen,
            request.claimant,
        ]
        for charge in request.charges:
            words += charge
        answer = self._run_script("take", key, words)
        if (
            type(answer) is not list
            or len(answer) != _HEAD_LENGTH + len(request.charges)
            or any(type(number) is not int for number in answer)
        ):
            raise self._unavailable("the answer does not come from the script")
        reserved, wait, start, gated, version, hosts = answer[:_HEAD_LENGTH]
        return AcquireResult(reserved == 1, wait, start, gated == 1, version, tuple(answer[_HEAD_LENGTH:]), hosts)

    def adjust(self, key: str, adjustment: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` once, at the server's present time.

        Raises:
            StoreUnavailableError: No answer within the time limit, or an unusable one. The command may have taken effect.
        """
        words: list[str | int] = [
            adjustment.start,
            adjustment.pause,
            int(adjustment.opened),
            adjustment.claimant,
            len(adjustment.credits),
        ]
        for mapping in (adjustment.credits, adjustment.full):
            for name, value in mapping.items():
                words += (name, value)
        if self._run_script("adjust", key, words) != 1:
            raise self._unavailable("the answer does not come from the script")

    def close(self) -> None:
        """Close all connections; idempotent. A later call opens one again."""
        for link in self._forget_idle_links():
            link.drop()

    def _check_server(self) -> None:
        """Sign in and check that scripts are allowed, so that a setting that can never work is refused at once."""
        try:
            self._run_script("look", "-", [])
        except StoreUnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, self._link_module.LinkError) or not cause.refused:
                return
            error_text = f"rate_limit_store: {error}"
        else:
            return
        raise ConfigurationError(error_text)

    def _run_script(self, mode: str, key: str, words: list[str | int]) -> Any:
        deadline = time.monotonic() + self._timeout
        now: str | int = ""
        step: str | int = ""
        if self._time_source == "client":
            now, step = (self._clock.now() - _EPOCH) // _MICROSECOND, 5_000_000
        elif self._time_source == "clock":
            now = round(self._clock.monotonic() * 1_000_000)
        # Redis Cluster derives the slot from the part in braces: both keys need the same, not empty and without a closing brace.
        tagged = key.replace("%", "%25").replace("}", "%7D") or "%"
        tag = f"{self._prefix}:{{{tagged}}}".encode("utf-8", "surrogatepass")
        if key in self._moved_keys:
            tag += b":2"
        try:
            return self._call_script(deadline, (2, tag + b":v1", tag + b":hosts", mode, now, step, *words))
        except StoreUnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, self._link_module.LinkError) or not cause.occupied or key in self._moved_keys:
                raise
        # Another program uses this key. We leave it alone; every process finds the same and moves to the same other key.
        if len(self._moved_keys) < _MOST_MOVED_KEYS:
            self._moved_keys.add(key)
            _log.warning(
                "%s: a key %s:{…} holds something else; its limits are under …:2", self._address.where, self._prefix
            )
        tag += b":2"
        return self._call_script(deadline, (2, tag + b":v1", tag + b":hosts", mode, now, step, *words))

    def _call_script(self, deadline: float, arguments: tuple[Any, ...]) -> Any:
        link = self._borrow_link()
        link.deadline = deadline
        try:
            try:
                answer = link.run_command("EVALSHA", self._digest, *arguments)
            except self._link_module.NoScriptError:  # the server has restarted or flushed its scripts; nothing ran
                answer = link.run_command("EVAL", self._script, *arguments)
        except self._link_module.LinkError as error:
            for other in self._forget_idle_links():  # they are most likely broken too
                other.drop()
            raise StoreUnavailableError(f"{self._address.where}: {error}") from error
        except BaseException:
            link.drop()
            raise
        self._return_link(link)
        return answer

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        self.close()
        return StoreUnavailableError(f"{self._address.where}: {reason}")

    def _borrow_link(self) -> Link:
        while True:
            with self._lock:
                generation = self._generation
                link = self._idle_links.pop() if self._idle_links else None
            if link is None:
                return self._link_module.Link(self._address, generation)
            if link.is_usable():
                return link
            link.drop()

    def _return_link(self, link: Link) -> None:
        with self._lock:
            if link.generation == self._generation and len(self._idle_links) < _MOST_IDLE_LINKS:
                self._idle_links.append(link)
                return
        link.drop()

    def _forget_idle_links(self) -> list[Link]:
        with self._lock:
            self._generation += 1
            idle, self._idle_links = self._idle_links, []
            return idle

    def _after_fork_in_child(self) -> None:
        """Drop the parent's connections, and count as another process from now on."""
        self._lock = threading.RLock()
        self._generation += 1
        abandoned, self._idle_links = self._idle_links, []
        for link in abandoned:
            link.drop()  # closes only the child's copies: redis-py does not shut down a connection that another process opened
        self._member_name = secrets.token_urlsafe(6)
