"""Cancelling: from threads, and from a signal handler that interrupts the library itself."""

from __future__ import annotations

import signal
import sys
import threading

import pytest

from groq_provider import CancelToken
from groq_provider.clock import SystemClock
from groq_provider.errors import RequestCancelledError
from groq_provider.transport.call import CallState


def test_a_callback_runs_once_whenever_it_was_subscribed():
    """Before the cancel, at once after it, not after unsubscribing."""
    token, seen = CancelToken(), []
    token.subscribe(lambda: seen.append("before"))
    gone = token.subscribe(lambda: seen.append("gone"))
    token.unsubscribe(gone)
    token.cancel()
    token.cancel()
    token.subscribe(lambda: seen.append("after"))
    assert seen == ["before", "after"]
    assert token.cancelled


def test_threads_that_subscribe_while_it_is_cancelled_all_hear_of_it():
    """No callback is lost, none runs twice."""
    for _ in range(50):
        token, heard = CancelToken(), [0] * 8
        barrier = threading.Barrier(9)

        def listen(number, token=token, heard=heard, barrier=barrier):
            def hear():
                heard[number] += 1

            barrier.wait()
            token.subscribe(hear)

        threads = [threading.Thread(target=listen, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait()
        token.cancel()
        for thread in threads:
            thread.join()
        assert heard == [1] * 8


class Interrupted(threading.local):
    """Runs an action at every line of a module in turn, in the same thread: what a signal handler does."""

    def __init__(self, files, at, action):
        self.files, self.left, self.action = files, at, action

    def __call__(self, frame, event, _argument):
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.action()
        return self


@pytest.mark.parametrize("at", range(1, 40))
def test_a_signal_handler_may_cancel_at_any_line(at):
    """No deadlock with its own thread, and nothing is lost: whoever subscribed hears of it, who binds is told."""
    import socket

    call, heard = CallState(SystemClock()), []
    one, other = socket.socketpair()
    told = False
    with one, other:
        sys.settrace(Interrupted(("cancel.py", "call.py"), at, call.cancel))
        try:
            handle = call.subscribe(lambda: heard.append(1))
            try:
                call.bind(one)
            except RequestCancelledError:
                told = True
            call.unbind()
            call.unsubscribe(handle)
        finally:
            sys.settrace(None)
        assert heard in ([], [1])
        if told:
            assert heard == [1]
        assert call.cancelled or at > 12  # the scenario has at least so many lines


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_real_signal_handler_does_not_deadlock():
    """SIGALRM strikes while the main thread subscribes and unsubscribes."""
    token, before = CancelToken(), signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda *_: token.cancel())
    try:
        for _ in range(20):
            token = CancelToken()
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            while not token.cancelled:
                token.unsubscribe(token.subscribe(lambda: None))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
