"""Limits shared by the processes of one host: a small file, a lock on it, and nothing else.

The file holds a header and a table of records of one size, one for each key. Whoever wants something takes the lock, reads one record,
applies :class:`~groq_provider.ratelimit.store.gcra_state.GcraState` to it, writes it back and lets go: some ten microseconds. There is no server, no
thread, nothing to clean up: a process that dies lets go of the lock by dying, and what it had reserved drains like everything else.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote
from zlib import crc32

from groq_provider._sync import forkable
from groq_provider._validate import shown
from groq_provider.clock import SystemClock
from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.bucket import DIMENSIONS
from groq_provider.ratelimit.store.gcra_state import GcraState
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # what a system without it has

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, AcquireResult, Adjustment

__all__ = ["FileStore"]

G = TypeVar("G")
R = TypeVar("R")

_MAGIC, _VERSION = b"groqlim\n", 1

# Magic, version, epoch, hash of the boot id, then monotonic and wall time of one moment, in microseconds; CRC of all that.
_HEADER = struct.Struct("<8sHH4x16sqqI")
# Hash of the key, the fields of a ledger, six instants, which of those are there plus the epoch, CRC of all that.
_RECORD = struct.Struct("<16s13qII")
_BODY = struct.Struct("<16s13qI")
_CRC = struct.Struct("<I")

_SIZE, _CHECKED, _COUNT = _RECORD.size, _BODY.size, 256
_TABLE = _SIZE  # the header has a place of the size of a record
_WHOLE = _TABLE + _COUNT * _SIZE

_NAMES = tuple(DIMENSIONS)
_PLACE_OF = {name: place for place, name in enumerate(_NAMES)}
# By bitmap, the names and places of the instants that are there: looked up, not computed, at each call.
_PRESENT = tuple(
    tuple((name, place) for place, name in enumerate(_NAMES) if bits >> place & 1) for bits in range(1 << len(_NAMES))
)
_ALL = len(_PRESENT) - 1

#: Further than any instant, and not so far that adding to it leaves 64 bits.
_FAR = 1 << 61

#: How far the clock of a process may be behind the newest instant of a record before it is taken for another clock.
_LAG = 2_000_000

#: Seconds to wait for other threads of this process: none takes a tenth of it, but on a file system that does not answer.
_LONGEST_TURN = 2.0

#: Records that keys of one tenant may have (what stands before the first colon) while others need places.
_MOST_OF_ONE = _COUNT // 4

#: Every so often the header gets the present pair of monotonic and wall time: what a reboot is bridged with.
_REFRESH = 60_000_000

#: Where the system tells one start of itself from another.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NO_BOOT_ID = bytes(16)

# Trouble that passes: no reason to refuse the setting.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN}

#: Pauses between tries for the lock, in seconds. It is held for microseconds, so the first are short.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.00002, 0.0005


class _UnusableError(StoreUnavailableError):
    """It is there, and it is not ours to write to."""


class _StruckError(Exception):
    """A signal handler has used the file in the middle of what its thread was doing with it."""


class _Descriptor(int):
    """A number of an open file that is told from an equal one: by its owner, which is one operation."""


_CLOSED = _Descriptor(-1)


class FileStore:
    """Keeps limits in a file, for the threads and processes of one host.

    Safe to use from many threads, and in forked children. A store pickles as its path.

    Args:
        path: The file. Made if it is not there, readable by this user only; its folder has to be there, and should be one that only
            this user can write to. At best not on a network file system: it is for one host.
        clock: Time, for tests; ``None``: the computer's own. Monotonic time is the same for all processes of a host; where it is not (a
            container with a time of its own), a process that is behind goes on from the newest instant it finds.
        patience: How many seconds to try for the lock.
        shared: Whether the file may be another user's. Then it is made readable and writable for the group.

    Raises:
        ConfigurationError: It cannot be used: no ``flock`` on this system, no such folder, no permission, another user's, or a file that
            is something else, which is left as it is.

    Example:
        >>> import tempfile
        >>> from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, BucketCharge
        >>> ask = AcquireRequest((BucketCharge("rpm", 2_000_000, 2_000_000, 0),), horizon=0, latest=NO_LIMIT, spacing=0, seen=0, claimant=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FileStore(folder + "/limits")
        ...     found = [store.take("some model", ask).reserved for _ in range(2)]
        ...     store.close()
        >>> found
        [True, False]

    .. versionadded:: 0.1.0
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Clock | None = None, patience: float = 0.1, shared: bool = False
    ) -> None:
        self._fd = _CLOSED
        if fcntl is None:
            raise ConfigurationError(
                f"rate_limit_store = file {shown(os.fspath(path))}: this system has no flock; use 'memory' for one process, or "
                "'redis://host:port/db'"
            )
        self._path = os.path.abspath(path)  # noqa: PTH100 - a plain string, so that a change of directory changes nothing
        self._clock = SystemClock() if clock is None else clock
        self._patience = patience
        self._shared = shared
        self._skew = 0  # added to this process's time, in microseconds: the clock it was behind of
        self._boot = _boot()
        self._identity = 0, 0  # device and inode of the open file
        self._epoch: int | None = None  # None: the header was not looked at yet
        self._saved = 0  # monotonic instant of the header's times
        self._places: dict[str, tuple[bytes, int]] = {}  # by key its hash, and where its record was last
        self._ledger = GcraState()  # filled anew at each call
        # Guards all of the above and the descriptor: threads share that, and with it a flock, which does not keep them apart. Reentrant
        # (_sync): a signal handler that comes here leaves another descriptor object behind, and what it struck begins anew.
        self._lock = threading.RLock()
        try:
            self._open()
            self._check(os.pread(self._fd, _HEADER.size, 0))  # without the lock: these bytes never change
        except OSError as error:
            self._close()
            if error.errno not in _PASSING:
                raise ConfigurationError(f"rate_limit_store: {self._reason(error)}") from error
        except _UnusableError as error:
            self._close()
            raise ConfigurationError(f"rate_limit_store: {error}") from error
        except ValueError as error:  # a path no system call takes
            raise ConfigurationError(f"rate_limit_store = file {shown(self._path)}: {error}") from error
        forkable(self)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock | None = None) -> FileStore:
        """Return the store at ``file:///path``; percent escapes are decoded. ``?shared=1`` allows another user's file.

        Raises:
            ConfigurationError: It names no absolute path, another host, or a file that cannot be used.
        """
        scheme, _, rest = url.partition(":")
        host, path = "", rest
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            path = slash + path
        shared = path.endswith("?shared=1")
        path = path.removesuffix("?shared=1")
        wrong = (
            "not a URL of a file"
            if scheme.lower() != "file"
            else "names a host"
            if host.lower() not in {"", "localhost"}
            else "no absolute path"
            if not path.startswith("/")
            else "has a query other than ?shared=1, or a fragment (write %3F for '?', %23 for '#')"
            if "?" in path or "#" in path
            else ""
        )
        if wrong:
            raise ConfigurationError(
                f"rate_limit_store = {shown(f'{scheme}:…{path}')}: {wrong}; must be 'file:///path', such as 'file:///run/app/limits'"
            )
        return cls(unquote(path, errors="surrogateescape"), clock=clock, shared=shared)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self._path)}{'' if self._fd >= 0 else ', closed'}>"

    def __reduce__(self) -> tuple[Callable[..., FileStore], tuple[str, Clock, float, bool]]:
        return _again, (self._path, self._clock, self._patience, self._shared)

    def __del__(self) -> None:
        self._close()  # takes no lock: nobody else has this object any more

    def take(self, key: str, ask: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` at the present time.

        Raises:
            StoreUnavailableError: The lock is held for too long, or the file cannot be read or written.
        """
        return self._apply(key, GcraState.take, ask)

    def adjust(self, key: str, change: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` at the present time.

        Raises:
            StoreUnavailableError: The lock is held for too long, or the file cannot be read or written.
        """
        self._apply(key, GcraState.adjust, change)

    def close(self) -> None:
        """Close the file; idempotent. A later call opens it again."""
        for _ in self._turns():
            try:
                self._close()
                return
            finally:
                self._lock.release()

    def _turns(self) -> Iterator[bool]:
        """Take the lock within some time, as :func:`~groq_provider._sync.lock_attempts` does without any.

        Not without a limit: who holds it may be in a system call on a file system that does not answer.
        """
        return iter(partial(self._lock.acquire, True, _LONGEST_TURN), False)

    def _apply(self, key: str, method: Callable[[GcraState, int, G], R], given: G) -> R:
        # These waits are not the injected clock's: who holds the lock is another process, in real time.
        give_up = time.monotonic() + self._patience
        for _ in self._turns():
            try:
                return self._apply_alone(key, method, given, give_up)
            finally:
                self._lock.release()
        raise StoreUnavailableError(f"another thread is busy with {self._path} for more than {_LONGEST_TURN:g} s")

    def _apply_alone(self, key: str, method: Callable[[GcraState, int, G], R], given: G, give_up: float) -> R:
        replaced = 0
        try:
            while replaced < 3:
                fd = self._fd
                if fd < 0 or not self._is_ours(_fstat(fd)):
                    # Not closed here: a number that others closed, as daemons do, may by now be a file of theirs.
                    self._fd = _CLOSED
                    fd = self._open()
                else:
                    fd = self._fd = _Descriptor(fd)  # ours for this time
                try:
                    self._wait_for_lock(fd, give_up)
                    # Deleted or replaced while we waited: what is written there now nobody would read.
                    if self._is_ours(_lstat(self._path)):
                        now = self._now()
                        offset = self._load(fd, key, now)
                        if now < self._ledger.last - _LAG:
                            self._skew += self._ledger.last - now
                            now = self._ledger.last
                        answer = method(self._ledger, now, given)
                        self._save(fd, offset, self._places[key][0])
                        return answer
                except (_StruckError, KeyError, OSError, StoreUnavailableError):
                    if fd is self._fd:
                        raise
                    continue  # a signal handler was in here, and has unlocked
                finally:
                    self._unlock(fd)
                replaced += 1
                self._close()
        except OSError as error:
            self._close()
            raise StoreUnavailableError(self._reason(error)) from error
        except StoreUnavailableError:
            raise
        except BaseException:
            self._close()  # an interrupt may have struck before the unlocking; this unlocks too
            raise
        raise StoreUnavailableError(f"{self._path} is being replaced all the time")

    def _unlock(self, fd: _Descriptor) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)  # of a lock we did not get: does nothing
        except OSError:
            if fd is self._fd:
                raise  # else a signal handler has closed it, and so unlocked it

    def _now(self) -> int:
        """Return the time of the file, in microseconds."""
        return round(self._clock.monotonic() * 1_000_000) + self._skew

    def _reason(self, error: OSError) -> str:
        return f"{self._path}: {error.strerror or type(error).__name__}"

    # --- the file ---

    def _open(self) -> _Descriptor:
        # No symbolic links: in a folder that others write to, one could lead anywhere. Not blocking, in case it is a pipe.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        made = False
        try:
            fd = self._fd = _Descriptor(os.open(self._path, flags))
        except FileNotFoundError:
            fd = self._fd = _Descriptor(os.open(self._path, flags | os.O_CREAT, 0o600))
            made = True
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            self._close()
            raise _UnusableError(f"{self._path} is no regular file")
        if found.st_uid != os.geteuid() and not self._shared:
            self._close()
            raise _UnusableError(
                f"{self._path} belongs to another user (number {found.st_uid}), who could lift the limits or stop the program; name a "
                "file in a folder of your own, or write file:///path?shared=1 to share limits with that user"
            )
        if made and self._shared and found.st_uid == os.geteuid():
            os.fchmod(fd, 0o660)
        self._identity = found.st_dev, found.st_ino
        self._epoch = None
        return fd

    def _close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # it is closed either way

    def _is_ours(self, found: os.stat_result | None) -> bool:
        return found is not None and (found.st_dev, found.st_ino) == self._identity

    def _after_fork_in_child(self) -> None:
        """Leave the parent's file to it.

        A flock belongs to the open file, which a forked child shares: it would not keep the two apart, and unlocking here would unlock
        the parent's. Closing does not unlock while the parent has it open; and it has to be closed, or the lock of a parent that dies
        would live on here.
        """
        self._lock = threading.RLock()
        self._close()

    def _wait_for_lock(self, fd: int, give_up: float) -> None:
        pause = 0.0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Tried again rather than waited for: nothing bounds a blocking flock, and whoever holds it may be stopped.
                if time.monotonic() >= give_up:
                    held = f"the lock of {self._path} was not free for {self._patience:g} s"
                    raise StoreUnavailableError(held) from None
                time.sleep(pause)
                pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            else:
                return

    # --- the header; all of this under the lock ---

    def _check(self, header: bytes) -> None:
        """Refuse what another program wrote."""
        if header and not header.startswith(_MAGIC):
            raise _UnusableError(f"{self._path} is not a file of limits, and is left as it is")
        if len(header) == _HEADER.size and header[8:10] != _VERSION.to_bytes(2, "little"):
            raise _UnusableError(
                f"{self._path} was written by another version of this library, and is left as it is; name another file"
            )

    def _enter(self, fd: int) -> None:
        """Read the header; make it, or take over what was there before a reboot, where need be."""
        data = os.pread(fd, _HEADER.size, 0)
        self._check(data)
        monotonic, wall = self._now(), round(self._clock.now().timestamp() * 1_000_000)
        if len(data) < _HEADER.size or _HEADER.unpack(data)[-1] != crc32(data[: _HEADER.size - _CRC.size]):
            # New, or cut, or damaged: without the header the instants of the records mean nothing. Its size comes last, so that who is
            # killed in between leaves something that is made anew.
            if fd is not self._fd:  # as in _write()
                raise _StruckError
            os.ftruncate(fd, 0)
            self._write_header(fd, 0, monotonic, wall)
        else:
            _, _, epoch, boot, then, then_wall, _ = _HEADER.unpack(data)
            inside = self._epoch is not None
            if boot != self._boot or (boot == _NO_BOOT_ID and monotonic < then and not inside):
                if inside:
                    raise StoreUnavailableError(f"{self._path} is in use on another host")
                # How long the computer was off, as far as its wall clock can tell.
                gone = monotonic - then - max(wall - then_wall, 0)
                following = (epoch + 1) & 0xFFFF
                self._shift(fd, following, gone, monotonic)
                self._write_header(fd, following, monotonic, wall)
            elif monotonic - then > _REFRESH:
                self._write_header(fd, epoch, monotonic, wall)
            else:
                self._epoch, self._saved = epoch, then
        if os.fstat(fd).st_size < _WHOLE:
            os.ftruncate(fd, _WHOLE)

    def _write_header(self, fd: int, epoch: int, monotonic: int, wall: int) -> None:
        data = _HEADER.pack(_MAGIC, _VERSION, epoch, self._boot, monotonic, wall, 0)[: -_CRC.size]
        self._write(fd, data + _CRC.pack(crc32(data)), 0)
        self._epoch, self._saved = epoch, monotonic

    def _shift(self, fd: int, epoch: int, gone: int, now: int) -> None:
        """Move all instants to the clock that started with this boot.

        Each record carries the epoch it was written in, and the header changes last: who is killed in between leaves it to the next
        one, who sees which records are done.
        """
        self._epoch = epoch
        try:
            for offset in range(_TABLE, _WHOLE, _SIZE):
                data = os.pread(fd, _SIZE, offset)
                if not _is_whole(data) or self._decode(data) == epoch:
                    continue
                ledger = self._ledger
                ledger.last = now
                ledger.start = max(ledger.start + gone, 0)
                ledger.gate = max(ledger.gate + gone, 1) if ledger.gate else 0
                ledger.claimant = ledger.claim_start = ledger.claim_until = 0  # of a process that is gone
                for name, full in ledger.full_at.items():
                    ledger.full_at[name] = max(full + gone, 0)
                self._save(fd, offset, data[:16])
        except BaseException:
            self._epoch = None
            raise

    # --- the records; all of this under the lock ---

    def _load(self, fd: int, key: str, now: int) -> int:
        """Fill the ledger from the record of *key*; return where it is."""
        if self._epoch is not None and abs(now - self._saved) <= _REFRESH:
            place = self._places.get(key)
            if place is not None:
                digest, offset = place
                data = os.pread(fd, _SIZE, offset)
                if data[:16] == digest and _is_whole(data) and self._decode(data) == self._epoch:
                    return offset
        return self._find(fd, key, now)

    def _find(self, fd: int, key: str, now: int) -> int:
        """Look through the table, as this process sees *key* for the first time, or it is no longer where it was.

        All of the table, not until the first gap: so that gaps, which a damaged record leaves as well, mean nothing.
        """
        self._enter(fd)
        digest = b"".join(
            blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest() for part in key.partition(":")[::2]
        )
        table = os.pread(fd, _COUNT * _SIZE, _TABLE)
        place = table.find(digest)
        while place >= 0:
            data = table[place : place + _SIZE]
            if place % _SIZE == 0 and _is_whole(data) and self._decode(data) == self._epoch:
                break
            place = table.find(digest, place + 1)
        else:
            place = self._vacant(table, digest, now)
            self._ledger = GcraState()
        if len(self._places) >= 4 * _COUNT:
            self._places.clear()  # more than the table holds: most of it is out of date
        self._places[key] = digest, _TABLE + place
        return _TABLE + place

    def _vacant(self, table: bytes, digest: bytes, now: int) -> int:
        """Return a place for a new record: a free one, else the one that has been idle for longest.

        A tenant who has his share of the table already takes the one of his own that was not used for longest: however many names of
        models he uses, others keep theirs.
        """
        home = int.from_bytes(digest[8:12], "little") % _COUNT
        oldest, found, free = now, -1, -1
        own: list[tuple[int, int]] = []
        for number in range(home, home + _COUNT):
            place = number % _COUNT * _SIZE
            data = table[place : place + _SIZE]
            if not _is_whole(data) or self._decode(data) != self._epoch:
                free = place if free < 0 else free
                continue
            if data[:8] == digest[:8]:
                own.append((self._ledger.last, place))
            idle_at = self._ledger.idle_at()
            if idle_at < oldest:
                oldest, found = idle_at, place
        if len(own) >= _MOST_OF_ONE:
            return min(own)[1]
        if free >= 0:
            return free
        if found < 0:
            raise StoreUnavailableError(f"{self._path} is full: {_COUNT} keys are in use")
        return found

    def _decode(self, data: bytes) -> int:
        """Fill the ledger from a record; return the epoch it was written in."""
        ledger = self._ledger
        (
            _,
            ledger.version,
            ledger.last,
            ledger.start,
            ledger.gate,
            ledger.claimant,
            ledger.claim_start,
            ledger.claim_until,
            *full,
            marks,
            _,
        ) = _RECORD.unpack(data)
        ledger.full_at = {name: full[place] for name, place in _PRESENT[marks & _ALL]}
        return int(marks >> 16)

    def _save(self, fd: int, offset: int, digest: bytes) -> None:
        ledger = self._ledger
        marks = (self._epoch or 0) << 16
        full = [0] * len(_NAMES)
        for name, instant in ledger.full_at.items():
            place = _PLACE_OF[name]
            marks |= 1 << place
            full[place] = instant
        values = [
            ledger.version,
            ledger.last,
            ledger.start,
            ledger.gate,
            ledger.claimant,
            ledger.claim_start,
            ledger.claim_until,
            *full,
        ]
        try:
            data = _BODY.pack(digest, *values, marks)
        except struct.error:  # figures nobody can mean: a wait for ever it is, in any case
            data = _BODY.pack(digest, *(max(-_FAR, min(value, _FAR)) for value in values), marks)
        self._write(fd, data + _CRC.pack(crc32(data)), offset)

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        # One call, within one page of the file: a process that is killed has written all of it or nothing, as the kernel does not
        # stop halfway through a page. What a crash of the computer leaves is for the CRC to find.
        if fd is not self._fd:  # no call between this and the next
            raise _StruckError
        if os.pwrite(fd, data, offset) != len(data):
            raise StoreUnavailableError(f"{self._path}: cut short")


def _again(path: str, clock: Clock, patience: float, shared: bool) -> FileStore:
    return FileStore(path, clock=clock, patience=patience, shared=shared)


def _boot() -> bytes:
    """Return what tells this start of the system from others; where nothing does, monotonic time that went back has to."""
    try:
        with open(_BOOT_ID, "rb") as file:  # noqa: PTH123 - cheaper, and no less plain
            return blake2b(file.read(64).strip(), digest_size=16).digest()
    except OSError:
        return _NO_BOOT_ID


def _fstat(fd: int) -> os.stat_result | None:
    try:
        return os.fstat(fd)
    except OSError:
        return None


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _is_whole(data: bytes) -> bool:
    return len(data) == _SIZE and crc32(data[:_CHECKED]).to_bytes(4, "little") == data[_CHECKED:]
