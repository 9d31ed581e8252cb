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
# Hash of the key, the fields of a state, six instants, which of those are there plus the epoch, CRC of all that.
_RECORD = struct.Struct("<16s13qII")
_BODY = struct.Struct("<16s13qI")
_CRC = struct.Struct("<I")

_RECORD_SIZE, _CHECKED_SIZE, _RECORD_COUNT = _RECORD.size, _BODY.size, 256
_TABLE_OFFSET = _RECORD_SIZE  # the header has a place of the size of a record
_FILE_SIZE = _TABLE_OFFSET + _RECORD_COUNT * _RECORD_SIZE

_LIMIT_NAMES = tuple(DIMENSIONS)
_INDEX_OF = {name: place for place, name in enumerate(_LIMIT_NAMES)}
# By bitmap, the names and places of the instants that are there: looked up, not computed, at each call.
_NAMES_BY_BITMAP = tuple(
    tuple((name, place) for place, name in enumerate(_LIMIT_NAMES) if bits >> place & 1)
    for bits in range(1 << len(_LIMIT_NAMES))
)
_BITMAP_MASK = len(_NAMES_BY_BITMAP) - 1

#: Further than any instant, and not so far that adding to it leaves 64 bits.
_FARTHEST_INSTANT = 1 << 61

#: How far the clock of a process may be behind the newest instant of a record before it is taken for another clock.
_CLOCK_LAG = 2_000_000

#: Seconds to wait for other threads of this process: none takes a tenth of it, but on a file system that does not answer.
_LONGEST_TURN = 2.0

#: Records that keys of one tenant may have (what stands before the first colon) while others need places.
_MOST_PER_TENANT = _RECORD_COUNT // 4

#: Every so often the header gets the present pair of monotonic and wall time: what a reboot is bridged with.
_REFRESH_INTERVAL = 60_000_000

#: Where the system tells one start of itself from another.
_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
_NO_BOOT_ID = bytes(16)

# Trouble that passes: no reason to refuse the setting.
_PASSING_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EINTR,
    errno.EAGAIN,
}

#: Pauses between tries for the lock, in seconds. It is held for microseconds, so the first are short.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.00002, 0.0005


class _UnusableError(StoreUnavailableError):
    """It is there, and it is not ours to write to."""


class _InterruptedError(Exception):
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
        >>> request = AcquireRequest((BucketCharge("rpm", 2_000_000, 2_000_000, 0),), horizon=0, latest=NO_LIMIT, spacing=0, seen=0, claimant=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FileStore(folder + "/limits")
        ...     reserved = [store.take("some model", request).reserved for _ in range(2)]
        ...     store.close()
        >>> reserved
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
        self._file_path = os.path.abspath(path)  # noqa: PTH100 - a plain string, so that a change of directory changes nothing
        self._clock = SystemClock() if clock is None else clock
        self._lock_patience = patience
        self._allow_other_user = shared
        self._clock_offset = 0  # added to this process's time, in microseconds: the clock it was behind of
        self._boot_id = _read_boot_id()
        self._file_identity = 0, 0  # device and inode of the open file
        self._header_epoch: int | None = None  # None: the header was not looked at yet
        self._header_saved_at = 0  # monotonic instant of the header's times
        self._record_offsets: dict[str, tuple[bytes, int]] = {}  # by key its hash, and where its record was last
        self._state = GcraState()  # filled anew at each call
        # Guards all of the above and the descriptor: threads share that, and with it a flock, which does not keep them apart. Reentrant
        # (_sync): a signal handler that comes here leaves another descriptor object behind, and what it struck begins anew.
        self._lock = threading.RLock()
        try:
            self._open_file()
            self._check_header(os.pread(self._fd, _HEADER.size, 0))  # without the lock: these bytes never change
        except OSError as error:
            self._close_file()
            if error.errno not in _PASSING_ERRORS:
                raise ConfigurationError(f"rate_limit_store: {self._describe_error(error)}") from error
        except _UnusableError as error:
            self._close_file()
            raise ConfigurationError(f"rate_limit_store: {error}") from error
        except ValueError as error:  # a path no system call takes
            raise ConfigurationError(f"rate_limit_store = file {shown(self._file_path)}: {error}") from error
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
        problem = (
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
        if problem:
            raise ConfigurationError(
                f"rate_limit_store = {shown(f'{scheme}:…{path}')}: {problem}; must be 'file:///path', such as 'file:///run/app/limits'"
            )
        return cls(unquote(path, errors="surrogateescape"), clock=clock, shared=shared)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self._file_path)}{'' if self._fd >= 0 else ', closed'}>"

    def __reduce__(self) -> tuple[Callable[..., FileStore], tuple[str, Clock, float, bool]]:
        return _restore_store, (self._file_path, self._clock, self._lock_patience, self._allow_other_user)

    def __del__(self) -> None:
        self._close_file()  # takes no lock: nobody else has this object any more

    def take(self, key: str, request: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` at the present time.

        Raises:
            StoreUnavailableError: The lock is held for too long, or the file cannot be read or written.
        """
        return self._update_record(key, GcraState.take, request)

    def adjust(self, key: str, adjustment: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` at the present time.

        Raises:
            StoreUnavailableError: The lock is held for too long, or the file cannot be read or written.
        """
        self._update_record(key, GcraState.adjust, adjustment)

    def close(self) -> None:
        """Close the file; idempotent. A later call opens it again."""
        for _ in self._take_turn():
            try:
                self._close_file()
                return
            finally:
                self._lock.release()

    def _take_turn(self) -> Iterator[bool]:
        """Take the lock within some time, as :func:`~groq_provider._sync.lock_attempts` does without any.

        Not without a limit: who holds it may be in a system call on a file system that does not answer.
        """
        return iter(partial(self._lock.acquire, True, _LONGEST_TURN), False)

    def _update_record(self, key: str, method: Callable[[GcraState, int, G], R], argument: G) -> R:
        # These waits are not the injected clock's: who holds the lock is another process, in real time.
        give_up_at = time.monotonic() + self._lock_patience
        for _ in self._take_turn():
            try:
                return self._update_under_lock(key, method, argument, give_up_at)
            finally:
                self._lock.release()
        raise StoreUnavailableError(f"another thread is busy with {self._file_path} for more than {_LONGEST_TURN:g} s")

    def _update_under_lock(
        self, key: str, method: Callable[[GcraState, int, G], R], argument: G, give_up_at: float
    ) -> R:
        replaced_count = 0
        try:
            while replaced_count < 3:
                fd = self._fd
                if fd < 0 or not self._is_open_file(_fstat(fd)):
                    # Not closed here: a number that others closed, as daemons do, may by now be a file of theirs.
                    self._fd = _CLOSED
                    fd = self._open_file()
                else:
                    fd = self._fd = _Descriptor(fd)  # ours for this time
                try:
                    self._wait_for_lock(fd, give_up_at)
                    # Deleted or replaced while we waited: what is written there now nobody would read.
                    if self._is_open_file(_lstat(self._file_path)):
                        now = self._now()
                        offset = self._load_record(fd, key, now)
                        if now < self._state.last - _CLOCK_LAG:
                            self._clock_offset += self._state.last - now
                            now = self._state.last
                        result = method(self._state, now, argument)
                        self._save_record(fd, offset, self._record_offsets[key][0])
                        return result
                except (_InterruptedError, KeyError, OSError, StoreUnavailableError):
                    if fd is self._fd:
                        raise
                    continue  # a signal handler was in here, and has unlocked
                finally:
                    self._unlock(fd)
                replaced_count += 1
                self._close_file()
        except OSError as error:
            self._close_file()
            raise StoreUnavailableError(self._describe_error(error)) from error
        except StoreUnavailableError:
            raise
        except BaseException:
            self._close_file()  # an interrupt may have struck before the unlocking; this unlocks too
            raise
        raise StoreUnavailableError(f"{self._file_path} is being replaced all the time")

    def _unlock(self, fd: _Descriptor) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)  # of a lock we did not get: does nothing
        except OSError:
            if fd is self._fd:
                raise  # else a signal handler has closed it, and so unlocked it

    def _now(self) -> int:
        """Return the time of the file, in microseconds."""
        return round(self._clock.monotonic() * 1_000_000) + self._clock_offset

    def _describe_error(self, error: OSError) -> str:
        return f"{self._file_path}: {error.strerror or type(error).__name__}"

    # --- the file ---

    def _open_file(self) -> _Descriptor:
        # No symbolic links: in a folder that others write to, one could lead anywhere. Not blocking, in case it is a pipe.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        created = False
        try:
            fd = self._fd = _Descriptor(os.open(self._file_path, flags))
        except FileNotFoundError:
            fd = self._fd = _Descriptor(os.open(self._file_path, flags | os.O_CREAT, 0o600))
            created = True
        file_status = os.fstat(fd)
        if not stat.S_ISREG(file_status.st_mode):
            self._close_file()
            raise _UnusableError(f"{self._file_path} is no regular file")
        if file_status.st_uid != os.geteuid() and not self._allow_other_user:
            self._close_file()
            raise _UnusableError(
                f"{self._file_path} belongs to another user (number {file_status.st_uid}), who could lift the limits or stop the program; name a "
                "file in a folder of your own, or write file:///path?shared=1 to share limits with that user"
            )
        if created and self._allow_other_user and file_status.st_uid == os.geteuid():
            os.fchmod(fd, 0o660)
        self._file_identity = file_status.st_dev, file_status.st_ino
        self._header_epoch = None
        return fd

    def _close_file(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # it is closed either way

    def _is_open_file(self, file_status: os.stat_result | None) -> bool:
        return file_status is not None and (file_status.st_dev, file_status.st_ino) == self._file_identity

    def _after_fork_in_child(self) -> None:
        """Leave the parent's file to it.

        A flock belongs to the open file, which a forked child shares: it would not keep the two apart, and unlocking here would unlock
        the parent's. Closing does not unlock while the parent has it open; and it has to be closed, or the lock of a parent that dies
        would live on here.
        """
        self._lock = threading.RLock()
        self._close_file()

    def _wait_for_lock(self, fd: int, give_up_at: float) -> None:
        pause = 0.0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Tried again rather than waited for: nothing bounds a blocking flock, and whoever holds it may be stopped.
                if time.monotonic() >= give_up_at:
                    reason = f"the lock of {self._file_path} was not free for {self._lock_patience:g} s"
                    raise StoreUnavailableError(reason) from None
                time.sleep(pause)
                pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            else:
                return

    # --- the header; all of this under the lock ---

    def _check_header(self, header: bytes) -> None:
        """Refuse what another program wrote."""
        if header and not header.startswith(_MAGIC):
            raise _UnusableError(f"{self._file_path} is not a file of limits, and is left as it is")
        if len(header) == _HEADER.size and header[8:10] != _VERSION.to_bytes(2, "little"):
            raise _UnusableError(
                f"{self._file_path} was written by another version of this library, and is left as it is; name another file"
            )

    def _read_header(self, fd: int) -> None:
        """Read the header; make it, or take over what was there before a reboot, where need be."""
        data = os.pread(fd, _HEADER.size, 0)
        self._check_header(data)
        monotonic, wall = self._now(), round(self._clock.now().timestamp() * 1_000_000)
        if len(data) < _HEADER.size or _HEADER.unpack(data)[-1] != crc32(data[: _HEADER.size - _CRC.size]):
            # New, or cut, or damaged: without the header the instants of the records mean nothing. Its size comes last, so that who is
            # killed in between leaves something that is made anew.
            if fd is not self._fd:  # as in _write()
                raise _InterruptedError
            os.ftruncate(fd, 0)
            self._write_header(fd, 0, monotonic, wall)
        else:
            _, _, epoch, boot, saved_monotonic, saved_wall, _ = _HEADER.unpack(data)
            already_read = self._header_epoch is not None
            if boot != self._boot_id or (boot == _NO_BOOT_ID and monotonic < saved_monotonic and not already_read):
                if already_read:
                    raise StoreUnavailableError(f"{self._file_path} is in use on another host")
                # How long the computer was off, as far as its wall clock can tell.
                clock_shift = monotonic - saved_monotonic - max(wall - saved_wall, 0)
                next_epoch = (epoch + 1) & 0xFFFF
                self._shift_epoch(fd, next_epoch, clock_shift, monotonic)
                self._write_header(fd, next_epoch, monotonic, wall)
            elif monotonic - saved_monotonic > _REFRESH_INTERVAL:
                self._write_header(fd, epoch, monotonic, wall)
            else:
                self._header_epoch, self._header_saved_at = epoch, saved_monotonic
        if os.fstat(fd).st_size < _FILE_SIZE:
            os.ftruncate(fd, _FILE_SIZE)

    def _write_header(self, fd: int, epoch: int, monotonic: int, wall: int) -> None:
        data = _HEADER.pack(_MAGIC, _VERSION, epoch, self._boot_id, monotonic, wall, 0)[: -_CRC.size]
        self._write_bytes(fd, data + _CRC.pack(crc32(data)), 0)
        self._header_epoch, self._header_saved_at = epoch, monotonic

    def _shift_epoch(self, fd: int, epoch: int, clock_shift: int, now: int) -> None:
        """Move all instants to the clock that started with this boot.

        Each record carries the epoch it was written in, and the header changes last: who is killed in between leaves it to the next
        one, who sees which records are done.
        """
        self._header_epoch = epoch
        try:
            for offset in range(_TABLE_OFFSET, _FILE_SIZE, _RECORD_SIZE):
                data = os.pread(fd, _RECORD_SIZE, offset)
                if not _is_whole(data) or self._decode_record(data) == epoch:
                    continue
                state = self._state
                state.last = now
                state.start = max(state.start + clock_shift, 0)
                state.gate = max(state.gate + clock_shift, 1) if state.gate else 0
                state.claimant = state.claim_start = state.claim_until = 0  # of a process that is gone
                for name, full in state.full_at.items():
                    state.full_at[name] = max(full + clock_shift, 0)
                self._save_record(fd, offset, data[:16])
        except BaseException:
            self._header_epoch = None
            raise

    # --- the records; all of this under the lock ---

    def _load_record(self, fd: int, key: str, now: int) -> int:
        """Fill the state from the record of *key*; return where it is."""
        if self._header_epoch is not None and abs(now - self._header_saved_at) <= _REFRESH_INTERVAL:
            place = self._record_offsets.get(key)
            if place is not None:
                digest, offset = place
                data = os.pread(fd, _RECORD_SIZE, offset)
                if data[:16] == digest and _is_whole(data) and self._decode_record(data) == self._header_epoch:
                    return offset
        return self._find_record(fd, key, now)

    def _find_record(self, fd: int, key: str, now: int) -> int:
        """Look through the table, as this process sees *key* for the first time, or it is no longer where it was.

        All of the table, not until the first gap: so that gaps, which a damaged record leaves as well, mean nothing.
        """
        self._read_header(fd)
        digest = b"".join(
            blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest() for part in key.partition(":")[::2]
        )
        table = os.pread(fd, _RECORD_COUNT * _RECORD_SIZE, _TABLE_OFFSET)
        place = table.find(digest)
        while place >= 0:
            data = table[place : place + _RECORD_SIZE]
            if place % _RECORD_SIZE == 0 and _is_whole(data) and self._decode_record(data) == self._header_epoch:
                break
            place = table.find(digest, place + 1)
        else:
            place = self._choose_place(table, digest, now)
            self._state = GcraState()
        if len(self._record_offsets) >= 4 * _RECORD_COUNT:
            self._record_offsets.clear()  # more than the table holds: most of it is out of date
        self._record_offsets[key] = digest, _TABLE_OFFSET + place
        return _TABLE_OFFSET + place

    def _choose_place(self, table: bytes, digest: bytes, now: int) -> int:
        """Return a place for a new record: a free one, else the one that has been idle for longest.

        A tenant who has his share of the table already takes the one of his own that was not used for longest: however many names of
        models he uses, others keep theirs.
        """
        first_place = int.from_bytes(digest[8:12], "little") % _RECORD_COUNT
        oldest_idle, idle_place, free_place = now, -1, -1
        own_places: list[tuple[int, int]] = []
        for number in range(first_place, first_place + _RECORD_COUNT):
            place = number % _RECORD_COUNT * _RECORD_SIZE
            data = table[place : place + _RECORD_SIZE]
            if not _is_whole(data) or self._decode_record(data) != self._header_epoch:
                free_place = place if free_place < 0 else free_place
                continue
            if data[:8] == digest[:8]:
                own_places.append((self._state.last, place))
            idle_at = self._state.idle_at()
            if idle_at < oldest_idle:
                oldest_idle, idle_place = idle_at, place
        if len(own_places) >= _MOST_PER_TENANT:
            return min(own_places)[1]
        if free_place >= 0:
            return free_place
        if idle_place < 0:
            raise StoreUnavailableError(f"{self._file_path} is full: {_RECORD_COUNT} keys are in use")
        return idle_place

    def _decode_record(self, data: bytes) -> int:
        """Fill the state from a record; return the epoch it was written in."""
        state = self._state
        (
            _,
            state.version,
            state.last,
            state.start,
            state.gate,
            state.claimant,
            state.claim_start,
            state.claim_until,
            *full,
            bitmap_and_epoch,
            _,
        ) = _RECORD.unpack(data)
        state.full_at = {name: full[place] for name, place in _NAMES_BY_BITMAP[bitmap_and_epoch & _BITMAP_MASK]}
        return int(bitmap_and_epoch >> 16)

    def _save_record(self, fd: int, offset: int, digest: bytes) -> None:
        state = self._state
        bitmap_and_epoch = (self._header_epoch or 0) << 16
        full = [0] * len(_LIMIT_NAMES)
        for name, instant in state.full_at.items():
            place = _INDEX_OF[name]
            bitmap_and_epoch |= 1 << place
            full[place] = instant
        values = [
            state.version,
            state.last,
            state.start,
            state.gate,
            state.claimant,
            state.claim_start,
            state.claim_until,
            *full,
        ]
        try:
            data = _BODY.pack(digest, *values, bitmap_and_epoch)
        except struct.error:  # figures nobody can mean: a wait for ever it is, in any case
            data = _BODY.pack(
                digest, *(max(-_FARTHEST_INSTANT, min(value, _FARTHEST_INSTANT)) for value in values), bitmap_and_epoch
            )
        self._write_bytes(fd, data + _CRC.pack(crc32(data)), offset)

    def _write_bytes(self, fd: int, data: bytes, offset: int) -> None:
        # One call, within one page of the file: a process that is killed has written all of it or nothing, as the kernel does not
        # stop halfway through a page. What a crash of the computer leaves is for the CRC to find.
        if fd is not self._fd:  # no call between this and the next
            raise _InterruptedError
        if os.pwrite(fd, data, offset) != len(data):
            raise StoreUnavailableError(f"{self._file_path}: cut short")


def _restore_store(path: str, clock: Clock, patience: float, shared: bool) -> FileStore:
    return FileStore(path, clock=clock, patience=patience, shared=shared)


def _read_boot_id() -> bytes:
    """Return what tells this start of the system from others; where nothing does, monotonic time that went back has to."""
    try:
        with open(_BOOT_ID_PATH, "rb") as file:  # noqa: PTH123 - cheaper, and no less plain
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
    return len(data) == _RECORD_SIZE and crc32(data[:_CHECKED_SIZE]).to_bytes(4, "little") == data[_CHECKED_SIZE:]
