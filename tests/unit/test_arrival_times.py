"""First token and speed are of the arrival, whenever the reader comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import REQUEST, USAGE, Bench, answer, chunk
from support.fakes import FakeWire

DONE = b"data: [DONE]\n\n"
#: Four tokens; as the service times them.
TIMED = {**USAGE, "queue_time": 0.05, "prompt_time": 0.25, "completion_time": 0.8}
UNTIMED = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


class Arriving(FakeWire):
    """An answer whose pieces arrive at instants, in the system's buffer; a read takes all that are there, or waits for the next.

    Args:
        clock: Time; a read takes none of it but to wait.
        at: Seconds from the head to each of the pieces.
        usage: What the last of them reports.
        most: Pieces taken at once.
    """

    def __init__(self, clock, at, usage, *, most=100):
        super().__init__(headers={"content-type": "text/event-stream"})
        last = chunk("d", finish="stop", **({"usage": usage} if usage else {}))
        data = [chunk("a"), *[chunk("b") for _ in at[2:]], last + DONE]
        self.clock, self.most = clock, most
        self.coming = None
        self.schedule = list(zip(at, data, strict=True))

    def begin(self):
        now = self.clock.monotonic()
        self.coming = [(now + at, piece) for at, piece in self.schedule]

    def read_lines(self):
        if not self.coming:
            return None
        self.clock.advance(max(self.coming[0][0] - self.clock.monotonic(), 0))
        taken = [piece for at, piece in self.coming if at <= self.clock.monotonic()][: self.most]
        del self.coming[: len(taken)]
        return b"".join(taken).split(b"\n")[:-1]

    def ready(self, timeout):
        until = self.clock.monotonic() + timeout
        at = self.coming[0][0] if self.coming else 0.0
        self.clock.advance(max(min(at, until) - self.clock.monotonic(), 0))
        return at <= until


def read(at, away=(), *, usage=TIMED, most=100, polls=False):
    """The timing of a stream whose reader is elsewhere before it asks for its chunks, and what the tracker has got of it."""
    bench = Bench()
    wire = Arriving(bench.clock, at, usage, most=most)
    bench.transport.script.append(wire)
    stream = bench.stream(REQUEST)  # the head comes after half a second
    wire.begin()
    waits = iter(away)
    while True:
        bench.clock.advance(next(waits, 0.0))
        while polls and not stream.poll(0.01):
            pass
        if next(stream, None) is None:
            break
    (record,) = bench.tracker.records
    return stream.response.timing, record


def test_prompt_reader_measures_itself():
    """Whoever waits for each piece sees them as they arrive, whatever the service says."""
    timing, record = read([0.5, 1.0, 1.5, 2.5])
    assert (timing.time_to_first_token, timing.tokens_per_second) == pytest.approx((1.0, 2.0))
    assert (record["first_token"], record["tokens_per_second"]) == pytest.approx((1.0, 2.0))


def test_late_reader_takes_service_times():
    """A stream left for two seconds and then collected: queue and prompt time, and completion time, not the reader's."""
    timing, record = read([0.1, 0.3, 0.9], [2.0])
    assert timing.time_to_first_token == pytest.approx(0.5)  # no sooner than the head
    assert timing.tokens_per_second == pytest.approx(4 / 0.8)
    assert (record["first_token"], record["tokens_per_second"]) == pytest.approx((0.5, 5.0))


@pytest.mark.parametrize("usage", [UNTIMED, None], ids=["untimed", "none"])
def test_late_reader_is_no_sample(usage):
    """Where the service gives no times, what had arrived before is no sample of either."""
    timing, record = read([0.1, 0.3, 0.9], [2.0], usage=usage)
    assert (timing.time_to_first_token, timing.tokens_per_second) == (None, None)
    assert (record["first_token"], record["tokens_per_second"]) == (None, None)


def test_late_end_is_no_measure():
    """The first token was awaited and the end was not: the one is measured, the other the service's."""
    timing, _ = read([0.5, 0.6, 0.9], [0.0, 5.0])
    assert timing.time_to_first_token == pytest.approx(1.0)
    assert timing.tokens_per_second == pytest.approx(5.0)


def test_slow_reader_with_full_buffers():
    """A reader that is slower than the service, so that it never waits, says nothing of the service's speed."""
    at = [0.1 + 0.01 * number for number in range(100)]
    timing, _ = read(at, [0.05] * 200, most=1)
    assert timing.tokens_per_second == pytest.approx(5.0)


def test_one_write_has_no_speed():
    """An answer that came in one piece took no microseconds to make."""
    timing, record = read([0.5, 0.5, 0.5], usage=UNTIMED)
    assert timing.time_to_first_token == pytest.approx(1.0)
    assert timing.tokens_per_second is record["tokens_per_second"] is None
    assert read([0.5, 0.5, 0.5])[0].tokens_per_second == pytest.approx(5.0)


def test_polling_reader_measures_too():
    """Looking in vain shows that nothing had come; waiting in ``poll()`` is waiting."""
    timing, _ = read([0.5, 1.0, 2.5], polls=True, usage=UNTIMED)
    assert (timing.time_to_first_token, timing.tokens_per_second) == pytest.approx((1.0, 2.0))


@pytest.mark.parametrize("usage", [None, {}], ids=["none", "empty"])
def test_estimated_speed_is_no_sample(usage):
    """The response may show it; the figures of many calls rest on reported usage only."""
    timing, record = read([0.5, 1.0, 2.5], usage=usage)
    assert timing.tokens_per_second
    assert record["tokens_per_second"] is None
    assert record["first_token"] == pytest.approx(1.0)


@pytest.mark.parametrize(("took", "speed"), [(0.5, 8.0), (2e-6, None), (0.0, None), (None, None)])
def test_plain_answer_speed(took, speed):
    """Of a plain answer the service's completion time counts, if it is one."""
    bench = Bench(answer(usage={**UNTIMED, "completion_time": took}))
    assert bench.generate().timing.tokens_per_second == speed
    assert bench.tracker.records[0]["tokens_per_second"] == speed


def test_whole_answer_to_stream_request():
    """A server that answers a stream with one JSON body: no first token, and the service's own speed."""
    bench = Bench(answer(usage=TIMED))
    bench.clock.advance(1.0)
    stream = bench.stream()
    bench.clock.advance(3.0)
    timing = stream.collect().timing
    assert (timing.time_to_first_token, timing.tokens_per_second) == (None, pytest.approx(5.0))


def test_left_stream_keeps_first_token():
    """Left in the middle: the first token is a sample if it was awaited, and none if it lay there."""
    for away, expected in ((0.0, [pytest.approx(1.0)]), (3.0, [None])):
        bench = Bench()
        wire = Arriving(bench.clock, [0.5, 1.0, 1.5], None, most=1)
        bench.transport.script.append(wire)
        with bench.stream() as stream:
            wire.begin()
            bench.clock.advance(away)
            next(stream)
        assert [record["first_token"] for record in bench.tracker.records] == expected


@given(
    gaps=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12),
    away=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.2, 2.0]), max_size=14),
    most=st.sampled_from([1, 3, 100]),
    polls=st.booleans(),
    timed=st.booleans(),
)
def test_figures_are_true_or_none(gaps, away, most, polls, timed):
    """Whatever arrives when, and whenever it is read: each figure is near the truth, the service's, or not there."""
    at = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    timing, _ = read(at, away, usage=TIMED if timed else UNTIMED, most=most, polls=polls)
    first, span = 0.5 + at[0], at[-1] - at[0]
    if timing.time_to_first_token is not None:
        of_service = timed and timing.time_to_first_token == pytest.approx(0.5)
        assert of_service or timing.time_to_first_token == pytest.approx(first, rel=0.12, abs=0.021)
    if timing.tokens_per_second is not None:
        of_service = timed and timing.tokens_per_second == pytest.approx(5.0)
        assert of_service or timing.tokens_per_second == pytest.approx(4 / span, rel=0.12)
