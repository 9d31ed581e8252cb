"""The file store: many processes, killed and stopped ones, reboots, damage, and files that are something else."""

from __future__ import annotations

import gc
import linecache
import os
import pickle
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

import pytest
from support.store_kinds import StoreClock
from support.store_workers import DEBT, hammer, make_request, race, work, work_on

from groq_provider._sync import owns_lock
from groq_provider.clock import SystemClock
from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.store import file as file_store
from groq_provider.ratelimit.store.file import FileStore
from groq_provider.ratelimit.store.gcra_state import LONGEST_PAUSE, NO_LIMIT, AcquireRequest, Adjustment, BucketCharge
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

pytestmark = pytest.mark.skipif(file_store.fcntl is None, reason="needs flock")

SECOND = 1_000_000
KEY = "shared"
#: Size of a record, and of the header's place.
SIZE = 128
WHOLE = SIZE * 257

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "limits"


@pytest.fixture
def clock():
    return StoreClock()


@pytest.fixture
def store(path, clock):
    found = FileStore(path, clock=clock)
    yield found
    found.close()


def left(store, key=KEY, known=0, seen=0):
    """Read a state: how long until full, and the version."""
    result = store.take(key, make_request(0, known=known, seen=seen))
    return result.full[0], result.version


def started(program, *args, prepare="", **options):
    """Start a program that has a store of ``sys.argv[1]``, in a fresh interpreter."""
    head = f"""
        import os, sys, threading
        sys.path.insert(0, {str(TESTS)!r})
        from support.store_kinds import StoreClock
        from support.store_workers import make_request
        from groq_provider.ratelimit.store.gcra_state import Adjustment
        from groq_provider.ratelimit.store.protocol import StoreUnavailableError
        from groq_provider.ratelimit.store.file import FileStore
        {prepare}
        store = FileStore(sys.argv[1], clock=StoreClock())

        held = threading.Event()

        def hold():
            '''Stop between reading and writing, with the lock held, until a line comes.'''
            save = store._save_record
            def waiting(*args):
                del store._save_record
                print("held", flush=True)
                held.set()  # after the printing, whose locks a fork would copy
                sys.stdin.readline()
                save(*args)
            store._save_record = waiting
    """
    quiet = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]  # forking with threads is what is tested
    command = [sys.executable, *quiet, "-c", textwrap.dedent(head) + textwrap.dedent(program), *map(str, args)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, send=""):
    """Let a program go on to its end; return its output."""
    out, err = process.communicate(send, timeout=60)
    assert process.returncode == 0, err[-3000:]
    return out


def expect(process, word):
    """Wait for a line that starts with *word*; return the rest of it."""
    line = process.stdout.readline()
    assert line.startswith(word), line + (process.stderr.read() if process.poll() is not None else "")
    return line[len(word) :].strip()


def end(process):
    process.kill()
    process.communicate(timeout=30)


# --- many processes ---


@pytest.mark.parametrize(
    ("method", "threads"),
    [pytest.param("spawn", 4, marks=pytest.mark.full, id="spawn"), pytest.param("fork", 1, id="fork")],
)
def test_processes_lose_no_update(path, method, threads):
    """Every call of 4 processes is counted exactly once."""
    rounds, processes = 60, 4
    store = FileStore(path, clock=StoreClock(), patience=60)
    store.adjust(KEY, Adjustment(credits={"rpm": -DEBT}))
    context = get_context(method)
    target, given = (work, store) if method == "fork" else (work_on, str(path))
    workers = [context.Process(target=target, args=(given, threads, rounds)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    work(store, 1 if method == "fork" else threads, rounds)
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    calls = rounds * (processes * threads + (1 if method == "fork" else threads))
    assert left(store) == (DEBT + 3 * calls, calls + 1)
    assert left(store, "own of thread 0")[1] == rounds * (processes + 1) + 1
    store.close()


def test_new_file_is_made_once(path):
    """Processes that come at the same moment to a file that is not there all use the same one."""
    context = get_context("spawn")
    barrier = context.Barrier(4)
    workers = [context.Process(target=race, args=(str(path), barrier, 20)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    store = FileStore(path, clock=StoreClock())
    assert left(store)[1] == 81
    store.close()


def test_stores_in_process_stay_apart(path, clock):
    """Two limiters of one program on one file, each with threads."""
    stores = [FileStore(path, clock=clock, patience=60) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(store, 4, 100)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(stores[0])[1] == 801
    for store in stores:
        store.close()


def test_system_clock_is_shared(path):
    """What one process waits for another sees the same end of."""
    program = """
        from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, BucketCharge
        store = FileStore(sys.argv[1])
        print(store.take("shared", AcquireRequest((BucketCharge("rpm", 10**9, 10**9, 0),), 0, NO_LIMIT, 0, 0, 1)).start)
    """
    before = time.monotonic_ns() // 1000
    start = int(finish(started(program, path)))
    after = time.monotonic_ns() // 1000
    assert before - 1 <= start <= after + 1
    store = FileStore(path)
    full = store.take(KEY, AcquireRequest((BucketCharge("rpm", 0, 1, 0),), 0, NO_LIMIT, 0, 0, 1)).full[0]
    assert 0 < 10**9 - full <= time.monotonic_ns() // 1000 - start + 1
    store.close()


# --- killed, stopped, forked ---


def test_killed_process_frees_lock(path, store):
    """At once, and the unfinished write does not happen."""
    store.take(KEY, make_request())
    holder = started("hold(); store.take('shared', make_request(500))", path)
    expect(holder, "held")
    with pytest.raises(StoreUnavailableError, match=r"was not free for 0\.1 s"):
        store.take(KEY, make_request())
    end(holder)
    assert left(store) == (1, 2)


def test_random_kills_leave_whole_records(path, full):
    """Processes killed at random leave whole records: the next goes on where the last whole update ended."""
    context, draw = get_context("fork"), random.Random(4)
    store = FileStore(path, clock=StoreClock(), patience=20)
    store.adjust(KEY, Adjustment(credits={"rpm": -DEBT}))
    debt, version = left(store)
    for _ in range(200 if full else 25):
        worker = context.Process(target=hammer, args=(store,))
        worker.start()
        try:
            began = time.monotonic()
            while left(store)[1] <= version + 5:  # until it is at work
                assert time.monotonic() < began + 30
                version += 1
            time.sleep(draw.uniform(0, 0.004))  # the moment of the kill is drawn at random
        finally:
            worker.kill()
            worker.join(30)
            worker.close()
        data = path.read_bytes()
        records = [data[place : place + SIZE] for place in range(SIZE, WHOLE, SIZE)]
        assert len(data) == WHOLE
        assert [record for record in records if any(record) and not file_store._is_whole(record)] == []
        after, now = left(store)
        assert now > version
        assert after >= debt
        assert (after - DEBT) % 3 == 0
        debt, version = after, now
    store.close()


def test_stopped_process_blocks_no_other(path, store):
    """Stopped with the lock held: the others are told in time, and go on when it does."""
    store._lock_patience = 1.0
    holder = started("hold(); store.take('shared', make_request()); print('done', flush=True)", path)
    try:
        expect(holder, "held")
        holder.send_signal(signal.SIGSTOP)
        began, away = time.monotonic(), []

        def refused():
            with pytest.raises(StoreUnavailableError):
                store.take(KEY, make_request())
            away.append(time.monotonic() - began)

        threads = [threading.Thread(target=refused) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(away) == 8
        assert max(away) < 1.0 + 5  # all of them together, not one after the other
        holder.send_signal(signal.SIGCONT)
        assert "done" in finish(holder, "\n")
    finally:
        holder.kill()
    assert left(store) == (1, 2)


def test_store_made_while_lock_held(path):
    """A program starts beside a stopped one."""
    holder = started("hold(); store.take('shared', make_request())", path)
    expect(holder, "held")
    store = FileStore(path, clock=StoreClock())
    with pytest.raises(StoreUnavailableError):
        store.take(KEY, make_request())
    finish(holder, "\n")
    assert left(store) == (1, 2)
    store.close()


def test_fork_while_lock_is_held(path):
    """The child has its own lock and file; neither its actions nor its end touch the parent's lock."""
    program = """
        other = FileStore(sys.argv[1], clock=StoreClock())
        def refused(store):
            try:
                store.take("shared", make_request())
            except StoreUnavailableError:
                return True
        hold()
        thread = threading.Thread(target=store.take, args=("shared", make_request()))
        thread.start()
        held.wait()
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert refused(store)
                os.write(ready[1], b"x")
                os.read(go[0], 1)
                store.take("shared", make_request())
                code = 0
            finally:
                os._exit(code)
        os.read(ready[0], 1)
        assert refused(other)
        print("go on", flush=True)
        thread.join()
        os.write(go[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        print(store.take("shared", make_request()).version)
    """
    process = started(program, path)
    expect(process, "held")
    expect(process, "go on")
    assert finish(process, "\n").strip() == "3"


def test_child_drops_dead_parents_lock(path, store):
    """A child does not keep the lock of a parent that dies: it has closed the file it shared."""
    program = """
        hold()
        threading.Thread(target=store.take, args=("shared", make_request()), daemon=True).start()
        held.wait()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            print("child", flush=True)
            os.close(write)
            os.read(int(sys.argv[2]), 1)  # until the test ends
            os._exit(0)
        threading.Event().wait()
    """
    read, write = os.pipe()
    process = started(program, path, read, pass_fds=[read])
    try:
        expect(process, "held")
        expect(process, "child")
        process.kill()
        process.wait(30)
        assert left(store) == (0, 1)  # the child lives
    finally:
        os.close(write)
        os.close(read)
        end(process)


@pytest.mark.parametrize("again", ["fork", "pickle"])
def test_store_travels_to_other_processes(store, again):
    """A fork and a pickle use the same file; neither takes over a descriptor."""
    store.take(KEY, make_request())
    if again == "pickle":
        copy = pickle.loads(pickle.dumps(store))
        copy._clock = store._clock
        assert copy._fd != store._fd
        assert left(copy) == (1, 2)
        copy.close()
    else:
        child = get_context("fork").Process(target=left, args=(store,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert left(store) == (1, 3)


def test_interrupt_leaves_no_lock(path, store, clock):
    """An exception of another thread, a Ctrl-C: at whichever line it strikes, this store and others go on."""
    other = FileStore(path, clock=clock)
    struck = 0

    def tracer(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != file_store.__file__:
            return None
        # Not where the lock is acquired or released: the interpreter handles interrupts at calls and jumps, hence never there; only a tracer could.
        line = linecache.getline(file_store.__file__, frame.f_lineno).strip()
        if event == "line" and not line.startswith(("for _ in self._take_turn()", "try:", "self._lock.release()")):
            count -= 1
            if count == 0:
                raise KeyboardInterrupt
        return tracer

    before = sys.gettrace()
    gc.disable()  # it would run finalizers of other stores, which swallow what strikes there
    try:
        for line in range(1, 400):
            count = line
            try:
                sys.settrace(tracer)
                store.take(KEY, make_request())
            except KeyboardInterrupt:
                struck += 1
            finally:
                sys.settrace(before)
            assert not owns_lock(store._lock), line
            other.take(KEY, make_request())
            store.take(KEY, make_request())
            if count > 0:
                break
    finally:
        gc.enable()
    assert struck > 20
    other.close()


# --- reboot ---


@pytest.fixture
def boot(tmp_path, monkeypatch):
    """Names the present start of the system."""
    file = tmp_path / "boot_id"
    monkeypatch.setattr(file_store, "_BOOT_ID_PATH", str(file))
    file.write_text("first\n")
    return file


def reboot(boot, clock, *, off, uptime=5 * SECOND):
    """Start the computer again: monotonic time begins anew, the wall clock has gone on by *off*."""
    wall = clock.wall + clock.micros
    clock.micros = uptime
    clock.wall = wall + off - uptime
    boot.write_text("second\n")


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        pytest.param(30 * SECOND, 70 * SECOND, id="time-goes-on"),
        pytest.param(500 * SECOND, 0, id="full-again"),
        pytest.param(-(10**15), 100 * SECOND, id="wall-clock-lost"),
    ],
)
@pytest.mark.parametrize("uptime", [5 * SECOND, 10**10], ids=["soon", "late"])
def test_a_reboot_shifts_all_instants(path, boot, clock, off, expected, uptime):  # noqa: PLR0917 - a table
    """The wall clock tells how much time has passed."""
    store = FileStore(path, clock=clock)
    store.adjust(KEY, Adjustment(credits={"rpm": -100 * SECOND}, pause=50 * SECOND))
    store.take(
        KEY, AcquireRequest((BucketCharge("rpm", 1, 100 * SECOND, 0),), 0, NO_LIMIT, 0, 0, 7)
    )  # claims the front
    store.close()
    reboot(boot, clock, off=off, uptime=uptime)
    for _ in range(2):  # the second finds it done
        store = FileStore(path, clock=clock)
        result = store.take(KEY, make_request(0))
        assert (result.full, result.gated) == ((expected,), True)
        assert result.wait == max(expected - 50 * SECOND, 0)  # the gate; the claim is gone
        store.close()


def test_reboot_shifts_once_despite_kills(path, boot, clock, monkeypatch):
    """Killed between two records, the next one does the rest, and no record twice."""
    store = FileStore(path, clock=clock)
    for number in range(10):
        store.adjust(f"key {number}", Adjustment(credits={"rpm": -100 * SECOND}))
    store.close()
    reboot(boot, clock, off=30 * SECOND)
    write = FileStore._write_bytes
    for allowed in (3, 2):
        budget = allowed

        def failing(self, fd, data, offset):
            nonlocal budget
            budget -= 1
            if budget < 0:
                raise KeyboardInterrupt
            write(self, fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "_write_bytes", failing)
            store = FileStore(path, clock=clock)
            with pytest.raises(KeyboardInterrupt):
                left(store, "key 0")
            store.close()
    store = FileStore(path, clock=clock)
    assert {left(store, f"key {number}")[0] for number in range(10)} == {70 * SECOND}
    store.close()


def test_restarted_clock_shows_reboot(path, boot, clock):
    """Without a boot ID, on systems that number no starts, a monotonic clock that began anew tells of a reboot."""
    boot.unlink()
    store = FileStore(path, clock=clock)
    store.adjust(KEY, Adjustment(credits={"rpm": -100 * SECOND}))
    store.close()
    clock.micros -= 995 * SECOND
    clock.wall += 1025 * SECOND
    store = FileStore(path, clock=clock)
    assert left(store)[0] == 70 * SECOND
    clock.micros -= SECOND  # while it runs, a step back is one
    assert left(store)[0] == 70 * SECOND
    store.close()


def test_header_times_are_renewed(path, boot, clock):
    """So that little is lost if the wall clock is wrong after the reboot, and a change of it while the computer runs is none."""
    store = FileStore(path, clock=clock)
    store.adjust(KEY, Adjustment(credits={"rpm": -1000 * SECOND}))
    clock.micros += 600 * SECOND
    clock.wall += 3600 * SECOND  # set by its owner
    assert left(store)[0] == 400 * SECOND
    store.close()
    reboot(boot, clock, off=-(10**15))
    store = FileStore(path, clock=clock)
    assert left(store)[0] == 400 * SECOND
    store.close()


def test_foreign_hosts_file_stays_unchanged(path, boot, clock):
    """A file used by another host is left to it: two monotonic clocks in one file would be worse than none."""
    store, elsewhere = FileStore(path, clock=clock), StoreClock(77 * SECOND)
    store.take(KEY, make_request())
    boot.write_text("another host\n")
    other = FileStore(path, clock=elsewhere)
    other.take(KEY, make_request())
    with pytest.raises(StoreUnavailableError, match="in use on another host"):
        store.take(KEY, make_request())
    assert left(other)[1] == 3
    store.close()
    other.close()


# --- damage ---


def damage(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def record_of(path):
    """Where the only record is."""
    data = path.read_bytes()
    (place,) = [place for place in range(SIZE, WHOLE, SIZE) if any(data[place : place + SIZE])]
    return place


def test_damaged_record_counts_as_missing(path, store):
    """At each byte: then the caller's own copy counts."""
    store.take(KEY, make_request(500))
    offset = record_of(path)
    good = path.read_bytes()
    for place in range(offset, offset + SIZE):
        damage(path, place, bytes([good[place] ^ 0x10]))
        assert left(store, known=77, seen=9) == (77, 10), place
        assert left(store) == (77, 11)
        path.write_bytes(b"")
        path.write_bytes(good)
        assert left(store) == (500, 2)
        path.write_bytes(good)


@pytest.mark.parametrize("size", [0, 8, 9, 40, 51, 52, 100, SIZE, SIZE + 1, SIZE * 2, SIZE * 100, WHOLE - 1])
@pytest.mark.parametrize("running", [True, False], ids=["running", "opened"])
def test_a_cut_file_is_mended(path, store, clock, size, running):
    """Whatever is left of it."""
    store.take(KEY, make_request(500))
    os.truncate(path, size)
    other = FileStore(path, clock=clock)
    first, second = (store, other) if running else (other, store)
    found = left(first, known=77, seen=9)
    assert found in {(77, 10), (500, 10)}
    assert left(second) == (found[0], 11)
    assert path.stat().st_size == WHOLE
    other.close()


@pytest.mark.parametrize("running", [True, False], ids=["running", "opened"])
def test_damaged_header_voids_records(path, store, clock, running):
    """Without a header their instants mean nothing; running processes and new ones agree afterwards."""
    store.take(KEY, make_request(500))
    if running:
        store.take("another", make_request(500))
    damage(path, 20, b"\xff\xff")
    other = FileStore(path, clock=clock)
    assert left(other, known=77, seen=9) == (77, 10)
    assert left(store) == (77, 11)
    assert left(store, "another", known=5)[0] == 5
    other.close()


def test_absurd_figures_last_one_window(store, clock):
    """Figures beyond sense neither break the file nor hold anyone for longer than the longest pause."""
    store.adjust(KEY, Adjustment(credits={"rpm": -(10**30)}, full={"tpm": 10**40}, pause=10**50))
    result = store.take(KEY, make_request(10**60, known=10**60))
    assert not result.reserved
    assert result.wait == LONGEST_PAUSE
    clock.micros += result.wait
    assert store.take(KEY, make_request()).reserved
    assert store.take("other", make_request()).reserved


def test_unknown_bucket_name_is_mistake(store):
    """A name that no store keeps is a mistake of the caller."""
    with pytest.raises(KeyError):
        store.take(KEY, AcquireRequest((BucketCharge("rps", 1, 1, 0),), 0, NO_LIMIT, 0, 0, 1))


# --- other files at the path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"#!/bin/sh\n", b"\0" * 50_000, b"g", b"groqlin\n" + b"x" * 200, b"groqlim\n\2\0" + b"\0" * 50]
)
def test_foreign_file_stays_unchanged(path, content):
    """A foreign file, of another program or another version of this library, is left as it is."""
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"/limits .*was not changed"):
        FileStore(path)
    assert path.read_bytes() == content


def test_later_foreign_file_stays_unchanged(path, store):
    """A foreign file that comes later stays as it is; it is trouble of the store by then."""
    store.take(KEY, make_request())
    path.unlink()
    path.write_bytes(b"precious" * 9)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="was not changed"):
            store.take(KEY, make_request())
    assert path.read_bytes() == b"precious" * 9
    path.unlink()
    assert left(store, seen=5) == (0, 6)


def test_symbolic_links_are_not_followed(tmp_path, path):
    """Neither to a file nor to nothing."""
    (tmp_path / "target").write_bytes(b"")
    for target in ("target", "nothing"):
        path.symlink_to(tmp_path / target)
        with pytest.raises(ConfigurationError, match="limits"):
            FileStore(path)
        path.unlink()
    assert (tmp_path / "target").read_bytes() == b""
    assert not (tmp_path / "nothing").exists()


def test_non_files_are_refused(tmp_path, path):
    """A folder, a pipe, a device, a folder that is not there, a name that is none."""
    os.mkfifo(path)
    for place in (
        tmp_path,
        path,
        "/dev/full",
        tmp_path / "no" / "limits",
        path / "below",
        tmp_path / ("x" * 300),
        "a\0b",
    ):
        with pytest.raises(ConfigurationError, match="rate_limit_store"):
            FileStore(place)


def test_forbidden_folder_is_refused(tmp_path):
    """A folder without permission is refused by the system, so not as root."""
    program = """
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            FileStore(sys.argv[2])
        except Exception as error:
            print(type(error).__name__, error)
    """
    (tmp_path / "closed").mkdir(mode=0o555)
    done = finish(started(program, tmp_path / "own", tmp_path / "closed" / "limits"))
    assert done.startswith("ConfigurationError rate_limit_store: ")
    assert "Permission denied" in done


def test_file_is_for_owner_only(path, store):
    """Only its owner may read or write the file."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 0  # nothing is written before it is used
    store.take(KEY, make_request())
    assert path.stat().st_size == WHOLE


def test_full_disk_means_unavailable(path):
    """A full disk makes the store unavailable until there is room again."""
    program = """
        import resource
        store.take("shared", make_request())
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for limit in (0, 64, 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            new = FileStore(sys.argv[1] + str(limit), clock=StoreClock())
            for each in (store, new):
                try:
                    each.take("shared", make_request())
                except StoreUnavailableError as error:
                    pass
                else:
                    raise AssertionError(limit)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert new.take("shared", make_request()).version == 1
        print(store.take("shared", make_request()).version)
    """
    assert finish(started(program, path)).strip() == "2"


def test_full_device_means_unavailable(store, monkeypatch):
    """The error of the system itself, at the write."""
    store.take(KEY, make_request())
    pwrite = os.pwrite
    with Path("/dev/full").open("r+b", buffering=0) as device, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda _fd, data, offset: pwrite(device.fileno(), data, offset))
        with pytest.raises(StoreUnavailableError, match="No space left"):
            store.take(KEY, make_request())
        patch.setattr(os, "pwrite", lambda _fd, data, _offset: len(data) // 2)
        with pytest.raises(StoreUnavailableError, match="cut short"):
            store.take(KEY, make_request())
    assert left(store) == (1, 2)


def test_passing_trouble_spares_settings(path, clock, monkeypatch):
    """Trouble that passes is no error of the settings: without a descriptor left the program starts anyway."""
    with monkeypatch.context() as patch:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        try:
            store = FileStore(path, clock=clock)
            with pytest.raises(StoreUnavailableError, match="Too many open files"):
                store.take(KEY, make_request())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        patch.undo()
    assert left(store) == (0, 1)
    store.close()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_replaced_file_is_noticed(tmp_path, path, clock, how):
    """Another file at the path is noticed: all go on with the file that is there now."""
    stores = [FileStore(path, clock=clock) for _ in range(2)]
    for store in stores:
        store.take(KEY, make_request())
    if how == "deleted":
        path.unlink()
    elif how == "moved":
        path.rename(tmp_path / "elsewhere")
    else:
        new = FileStore(tmp_path / "new", clock=clock)
        new.adjust("unrelated", Adjustment(pause=1))
        new.close()
        (tmp_path / "new").rename(path)
    assert left(stores[0], known=5, seen=2) == (5, 3)
    assert left(stores[1]) == (5, 4)
    for store in stores:
        store.close()


def test_file_deleted_while_locking_noticed(path, store):
    """No process would read a record written there."""
    store._lock_patience = 60
    store.take(KEY, make_request())
    holder = started("hold(); store.take('shared', make_request())", path)
    expect(holder, "held")
    found = []
    thread = threading.Thread(target=lambda: found.append(left(store, seen=8)))
    thread.start()
    path.unlink()
    finish(holder, "\n")
    thread.join(60)
    assert found == [(0, 9)]


def test_constantly_replaced_file_given_up(store, monkeypatch):
    """A file that is replaced all the time is given up, not tried for ever."""
    with monkeypatch.context() as patch:
        patch.setattr(file_store, "_lstat", lambda _path: None)
        with pytest.raises(StoreUnavailableError, match="replaced again"):
            store.take(KEY, make_request())
    assert left(store) == (0, 1)


def test_closing_what_others_closed(store):
    """Is done already."""
    os.close(store._fd)
    store.close()
    assert left(store) == (0, 1)


def test_foreign_descriptor_is_never_written(tmp_path, store):
    """A descriptor closed by others is never written to: a daemon closes all, and the number is another file's."""
    store.take(KEY, make_request())
    os.close(store._fd)
    assert left(store) == (1, 2)
    innocent = store._fd
    with (tmp_path / "innocent").open("w+b") as file:
        os.dup2(file.fileno(), innocent, inheritable=False)  # closes, and is there, in one step
    assert left(store) == (1, 3)
    assert store._fd != innocent
    assert os.pread(innocent, 100, 0) == b""
    os.close(innocent)


def test_directory_change_changes_nothing(tmp_path, clock, monkeypatch):
    """A change of directory changes nothing: a relative path is resolved when it is given."""
    monkeypatch.chdir(tmp_path)
    store = FileStore("limits", clock=clock)
    store.take(KEY, make_request())
    store.close()
    monkeypatch.chdir("/")
    assert left(store) == (1, 2)
    store.close()


# --- the table ---


def fill(store):
    for number in range(256):
        assert store.take(f"model {number}", make_request(100 + number)).reserved


def test_full_table_reuses_idlest_place(store, clock):
    """A full table uses the place idle longest, which says nothing any more; while none is, a new key waits."""
    fill(store)
    clock.micros += 100
    with pytest.raises(StoreUnavailableError, match="full: 256 keys"):
        store.take("one more", make_request())
    clock.micros += 1
    assert store.take("one more", make_request(50_000)).version == 1
    assert left(store, "model 255")[0] == 355 - 101
    with pytest.raises(StoreUnavailableError, match="full"):
        store.take("model 0", make_request())  # its record has a place
    clock.micros += 10_000
    assert left(store, "model 0", seen=3) == (0, 4)
    assert left(store, "one more") == (50_000 - 10_000, 2)


def test_many_keys_cost_no_memory(store, clock):
    """Any number of keys costs no memory: idle ones are forgotten here as in memory."""
    for number in range(1500):
        clock.micros += 10
        assert store.take(f"model {number}", make_request()).version == 1
    assert len(store._record_offsets) <= 1024


# --- settings ---


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "FILE://{}", "file:{}"])
def test_urls_take_percent_escapes(tmp_path, form):
    """Percent escapes stand for any byte."""
    path = tmp_path / "a b%ü?#.limits"
    store = FileStore.from_url(form.format(quote(str(path))), clock=StoreClock())
    assert path.exists()
    assert repr(store) == f"<FileStore {str(path)!r}>"
    store.close()
    assert repr(store) == f"<FileStore {str(path)!r}, closed>"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:relative", "no absolute path"),
        ("file://", "no absolute path"),
        ("file:", "no absolute path"),
        ("file", "no absolute path"),
        ("file://server/path", "names a host"),
        ("file://user:secret@server/path", "names a host"),
        ("file:///path?mode=1", "query"),
        ("file:///path#part", "fragment"),
        ("redis://localhost/0", "not a URL of a file"),
    ],
)
def test_wrong_urls_give_clear_error(url, reason):
    """One clear error each, without what may be a password."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        FileStore.from_url(url)
    assert "secret" not in str(caught.value)


def test_wrong_paths_in_urls():
    """A path that no file can have is refused by the name of the setting."""
    with pytest.raises(ConfigurationError, match="rate_limit_store"):
        FileStore.from_url("file:///tmp/a%00b")


def test_missing_flock_names_alternatives(path, monkeypatch):
    """A system without flock, such as Windows, gets the stores that work there named."""
    monkeypatch.setattr(file_store, "fcntl", None)
    with pytest.raises(ConfigurationError, match="no flock; use 'memory' for one process, or 'redis://"):
        FileStore(path)
    assert not path.exists()


def test_system_clock_is_default(path):
    """The store reads the system clock where no other is given."""
    store = FileStore(path)
    assert isinstance(store._clock, SystemClock)
    assert store.take(KEY, make_request()).reserved
    store.close()


def test_records_stay_within_a_page():
    """Why a killed process leaves no half of one."""
    assert file_store._RECORD.size == SIZE
    assert 4096 % SIZE == 0
    assert file_store._HEADER.size <= SIZE
    assert file_store._BODY.size + struct.calcsize("<I") == SIZE


def test_clock_behind_is_set(path):
    """A process with a clock behind that of the file counts on from the file's newest instant: its time does not stand still."""
    early, late = StoreClock(), StoreClock()
    late.micros += 1_000_000_000
    request = AcquireRequest((BucketCharge("rpm", 2_000_000, 2_000_000, 0),), 0, NO_LIMIT, 0, 0, 1)
    with closing(FileStore(path, clock=late)) as ahead, closing(FileStore(path, clock=early)) as behind:
        assert ahead.take("m", request).reserved
        assert not behind.take("m", request).reserved
        early.micros += 3_000_000
        assert behind.take("m", request).reserved
