"""Processes and tenants that share a store and do not agree: clocks, users, names."""

from __future__ import annotations

import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock
from support.store_kinds import StoreClock

from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.ratelimit.store import file as file_store
from groq_provider.ratelimit.store.file import FileStore
from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, BucketCharge
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

pytestmark = pytest.mark.skipif(file_store.fcntl is None, reason="needs flock")

SECOND = 1_000_000
#: Five at once, then one a second.
BURST = 5


def make_request(cost=SECOND, latest=0):
    return AcquireRequest(
        (BucketCharge("rpm", cost, BURST * SECOND, 0),), horizon=0, latest=latest, spacing=0, seen=0, claimant=1
    )


@given(
    offsets=st.lists(st.sampled_from([0, 1, -30, 3_600, -3_600, 10**6, -(10**6)]), min_size=2, max_size=4),
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * SECOND)), max_size=60),
)
def test_clocks_may_disagree(tmp_path_factory, offsets, turns):
    """Wherever the clocks of processes are: each speeds the others up by one window at most, and none is held up for longer."""
    path = tmp_path_factory.mktemp("limits") / "file"
    start = 2 * 10**6 * SECOND
    clocks = [StoreClock(start + offset * SECOND) for offset in offsets]
    stores = [FileStore(path, clock=clock) for clock in clocks]
    try:
        passed = admitted = 0
        for who, step in turns:
            for clock in clocks:
                clock.micros += step
            passed += step
            admitted += stores[who % len(stores)].take("k", make_request()).reserved
        assert admitted <= BURST * len(stores) + passed // SECOND + 1
        for store in stores:
            for clock in clocks:
                clock.micros += BURST * SECOND
            if not store.take(
                "k", make_request()
            ).reserved:  # it finds just now that it is behind; its time goes on from here
                for clock in clocks:
                    clock.micros += BURST * SECOND
                assert store.take("k", make_request()).reserved
    finally:
        for store in stores:
            store.close()


def test_anothers_file_is_refused(tmp_path, monkeypatch):
    """The owner of the file could lift the limits or stop the program; ``?shared=1`` accepts that."""
    FileStore(tmp_path / "limits").close()
    monkeypatch.setattr(file_store.os, "geteuid", lambda: 12_345)
    with pytest.raises(ConfigurationError, match=r"belongs to another user .*\?shared=1"):
        FileStore.from_url(f"file://{tmp_path}/limits")
    store = FileStore.from_url(f"file://{tmp_path}/limits?shared=1")
    assert store.take("k", make_request()).reserved
    store.close()


def test_shared_file_belongs_to_group(tmp_path):
    """Else it is its user's alone."""
    for query, mode in (("", 0o600), ("?shared=1", 0o660)):
        FileStore.from_url(f"file://{tmp_path}/limits{mode}{query}").close()
        assert stat.S_IMODE((tmp_path / f"limits{mode}").stat().st_mode) == mode


@pytest.mark.parametrize("query", ["?shared=0", "?shared", "?other=1", "?shared=1&x=1", "#shared=1"])
def test_other_queries_are_refused(tmp_path, query):
    """No part of the query is read as a part of the name."""
    with pytest.raises(ConfigurationError, match="query"):
        FileStore.from_url(f"file://{tmp_path}/limits{query}")


def test_names_push_no_tenant_out(tmp_path):
    """Three hundred model names of one tenant leave the use of all others counted, and that of the tenant's newest models."""
    clock = StoreClock()
    with_file = FileStore(tmp_path / "limits", clock=clock)
    others = [f"other{number}:m" for number in range(100)]
    for key in others:
        assert with_file.take(key, make_request(BURST * SECOND)).reserved
    for number in range(300):
        clock.micros += 10
        assert with_file.take(f"one:model {number}", make_request(BURST * SECOND)).reserved
    assert not any(with_file.take(key, make_request()).reserved for key in others)
    assert not any(with_file.take(f"one:model {number}", make_request()).reserved for number in range(240, 300))
    with_file.close()


@given(*[st.text(alphabet="ab:%3A", max_size=6)] * 4)
def test_scope_and_model_never_collide(scope, model, other_scope, other_model):
    """Two pairs have the same key only if they are the same."""
    with_store = [
        TokenBucketRateLimiter(store=_NoStore(), scope=each, clock=FakeClock()) for each in (scope, other_scope)
    ]
    keys = [limiter._add_model(name)._store_key for limiter, name in zip(with_store, (model, other_model), strict=True)]
    assert (keys[0] == keys[1]) == ((scope, model) == (other_scope, other_model))


class _NoStore:
    def take(self, key, given):
        raise StoreUnavailableError("not there")

    adjust = take

    def close(self):
        pass


def test_hung_file_blocks_no_call(tmp_path, monkeypatch):
    """While one thread is in a system call that does not return, the others go on without the store, and close() returns."""
    monkeypatch.setattr(file_store, "_LONGEST_TURN", 0.01)
    store = FileStore(tmp_path / "limits")
    hung, release = threading.Event(), threading.Event()

    def hang(*_args):
        hung.set()
        release.wait(20)
        raise StoreUnavailableError("released")

    def ask_in_vain():
        with pytest.raises(StoreUnavailableError, match="released"):
            store.take("k", make_request())

    monkeypatch.setattr(store, "_load_record", hang)
    thread = threading.Thread(target=ask_in_vain)
    thread.start()
    try:
        assert hung.wait(20)
        with pytest.raises(StoreUnavailableError, match="another thread is busy"):
            store.take("k", make_request(latest=NO_LIMIT))
        store.close()
    finally:
        release.set()
        thread.join(20)
    store.close()
