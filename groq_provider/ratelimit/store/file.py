"""Share limits among the processes of one host by a small file and a lock on it.

The file holds a header and a table of equally long records, one for each key. To use a record, a process takes the lock, reads the
record, applies :class:`~groq_provider.ratelimit.store.gcra_state.GcraState`, writes it back and unlocks, within some ten microseconds.
There is no server and no thread, and nothing to clean up: the system unlocks for a process that dies, and its reservations drain like
all others.
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
    fcntl = None  # type: ignore[assignment]  # the constructor refuses then

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, AcquireResult, Adjustment

__all__ = ["FileStore"]

G = TypeVar("G")
R = TypeVar("R")

_MAGIC, _VERSION = b"groqlim\n", 1

# Magic, version, epoch, hash of the boot id, then monotonic and wall time of one moment, in microseconds; CRC of all these.
_HEADER = struct.Struct("<8sHH4x16sqqI")
# Hash of the key, the fields of a state, six instants; a bitmap of the instants in use, with the epoch; CRC of all these.
_RECORD = struct.Struct("<16s13qII")
_BODY = struct.Struct("<16s13qI")
_CRC = struct.Struct("<I")

_RECORD_SIZE, _CHECKED_SIZE, _RECORD_COUNT = _RECORD.size, _BODY.size, 256
_TABLE_OFFSET = _RECORD_SIZE  # the header gets as much room as a record
_FILE_SIZE = _TABLE_OFFSET + _RECORD_COUNT * _RECORD_SIZE

_LIMIT_NAMES = tuple(DIMENSIONS)
_INDEX_OF = {name: place for place, name in enumerate(_LIMIT_NAMES)}
# Names and places of the instants in use for each bitmap: a table, so that no call computes them.
_NAMES_BY_BITMAP = tuple(
    tuple((name, place) for place, name in enumerate(_LIMIT_NAMES) if bits >> place & 1)
    for bits in range(1 << len(_LIMIT_NAMES))
)
_BITMAP_MASK = len(_NAMES_BY_BITMAP) - 1

#: Later than any instant, and small enough that adding to it fits into 64 bits.
_FARTHEST_INSTANT = 1 << 61

#: If the clock of a process is further than this behind the newest instant of a record, the process has another clock.
_CLOCK_LAG = 2_000_000

#: Seconds to wait for other threads of this process. A turn takes a tenth of that at most, unless the file system does not answer.
_LONGEST_TURN = 2.0

#: Records that the keys of one tenant (the part before the first colon) may use while others need room.
_MOST_PER_TENANT = _RECORD_COUNT // 4

#: How often the header gets a new pair of monotonic and wall time, which serves to convert instants after a reboot.
_REFRESH_INTERVAL = 60_000_000

#: The system writes another id here at each boot.
_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
_NO_BOOT_ID = bytes(16)

# Errors that may pass: they are no reason to refuse the setting.
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

#: Pauses between attempts to lock, in seconds. Processes hold the lock for microseconds, so the first pauses are short.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.00002, 0.0005


class _UnusableError(StoreUnavailableError):
    """The file exists, and this store must not write to it."""


class _InterruptedError(Exception):
    """A signal handler used the file while the code that it interrupted was using it."""


class _Descriptor(int):
    """A descriptor that can be told from another one with the same number, by one operation (``is``)."""


_CLOSED = _Descriptor(-1)


class FileStore:
    """Keeps limits in a file, for the threads and processes of one host.

    You can use it from many threads and in forked children. It pickles as its path.

    Args:
        path: The file. If missing, it is created, readable by this user only. Its folder must exist, and only this user should be able
            to write to it. Do not use a network file system: the file is for one host.
        clock: The source of time, for tests; ``None``: the system's clock. Monotonic time is the same for all processes of a host.
            Where it is not (a container with its own time), a process that is behind continues from the newest instant it finds.
        patience: Seconds to try for the lock.
        shared: Whether the file may belong to another user. Then the group may read and write it.

    Raises:
        ConfigurationError: The file cannot be used: this system has no ``flock``, the folder is missing, permission is denied, it
            belongs to another user, or it contains something else; such a file is not changed.

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
        self._file_path = os.path.abspath(path)  # noqa: PTH100 - a plain string; absolute, so that chdir() changes nothing
        self._clock = SystemClock() if clock is None else clock
        self._lock_patience = patience
        self._allow_other_user = shared
        self._clock_offset = 0  # microseconds to add to this process's time, if its clock was behind the file's
        self._boot_id = _read_boot_id()
        self._file_identity = 0, 0  # device and inode of the open file
        self._header_epoch: int | None = None  # None: the header was not read yet
        self._header_saved_at = 0  # monotonic instant of the header's times
        self._record_offsets: dict[str, tuple[bytes, int]] = {}  # by key: its hash, and where its record was last
        self._state = GcraState()  # filled from the record at each call
        # Guards all of the above and the descriptor: threads share a descriptor, and so a flock does not keep them apart. Reentrant (see
        # _sync): a signal handler that comes here leaves another descriptor object behind, and the code it interrupted starts again.
        self._lock = threading.RLock()
        try:
            self._open_file()
            self._check_header(os.pread(self._fd, _HEADER.size, 0))  # needs no lock: these bytes never change
        except OSError as error:
            self._close_file()
            if error.errno not in _PASSING_ERRORS:
                raise ConfigurationError(f"rate_limit_store: {self._describe_error(error)}") from error
        except _UnusableError as error:
            self._close_file()
            raise ConfigurationError(f"rate_limit_store: {error}") from error
        except ValueError as error:  # a path that system calls refuse, such as one with a null byte
            raise ConfigurationError(f"rate_limit_store = file {shown(self._file_path)}: {error}") from error
        forkable(self)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock | None = None) -> FileStore:
        """Return the store at ``file:///path``; percent escapes are decoded. ``?shared=1`` allows another user's file.

        Raises:
            ConfigurationError: The URL names no absolute path, another host, or a file that cannot be used.
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
        self._close_file()  # needs no lock: no other code has this object any more

    def take(self, key: str, request: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` at the present time.

        Raises:
            StoreUnavailableError: The lock was not free in time, or the file cannot be read or written.
        """
        return self._update_record(key, GcraState.take, request)

    def adjust(self, key: str, adjustment: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` at the present time.

        Raises:
            StoreUnavailableError: The lock was not free in time, or the file cannot be read or written.
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
        """Take the lock in a loop of one turn, as :func:`~groq_provider._sync.lock_attempts` does, but wait for a bounded time.

        The bound is needed because the holder may be in a system call to a file system that does not answer.
        """
        return iter(partial(self._lock.acquire, True, _LONGEST_TURN), False)

    def _update_record(self, key: str, method: Callable[[GcraState, int, G], R], argument: G) -> R:
        # Real time, not the injected clock: the holder of the lock is another process.
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
                    # Do not close it: if other code closed the number, as daemons do, it may be another file of theirs by now.
                    self._fd = _CLOSED
                    fd = self._open_file()
                else:
                    fd = self._fd = _Descriptor(fd)  # a new object marks this turn, see _write_bytes()
                try:
                    self._wait_for_lock(fd, give_up_at)
                    # If the file was deleted or replaced while we waited, no other process would read our record.
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
                    continue  # a signal handler was in here, and has unlocked the file
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
            self._close_file()  # this unlocks too, if the interrupt struck before _unlock()
            raise
        raise StoreUnavailableError(f"{self._file_path} is replaced again and again")

    def _unlock(self, fd: _Descriptor) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)  # without effect if we did not get the lock
        except OSError:
            if fd is self._fd:
                raise  # otherwise a signal handler has closed the file, and so unlocked it

    def _now(self) -> int:
        """Return the time of the file's clock, in microseconds."""
        return round(self._clock.monotonic() * 1_000_000) + self._clock_offset

    def _describe_error(self, error: OSError) -> str:
        return f"{self._file_path}: {error.strerror or type(error).__name__}"

    # --- the file ---

    def _open_file(self) -> _Descriptor:
        # No symbolic links: in a folder that others can write to, a link could lead anywhere. Non-blocking, in case it is a pipe.
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
            raise _UnusableError(f"{self._file_path} is not a regular file")
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
                pass  # the descriptor is closed in any case

    def _is_open_file(self, file_status: os.stat_result | None) -> bool:
        return file_status is not None and (file_status.st_dev, file_status.st_ino) == self._file_identity

    def _after_fork_in_child(self) -> None:
        """Close the parent's file in the child.

        A flock belongs to the open file, which a forked child shares with its parent: it would not keep the two apart, and unlocking
        would unlock the parent's. Closing does not unlock while the parent has the file open, and is needed: otherwise the lock of a
        parent that dies would live on here.
        """
        self._lock = threading.RLock()
        self._close_file()

    def _wait_for_lock(self, fd: int, give_up_at: float) -> None:
        pause = 0.0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Poll instead of waiting: a blocking flock has no time limit, and the holder may be a stopped process.
                if time.monotonic() >= give_up_at:
                    reason = f"the lock of {self._file_path} was not free for {self._lock_patience:g} s"
                    raise StoreUnavailableError(reason) from None
                time.sleep(pause)
                pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            else:
                return

    # --- the header; call all of this under the lock ---

    def _check_header(self, header: bytes) -> None:
        """Refuse a file that another program or another version wrote."""
        if header and not header.startswith(_MAGIC):
            raise _UnusableError(f"{self._file_path} is not a file of limits, and was not changed")
        if len(header) == _HEADER.size and header[8:10] != _VERSION.to_bytes(2, "little"):
            raise _UnusableError(
                f"{self._file_path} was written by another version of this library and was not changed; name another file"
            )

    def _read_header(self, fd: int) -> None:
        """Read the header; write it if the file is new, and convert the instants if the system has rebooted."""
        data = os.pread(fd, _HEADER.size, 0)
        self._check_header(data)
        monotonic, wall = self._now(), round(self._clock.now().timestamp() * 1_000_000)
        if len(data) < _HEADER.size or _HEADER.unpack(data)[-1] != crc32(data[: _HEADER.size - _CRC.size]):
            # New, cut or damaged: without a header the instants of the records mean nothing. The size is set last, so that the file of a
            # process that is killed here is made anew.
            if fd is not self._fd:  # see _write_bytes()
                raise _InterruptedError
            os.ftruncate(fd, 0)
            self._write_header(fd, 0, monotonic, wall)
        else:
            _, _, epoch, boot, saved_monotonic, saved_wall, _ = _HEADER.unpack(data)
            already_read = self._header_epoch is not None
            if boot != self._boot_id or (boot == _NO_BOOT_ID and monotonic < saved_monotonic and not already_read):
                if already_read:
                    raise StoreUnavailableError(f"{self._file_path} is in use on another host")
                # How long the system was off, by its wall clock.
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
        """Convert all instants to the monotonic clock of this boot.

        Each record carries the epoch of its last write, and the header changes last: if a process is killed here, the next one sees
        which records are done and continues.
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
                state.claimant = state.claim_start = state.claim_until = 0  # its process did not survive the reboot
                for name, full in state.full_at.items():
                    state.full_at[name] = max(full + clock_shift, 0)
                self._save_record(fd, offset, data[:16])
        except BaseException:
            self._header_epoch = None
            raise

    # --- the records; call all of this under the lock ---

    def _load_record(self, fd: int, key: str, now: int) -> int:
        """Fill the state from the record of *key*; return its offset."""
        if self._header_epoch is not None and abs(now - self._header_saved_at) <= _REFRESH_INTERVAL:
            place = self._record_offsets.get(key)
            if place is not None:
                digest, offset = place
                data = os.pread(fd, _RECORD_SIZE, offset)
                if data[:16] == digest and _is_whole(data) and self._decode_record(data) == self._header_epoch:
                    return offset
        return self._find_record(fd, key, now)

    def _find_record(self, fd: int, key: str, now: int) -> int:
        """Search the table, because this process has not seen *key* yet, or its record has moved.

        The search covers the whole table and does not stop at a gap, because a damaged record leaves a gap too.
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
            self._record_offsets.clear()  # more than the table holds, so most are out of date
        self._record_offsets[key] = digest, _TABLE_OFFSET + place
        return _TABLE_OFFSET + place

    def _choose_place(self, table: bytes, digest: bytes, now: int) -> int:
        """Return a place for a new record: a free one, otherwise the one that has been idle for longest.

        A tenant that uses its share of the table already replaces its own least recently used record: however many model names it
        invents, the records of others stay.
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
        """Fill the state from a record; return the epoch of its last write."""
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
        except struct.error:  # absurd values; cut to the range they still wait for ever
            data = _BODY.pack(
                digest, *(max(-_FARTHEST_INSTANT, min(value, _FARTHEST_INSTANT)) for value in values), bitmap_and_epoch
            )
        self._write_bytes(fd, data + _CRC.pack(crc32(data)), offset)

    def _write_bytes(self, fd: int, data: bytes, offset: int) -> None:
        # One write within one page: a killed process has written all of it or nothing, because the kernel does not stop inside a page.
        # After a crash of the system the CRC finds a torn record.
        if fd is not self._fd:  # a signal handler was in here; make no call between this check and the write
            raise _InterruptedError
        if os.pwrite(fd, data, offset) != len(data):
            raise StoreUnavailableError(f"{self._file_path}: the write was cut short")


def _restore_store(path: str, clock: Clock, patience: float, shared: bool) -> FileStore:
    return FileStore(path, clock=clock, patience=patience, shared=shared)


def _read_boot_id() -> bytes:
    """Return a hash of the boot id. Without one, monotonic time that went back shows a reboot."""
    try:
        with open(_BOOT_ID_PATH, "rb") as file:  # noqa: PTH123 - pathlib would cost more
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
