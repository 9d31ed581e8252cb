"""The limits that a call's scope gives to one send."""

from __future__ import annotations

import pytest
from support.fakes import FakeClock

from groq_provider.transport.scope import CancelScope


@pytest.mark.parametrize(
    ("total", "after_send", "expected"),
    [(None, None, None), (None, 5.0, 5.0), (3.0, None, 3.0), (3.0, 5.0, 3.0), (9.0, 5.0, 5.0)],
)
def test_send_limit_is_the_shorter(total, after_send, expected):
    """A peer that takes nothing is given up after the limit for the first token, or at the total deadline if that comes first."""
    clock = FakeClock()
    deadline = None if total is None else clock.monotonic() + total
    assert CancelScope(clock, total_deadline=deadline, after_send=after_send).send_timeout() == expected


def test_phases_end_with_the_total():
    """No limit of a phase outlasts the whole call."""
    clock = FakeClock()
    scope = CancelScope(clock, total_deadline=clock.monotonic() + 3, connect=10, after_send=20)
    assert scope.connect_deadline == scope.total_deadline
    scope.request_sent()
    assert scope.deadline == scope.deadline_after(30.0) == scope.total_deadline
    assert scope.deadline_after(1.0) == clock.monotonic() + 1
