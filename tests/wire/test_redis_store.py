"""The store in Redis: what only it can suffer. What all stores have to do is in test_stores.py."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import redis_server as redis_servers
from support.fakes import PATIENCE, FakeClock, wait_for
from support.redis_server import Authority, running
from support.servers import full_backlog, reset, serving
from support.sockets import open_sockets
from support.transports import fork, join, needs_fork

from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.store import open_store
from groq_provider.ratelimit.store.gcra_state import CLAIM_LIFE, NO_LIMIT, AcquireRequest, Adjustment, BucketCharge
from groq_provider.ratelimit.store.protocol import RateLimitStore, StoreUnavailableError

pytest.importorskip("redis", reason="needs the extra redis")

from groq_provider.ratelimit.store.redis import RedisStore

redis_server = redis_servers.redis_server  # a fixture

SECOND = 1_000_000
HOUR = 3600 * SECOND
NAMES = ("rpm", "rpd", "tpm", "tpd", "itpm", "otpm")
KEY = "0123456789abcdef:openai/gpt-oss-20b"
STATE, HOSTS = f"grl:{{{KEY}}}:v1", f"grl:{{{KEY}}}:hosts"
CANARY = "c4naryPassw0rd"

#: The limit of a store that has no answer, and what an assertion leaves a busy machine. What must not be waited for takes longer. The
#: exact figure is in the benchmark.
SHORT = 0.1
DECIDED = SHORT + 5


def make_charge(name="tpm", cost=36 * SECOND, burst=HOUR, known=0):
    return BucketCharge(name, cost, burst, known)


def make_request(*charges, horizon=0, latest=NO_LIMIT, spacing=0, seen=0, claimant=1):
    return AcquireRequest(charges or (make_charge(),), horizon, latest, spacing, seen, claimant)


@contextlib.contextmanager
def stored(url, **more):
    """A store for the length of a block; patient, where a test is not about its limit."""
    store = RedisStore(url, **{"timeout": PATIENCE, **more})
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def hurried(store, timeout=SHORT):
    """Give a store little time for an answer within the block; commands that must succeed run outside of it."""
    kept, store._timeout = store._timeout, timeout
    try:
        yield
    finally:
        store._timeout = kept


@pytest.fixture
def store(redis_server):
    with stored(redis_server.url) as made:
        yield made


def fails(call, *args):
    """Run a call that finds the store unavailable; return the message and the time it took."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        call(*args)
    assert len(str(caught.value)) < 300
    return str(caught.value), time.monotonic() - begun


# --- servers that forget -------------------------------------------------------------------------------------------


def test_url_finds_redis_store(redis_server):
    """It is a store, found by its URL through the door that the limiter uses."""
    store = open_store(redis_server.url)
    assert isinstance(store, RateLimitStore)
    assert store.take(KEY, make_request()).reserved
    store.close()
    store.close()
    assert store.take(KEY, make_request()).version == 2  # opens again
    store.close()


def test_one_round_trip_one_script(redis_server):
    """A question is one EVALSHA; the script is sent once for all processes; nothing else is sent at all."""
    with redis_server.client() as client:
        client.ping()
        client.config_resetstat()
        with stored(redis_server.url) as store:
            for _ in range(10):
                store.take(KEY, make_request())
                store.adjust(KEY, Adjustment(credits={"tpm": 1}))
        with stored(redis_server.url) as other:
            other.take(KEY, make_request())
        stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
    inside = {"time", "hgetall", "hset", "pexpire", "zscore", "zadd", "zremrangebyscore", "zcount", "config|resetstat"}
    assert {name: count for name, count in calls.items() if name not in inside} == {"evalsha": 23, "eval": 1}


def test_script_flush_is_not_noticed(redis_server, store):
    """NOSCRIPT sends the script once more, on the same connection."""
    assert store.take(KEY, make_request()).version == 1
    redis_server.do("SCRIPT", "FLUSH")
    assert store.take(KEY, make_request()).version == 2
    redis_server.do("SCRIPT", "FLUSH")
    store.adjust(KEY, Adjustment(pause=SECOND))
    assert store.take(KEY, make_request()).gated


@pytest.mark.parametrize("how", ["restart", "FLUSHALL", "eviction"])
def test_lost_state_starts_from_known(how):
    """No caller sees an error; the bucket begins at the caller's own level, not full."""
    with running() as server, stored(server.url) as store:
        for _ in range(3):
            newest = store.take(KEY, make_request())
        if how == "restart":
            server.restart()
        elif how == "FLUSHALL":
            server.do("FLUSHALL")
        else:
            assert server.do("DEL", STATE) == 1
        after = store.take(KEY, make_request(make_charge(known=HOUR - 50 * SECOND), seen=newest.version))
        assert after.reserved
        assert after.version == newest.version + 1
        assert after.full == (HOUR - 14 * SECOND,)
        assert not store.take(KEY, make_request(make_charge(known=0))).reserved


def test_a_failover_that_lost_writes(redis_server, store):
    """An older version than the caller has seen: what he knows is the floor. A newer one: it is not."""
    store.take(KEY, make_request())
    with redis_server.client() as client:
        older = client.hgetall(STATE)
        for _ in range(9):
            newest = store.take(KEY, make_request())
        client.delete(STATE)
        client.hset(STATE, mapping=older)
    after = store.take(KEY, make_request(make_charge(known=newest.full[0]), seen=newest.version))
    assert after.version == newest.version + 1
    assert after.full[0] >= newest.full[0] + 36 * SECOND
    again = store.take(KEY, make_request(make_charge(known=HOUR), seen=newest.version))
    assert again.full[0] < after.full[0] + 36 * SECOND + 1


def test_closed_idle_connections_stay_unused(redis_server, store):
    """Idle connections that the server closed are found out before a command is sent: no error."""
    for number in range(5):
        assert store.take(KEY, make_request()).version == number + 1
        redis_server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_for(lambda: not store._idle_links[0].is_usable())


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-3600.0, -2.0, 2.0, 3600.0])
def test_client_clocks_do_not_matter(redis_server, skew):
    """Two hosts whose clocks differ share one limit to the request."""
    with (
        stored(redis_server.url, clock=FakeClock(5000.0)) as one,
        stored(redis_server.url, clock=FakeClock(5000.0 + skew)) as other,
    ):
        granted = [store.take(KEY, make_request()).reserved for _ in range(60) for store in (one, other)]
        assert granted == [True] * 100 + [False] * 20
        seconds, part = redis_server.do("TIME")
        start = one.take("another", make_request()).start
        assert abs(start - int(seconds) * SECOND - int(part)) < 20 * SECOND


def test_backward_server_clock_stands_still(redis_server, store):
    """Of a clock that is a little behind the newest instant seen counts until it is there again."""
    result = store.take(KEY, make_request())
    ahead = result.start + 4 * SECOND
    redis_server.do("HSET", STATE, "last", ahead)
    assert store.take(KEY, make_request()).start == ahead


def test_clock_going_back_changes_nothing(redis_server, store):
    """After a long step back each instant stays as far away as before: no call waits for the old time, and nothing is refilled."""
    store.take(KEY, make_request(make_charge(cost=HOUR)))
    with redis_server.client() as client:
        for name in ("last", "start", "tpm"):
            client.hincrby(STATE, name, 24 * HOUR)
    result = store.take(KEY, make_request(make_charge(cost=0)))
    assert result.reserved
    assert HOUR - 60 * SECOND < result.full[0] <= HOUR
    result = store.take(KEY, make_request(make_charge(cost=HOUR)))
    assert not result.reserved
    assert 0 < result.wait <= HOUR


def test_long_idle_time_counts_fully(redis_server, store):
    """Only the clients' time is held back, never the server's."""
    store.take(KEY, make_request(make_charge(cost=HOUR)))
    with redis_server.client() as client:
        for name in ("last", "start", "tpm"):
            client.hincrby(STATE, name, -HOUR // 2)
    result = store.take(KEY, make_request(make_charge(cost=HOUR // 2)))
    assert result.reserved


def test_client_time_replaces_forbidden_time(redis_server):
    """The client's time counts where scripts may not ask: five seconds a question at most, never back."""
    clock = FakeClock()
    with stored(redis_server.url, time_source="client", clock=clock) as store:
        first = store.take(KEY, make_request(make_charge(cost=HOUR)))
        assert abs(first.start - clock.now().timestamp() * SECOND) < 10
        full = store.take("jump", make_request(make_charge(cost=HOUR))).full[0]
        for expected, step in [(3, 3), (8, 3600), (8, -7200), (13, 7200)]:
            clock.advance(step)
            assert full - store.take("jump", make_request(make_charge(cost=0))).full[0] == expected * SECOND


def test_injected_time_is_used(redis_server):
    """The time of a test is used as it is: the hook of the common suite."""
    clock = FakeClock()
    with stored(redis_server.url, time_source="clock", clock=clock) as store:
        assert store.take(KEY, make_request(make_charge(cost=HOUR))).start == 1000 * SECOND
        clock.advance(3599)
        assert store.take(KEY, make_request(make_charge(cost=0))).full == (SECOND,)


# --- servers that do not answer -----------------------------------------------------------------------------------


def test_a_stopped_server(redis_server):
    """Decided in time, connected or not; a late answer is never read as the next one."""
    with stored(redis_server.url) as store:
        store.take("a", make_request())
        redis_server.pause()
        try:
            with hurried(store):
                for call in (store.take, store.take, store.take):
                    said, seconds = fails(call, "a", make_request())
                    assert "TimeoutError" in said
                    assert seconds < DECIDED
                assert fails(store.adjust, "a", Adjustment())[1] < DECIDED
        finally:
            redis_server.resume()
        result = store.take(
            "b", make_request(make_charge(), make_charge("rpm"))
        )  # after the server has worked off its input
        assert len(result.full) == 2
        assert result.version == 1


def test_many_threads_notice_at_once(redis_server):
    """No thread waits for the time limit of another."""
    with stored(redis_server.url, timeout=1.0) as store:
        redis_server.pause()
        try:
            with ThreadPoolExecutor(16) as pool:
                for _, seconds in pool.map(lambda number: fails(store.take, f"k{number}", make_request()), range(16)):
                    assert seconds < 1.0 + 5  # 16 one after the other
        finally:
            redis_server.resume()


def test_absent_server_is_tolerated():
    """No error when the store is made; it works as soon as the server does."""
    with running() as server:
        server.kill()
        with stored(server.url) as store:
            said, seconds = fails(store.take, KEY, make_request())
            assert "refused" in said
            assert seconds < DECIDED
            server.restart()
            assert store.take(KEY, make_request()).version == 1


def test_silent_host_is_unavailable():
    """A host that accepts no connection is given up after the timeout."""
    with full_backlog() as port, stored(f"redis://127.0.0.1:{port}", timeout=SHORT) as store:
        assert fails(store.take, KEY, make_request())[1] < DECIDED


class Between:
    """What a proxy before a real server does to the answers, from now on."""

    def __init__(self, port):
        self.port = port
        self.delay = 0.0
        self.keep = None  # how many bytes of an answer to pass on before the connection is reset
        self.most = 0  # answers to one connection

    def __call__(self, sock, server):
        with socket.create_connection(("127.0.0.1", self.port)) as upstream:
            back = threading.Thread(target=self.back, args=(upstream, sock, server))
            back.start()
            with contextlib.suppress(OSError):
                while data := sock.recv(65_536):
                    upstream.sendall(data)
            with contextlib.suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
            back.join(PATIENCE)

    def back(self, upstream, sock, server):
        answers = 0
        with contextlib.suppress(OSError):
            while data := upstream.recv(65_536):
                answers += 1
                self.most = max(self.most, answers)
                server.released.wait(self.delay)
                if self.keep is not None:
                    sock.sendall(data[: self.keep])
                    # RST: close() alone would leave the connection to the other thread's recv().
                    sock.shutdown(socket.SHUT_RD)
                    reset(sock)
                    return
                sock.sendall(data)
            sock.shutdown(socket.SHUT_RDWR)


def test_a_slow_server(redis_server):
    """An answer that takes long is not waited for. Signing in and the command draw on the same limit."""
    between = Between(redis_server.port)
    with serving(between) as proxy:
        with stored(f"redis://127.0.0.1:{proxy.port}") as store:
            store.take(KEY, make_request())
            between.delay = PATIENCE
            with hurried(store):
                for _ in range(3):
                    assert fails(store.take, KEY, make_request())[1] < DECIDED
        with running(requirepass="p") as locked:
            between.port, between.delay, between.most = locked.port, 0.4, 0
            with stored(f"redis://:p@127.0.0.1:{proxy.port}/3", timeout=0.5) as store:  # one answer of three fits
                assert fails(store.take, KEY, make_request())[1] < 0.5 + 5
                assert between.most <= 2


@pytest.mark.parametrize("keep", [0, 1, 4, 9, 20])
def test_lost_answer_is_not_repeated(redis_server, keep):
    """A command with a lost answer is not repeated: the charge counts once, and refilling heals the leak."""
    between = Between(redis_server.port)
    with serving(between) as proxy, stored(f"redis://127.0.0.1:{proxy.port}") as store:
        between.keep = keep
        fails(store.take, KEY, make_request())
        between.keep = None
        assert redis_server.do("HGET", STATE, "version") == "1"
        healing = store.take(KEY, make_request(make_charge(cost=0)))
        assert healing.version == 2
        assert 0 < healing.full[0] <= 36 * SECOND
        between.keep = min(keep, 3)  # this answer has four bytes
        fails(store.adjust, KEY, Adjustment(credits={"tpm": -SECOND}))
        between.keep = None
        assert 0 < store.take(KEY, make_request(make_charge(cost=0))).full[0] <= 37 * SECOND


def speaking(*answers):
    """A server that answers each command, whatever it is, with the next of *answers*; the last one stays."""
    left = list(answers)

    def handler(sock, server):
        while sock.recv(65_536):
            sock.sendall(left[0] if len(left) == 1 else left.pop(0))

    return handler


LOOK = b":1\r\n"
TAKEN = b"*7\r\n:1\r\n:0\r\n:5\r\n:0\r\n:1\r\n:1\r\n:9\r\n"

ERRORS = {
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "ASK": b"-ASK 3999 127.0.0.1:6381\r\n",
    "TRYAGAIN": b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "NOPERM": b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
    "clients": b"-ERR max number of clients reached\r\n",
    "NOREPLICAS": b"-NOREPLICAS Not enough good replicas to write.\r\n",
    "long": b"-ERR " + b"x" * 5000 + b"\r\n",
    "broken MOVED": b"-MOVED\r\n",
    "empty error": b"-\r\n",
    "NOSCRIPT for ever": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
}
UNEXPECTED = {
    "OK": b"+OK\r\n",
    "number": b":7\r\n",
    "nothing": b"$-1\r\n",
    "empty": b"*0\r\n",
    "no list": b"*-1\r\n",
    "text": b"$5\r\nhello\r\n",
    "short": TAKEN.replace(b"*7", b"*6").replace(b":9\r\n", b""),
    "long": TAKEN.replace(b"*7", b"*8") + b":9\r\n",
    "texts": b"*7\r\n" + b"$1\r\n1\r\n" * 7,
    "nested": TAKEN.replace(b":9\r\n", b"*1\r\n:9\r\n"),
    "error inside": TAKEN.replace(b":9\r\n", b"-ERR x\r\n"),
    "no digits": TAKEN.replace(b":9\r\n", b":nine\r\n"),
    "no size": b"*many\r\n",
    "no size of text": b"$five\r\nhello\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46\r\n",
    "no text": b"$1\r\n\xff\r\n",
    "deep": b"*1\r\n" * 5000,
    "line": b"\r\n",
}


@pytest.mark.parametrize("said", [*ERRORS.values(), *UNEXPECTED.values()], ids=[*ERRORS, *UNEXPECTED])
def test_odd_server_replies_mean_unavailable(said):
    """Any other reply makes the store unavailable: one kind of error, a fresh connection, and it goes on later."""
    with (
        serving(speaking(LOOK, said, said, TAKEN)) as server,
        stored(f"redis://127.0.0.1:{server.port}") as store,
    ):
        assert fails(store.take, KEY, make_request())[1] < PATIENCE / 2  # nothing more is waited for
        if "NOSCRIPT" in said.decode("latin-1"):
            assert server.connections == 1  # the second time in one question
        else:
            fails(store.take, KEY, make_request())
            assert server.connections == 2
        assert store.take(KEY, make_request()).version == 1


@pytest.mark.parametrize("said", [b"+OK\r\n", b":0\r\n", b"*1\r\n:1\r\n"])
def test_unconfirmed_adjustment_means_unavailable(said):
    """An adjustment that the server does not confirm makes the store unavailable."""
    with (
        serving(speaking(LOOK, said)) as server,
        stored(f"redis://127.0.0.1:{server.port}") as store,
    ):
        fails(store.adjust, KEY, Adjustment())


def test_slow_bytes_end_at_limit():
    """A server that sends one byte at a time ends at the limit of the whole, not of each byte."""

    def handler(sock, server):
        if sock.recv(65_536):
            sock.sendall(LOOK)
        while sock.recv(65_536):
            for byte in TAKEN:
                sock.sendall(bytes([byte]))
                if server.released.wait(0.4):  # all of them take 14 s
                    return

    with serving(handler) as server, stored(f"redis://127.0.0.1:{server.port}") as store, hurried(store, 0.5):
        assert fails(store.take, KEY, make_request())[1] < 0.5 + 5


def test_a_busy_server():
    """Another program's script that does not end: first silence, then BUSY."""
    with running(lua_time_limit=20) as server, stored(server.url) as store:
        store.take(KEY, make_request())
        free = make_request(make_charge(cost=0))

        def loop():
            with server.client() as client, contextlib.suppress(Exception):
                client.eval("while true do end", 0)

        looping = threading.Thread(target=loop)
        looping.start()
        deadline = time.monotonic() + PATIENCE
        said = ""
        while "BUSY" not in said:
            assert time.monotonic() < deadline
            with hurried(store), contextlib.suppress(pytest.fail.Exception):  # the loop has not begun
                said, seconds = fails(store.take, KEY, free)
                assert seconds < DECIDED
        server.do("SCRIPT", "KILL")
        looping.join(PATIENCE)
        assert store.take(KEY, free).reserved


def test_replica_refuses_master_serves():
    """READONLY while the wrong one is asked, no repetition."""
    with running() as server, stored(server.url) as store:
        store.take(KEY, make_request())
        server.do("REPLICAOF", "127.0.0.1", "1")
        for call, given_ in ((store.take, make_request()), (store.adjust, Adjustment(pause=1))):
            assert "ReadOnlyError" in fails(call, KEY, given_)[0]
        with stored(server.url):
            pass  # no error of the configuration
        server.do("REPLICAOF", "NO", "ONE")
        assert store.take(KEY, make_request()).version == 2


def test_a_full_server():
    """OOM: nothing half written."""
    with running() as server, stored(server.url) as store:
        store.take(KEY, make_request())
        before = server.do("HGETALL", STATE)
        server.do("CONFIG", "SET", "maxmemory", "1")
        assert "OutOfMemoryError" in fails(store.take, KEY, make_request())[0]
        fails(store.adjust, KEY, Adjustment(pause=SECOND))
        server.do("CONFIG", "SET", "maxmemory", "0")
        assert server.do("HGETALL", STATE) == before
        assert store.take(KEY, make_request()).version == 2


def test_foreign_key_moves_the_state(redis_server, store, caplog):
    """A key that another program uses with another type is left as it is: one warning, and all go to the same other key."""
    redis_server.do("SET", STATE, "mine")
    assert store.take(KEY, make_request(make_charge(cost=HOUR))).reserved
    with stored(redis_server.url) as other:
        assert not other.take(KEY, make_request(make_charge(cost=HOUR))).reserved
    for _ in range(5):
        store.adjust(KEY, Adjustment())
    assert redis_server.do("GET", STATE) == "mine"
    assert [record.levelname for record in caplog.records if "holds something else" in record.message] == [
        "WARNING"
    ] * 2


# --- permissions -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked():
    with running(requirepass=CANARY) as server:
        yield server


def everything_said(error):
    """An exception with all that hangs on it, as a log or a report would show it."""
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(vars(error)), repr(error.args)]
        error = error.__cause__ or error.__context__
    return " ".join(said)


@pytest.mark.parametrize(
    "who",
    [":wrong" + CANARY, "", "default:wrong" + CANARY, "nobody:" + CANARY],
    ids=["wrong", "none", "wrong by name", "wrong name"],
)
def test_wrong_password_is_found_early(locked, who, caplog):
    """A wrong password is found when the store is made; the error says so, and not which."""
    with pytest.raises(ConfigurationError, match=r"redis://127.0.0.1:\d+/0: AuthenticationError") as caught:
        RedisStore(f"redis://{who}@127.0.0.1:{locked.port}", timeout=PATIENCE)
    assert CANARY not in everything_said(caught.value)
    assert CANARY not in caplog.text


def test_unwanted_password_is_refused(redis_server):
    """A password that the server does not ask for is an error of the settings, and is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(f"redis://:{CANARY}@127.0.0.1:{redis_server.port}", timeout=PATIENCE)
    assert CANARY not in everything_said(caught.value)


def test_absent_database_is_refused(redis_server):
    """A database that the server does not have is an error of the settings; one that it has works."""
    with pytest.raises(ConfigurationError, match="out of range"):
        RedisStore(redis_server.url + "/999", timeout=PATIENCE)
    with stored(redis_server.url + "/7") as store:
        store.take(KEY, make_request())
    with redis_server.client(db=7) as client:
        assert client.exists(STATE)


def test_a_password_changed_while_running():
    """Unavailable until the new password is configured; the error shows the server's word, not the password."""
    with running(requirepass=CANARY) as server, stored(server.url) as store:
        store.take(KEY, make_request())
        server.do("CONFIG", "SET", "requirepass", "new")
        server.password = "new"
        assert store.take(KEY, make_request()).reserved  # the connection is signed in
        server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_for(lambda: not store._idle_links[0].is_usable())
        with pytest.raises(StoreUnavailableError, match="AuthenticationError") as caught:
            store.take(KEY, make_request())
        assert CANARY not in everything_said(caught.value)


RIGHTS = "+evalsha +eval +time +hgetall +hset +pexpire +zscore +zadd +zremrangebyscore +zcount"


def test_documented_rights_are_enough(redis_server):
    """A user with exactly these rights can use the store; one that may not run scripts or see these keys is refused at once."""
    documented = " ".join((RedisStore.__doc__ or "").split())
    assert RIGHTS.replace("+", "") in documented
    redis_server.do("ACL", "SETUSER", "limits", "reset", "on", ">pw", "~grl:*", *RIGHTS.split())
    url = f"redis://limits:pw@127.0.0.1:{redis_server.port}"
    try:
        with stored(url) as store:
            assert store.take(KEY, make_request()).reserved
            store.adjust(KEY, Adjustment(credits={"tpm": SECOND}, full={"tpm": HOUR}, pause=SECOND))
            redis_server.do("ACL", "SETUSER", "limits", "-hset")
            fails(store.take, KEY, make_request())
            redis_server.do("ACL", "SETUSER", "limits", "+hset", "-evalsha")
            assert "NoPermissionError" in fails(store.take, KEY, make_request())[0]
        for change in (["-evalsha"], ["+evalsha", "resetkeys", "~other:*"]):
            redis_server.do("ACL", "SETUSER", "limits", *change)
            with pytest.raises(ConfigurationError, match="NoPermissionError"):
                RedisStore(url, timeout=PATIENCE)
    finally:
        redis_server.do("ACL", "DELUSER", "limits")


def test_the_password_is_nowhere(locked, caplog):
    """Not in a repr, a log, an error, a pickle, a copy."""
    caplog.set_level(logging.DEBUG)
    with running(requirepass=CANARY) as server, stored(server.url) as store:
        store.take(KEY, make_request())
        seen = [
            repr(store),
            str(store),
            repr(store._idle_links),
            repr(store._address),
            *map(repr, vars(store).values()),
        ]
        server.kill()
        with pytest.raises(StoreUnavailableError) as caught:
            store.take(KEY, make_request())
        seen.append(everything_said(caught.value))
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled") as refused:
                way(store)
            seen.append(everything_said(refused.value))
    assert CANARY not in " ".join(seen) + caplog.text


@pytest.mark.parametrize("quotes", [b"", b"'"])
def test_quoting_server_shows_no_command(quotes):
    """Redis does that with a command it does not know."""
    said = b"-ERR unknown command 'AUTH', with args beginning with: %s%s%s \r\n" % (quotes, CANARY.encode(), quotes)
    with (
        serving(speaking(said)) as server,
        stored(f"redis://:{CANARY}@127.0.0.1:{server.port}") as store,
        pytest.raises(StoreUnavailableError) as caught,
    ):
        store.take(KEY, make_request())
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"redis://:{CANARY}@h:port{CANARY}", "a Redis URL is"),
        (f"redis://:{CANARY}@h:6379/{CANARY}", "a Redis URL is"),
        (f"redis://:{CANARY}@[::1", "a Redis URL is"),
        (f"unix://:{CANARY}@/tmp/socket", "a Redis URL is"),
        (f"redis://h?password={CANARY}", "no option 'password'"),
        (f"redis://:{CANARY}@h?socket_timeout=soon", "a Redis URL is"),
        (f"redis://:{CANARY}@h?socket_timeout=nan", "timeout = nan"),
        (f"redis://:{CANARY}@h?socket_timeout=0", "timeout = 0"),
        (f"rediss://:{CANARY}@h?ssl_cert_reqs=none", "always verified"),
        (f"rediss://:{CANARY}@h?ssl_cert_reqs=optional", "always verified"),
        (f"rediss://:{CANARY}@h?ssl_cert_reqs=required&ssl_cert_reqs=none", "always verified"),
        (f"rediss://:{CANARY}@h?ssl_check_hostname=false", "always verified"),
        (f"rediss://:{CANARY}@h?ssl_ca_certs=/nowhere.pem", "cannot be read"),
        (f"rediss://:{CANARY}@h?ssl_ciphers=ALL", "no option 'ssl_ciphers'"),
    ],
)
def test_urls_that_are_wrong(url, says):
    """A wrong URL is refused with its reason and without its password."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        RedisStore(url)
    assert CANARY not in everything_said(caught.value)


def test_settings_that_are_wrong(redis_server):
    """A timeout or clock that cannot be is refused; the timeout in the URL counts."""
    for settings_ in ({"timeout": 0}, {"timeout": 61}, {"timeout": float("nan")}, {"time_source": "sun"}):
        with pytest.raises(ConfigurationError):
            RedisStore(redis_server.url, **settings_)
    with stored(redis_server.url + "?socket_timeout=0.25", timeout=3) as store:
        assert store._timeout == 0.25


def test_missing_package_names_extra():
    """Without the redis package the error names the extra to install, and no secret."""
    program = """
        import sys
        sys.modules["redis"] = None
        from groq_provider import ConfigurationError
        from groq_provider.ratelimit.store import open_store
        try:
            open_store("redis://:secret@127.0.0.1:1")
        except ConfigurationError as error:
            assert error.__cause__ is None
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 'pip install "groq-provider[redis]"' in done.stdout, done.stderr
    assert "secret" not in done.stdout


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    with running(authority, tmp_path_factory.mktemp("tls")) as server:
        yield server


def test_tls_with_own_authority(tls):
    """A store works over TLS with an authority of its own, and keeps its connection."""
    with stored(tls.url) as store:
        assert store.take(KEY, make_request()).reserved
        store.adjust(KEY, Adjustment(credits={"tpm": SECOND}))
        link = store._idle_links[0]
        assert link._connected_socket.version() in {"TLSv1.2", "TLSv1.3"}
        assert store.take(KEY, make_request()).version == 2
        assert store._idle_links == [link]  # tickets of TLS 1.3 are no reason to drop it


def test_untrusted_tls_is_refused(tls, tmp_path):
    """Another authority, the computer's own, another name: each refused when the store is made."""
    other = Authority(tmp_path)
    where = f"localhost:{tls.port}"
    for url in (
        f"rediss://:{CANARY}@{where}?ssl_ca_certs={other.file}",
        f"rediss://:{CANARY}@{where}",
        f"rediss://:{CANARY}@127.0.0.1:{tls.port}?ssl_ca_certs={tls.authority.file}",
    ):
        with pytest.raises(ConfigurationError, match="certificate refused") as caught:
            RedisStore(url, timeout=PATIENCE)
        assert CANARY not in everything_said(caught.value)


def test_tls_and_plain_never_meet(tls, redis_server, authority):
    """Neither hangs; the store is unavailable, not misconfigured: a proxy may be starting."""
    for url in (
        f"redis://127.0.0.1:{tls.port}",
        f"rediss://localhost:{redis_server.port}?ssl_ca_certs={authority.file}",
    ):
        with stored(url, timeout=0.3) as store:
            assert fails(store.take, KEY, make_request())[1] < 0.3 + 5


def test_endless_handshake_times_out(authority):
    """A TLS handshake that does not end is given up within the time limit."""

    def handler(sock, server):
        server.released.wait(PATIENCE)

    with (
        serving(handler) as server,
        stored(f"rediss://localhost:{server.port}?ssl_ca_certs={authority.file}", timeout=SHORT) as store,
    ):
        assert fails(store.take, KEY, make_request())[1] < DECIDED


# --- keys ---------------------------------------------------------------------------------------------------------


def lifetime(server, key, begun):
    """Return how many milliseconds a key had to live when it was written, after *begun*: a bound from below, and one from above."""
    left = max(server.do("PTTL", key), 0)  # negative: it is gone
    return left, left + math.ceil((time.monotonic() - begun) * 1000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    charges=st.lists(
        st.builds(make_charge, st.sampled_from(NAMES), *[st.integers(0, 1 << 40)] * 3),
        min_size=1,
        max_size=6,
        unique_by=lambda w: w.name,
    ),
    pause=st.integers(0, 1 << 40),
)
def test_keys_outlive_their_state(redis_server, charges, pause):
    """A key lives longer than the state it holds, and always for a second."""
    redis_server.do("DEL", STATE)
    with stored(redis_server.url) as store:
        begun = time.monotonic()
        result = store.take(KEY, make_request(*charges, horizon=1 << 45))
        until_idle = max(*result.full, result.wait) // 1000
        least, most = lifetime(redis_server, STATE, begun)
        longest = max(w.burst for w in charges) // 1000
        assert max(until_idle + 2 * longest - 5000, 0) < most
        assert least <= max(1000, until_idle + 2 * longest + 3)
        least, most = lifetime(redis_server, HOSTS, begun)
        assert most > 0
        assert least <= 16_000
        begun = time.monotonic()
        store.adjust(KEY, Adjustment(pause=pause, full={"rpd": pause}))
        assert lifetime(redis_server, STATE, begun)[1] > max(pause // 1000 - 5000, 0)


def test_unused_model_leaves_nothing(redis_server, store):
    """A model that is not used any more leaves nothing behind at the server."""
    store.take(KEY, make_request(make_charge(cost=1000, burst=1000)))
    redis_server.do("PEXPIRE", HOSTS, 1)
    assert redis_server.do("PTTL", STATE) <= 1000
    wait_for(lambda: not redis_server.do("DBSIZE"))
    assert store.take(KEY, make_request(seen=5)).version == 6


def test_a_model_needs_little(redis_server, store):
    """All six limits, everything in use: 512 bytes, and some more for each further process."""
    charges = [make_charge(name, cost=10**9 + 7, burst=10**11 + 7) for name in NAMES]
    store.take(KEY, make_request(*charges, horizon=1 << 45, claimant=1 << 47))
    store.adjust(KEY, Adjustment(pause=SECOND))
    store.take(KEY, make_request(*charges, claimant=(1 << 48) - 1))
    used = [redis_server.do("MEMORY", "USAGE", key, "SAMPLES", 0) for key in (STATE, HOSTS)]
    assert sum(used) <= 512, used
    for member in range(10):
        store._member_name = f"{member:08x}"
        store.take(KEY, make_request())
    assert (redis_server.do("MEMORY", "USAGE", HOSTS, "SAMPLES", 0) - used[1]) / 10 <= 40


AWKWARD = ["}", "}x", "a}b", "{x}", "%7D", "%", "ключ:модель", "a b\r\nc", "\ud800", "x" * 300, ""]


def test_keys_are_declared_and_separate(tmp_path):
    """A cluster refuses a script whose keys are in two slots, or not declared."""
    with running(cluster_enabled="yes", dir=tmp_path) as server, stored(server.url) as store:
        server.do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: "cluster_state:ok" in str(server.do("CLUSTER", "INFO")))
        for key in AWKWARD:
            assert store.take(key, make_request()).version == 1, key
            store.adjust(key, Adjustment(credits={"tpm": 1}))
        for key in AWKWARD:
            assert store.take(key, make_request()).version == 2, key


def test_prefixes_stay_apart(redis_server):
    """Stores with different prefixes share no state."""
    with stored(redis_server.url) as one, stored(redis_server.url, prefix="other") as other:
        assert one.take(KEY, make_request()).version == other.take(KEY, make_request()).version == 1


def test_idle_cluster_is_unavailable(tmp_path):
    """A cluster that serves no slot makes the store unavailable."""
    with running(cluster_enabled="yes", dir=tmp_path) as server, stored(server.url) as store:
        assert "not served" in fails(store.take, KEY, make_request())[0]


@pytest.mark.parametrize("said", [ERRORS["MOVED"], ERRORS["ASK"]], ids=["MOVED", "ASK"])
def test_cluster_redirect_is_not_followed(said):
    """A cluster that keeps the key elsewhere is not followed: this is a client of one node."""
    with serving(speaking(LOOK, said)) as server, stored(f"redis://127.0.0.1:{server.port}") as store:
        assert "on another node" in fails(store.take, KEY, make_request())[0]


# --- many ---------------------------------------------------------------------------------------------------------


def test_processes_are_counted(redis_server, store):
    """Those seen within 15 seconds, beating every 5."""
    with stored(redis_server.url) as other:
        assert [
            store.take(KEY, make_request()).hosts,
            other.take(KEY, make_request()).hosts,
            store.take(KEY, make_request()).hosts,
        ] == [1, 2, 2]
        with redis_server.client() as client:
            before = client.zscore(HOSTS, store._member_name)
            assert store.take(KEY, make_request()).hosts == 2
            assert client.zscore(HOSTS, store._member_name) == before
            client.zadd(HOSTS, {other._member_name: before - 16 * SECOND})
            assert store.take(KEY, make_request()).hosts == 1
            client.zadd(HOSTS, {store._member_name: before - 6 * SECOND})
            assert store.take(KEY, make_request()).hosts == 1
            assert client.zrange(HOSTS, 0, -1) == [store._member_name]
            assert client.zscore(HOSTS, store._member_name) >= before
            client.delete(HOSTS)
            assert store.take(KEY, make_request()).hosts == 1


def test_threads_share_a_few_connections(redis_server, store):
    """All get their own answers; the number of open connections is bounded, and all are closed in the end."""

    def work(number):
        return [store.take(f"key {number}", make_request(*[make_charge()] * 1)).version for _ in range(30)]

    with ThreadPoolExecutor(48) as pool:
        assert list(pool.map(work, range(48))) == [list(range(1, 31))] * 48
    assert len(store._idle_links) <= 32
    store.close()
    wait_for(lambda: redis_server.do("INFO", "clients")["connected_clients"] == 1)


WORK = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, Adjustment, BucketCharge
    from groq_provider.ratelimit.store.redis import RedisStore
    store = RedisStore(sys.argv[1], timeout=20)
    request = AcquireRequest((BucketCharge("tpm", 36_000_000, 3_600_000_000, 0),), 0, 0, 0, 0, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: store.take(sys.argv[2], request), range(320)))
    store.close()
    print(sum(result.reserved for result in results), len({result.version for result in results}), max(result.hosts for result in results))
"""


def test_processes_take_exactly_enough(redis_server):
    """Four processes of sixteen threads ask 1,280 times for 100 reservations: 100 are granted, each question counts once."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(WORK), redis_server.url, KEY]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        begun = time.monotonic()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        results = [tuple(map(int, worker.communicate(timeout=60)[0].split())) for worker in workers]
        refilled = int((time.monotonic() - begun) / 36)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert 100 <= sum(reserved for reserved, _, _ in results) <= 100 + refilled
    assert [versions for _, versions, _ in results] == [320] * 4
    assert max(hosts for _, _, hosts in results) == 4
    assert redis_server.do("HGET", STATE, "version") == "1280"


@needs_fork
def test_forked_child_uses_own_connections(redis_server, store):
    """Locks held at the fork do not bind it; it counts as a process; the parent's connections serve on."""
    store.take(KEY, make_request())
    store.take("parent", make_request())
    assert len(store._idle_links) == 1
    link = store._idle_links[0]

    def work():
        first = store.take(KEY, make_request())
        versions = [store.take("child", make_request()).version for _ in range(50)]
        return first.hosts == 2 and versions == list(range(1, 51)) and store._idle_links[0] is not link

    with store._lock:
        child = fork(work)
    assert [store.take("parent", make_request()).version for _ in range(50)] == list(range(2, 52))
    assert join(child) == 0
    assert store._idle_links == [link]
    assert store.take(KEY, make_request()).hosts == 2


@needs_fork
def test_closing_child_spares_parents_connection(tls):
    """Closing in a child leaves the parent's connection alone: no goodbye is sent over the shared socket."""
    with stored(tls.url) as store:
        store.take(KEY, make_request())
        link = store._idle_links[0]

        def work():
            store.close()
            del store._idle_links[:]
            return True

        assert join(fork(work)) == 0
        assert store.take(KEY, make_request()).reserved
        assert store._idle_links == [link]


def test_interrupt_leaves_no_half_answer(redis_server, store, monkeypatch):
    """The connection it fell into is closed, not used again."""
    store.take(KEY, make_request())
    link = store._idle_links[0]
    monkeypatch.setattr(link, "read_response", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.take(KEY, make_request())
    assert store._idle_links == []
    assert not link.is_connected if hasattr(link, "is_connected") else link._sock is None
    assert store.take(KEY, make_request()).version == 3


def test_claims_expire_like_model(redis_server, store):
    """Claims live as long as the model says: the script has its own copy of the constant."""
    store.take(KEY, make_request(make_charge(cost=HOUR), claimant=1))
    waiting = store.take(KEY, make_request(claimant=7))
    assert not waiting.reserved
    with redis_server.client() as client:
        state = {name: int(value) for name, value in client.hgetall(STATE).items()}
    assert (state["claimant"], state["claim_start"]) == (7, waiting.start)
    assert state["claim_until"] - state["last"] == CLAIM_LIFE


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_failures_leave_no_socket_behind():
    """A store that is unavailable for long costs nothing."""
    before = open_sockets()
    with serving(speaking(b"-LOADING x\r\n")) as server, stored(f"redis://127.0.0.1:{server.port}") as store:
        for _ in range(20):
            fails(store.take, KEY, make_request())
        assert store._idle_links == []
        wait_for(lambda: open_sockets() <= before + 1)  # the listener; threads of the server are about to close theirs
